"""What is read back from a work dir: whatever is damaged is one sentence with the file, and never a traceback."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import closing
import compare
import placement_table
import report
import run_dir
import slots
import summary
import sweep
from metrics.errors import UserError
from report_page import charts
from shape import Loss, fault
from test_report import make_run

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {
    "summary": summary,
    "closing": closing,
    "compare": compare,
    "report": report,
    "slots": slots,
    "sweep": sweep,
    "placement_table": placement_table,
}
OF_RUNS = "summary closing compare report sweep placement_table"
READ_BY = {  # file: the step that makes it, and who reads it
    "scores.json": ("06", OF_RUNS),
    "run.json": ("03", OF_RUNS),
    "beam_prediction.run.json": ("04", OF_RUNS),
    "log.jsonl": ("03", OF_RUNS),
    "comparison.json": ("07", "closing report"),
    "slots.json": ("07", "closing report"),
    "segments.tsv": ("06", "report"),
    "prediction.txt": ("05", "summary closing report slots"),
    "test.jsonl": ("02", "summary closing compare report slots"),
    "task.json": ("02", "summary closing compare report slots"),
}
OBJECTS = [name for name in READ_BY if name.endswith(".json")]
TASK = {"task": "e2e", "scorer": "eval/e2e/measure_scores.py", "scores": list(run_dir.METRICS), "slots": "e2e"}
NONE = {"missing": [], "wrong": [], "invented": []}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that every program but placement_table, which wants 19 of them, is content with."""
    folder = make_run(tmp_path / "run")
    (folder / "base.txt").write_text("a\nb\nc\nd\n")
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["train"]["random_seed"] = 110
    (folder / "run.json").write_text(json.dumps(record))
    decoding = json.loads((folder / "beam_prediction.run.json").read_text())
    decoding["settings"] = {"search": {"beam": 10, "length_penalty": 0.8}, "weights": "e" * 64}
    (folder / "beam_prediction.run.json").write_text(json.dumps(decoding))
    (folder / "task.json").write_text(json.dumps({**TASK, "published": "e2e", "copied": "name"}))
    for chart in ("over_steps", "of_scores"):  # they take seconds, and read no file
        monkeypatch.setattr(charts, chart, lambda *arguments, **options: "")
    return folder


def call(name: str, run: Path) -> int:
    """Run one of PROGRAMS; what it writes is left out of the run's folder."""
    data = ["--data", str(run / "test.jsonl")] if name in "summary closing compare report slots".split() else []
    output = {"report": ["--output", str(run.parent / "out.html")], "slots": ["--json", str(run.parent / "out.json")]}
    return PROGRAMS[name].main([str(run), *data, *output.get(name, [])])


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_refused_of_a_run_as_it_was_written(run, name):
    if name == "placement_table":
        with pytest.raises(UserError, match="there is no run with rank 1 on q"):
            call(name, run)
    else:
        assert call(name, run) == 0


def refuses(run: Path, file: str, says: str = "") -> None:
    """Assert that all who read `file` say in one sentence which it is, what is wrong with it and what makes it again."""
    step, readers = READ_BY[file]
    for name in readers.split():
        with pytest.raises(UserError) as refused:
            call(name, run)
        sentence = str(refused.value)
        assert str(run / file) in sentence and "\n" not in sentence, (name, sentence)
        assert f"step {step}" in sentence or "give the formatted test file" in sentence, (name, sentence)
        assert says in sentence, (name, sentence)


ANY_FILE = {
    "nothing": b"",
    "not UTF-8": b'{"a": "\xff"}\n',
    "a byte order mark alone": b"\xef\xbb\xbf",
}


@pytest.mark.parametrize("damage", ANY_FILE)
@pytest.mark.parametrize("file", READ_BY)
def test_a_file_that_is_no_text(run, file, damage):
    (run / file).write_bytes(ANY_FILE[damage])
    refuses(run, file, "is not UTF-8" if damage == "not UTF-8" else "is empty")


NO_OBJECT = {
    '{"a": 1': "not JSON",
    "{'a': 1}": "not JSON",
    "\x00": "not JSON",
    "[]": "is not a JSON object",
    "3": "is not a JSON object",
    "null": "is not a JSON object",
    '"x"': "is not a JSON object",
    "[" * 100_000: "too deep",
    '{"a": ' + "9" * 5000 + "}": "too long",
    '{"a": "\\ud800"}': "half of a character",
}


@pytest.mark.parametrize("text", NO_OBJECT, ids=lambda text: repr(text[:16]))
@pytest.mark.parametrize("file", [*OBJECTS, "log.jsonl"])
def test_a_file_that_is_no_json_object(run, file, text):
    (run / file).write_text(text + "\n")
    refuses(run, file, NO_OBJECT[text])


@pytest.mark.parametrize("file", [*OBJECTS, "log.jsonl", "segments.tsv"])
def test_a_file_that_is_cut_off(run, file):
    whole = (run / file).read_text().rstrip("\n")
    for end in (len(whole) // 2, len(whole) - 1):
        (run / file).write_text(whole[:end])
        refuses(run, file)


@pytest.mark.parametrize(
    "line", ["", "3", '{"context": 3, "completion": "x"}', '{"context": ["x"], "completion": "x"}', '{"context": "na']
)
def test_a_line_of_the_data_that_is_no_example(run, line):
    whole = (run / "test.jsonl").read_text()
    (run / "test.jsonl").write_text(whole + line + "\n")
    refuses(run, "test.jsonl", "6")


WRONG = [  # file, where in it, what stands there, what is said
    ("scores.json", "systems", 3, "systems is 3, not a list"),
    ("scores.json", "systems", {}, "systems is {}, not a list"),
    ("scores.json", "systems", [], "no scores of one prediction.txt"),
    ("scores.json", "systems.0", None, "systems.0 is None, not an object"),
    ("scores.json", "systems.1.file", 3, "systems.1.file is 3, not a text"),
    ("scores.json", "systems.1.scores", [1], "systems.1.scores is [1], not an object"),
    ("scores.json", "systems.1.scores", {}, 'systems.1.scores has no "BLEU"'),
    ("scores.json", "systems.1.scores.BLEU", "x", "systems.1.scores.BLEU is 'x', not a number"),
    ("scores.json", "systems.1.scores.BLEU", True, "not a number"),
    ("scores.json", "systems.0.scores.CIDEr", math.nan, "systems.0.scores.CIDEr is nan, not a number"),
    ("scores.json", "systems.1.scores.NIST", math.inf, "is inf, not a number"),
    ("scores.json", "systems.1.intervals", 3, "systems.1.intervals is 3, not an object"),
    ("scores.json", "systems.1.intervals.BLEU", [0.5], "is [0.5], not a list of 2"),
    ("scores.json", "signature", "x", "signature is 'x', not an object"),
    ("scores.json", "signature.segments", "630", "signature.segments is '630', not a whole number"),
    ("run.json", "settings", [], "settings is [], not an object"),
    ("run.json", "settings.model", "gpt2.md", "settings.model is 'gpt2.md', not an object or null"),
    ("run.json", "settings.model", {"n_embd": 1024}, 'settings.model has no "n_layer"'),
    ("run.json", "settings.train", [1], "settings.train is [1]"),
    ("run.json", "settings.vera", "x", "settings.vera is 'x', not an object or null"),
    ("run.json", "settings.dora", {"rank": "4"}, "settings.dora.rank is '4'"),
    ("scores.json", "systems.1.splits", [], "systems.1.splits is [], not an object"),
    ("scores.json", "systems.1.splits", {"Seen": {"scores": {}}}, 'systems.1.splits.Seen.scores has no "BLEU"'),
    ("run.json", "settings.lora.rank", "4", "settings.lora.rank is '4'"),
    ("run.json", "settings.lora.targets", "q,v", "settings.lora.targets is 'q,v', not a list or null"),
    ("run.json", "settings.lora.targets", [1], "settings.lora.targets.0 is 1, not a text"),
    ("run.json", "settings.optim.max_step", 1.5, "settings.optim.max_step is 1.5, not a whole number"),
    ("run.json", "argv", "x", "argv is 'x', not a list"),
    ("run.json", "valid_loss", "1.2", "valid_loss is '1.2', not a number"),
    ("run.json", "seconds", math.nan, "seconds is nan, not a number"),
    ("run.json", "peak_memory", {}, 'peak_memory has no "host_mib"'),
    ("run.json", "trained_parameters", None, "trained_parameters is None"),
    ("beam_prediction.run.json", "settings.search", [], "settings.search is []"),
    ("beam_prediction.run.json", "settings.search.length_penalty", "0.8", "is '0.8', not a number"),
    ("beam_prediction.run.json", "input_seconds", ["x"], "input_seconds.0 is 'x', not a number"),
    ("comparison.json", "run", None, "run is None, not an object"),
    ("comparison.json", "rows", {}, "rows is {}, not a list"),
    ("comparison.json", "rows.0.BLEU", "x", "rows.0.BLEU is 'x', not a number or null"),
    ("comparison.json", "band", [0.1, "x"], "band.1 is 'x', not a number"),
    ("comparison.json", "verdict", 3, "verdict is 3, not a text"),
    ("slots.json", "slot_error_rate", math.nan, "slot_error_rate is nan"),
    ("slots.json", "outputs", 3, "outputs is 3, not a list"),
    ("slots.json", "outputs.0", {"missing": []}, 'outputs.0 has no "wrong"'),
    ("slots.json", "outputs.3.wrong.0", "food", "outputs.3.wrong.0 is 'food', not an object"),
    ("task.json", "scores", "BLEU", "scores is 'BLEU', not a list"),
    ("task.json", "scores", [], "it names no scores"),
    ("task.json", "slots", 3, "slots is 3, not a text or null"),
]


def replaced(value, path: list[str], new):
    """Return a copy of a JSON value with `new` at `path`."""
    key = int(path[0]) if isinstance(value, list) else path[0]
    result = copy.copy(value)
    result[key] = replaced(value[key], path[1:], new) if path[1:] else new
    return result


@pytest.mark.parametrize(("file", "where", "value", "says"), WRONG)
def test_a_value_of_the_wrong_kind(run, file, where, value, says):
    record = json.loads((run / file).read_text())
    (run / file).write_text(json.dumps(replaced(record, where.split("."), value)))
    refuses(run, file, says)


@pytest.mark.parametrize(
    ("file", "key"),
    [("scores.json", "systems"), ("comparison.json", "rows"), ("slots.json", "outputs"), ("task.json", "slots")],
)
def test_a_missing_key(run, file, key):
    record = json.loads((run / file).read_text())
    del record[key]
    (run / file).write_text(json.dumps(record))
    refuses(run, file, f'it has no "{key}"')


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[]", "line 5 is not a JSON object"),
        ('{"step": "50"}', "line 5: step is '50', not a whole number"),
        ('{"step": 5, "avg_loss": 1.5}', 'line 5: it has no "lr"'),
        ('{"step": 5, "avg_loss": "x", "lr": 1, "ms_per_batch": 1, "tokens_per_s": 1}', "avg_loss is 'x', not a number"),
        ('{"step": 5, "ms_per_batch": NaN}', "ms_per_batch is nan"),
        ('{"eval": 3}', "eval is 3, not an object"),
        ('{"eval": {"step": 5}}', 'eval has no "valid_loss"'),
    ],
)  # fmt: skip
def test_a_line_of_the_log_that_is_none(run, line, says):
    (run / "log.jsonl").write_text((run / "log.jsonl").read_text() + line + "\n")
    refuses(run, "log.jsonl", says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("\t0.25\t", "\tx\t"), ":3: expected a number under sentBLEU"),
        (lambda text: text.replace("\t0.25\t", "\tnan\t"), ":3: expected a number under sentBLEU"),
        (lambda text: text.replace("\t0.25\t", "\t"), ":3: expected 8 cells, found 7"),
        (lambda text: text.replace("METEOR", "meteor"), ":1: expected the columns src, sys_out and BLEU"),
        (lambda text: text.replace("METEOR", "NIST"), ":1: expected the columns"),
        (lambda text: text.removesuffix("\n"), "its last line is cut off"),
    ],
)
def test_a_segment_table_that_is_none(run, change, says):
    text = (run / "segments.tsv").read_text()
    assert change(text) != text
    (run / "segments.tsv").write_text(change(text))
    refuses(run, "segments.tsv", says)


def test_a_folder_in_place_of_outputs(run):
    (run / "prediction.txt").unlink()
    (run / "prediction.txt").mkdir()
    refuses(run, "prediction.txt", "Is a directory")


@pytest.mark.parametrize("name", ["", "..", "a\0b", "/"])
def test_outputs_of_an_odd_name(run, name):
    """A name in scores.json never leads out of the work dir."""
    record = json.loads((run / "scores.json").read_text())
    record["systems"][0]["file"] = name
    (run / "scores.json").write_text(json.dumps(record))
    with pytest.raises(UserError):
        call("summary", run)


@pytest.mark.parametrize(
    "file", ["scores.json", "run.json", "beam_prediction.run.json", "comparison.json", "slots.json"]
)
@pytest.mark.slow
def test_whatever_stands_anywhere_there_is_no_traceback(run, file, capsys):
    """Every value of the file in turn is another one, or gone: each program works or says one sentence."""
    record = json.loads((run / file).read_text())
    for where in places(record):
        for value in (None, "x", {}, math.nan, ...):
            (run / file).write_text(
                json.dumps(without(record, where) if value is ... else replaced(record, where, value))
            )
            for name in READ_BY[file][1].split():
                try:
                    call(name, run)
                except UserError as error:
                    assert "\n" not in str(error)
        capsys.readouterr()


def places(value) -> list[list[str]]:
    """Return the paths of all values inside a JSON value; of a list, into the first."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path for key, inner in items for path in ([str(key)], *([str(key), *rest] for rest in places(inner)))]


def without(value, path: list[str]):
    """Return a copy of a JSON value without what is at `path`."""
    key = int(path[0]) if isinstance(value, list) else path[0]
    result = copy.copy(value)
    if path[1:]:
        result[key] = without(value[key], path[1:])
    else:
        del result[key]
    return result


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_end_with_one_line_and_exit_code_2(run, name):
    (run / "scores.json").write_text('{"systems": 3}')
    (run / "prediction.txt").write_bytes(b"\xff\n")
    data = ["--data", run / "test.jsonl"] if name in "summary closing compare report slots".split() else []
    command = [sys.executable, ROOT / "eval" / f"{name}.py", run, *data]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{name}.py: error: {run}") and done.stderr.count("\n") == 1


# What was trained


@pytest.mark.parametrize(
    ("settings", "method", "rank"),
    [
        ({"lora": {"rank": 4}}, "lora", 4),
        ({"lora": {"rank": {"q": 8, "v": 4}}}, "lora", {"q": 8, "v": 4}),
        ({"lora": {"rank": 0}}, "full", 0),
        ({"lora": None}, "full", 0),
        ({}, "full", 0),
        ({"vera": {"rank": 1024}}, "vera", 1024),
        ({"lora": None, "bias": {}}, "bias", 0),
        ({"lora": {"rank": 4}, "vera": None}, "lora", 4),
        ({"lora+prefix_layer": {"rank": 4, "length": 8}}, "lora+prefix_layer", 4),
        ({"a method of later": {}, "lora": {"rank": 4}}, "lora", 4),
    ],
)
def test_the_method_is_the_section_of_its_settings(settings, method, rank):
    run = run_dir.Run(Path("x"), {}, {}, {"settings": settings}, {}, [])
    assert (run_dir.method_of(run), run_dir.rank_of(run)) == (method, rank)


# The shapes themselves


@pytest.mark.parametrize(
    ("value", "shape", "says"),
    [
        (1, int, None),
        (True, int, "it is True, not a whole number"),
        (1.0, int, "it is 1.0, not a whole number"),
        (2**63, int, f"it is {2**63}, not a whole number"),
        (1, float, None),
        (10**400, float, f"it is 1{'0' * 39}…, not a number"),
        (math.nan, float, "it is nan, not a number"),
        (math.nan, Loss, None),
        (-math.inf, Loss, None),
        (False, Loss, "it is False, not a number"),
        (0, bool, "it is 0, not true or false"),
        ([1, 2], [int], None),
        ([], [int], None),
        ([1, "2"], [int], "1 is '2', not a whole number"),
        ([1, 2], [int, int], None),
        ([1, 2, 3], [int, int], "it is [1, 2, 3], not a list of 2"),
        ((1, 2), [int], "it is (1, 2), not a list"),
        ({"a": {"b": 1}}, {"a": {"b": str}}, "a.b is 1, not a text"),
        ({"a": {}}, {"a": {"b": str}}, 'a has no "b"'),
        ({}, {"a?": str}, None),
        ({"a": None}, {"a?": str}, "a is None, not a text"),
        ({"a": None}, {"a?": (str, None)}, None),
        ({"a": 1}, {"a?": (str, None)}, "a is 1, not a text or null"),
        ({"a": {"b": 1}}, {"a": ({"b": str}, None)}, "a.b is 1, not a text"),
        ({"x": 1, "y": "2"}, {str: int}, "y is '2', not a whole number"),
        ({"x": 1}, {str: int, "a": int}, 'it has no "a"'),
        ([], {}, "it is [], not an object"),
    ],
)
def test_shapes(value, shape, says):
    assert fault(value, shape) == says
