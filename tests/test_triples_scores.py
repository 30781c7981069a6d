"""BLEU, METEOR and TER of WebNLG and DART by their protocols, on texts written here and on official outputs."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import real_data
from lora_nlg.tasks import formatted
from metrics import java, triples
from metrics.errors import UserError
from metrics.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("measure_triples", ROOT / "eval" / "triples" / "measure_scores.py")
assert _spec and _spec.loader
measure_triples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measure_triples)

TEST = [  # context, references, cate
    ("A : capital : Á", ["Á is the capital of A .", "The capital of A is Á ."], True),
    (
        "B : leader : Bea",
        ["Bea leads B .", "B is led by Bea .", "The leader of B is Bea .", "Bea is B's leader ."],
        True,
    ),
    ("C : club : Old-Town_F.C.", ["C plays for Old-Town F.C. now ."], False),
]
OUTPUTS = ["Á is the capital of A .", "B is led by Bea", "C plays for Old Town"]


@pytest.fixture
def data(tmp_path):
    """The formatted file, a folder of references, and a file of outputs with a line end after the last line."""
    lines = [{"context": c, "completion": r, "cate": seen} for c, references, seen in TEST for r in references]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "references").mkdir()
    for i in range(4):
        texts = [references[i] if i < len(references) else "" for _, references, _ in TEST]
        (tmp_path / "references" / f"reference{i}").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    (tmp_path / "out.txt").write_text("".join(text + "\n" for text in OUTPUTS), encoding="utf-8")
    return tmp_path


def scores(data, *flags, references="references", systems=("out.txt",)):
    """Return what the program writes with --json."""
    paths = [str(data / references), *(str(data / name) for name in systems)]
    assert measure_triples.main([*paths, *flags, "--json", str(data / "scores.json")]) == 0
    return json.loads((data / "scores.json").read_text())


def test_each_protocol_takes_texts_apart_in_its_way():
    text = "Á_1 leads St. Mary's"
    assert PROTOCOLS["webnlg2017"].normalise(text) == "a_1 leads st . mary ' s"
    assert PROTOCOLS["dart"].normalise(text) == "Á_1 leads St . Mary ' s"
    assert PROTOCOLS["generation_eval"].normalise(text) == text


def test_references_that_count_and_what_stands_for_missing_ones():
    four, one = TEST[1][1], TEST[2][1]
    assert len(triples._chosen(four, PROTOCOLS["webnlg2017"])) == 3
    assert triples._chosen(one, PROTOCOLS["dart"]) == ["C plays for Old - Town F . C . now .", "", ""]
    assert triples._chosen(one, PROTOCOLS["generation_eval"]) == one * 6
    assert triples._chosen(["x", "", "y"], PROTOCOLS["generation_eval"]) == ["x", "x", "y", "x", "x", "x"]


@pytest.mark.slow
def test_an_empty_reference_counts_in_bleu_and_not_in_ter(data):
    """The shortest output is nearer to the empty line than to a long reference; TER has one reference alone."""
    (data / "references" / "reference0").write_text("one two three four five six\n")
    for i in (1, 2, 3):
        (data / "references" / f"reference{i}").write_text("\n")
    references = triples.read_references(str(data / "references"))
    [one] = triples.score(references, [["one two"]], PROTOCOLS["webnlg2017"], java.find_java())
    assert one.bleu_statistics[0, -1] == 0  # the closest length, the empty line's: 2 away, not 4
    assert one.ter_statistics.tolist() == [[4, 6]]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_equals_a_reference_is_perfect(data, protocol):
    (data / "same.txt").write_text("".join(f"{references[0]}\n" for _, references, _ in TEST), encoding="utf-8")
    found = scores(data, "--protocol", protocol, systems=["same.txt"])["systems"][0]["scores"]
    assert found["BLEU"] == pytest.approx(100) and found["TER"] == 0
    assert found["METEOR"] > 0.99 if protocol != "dart" else found["METEOR"] == pytest.approx(1)


@pytest.mark.slow
def test_a_line_break_within_an_output_is_a_blank(data):
    """Java takes more for the end of a line than Python does: METEOR was asked two questions, or gave .36 to what was equal."""
    texts = [references[0] for _, references, _ in TEST]
    broken = [text.replace(" ", separator, 1) for text, separator in zip(texts, "\r\u2028\x0b", strict=True)]
    (data / "same.txt").write_text("".join(f"{text}\n" for text in broken), encoding="utf-8", newline="")
    found = scores(data, "--protocol", "generation_eval", systems=["same.txt"])["systems"][0]["scores"]
    assert found["METEOR"] > 0.99


@pytest.mark.slow
def test_one_protocols_ter_by_hand(data):
    """webnlg2017: 0 + 1 + 7 edits over mean words of 7, (4 + 6 + 7) / 3 and 12; a mean of ratios in generation_eval."""
    found = scores(data, "--protocol", "webnlg2017")["systems"][0]["scores"]
    words = [7, (4 + 6 + 7) / 3, 12]
    edits = [0, 1, 7]  # "." is missing; so are "-" and "f . c . now ."
    assert found["TER"] == pytest.approx(sum(edits) / sum(words))
    found = scores(data, "--protocol", "generation_eval")["systems"][0]["scores"]
    assert found["TER"] == pytest.approx((0 + 1 / 6 + 4 / 7) / 3)


@pytest.mark.slow
def test_webnlgs_formatted_file_gives_unseen_seen_and_all(data):
    [system] = scores(data, "--protocol", "webnlg2017", references="test.jsonl")["systems"]
    assert list(system["splits"]) == ["Unseen", "Seen", "All"]
    assert system["splits"]["All"]["scores"] == system["scores"]
    assert [part["inputs"] for part in system["splits"].values()] == [1, 2, 3]
    folder = scores(data, "--protocol", "webnlg2017")["systems"][0]
    assert folder["scores"] == pytest.approx(system["scores"]) and "splits" not in folder
    (data / "unseen").mkdir()
    (data / "unseen" / "reference0").write_text(TEST[2][1][0] + "\n")
    (data / "unseen.txt").write_text(OUTPUTS[2])
    alone = scores(data, "--protocol", "webnlg2017", references="unseen", systems=["unseen.txt"])
    assert alone["systems"][0]["scores"] == pytest.approx(system["splits"]["Unseen"]["scores"])


@pytest.mark.slow
def test_categories_split_the_references_of_a_folder(data):
    """As the formatted file itself does; what is scored stays the folder's."""
    flags = ["--protocol", "webnlg2017", "--categories", str(data / "test.jsonl")]
    found, expected = scores(data, *flags), scores(data, "--protocol", "webnlg2017", references="test.jsonl")
    [ours], [theirs] = found["systems"], expected["systems"]
    assert [(name, part["inputs"]) for name, part in ours["splits"].items()] == [("Unseen", 1), ("Seen", 2), ("All", 3)]
    for name, part in ours["splits"].items():
        assert part["scores"] == pytest.approx(theirs["splits"][name]["scores"])
    assert found["signature"]["references_sha256"] != expected["signature"]["references_sha256"]


def test_a_half_by_itself_is_not_split(data, capsys):
    """Step 5 can keep the seen inputs alone."""
    half = triples.References([["a"], ["b"]])
    assert measure_triples.with_categories(half, str(data / "test.jsonl")).splits is None
    assert "test.jsonl has 3 inputs, the references 2" in capsys.readouterr().err


def test_what_has_no_categories_is_not_split_and_nothing_is_said(data, capsys):
    (data / "dart.jsonl").write_text('{"context": "a", "completion": "b"}\n')
    for references in (triples.References([["a"]]), triples.References([["a"], ["b"]])):
        assert measure_triples.with_categories(references, str(data / "dart.jsonl")).splits is None
    assert capsys.readouterr().err == ""


def test_step_6_asks_for_categories(tmp_path):
    """The script as it is, with a Python that notes its arguments and answers for the task's row."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "scripts/00_setup.sh").write_text("")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    answers = "*scorer) echo measure.py ;; *references) echo references ;; *protocols) echo generation_eval ;;"
    stub = f'#!/bin/sh\ncase "$*" in {answers} *) echo "$*" >>calls ;; esac\n'
    (tmp_path / ".venv/bin/python").write_text(stub)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / "w/references").mkdir(parents=True)
    (tmp_path / "w/prediction.txt").touch()
    command = ["bash", str(tmp_path / "scripts/06_evaluate.sh"), "--preset", "webnlg_gpt2_md", "--work_dir", "w"]
    subprocess.run(command, check=True, capture_output=True)
    scoring = (tmp_path / "calls").read_text().splitlines()
    scoring = next(line for line in scoring if line.startswith("measure.py"))
    assert scoring.startswith("measure.py w/references w/prediction.txt --protocol generation_eval ")
    assert " --categories data/webnlg/test_formatted.jsonl " in scoring


@pytest.mark.parametrize(
    "text", ["Atatürk Monument (İzmir).", "STRAẞE 3,5-m", "a_b  c\u00a0d…", "Ὀδυσσεύς' ΟΔΟΣ", "ǅ—Ⅷ ﬁn"]
)
def test_a_raw_reference_becomes_what_the_decode_step_writes(text):
    """Case is folded first: the capital İ of Turkish becomes two signs, the second of which stands apart."""
    folded = triples.as_decoded(PROTOCOLS["generation_eval"]).normalise(text)
    assert folded == formatted.standardise(text, tokenize=True, lower=True)


@pytest.mark.slow
def test_raw_references_are_folded_as_the_decode_step_folds_them(data):
    (data / "out.txt").write_text("".join(triples.split(text).lower() + "\n" for text in OUTPUTS), encoding="utf-8")
    raw = scores(data, "--protocol", "generation_eval", references="test.jsonl")["systems"][0]["scores"]
    assert raw["BLEU"] > 40  # nothing would be found of "á is the capital of a ." in "Á is the capital of A ."


@pytest.mark.slow
def test_intervals_differences_and_segments(data, capsys):
    (data / "other.txt").write_text("x\n" * 3)
    flags = ["--protocol", "dart", "--bootstrap", "--paired", "-l", str(data / "a.tsv"), "-l", str(data / "b.tsv")]
    found = scores(data, *flags, references="test.jsonl", systems=["out.txt", "other.txt"])
    assert set(found["paired"]) == set(triples.METRICS)
    low, high = found["systems"][0]["intervals"]["TER"]
    assert low <= found["systems"][0]["scores"]["TER"] <= high
    header, first, *_ = (line.split("\t") for line in (data / "a.tsv").read_text().splitlines())
    assert header == ["src", "sys_out", "BLEU", "sentBLEU", "METEOR", "TER"]
    assert first[:2] == [TEST[0][0], OUTPUTS[0]] and float(first[2]) == 100 and float(first[5]) == 0
    assert found["signature"]["protocol"] == "dart" and "sacrebleu 2" in found["signature"]["bleu"]
    shown = capsys.readouterr().out
    assert "BLEU: " in shown and "Unseen" in shown and "B - A" in shown


@pytest.mark.slow
def test_no_process_outlives_a_killed_scorer(data):
    """Fails when the processes that count edits wait for work from nobody."""
    for name, text in (
        ("out.txt", "a b c d e f\n"),
        *((f"references/reference{i}", "f e d c b a\n") for i in range(4)),
    ):
        (data / name).write_text(text * 4000)
    program = [sys.executable, ROOT / "eval" / "triples" / "measure_scores.py", data / "references", data / "out.txt"]
    scorer = subprocess.Popen(
        [*map(str, program), "--protocol", "dart"], start_new_session=True, stdout=subprocess.DEVNULL
    )

    def others() -> set[int]:
        """Return the Python processes of the scorer's group."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, _, rest = path.read_text().partition(") ")
                if "(python" in name and int(rest.split()[2]) == scorer.pid:
                    found.add(int(path.parent.name))
        return found - {scorer.pid}

    deadline = time.monotonic() + 60
    while len(others()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(others()) >= 2
    time.sleep(3)  # until they have begun
    scorer.kill()
    scorer.wait()
    deadline = time.monotonic() + 60
    while others() and time.monotonic() < deadline:
        time.sleep(0.2)
    left = others()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(scorer.pid, signal.SIGKILL)
    assert not left


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: (d / "out.txt").write_text("one\n"), "has 1 outputs but the references are of 3 inputs"),
        (lambda d: (d / "out.txt").write_text(""), "out.txt is empty"),
        (lambda d: (d / "references/reference1").unlink(), "3 reference files but not one reference1"),
        (lambda d: (d / "references/reference1").write_text("a\n"), "reference1 has 1 lines but reference0 has 3"),
        (lambda d: (d / "references/x-reference0").write_text("a\n"), "references of several sets ('', 'x-')"),
        (
            lambda d: [(d / f"references/reference{i}").write_text("a\n\nc\n") for i in range(4)],
            "line 2 is empty in every file",
        ),
        (lambda d: [path.unlink() for path in (d / "references").iterdir()], "has no reference0, reference1"),
    ],
)
def test_a_folder_that_cannot_be_scored_is_one_sentence(data, change, says):
    change(data)
    with pytest.raises(UserError) as error:
        scores(data, "--protocol", "dart")
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("{\n", "line 1: expected a JSON object"),
        ('{"context": "a", "completion": "b \\ud83d"}\n', "line 1: a text holds one half of a surrogate pair"),
        ('{"context": "a"}\n', 'line 1: expected a JSON object with "context" and "completion"'),
        ('{"context": "a", "completion": 1}\n', "line 1: expected texts"),
        ('{"context": "a", "completion": "b", "cate": "seen"}\n', 'and true or false as "cate"'),
        ('{"context": "a", "completion": " "}\n', "no reference but an empty one for 'a'"),
        (
            '{"context": "a", "completion": "b", "cate": true}\n{"context": "a", "completion": "b", "cate": false}\n',
            'line 2: "cate" is false, but not in an earlier line',
        ),
        (
            '{"context": "a", "completion": "b", "cate": true}\n{"context": "c", "completion": "b"}\n',
            "in some lines only",
        ),
    ],
)
def test_a_formatted_file_that_cannot_be_scored_is_one_sentence(data, lines, says):
    (data / "test.jsonl").write_text(lines)
    with pytest.raises(UserError) as error:
        triples.read_references(str(data / "test.jsonl"))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_flags_that_contradict(data, capsys):
    for flags, says in [
        (["--protocol", "tercom"], "but is 'tercom'"),
        ([], "required: --protocol"),
        (["--protocol", "dart", "--paired"], "--paired compares two SYS, but 1 were given"),
        (["--protocol", "dart", "-l", "a", "-l", "b"], "each SYS needs its own -l"),
    ]:
        with pytest.raises(SystemExit) as end:
            measure_triples.parse([str(data / "references"), str(data / "out.txt"), *flags])
        assert end.value.code == 2 and says in capsys.readouterr().err
    with pytest.raises(SystemExit):
        measure_triples.parse([*[str(data / "test.jsonl")] * 2, "--protocol", "dart", "--categories", "x"])
    assert "--categories would have no effect" in capsys.readouterr().err


OFFICIAL = {"all": "all", "seen": "old", "unseen": "new"}


@real_data.needs("webnlg/outputs")
@pytest.mark.slow
def test_official_scores_of_webnlg(tmp_path):
    """The official parts, of the inputs together: those of unseen categories come by themselves first, then all."""
    folder = real_data.folder("webnlg/outputs")
    rows = [line.split("\t") for line in (folder / "scores.tsv").read_text().splitlines()[1:]]
    for part in ("unseen",):  # a third of the work; benchmarks/README.md has all
        groups = [
            (folder / "refs" / f"gold-{OFFICIAL[part]}-cat-reference{i}.lex").read_text().splitlines() for i in range(3)
        ]
        references = triples.References([list(group) for group in zip(*groups, strict=True)])
        expected = [row for row in rows if row[1] == part]
        systems = [(folder / f"{team}_{OFFICIAL[part]}-cat.txt").read_text().splitlines() for team, *_ in expected]
        scored = triples.score(references, systems, PROTOCOLS["webnlg2017"], java.find_java())
        for (_, _, bleu, _, meteor, ter, *_), one in zip(expected, scored, strict=True):
            assert f"{one.corpus['BLEU']:.2f}" == bleu
            assert not meteor or np.isclose(one.corpus["METEOR"], float(meteor), rtol=0, atol=1e-12)
            assert abs(one.corpus["TER"] - float(ter)) < 0.002


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_references_of_which_nothing_is_left_are_one_sentence(data, protocol):
    """webnlg2017 writes what a letter looks like in ASCII, and a picture looks like nothing. The others keep it."""
    for i in range(4):
        (data / f"references/reference{i}").write_text(
            "\U0001f355\nB .\nC .\n" if i == 0 else "\n" * 3, encoding="utf-8"
        )
    read = triples.read_references(str(data / "references"))
    if protocol == "webnlg2017":
        with pytest.raises(
            UserError, match="leaves nothing of the references of input 1, '\U0001f355'; give one with a letter"
        ):
            triples.score(read, [["x", "y", "z"]], PROTOCOLS[protocol], java.find_java())
    else:
        assert any(triples._chosen(read.groups[0], PROTOCOLS[protocol]))
