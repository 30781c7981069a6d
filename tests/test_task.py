"""What applies to a data set is what its task says: with a toy task that has no slots, no published scores and no names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import compare
import report
import run_dir
import slots
import summary
import task
import verdict
from lora_nlg import methods
from metrics.errors import UserError
from report_page import charts, contents, opening, page

ROOT = Path(__file__).resolve().parents[1]
TOY = {
    "task": "toy",
    "scorer": "eval/toy/measure.py",
    "scores": ["BLEU", "TER"],
    "slots": None,
    "published": None,
    "copied": None,
}
INPUTS = ["A : b : C", "D : e : F"]
SCORES = {"BLEU": 0.5, "TER": 0.25}


@pytest.fixture
def run(tmp_path):
    """A run of the toy task, with its data in a folder of their own."""
    work_dir, data = tmp_path / "work", tmp_path / "data" / "toy"
    for folder in (work_dir, data):
        folder.mkdir(parents=True)
    lines = [{"context": mr, "completion": "x"} for mr in INPUTS]
    (data / "test_formatted.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (data / "task.json").write_text(json.dumps(TOY))
    (work_dir / "prediction.txt").write_text("A b C .\nD e F .\n")
    interval = {name: [value - 0.1, value + 0.1] for name, value in SCORES.items()}
    system = {"file": "elsewhere/prediction.txt", "scores": SCORES, "intervals": interval}
    signature = {"segments": 2, "references": 2}
    (work_dir / "scores.json").write_text(json.dumps({"systems": [system], "signature": signature}))
    settings = {"model": {"n_embd": 1024, "n_layer": 24}, "lora": {"rank": 4, "alpha": 32.0, "targets": ["q", "v"]}}
    record = {"argv": [], "settings": settings, "seconds": 60, "trained_parameters": 7, "valid_loss": 1.5}
    (work_dir / "run.json").write_text(json.dumps({**record, "peak_memory": {"host_mib": 1.0}}))
    (work_dir / "log.jsonl").write_text(json.dumps({"eval": {"step": 9, "valid_loss": 1.5, "seconds": 1}}) + "\n")
    rows = [
        ["src", "sys_out", "BLEU", "TER"],
        *([mr, text, "0.5", "0.25"] for mr, text in zip(INPUTS, ("A b C .", "D e F ."), strict=True)),
    ]
    (work_dir / "segments.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return work_dir


def data_of(run: Path) -> Path:
    return run.parent / "data" / "toy" / "test_formatted.jsonl"


# What is read


def test_without_a_file_it_is_e2e(tmp_path):
    """The defaults are what the programs did before there were tasks."""
    assert task.read(tmp_path / "x.jsonl") == task.Task()
    assert task.Task() == task.Task(
        name="e2e",
        scorer="eval/e2e/measure_scores.py",
        scores=("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"),
        slots="e2e",
        published="e2e",
        copied="name",
    )
    assert (ROOT / task.Task().scorer).is_file()


def test_the_file_is_beside_the_data(run):
    expected = task.Task("toy", "eval/toy/measure.py", ("BLEU", "TER"), None, None, None)
    assert task.read(data_of(run)) == expected


# What each program makes of it


def test_the_summary_has_the_tasks_scores_and_no_names(run, capsys):
    assert summary.main([str(run), "--data", str(data_of(run))]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line.split() for line in lines[3:5]] == [["BLEU", "TER"], ["this", "run", "0.5000", "0.2500"]]
    assert "hold their" not in out and "prediction A b C ." in out


def test_another_slot_may_be_what_is_copied(run, capsys):
    """Fails when the first part of an input is taken, whichever it is."""
    lines = [{"context": f"kind : pub | title : {name}", "completion": "x"} for name in ("A b", "Other")]
    data_of(run).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (data_of(run).parent / "task.json").write_text(json.dumps({**TOY, "copied": "title"}))
    summary.main([str(run), "--data", str(data_of(run))])
    assert "this run: 1 of 2 outputs hold their title\n" in capsys.readouterr().out


def test_nothing_is_published_for_it(run, capsys):
    arguments = [str(run), "--data", str(data_of(run))]
    assert compare.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["BLEU", "TER"]
    assert "Not to be compared with the paper: nothing is published for the task toy." in lines
    assert compare.main([*arguments, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["comparable"], result["rows"], result["run"]) == (False, [], SCORES)
    for form, separator in (("tsv", "\t"), ("md", "|")):
        compare.main([*arguments, "--format", form])
        rows = [line for line in capsys.readouterr().out.splitlines() if separator in line]
        assert len({row.count(separator) for row in rows}) == 1 and "TER" in rows[0]


def test_there_are_no_slots_to_count(run, capsys):
    says = rf"{data_of(run)} is of the task toy, which has no slots to count"
    for outputs in (run, run / "prediction.txt"):
        with pytest.raises(UserError, match=f"^{says}$"):
            slots.main([str(outputs), "--data", str(data_of(run))])
        assert slots.main([str(outputs), "--data", str(data_of(run)), "--if_any"]) == 0
        assert capsys.readouterr().out == says + "\n"
    assert not (run / "slots.json").exists()


def test_the_report_leaves_out_what_does_not_apply(run, monkeypatch):
    for chart in ("over_steps", "of_scores"):
        monkeypatch.setattr(charts, chart, lambda *arguments, **options: "")
    text = page.render(contents.read(run, data_of(run)))
    assert "Not shown: the task toy has no slots to count." in text
    assert "Not compared: nothing is published for the task toy." in text
    assert "No published curve behind: this run has the task toy instead of E2E." in text
    assert "slots.json" not in text and "comparison.json" not in text and "CIDEr" not in text
    assert "0.2500" in text  # its TER
    assert "eval/toy/measure.py" in text
    compare.main([str(run), "--data", str(data_of(run)), "--format", "json", "--output", str(run / "comparison.json")])
    assert "nothing is published for the task toy" in page.render(contents.read(run, data_of(run)))


@pytest.mark.parametrize(
    ("change", "program", "says"),
    [
        ({"slots": "tables"}, slots, "the slot rules 'tables', but there are none but e2e"),
        ({"published": "elsewhere"}, compare, "the published scores 'elsewhere', but there are none but e2e"),
        ({"scores": ["BLEU", "chrF"]}, summary, 'systems.0.scores has no "chrF"; run step 06 again'),
        ({"scores": ["BLEU", "chrF"]}, compare, 'systems.0.scores has no "chrF"; run step 06 again'),
        ({"scores": ["BLEU", "chrF"]}, report, 'systems.0.scores has no "chrF"; run step 06 again'),
    ],
)
def test_what_a_task_names_and_is_not_there_is_said(run, change, program, says):
    (data_of(run).parent / "task.json").write_text(json.dumps({**TOY, **change}))
    with pytest.raises(UserError) as refused:
        program.main([str(run), "--data", str(data_of(run))])
    assert says in str(refused.value)


def test_e2es_segments_need_not_be_the_tasks(run):
    with pytest.raises(UserError, match="expected the columns src, sys_out and BLEU, NIST"):
        run_dir.read_segments(run)
    assert [segment.scores for segment in run_dir.read_segments(run, ("BLEU", "TER"))] == [SCORES] * 2


@pytest.mark.slow
def test_step_7_says_a_sentence_where_there_are_no_slots(run, tmp_path):
    """The script as it is, in a checkout whose only data set is the toy's."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    (checkout / "scripts/00_setup.sh").write_text("")
    (checkout / "scripts/presets/toy.sh").write_text("DATA=toy\n")
    for name, target in (("eval", ROOT / "eval"), ("data", tmp_path / "data")):
        (checkout / name).symlink_to(target)
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (checkout / ".venv/bin/python").chmod(0o755)
    command = ["bash", checkout / "scripts/07_compare.sh", "--preset", "toy", "--work_dir", run]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "data/toy/test_formatted.jsonl is of the task toy, which has no slots to count\n" in done.stdout
    assert "nothing is published for the task toy." in done.stdout
    assert (run / "comparison.json").is_file() and (run / "report.html").is_file()


def test_every_method_has_a_name_beside_the_published_ones(run, capsys):
    """One that no table names has its own, and is not taken for full fine-tuning."""
    assert set(run_dir.METHODS) <= set(methods.CHOICES)
    record = json.loads((run / "run.json").read_text())
    del record["settings"]["lora"]
    record["settings"]["mine"] = {"size": 3}
    (run / "run.json").write_text(json.dumps({**record, "method": "mine"}))
    read = run_dir.read_run(run, ["BLEU", "TER"])
    assert (run_dir.method_of(read), run_dir.rank_of(read)) == ("mine", 0)
    assert verdict.sentence(read, [], "e2e") == "BLEU 0.5000: nothing is published for GPT-2 M and mine."
    assert opening.method(read) == ("Method", "mine")
    assert compare.main([str(run), "--data", str(data_of(run))]) == 0


@pytest.mark.parametrize(("said", "rank"), [("lora", 4), ("full", 0), ("dora", 0)])
def test_what_a_record_says_it_trained_is_believed(said, rank, run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "method": said}))
    read = run_dir.read_run(run, ["BLEU", "TER"])
    assert (run_dir.method_of(read), run_dir.rank_of(read)) == (said, rank)
