"""WebNLG and DART: from their JSON to formatted lines, token ids, texts and reference files, and what is no such JSON."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import documents
import format_converting_dart
import format_converting_webnlg
import gpt2_beam
import gpt2_decode
import gpt2_encode
import real_data
import runs
import toy
from lora_nlg import errors, files
from lora_nlg.data import bpe
from lora_nlg.data.examples import Example
from lora_nlg.tasks import TASKS, triples, webnlg
from lora_nlg.tasks.formatted import read_formatted

ROOT = Path(__file__).resolve().parents[1]
VOCAB = ROOT / "vocab"
needs_vocab = pytest.mark.skipif(
    not (VOCAB / "encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh"
)
FORMAT = {"webnlg": format_converting_webnlg.main, "dart": format_converting_dart.main}


def triple(subject: str, name: str, value: str) -> dict:
    return {"object": value, "property": name, "subject": subject}


def lex(text: str, comment: str = "good") -> dict:
    return {"comment": comment, "lang": "", "lex": text, "xml_id": "Id1"}


def entry(category: str, texts: list[dict], *of: dict) -> dict:
    return {"category": category, "lexicalisations": texts, "modifiedtripleset": list(of), "size": str(len(of))}


AT_SEA = [triple("Ann_Ray", "birthPlace", '"Low Ness"@en'), triple("Low_Ness", "isPartOf", "Norland")]
WEBNLG = {
    "entries": [
        {"1": entry("Astronaut", [lex("Ann Ray is from Low Ness ."), lex("No .", "toFix"), lex("She is .")], *AT_SEA)},
        {"2": entry("Artist", [lex("Bo sings, café .")], triple("Bo", "genre", "Folk"))},
        {"3": entry("Food", [lex("Not good .", "toFix")], triple("Pie", "region", "Norland"))},
    ]
}
WEBNLG_LINES = (
    r'{"context": "Ann_Ray : birthPlace : \"Low Ness\"@en | Low_Ness : isPartOf : Norland", '
    r'"completion": "Ann Ray is from Low Ness .", "cate": true}' + "\n"
    r'{"context": "Ann_Ray : birthPlace : \"Low Ness\"@en | Low_Ness : isPartOf : Norland", '
    r'"completion": "She is .", "cate": true}' + "\n"
    r'{"context": "Bo : genre : Folk", "completion": "Bo sings, caf\u00e9 .", "cate": false}' + "\n"
)
DART = [
    {
        "tripleset": [["Ann Ray", "BIRTH_PLACE", "Low Ness"], ["[TABLECONTEXT]", "[TITLE]", "Crew"]],
        "subtree_was_extended": True,
        "annotations": [{"source": "x", "text": "Ann Ray is from Low Ness."}, {"source": "x", "text": ""}],
    },
    {"tripleset": [["Bo", "genre", "Folk"]], "annotations": [{"source": "y", "text": "Bo SINGS, folk"}]},
]
DART_LINES = (
    '{"context": "Ann Ray : birth_place : Low Ness | [TABLECONTEXT] : [title] : Crew", '
    '"completion": "Ann Ray is from Low Ness."}\n'
    '{"context": "Ann Ray : birth_place : Low Ness | [TABLECONTEXT] : [title] : Crew", "completion": ""}\n'
    '{"context": "Bo : genre : Folk", "completion": "Bo SINGS, folk"}\n'
)
SETS = {"webnlg": (WEBNLG, WEBNLG_LINES), "dart": (DART, DART_LINES)}


# Format


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_small_sets_byte_for_byte(name, mark, tmp_path, capsys):
    """Order, separators, escapes, case: of the property alone, and in DART alone. Fails with a lexicalisation that is not good."""
    raw, lines = SETS[name]
    (tmp_path / "raw.json").write_bytes(mark + json.dumps(raw, ensure_ascii=False).encode())
    assert FORMAT[name]([str(tmp_path / "raw.json"), str(tmp_path / "out.jsonl")]) == 0
    assert (tmp_path / "out.jsonl").read_text() == lines
    assert "formatted 3 lines" in capsys.readouterr().out


REAL = [  # raw file, lines, distinct contexts, lines and contexts of seen categories, sha256
    ("webnlg", "train.json", 18025, 6888, 18025, 6888, "1b1f3d9e702d148e99d5ff0dab83732ff772a2c384700fca417e60a52b2647f7"),
    ("webnlg", "dev.json", 2258, 870, 2258, 870, "f92c32802d38cb520103e6edaa620da31b11db399fc81db8d02f83e7af33d3cd"),
    ("webnlg", "test.json", 4928, 1862, 2495, 971, "755e5cf84869516aa4fcd7b34e783b3bd76136cc366ff50f4c3e94af9c70bdba"),
    ("dart", "dart-v1.1.1-full-dev.json", 6980, 2721, 0, 0, "79cd5c51462e6db68653e3807bb51d0da4be9515efa4f8ea67d88b5ed439d994"),
    ("dart", "dart-v1.1.1-full-test.json", 12552, 4159, 0, 0, "42ad404f533d373a196c89dfc607acbea1e82e039b459b004601d2e272ed6433"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "raw", "n_lines", "n_contexts", "seen_lines", "seen_contexts", "sha256"),
    [pytest.param(*row, marks=real_data.marks(row[0]), id="-".join(row[:2])) for row in REAL],
)
def test_real_sets_byte_for_byte(name, raw, n_lines, n_contexts, seen_lines, seen_contexts, sha256, tmp_path):
    out = tmp_path / "out.jsonl"
    FORMAT[name]([str(real_data.folder(name) / raw), str(out)])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    seen = [line for line in lines if line.get("cate")]
    assert (len(lines), len({line["context"] for line in lines})) == (n_lines, n_contexts)
    assert (len(seen), len({line["context"] for line in seen})) == (seen_lines, seen_contexts)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == sha256
    for line in lines:
        TASKS[name].check_input(line["context"], "here")


def changed(name: str, *path, to=None) -> str:
    """Return a small set as JSON with the value at `path` changed, or gone."""
    value = json.loads(json.dumps(SETS[name][0]))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return json.dumps(value)


IN_2 = ("entries", 1, "2")
NO_SUCH = [
    ("webnlg", "name : A||A .", ": not JSON (Expecting value: line 1"),
    ("webnlg", "", ": not JSON (Expecting value"),
    ("webnlg", "[" * 100_000, ": not JSON (maximum recursion"),
    ("webnlg", '{"entries": [], "a": "\xff"}', ": not UTF-8 (invalid start byte)"),
    ("webnlg", json.dumps(DART), ': expected the challenge\'s JSON, {"entries": '),
    ("webnlg", '{"entries": []}', "with at least one entry"),
    ("webnlg", changed("webnlg", "entries", 1, to=[3]), ", entry 2: expected an object with one key"),
    ("webnlg", changed("webnlg", *IN_2, to="x"), ', entry 2: expected an object, found "x"'),
    ("webnlg", changed("webnlg", *IN_2, "category"), ', entry 2: expected "category", which is not there'),
    ("webnlg", changed("webnlg", *IN_2, "category", to=7), ", entry 2: expected a text under category, found 7"),
    ("webnlg", changed("webnlg", *IN_2, "lexicalisations", 0, "comment"), 'entry 2: expected "comment" in lexicalisations.1'),
    ("webnlg", changed("webnlg", *IN_2, "lexicalisations", 0, "lex", to=["a"]), "a text under lexicalisations.1.lex, found"),
    ("webnlg", changed("webnlg", *IN_2, "modifiedtripleset", to={}), "entry 2: expected a list under modifiedtripleset"),
    ("webnlg", changed("webnlg", *IN_2, "modifiedtripleset", to=[]), "entry 2: it has no triples"),
    ("webnlg", changed("webnlg", *IN_2, "modifiedtripleset", 0, "object"), '"object" in modifiedtripleset.1'),
    ("webnlg", changed("webnlg", *IN_2, "lexicalisations", 0, "lex", to="\ud83d"), "lex holds one half of a surrogate pair"),
    ("dart", json.dumps(WEBNLG), ': expected DART\'s JSON, [{"tripleset"'),
    ("dart", "[]", "with at least one entry"),
    ("dart", changed("dart", 1, "tripleset", 0, to=["a", "b"]), 'entry 2: expected a list of 3 under tripleset.1, found ["a", "b"]'),
    ("dart", changed("dart", 1, "tripleset", 0, 1, to=5), "entry 2: expected a text under tripleset.1.2, found 5"),
    ("dart", changed("dart", 1, "annotations", 0, "text"), 'entry 2: expected "text" in annotations.1, which is not there'),
    ("dart", changed("dart", 1, "annotations", to="none"), 'entry 2: expected a list under annotations, found "none"'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "says"), NO_SUCH, ids=[f"{row[0]}{i}" for i, row in enumerate(NO_SUCH)])
def test_other_json_is_refused_in_a_sentence_that_names_the_entry(name, content, says, tmp_path):
    raw, out = tmp_path / "raw.json", tmp_path / "out.jsonl"
    raw.write_bytes(content.encode("latin-1"))
    with pytest.raises(errors.UserError) as refused:
        FORMAT[name]([str(raw), str(out)])
    assert str(refused.value).startswith(str(raw)) and says in str(refused.value) and "\n" not in str(refused.value)
    assert not out.exists()


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(errors.UserError, match=r"cannot read .*none\.json: No such file"):
        list(webnlg.read_raw(tmp_path / "none.json"))


@pytest.mark.parametrize("text", ["A : b", "A : b : C | D : e", "", "A : b : C |  | D : e : F"])
def test_what_is_no_triple_is_no_input(text):
    triples.check_input("A : b : C | Time : at : 10 : 30", "here")
    with pytest.raises(errors.UserError, match=r"^here: expected subject : property : object"):
        triples.check_input(text, "here")


# The decode step


def lines_of(folder: Path, name: str) -> str:
    """Format a small set, and encode it; return the formatted file."""
    (folder / "raw.json").write_text(json.dumps(SETS[name][0]))
    formatted, encoded = str(folder / "test_formatted.jsonl"), str(folder / "test.jsonl")
    FORMAT[name]([str(folder / "raw.json"), formatted])
    gpt2_encode.main(["--vocab", str(VOCAB), "--input", formatted, "--output", encoded, "--add_bos", "--add_eos"])
    return formatted


def decoded(path: Path, texts: dict[int, str]) -> str:
    """Write a decoded file with these texts for input lines."""
    encoding = bpe.load_encoding(VOCAB)
    rows = [{"id": i, "predict": [*encoding.encode_ordinary(f" {text}"), 50256, 0]} for i, text in texts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def decode(tmp_path):
    """A function that decodes a small set with flags and returns (files of the folder, predicted text)."""

    def run(name: str, *flags: str) -> tuple[dict[str, str], str]:
        data = tmp_path / name
        data.mkdir(exist_ok=True)
        paths = ["--input_file", lines_of(data, name), "--sample_file", decoded(data / "beam", {0: "X-1", 2: "Yes"})]
        outputs = ["--output_ref_file", str(tmp_path / "refs"), "--output_pred_file", str(tmp_path / "pred")]
        assert gpt2_decode.main([*paths, *outputs, "--vocab", str(VOCAB), "--ref_type", name, *flags]) == 0
        found = {path.name: path.read_text() for path in sorted((tmp_path / "refs").iterdir())}
        return found, (tmp_path / "pred").read_text()

    return run


@needs_vocab
def test_an_input_with_fewer_references_has_its_first_again(decode):
    found, predicted = decode("webnlg", "--ref_num", "3")
    assert found == {
        "reference0": "Ann Ray is from Low Ness .\nBo sings, café .\n",
        "reference1": "She is .\nBo sings, café .\n",
        "reference2": "Ann Ray is from Low Ness .\nBo sings, café .\n",
    }
    assert predicted == "X-1\nYes\n"


@needs_vocab
def test_the_readmes_protocol(decode):
    """Six files, signs apart, lower case. An empty reference, as DART has one, stays an empty line."""
    found, predicted = decode("dart", *TASKS["dart"].decode_flags)
    first = "ann ray is from low ness .\nbo sings , folk\n"
    assert found == {f"reference{i}": first if i != 1 else "\nbo sings , folk\n" for i in range(6)}
    assert predicted == "x - 1\nyes\n"


@needs_vocab
@pytest.mark.parametrize(("which", "predicted"), [("seen", "X-1\n"), ("unseen", "Yes\n")])
def test_seen_and_unseen_categories(decode, which, predicted):
    found, written = decode("webnlg", "--filter", which, "--ref_num", "1")
    assert written == predicted and found["reference0"].count("\n") == 1


@needs_vocab
def test_dart_has_no_categories_to_filter_by(decode):
    with pytest.raises(errors.UserError, match=r'dart/test_formatted\.jsonl:1: --filter needs "cate" in every line'):
        decode("dart", "--filter", "seen")


@needs_vocab
def test_references_beyond_ref_num_are_counted_and_no_older_file_stays(decode, capsys):
    """Fails when the folder is written into: a scorer would read reference1 of an earlier run with it."""
    assert len(decode("webnlg", "--ref_num", "2")[0]) == 2
    capsys.readouterr()
    assert list(decode("webnlg", "--ref_num", "1")[0]) == ["reference0"]
    assert capsys.readouterr().err == "--ref_num 1 left out 1 references of inputs that have more\n"


@needs_vocab
def test_a_folder_with_other_things_is_not_replaced(decode, tmp_path):
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs/notes.txt").write_text("mine")
    with pytest.raises(
        errors.UserError, match=r"refs holds notes\.txt, and --output_ref_file is to hold references alone"
    ):
        decode("webnlg")
    (tmp_path / "refs/notes.txt").unlink()
    with pytest.raises(errors.UserError, match=r"refs/pred is in .*refs, which holds references alone"):
        decode("webnlg", "--output_pred_file", str(tmp_path / "refs/pred"))
    assert len(decode("webnlg")[0]) == 4


@needs_vocab
def test_the_folder_is_whole_or_as_it_was(decode, tmp_path, monkeypatch):
    before, predicted = decode("webnlg", "--ref_num", "2")
    real, names = files.atomic_writer, []

    def fail_at_the_third(path, *mode):
        names.append(path)
        if len(names) == 3:  # the predictions, reference0, reference1
            raise OSError(28, "No space left on device")
        return real(path, *mode)

    lines_of(tmp_path / "webnlg", "webnlg")
    monkeypatch.setattr(files, "atomic_writer", fail_at_the_third)
    paths = [
        "--input_file",
        str(tmp_path / "webnlg/test_formatted.jsonl"),
        "--sample_file",
        str(tmp_path / "webnlg/beam"),
    ]
    outputs = ["--output_ref_file", str(tmp_path / "refs"), "--output_pred_file", str(tmp_path / "pred")]
    with pytest.raises(errors.UserError, match=r"cannot write .*refs: No space left on device"):
        gpt2_decode.main([*paths, *outputs, "--vocab", str(VOCAB), "--ref_type", "webnlg", "--ref_num", "3", "--lower"])
    assert {path.name: path.read_text() for path in (tmp_path / "refs").iterdir()} == before
    assert (tmp_path / "pred").read_text() == predicted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pred", "refs", "webnlg"]


REAL_DECODE = {"webnlg": ("test.json", 3, 1862, 80, 8), "dart": ("dart-v1.1.1-full-test.json", 576, 4159, 116, 35)}


@needs_vocab
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=real_data.marks(name)) for name in REAL_DECODE])
def test_real_references(name, tmp_path, capsys):
    """How many an input has, how many --ref_num 6 drops, and how many are longer than the recipe's eval_len."""
    raw, n_dropped, n_inputs, n_long, n_most = REAL_DECODE[name]
    formatted, encoded = str(tmp_path / "formatted"), tmp_path / "encoded"
    FORMAT[name]([str(real_data.folder(name) / raw), formatted])
    gpt2_encode.main(["--vocab", str(VOCAB), "--input", formatted, "--output", str(encoded), "--add_bos", "--add_eos"])
    completions = [json.loads(line)["completion"] for line in encoded.read_text().splitlines()]
    assert sum(len(ids) > 64 for ids in completions) == n_long
    assert max(Counter(fields["context"] for fields in read_formatted(formatted)).values()) == n_most
    every = decoded(tmp_path / "beam", dict.fromkeys(range(len(completions)), "A"))
    paths = ["--input_file", formatted, "--sample_file", every, "--vocab", str(VOCAB), "--ref_type", name]
    outputs = ["--output_ref_file", str(tmp_path / "refs"), "--output_pred_file", str(tmp_path / "pred")]
    gpt2_decode.main([*paths, *outputs, *TASKS[name].decode_flags])
    assert f"left out {n_dropped} references" in capsys.readouterr().err
    assert {path.read_text().count("\n") for path in (tmp_path / "refs").iterdir()} == {n_inputs}


# References longer than what is decoded


def test_references_longer_than_eval_len_are_counted_once(tmp_path, capsys):
    """With their end token, as they are in the file; the larger --eval_len that is offered says no more."""
    lines = [Example([1, 2], [3] * length) for length in (4, 5, 9)]
    flags = f"{runs.write_decoding(tmp_path, lines)} --device cpu --seq_len 32".split()
    gpt2_beam.main([*flags, "--eval_len", "4"])
    said = capsys.readouterr().err
    assert said.count("warning: 2 of the 3 references have more than --eval_len 4 ids") == 1
    assert "--eval_len 9 is enough for all" in said
    gpt2_beam.main([*flags, "--eval_len", "9"])
    assert "references" not in capsys.readouterr().err
    assert toy.CONFIG.n_positions >= 32


# The presets


@pytest.mark.parametrize("size", ["sm", "md", "lg"])
@pytest.mark.parametrize("name", ["webnlg", "dart"])
def test_the_presets_are_e2es_but_for_what_the_paper_says(name, size):
    """Its Table 11. Their curve would be E2E's."""
    expected, found = (documents.of_preset(f"{task}_gpt2_{size}") for task in ("e2e", name))
    del expected["gpt2_ft"]["--compare_curve"]
    if name == "dart":
        expected["gpt2_ft"] |= {"--weight_decay": "0", "--lora_dropout": "0", "--label_smooth": "0"}
    assert found == expected
    assert found["gpt2_beam"].items() >= {"--beam": "10", "--length_penalty": "0.8", "--eval_len": "64"}.items()


# The scripts

SCORER = """
import json, sys
arguments = sys.argv[1:]
system = {"file": arguments[1], "scores": {"BLEU": 0.5, "METEOR": 0.25, "TER": 0.75}}
print("scorer:", *arguments)
with open(arguments[arguments.index("--json") + 1], "w") as file:
    json.dump({"systems": [system], "signature": {"segments": 2, "references": 12}}, file)
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The project with a scorer of triples that only says how it was called, in place of the one there is."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "scripts/00_setup.sh").write_text("")
    (folder / "eval").mkdir()
    for path in (*ROOT.glob("eval/*"), ROOT / "src", VOCAB):
        if path.name != "triples":
            (folder / path.relative_to(ROOT)).symlink_to(path)
    (folder / "eval/triples").mkdir()
    (folder / "eval/triples/measure_scores.py").write_text(SCORER)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / ".venv/bin/python").chmod(0o755)
    return folder


def script(checkout: Path, *arguments, **environment: str) -> str:
    """Run a script of the checkout and return what it printed."""
    command = ["bash", checkout / "scripts" / arguments[0], *arguments[1:]]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, **environment}, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@needs_vocab
@pytest.mark.slow
def test_steps_5_to_7_of_a_run(checkout, tmp_path):
    """From formatted and decoded files to a report, by the task's row: its references, its scorer, and nothing it has not."""
    data, work = checkout / "data/webnlg", tmp_path / "work"
    data.mkdir(parents=True)
    work.mkdir()
    lines_of(data, "webnlg")
    decoded(work / "beam_prediction.jsonl", {0: "X-1", 2: "Yes"})
    record = {"argv": [], "seconds": 60, "trained_parameters": 7, "valid_loss": 1.5, "peak_memory": {"host_mib": 1.0}}
    settings = {"model": {"n_embd": 768, "n_layer": 12}, "lora": {"rank": 4, "alpha": 32.0, "targets": ["q", "v"]}}
    (work / "run.json").write_text(json.dumps({**record, "settings": settings}))
    (work / "log.jsonl").write_text(json.dumps({"eval": {"step": 9, "valid_loss": 1.5, "seconds": 1}}) + "\n")
    subprocess.run(
        [sys.executable, ROOT / "src/describe_task.py", "webnlg", "--output", data / "task.json"], check=True
    )
    where = ("--preset", "webnlg_gpt2_sm", "--work_dir", work)

    script(checkout, "05_decode.sh", *where)
    assert sorted(path.name for path in (work / "references").iterdir()) == [f"reference{i}" for i in range(6)]
    assert (work / "references/reference5").read_text() == "ann ray is from low ness .\nbo sings , café .\n"
    assert (work / "prediction.txt").read_text() == "x - 1\nyes\n"

    said = script(checkout, "06_evaluate.sh", *where)
    categories = "--categories data/webnlg/test_formatted.jsonl"
    call = f"{work}/references {work}/prediction.txt --protocol generation_eval {categories} --bootstrap"
    assert f"scorer: {call} -l {work}/segments.tsv --json {work}/scores.json\n" in said
    assert "this run   0.5000   0.2500   0.7500" in said and "hold their" not in said

    said = script(checkout, "07_compare.sh", *where)
    assert "data/webnlg/test_formatted.jsonl is of the task webnlg, which has no slots to count\n" in said
    assert "Not to be compared with the paper" in said
    assert not (work / "slots.json").exists()
    page = (work / "report.html").read_text()
    assert "--protocol generation_eval" in page and "<span>--ref_type webnlg</span> <span>--ref_num 6</span>" in page
    assert "references/reference5" in page and "reference.txt" not in page


@needs_vocab
@pytest.mark.slow
@real_data.needs("dart")
def test_step_2_does_without_a_training_set_that_is_not_there(checkout):
    """The development and test sets of DART are made, and a sentence says what is not."""
    said = script(checkout, "02_create_datasets.sh", "dart", DART_DATA_DIR=str(real_data.folder("dart")))
    assert "has no dart-v1.1.1-full-train.json, so there will be no DART to train on" in said
    names = {path.name for path in (checkout / "data/dart").iterdir()}
    assert names >= {"task.json", "valid.jsonl", "test.jsonl", "test_formatted.jsonl"} and "train.jsonl" not in names
