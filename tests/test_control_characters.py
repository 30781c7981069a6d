"""What eval/ prints and writes of others' texts: nothing that a terminal or a browser would obey."""

import json
import re
import sys

import pytest

import comparable
import placement_table
from lora_nlg import errors as of_training
from metrics import errors as of_scorer
from metrics import files
from metrics.errors import UserError
from test_report import make_run
from test_run_dir import PROGRAMS, TASK, call

TITLE = "\x1b]0;title\x07"  # names a window
EVIL = f"{TITLE}\x1b[2Jx\x00y\x9b31m\x7f\u202ez\u2028"
FILE_NAME = f"{EVIL}.txt".replace("\x00", "")  # which no name can hold
SHOWN = r"\x1b]0;title\x07\x1b[2Jx\x00y\x9b31m\x7f\u202ez\u2028"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
EVERY_CHARACTER = "".join(map(chr, range(sys.maxunicode + 1)))


def test_training_and_scorer_show_the_same_characters():
    """Fails when one of the twins learns of a character and the other does not."""
    assert of_scorer.visible(EVERY_CHARACTER) == of_training.visible(EVERY_CHARACTER)
    assert not RAW.search(of_scorer.visible(EVERY_CHARACTER))


def test_pages_keep_their_line_ends_and_tabs():
    assert of_scorer.visible_lines(f"a\tb\n{EVIL}\r\n") == f"a\tb\n{SHOWN}\\r\n"
    assert of_scorer.visible_lines(EVERY_CHARACTER).count("\n") == 1


def test_answers_as_json_are_the_same_values_without_a_raw_character():
    value = {EVIL: [EVIL, "é ± 你好"]}
    text = of_training.visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value and not RAW.search(text) and "你好" in text


def test_json_is_the_same_value_without_a_raw_character():
    value = {EVIL: [EVIL, "é ± 你好", "\n\t"]}
    text = files.json_text(value)
    assert json.loads(text) == value
    assert not RAW.search(text)
    assert "é ± 你好" in text


@pytest.fixture
def run(tmp_path):
    """A run whose texts, settings and names hold what a terminal would obey."""
    folder = make_run(tmp_path / "run")
    (folder / "segments.tsv").unlink()  # of the outputs before
    (folder / "slots.json").unlink()
    lines = (folder / "prediction.txt").read_text().splitlines()
    (folder / "prediction.txt").write_text("".join(f"{EVIL} {line}\n" for line in lines))
    for name in ("base.txt", FILE_NAME):
        (folder / name).write_text("a\nb\nc\nd\n")
    edit(folder / "run.json", change_training)
    edit(folder / "beam_prediction.run.json", change_decoding)
    edit(folder / "scores.json", change_scores)
    data = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    for line in data:
        line["context"] = line["context"].replace("name : ", f"name : {EVIL} ")
        line["completion"] += EVIL
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in data))
    (folder / "task.json").write_text(json.dumps({**TASK, "published": "e2e", "copied": "name"}))
    return folder


def edit(path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def change_training(record: dict) -> None:
    record["argv"] = [EVIL, f"--{EVIL}"]
    record["commit"] = EVIL
    record.setdefault("versions", {})[EVIL] = EVIL
    record["settings"]["device"] = EVIL
    record["settings"]["lora"] = {"rank": 4, "alpha": 32, "targets": [EVIL]}
    record["settings"]["train"]["random_seed"] = 110


def change_decoding(record: dict) -> None:
    record["argv"] = [EVIL]
    record["settings"] = {"search": {"beam": 10, "length_penalty": 0.8}, "weights": EVIL}


def change_scores(scores: dict) -> None:
    scores["signature"][EVIL] = EVIL
    scores["systems"].append({**scores["systems"][0], "file": FILE_NAME})


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_of_a_run_reaches_a_terminal_or_the_page_raw(name, run, capsys, monkeypatch):
    """Fails when one of the programs prints a text of a file as it is."""
    if name == "placement_table":
        monkeypatch.setattr(
            placement_table,
            "page",
            lambda groups, paper: next(iter(groups[0].runs.values())).setting("lora", "targets")[0] + "\n",
        )
    assert call(name, run) == 0
    said = capsys.readouterr()
    assert not RAW.search(said.out + said.err)
    if name in ("summary", "slots", "sweep", "placement_table"):
        assert SHOWN in said.out
        assert name != "summary" or f"input      name : {SHOWN}" in said.out
    for written in run.parent.glob("out.*"):
        text = written.read_bytes().decode()
        assert not RAW.search(text)
        assert name != "report" or text.count(SHOWN) >= 5


@pytest.mark.parametrize("form", ["text", "md", "tsv", "json"])
@pytest.mark.parametrize("name", ["compare", "sweep"])
def test_no_format_prints_them(name, form, run, capsys):
    edit(run / "run.json", lambda record: record["settings"]["optim"].update(scheduler=EVIL))
    of_e2e = {"segments": comparable.TEST_SETS["e2e"].inputs, "references_sha256": comparable.REFERENCES}
    edit(run / "scores.json", lambda scores: scores["signature"].update(of_e2e))  # to be compared with the paper
    assert PROGRAMS[name].main([str(run), "--format", form]) == 0
    said = capsys.readouterr().out
    assert not RAW.search(said)
    assert name != "compare" or form == "tsv" or "0;title" in said


def test_an_error_of_the_scorer_is_one_line_without_them(monkeypatch, capsys):
    def fail(argv):
        raise UserError(f"the file {EVIL}\nb is damaged")

    monkeypatch.setattr("sys.argv", ["program.py"])
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    assert of_scorer.run(fail) == 2
    assert capsys.readouterr().err == f"program.py: error: the file {SHOWN}\\nb is damaged\n"


def test_a_wrong_flag_of_the_scorer_is_one_line_without_them(capsys):
    with pytest.raises(SystemExit):
        of_scorer.Parser(prog="program.py").parse_args([f"--{EVIL}"])
    assert capsys.readouterr().err == f"program.py: error: unknown flag --{SHOWN}; --help lists all flags\n"
