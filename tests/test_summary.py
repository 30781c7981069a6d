"""The table at the end of a run."""

import importlib.util
import json
from pathlib import Path

import pytest

EVAL = Path(__file__).resolve().parents[1] / "eval"


@pytest.fixture
def summary():
    spec = importlib.util.spec_from_file_location("summary", EVAL / "summary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    scores = {"BLEU": 0.5, "NIST": 8.1, "METEOR": 0.4, "ROUGE_L": 0.6, "CIDEr": 2.0}
    files = {"base.txt": "Nothing .\nIt is cheap .\n", "prediction.txt": "The Fox is a pub .\nThe Hen is cheap .\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    systems = [{"file": str(tmp_path / name), "scores": scores} for name in files]
    (tmp_path / "scores.json").write_text(json.dumps({"systems": systems}))
    run = {"seconds": 90, "trained_parameters": 16384, "valid_loss": 1.2345, "peak_memory": {"host_mib": 900.0}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    lines = [{"step": 50 * i, "ms_per_batch": ms} for i, ms in ((1, 900.0), (2, 400.0), (3, 410.0))]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    contexts = ["name : The Fox | Type : pub"] * 2 + ["name : The Duck | price : cheap"]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"context": c}) + "\n" for c in contexts))
    return tmp_path


def test_scores_samples_and_time(summary, run, capsys):
    assert summary.main([str(run), "--data", str(run / "data.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "this run, base alone   0.5000   8.1000" in out
    assert "Not to be compared with the paper" in out
    assert "base alone: 0 of 2 outputs hold" in out
    assert "this run: 1 of 2 outputs hold" in out  # The Hen is not The Duck
    assert "prediction The Fox is a pub ." in out
    assert "150 steps, median 410 ms each, 1.5 minutes, 16,384 parameters" in out


def test_published_rows_stand_beside(summary, run, capsys):
    summary.main([str(run), "--data", str(run / "data.jsonl"), "--rows", "GPT-2 M"])
    out = capsys.readouterr().out
    assert "Not to be compared" not in out
    assert ["paper,", "LoRA", "(mean", "of", "seeds)", "0.7040", "8.8500", "0.4680", "0.7180", "2.5300"] in [
        line.split() for line in out.splitlines()
    ]


def test_a_missing_file_is_named(summary, run, capsys):
    (run / "log.jsonl").unlink()
    assert summary.main([str(run), "--data", str(run / "data.jsonl")]) == 2
    assert "log.jsonl does not exist" in capsys.readouterr().err


def test_a_part_of_the_inputs_is_said_to_be_one(summary, run, capsys):
    (run / "base.txt").write_text("Nothing .\n")
    assert summary.main([str(run), "--data", str(run / "data.jsonl")]) == 0
    assert "Scored on 1 of the 2 inputs only" in capsys.readouterr().out


def test_a_training_that_did_not_finish_has_no_summary(summary, run, capsys):
    (run / "run.json").write_text(json.dumps({"seconds": 3}))
    assert summary.main([str(run), "--data", str(run / "data.jsonl")]) == 2
    assert "did not finish" in capsys.readouterr().err


def test_published_scores_are_complete_and_on_one_scale(summary):
    rows = [*summary.published("GPT-2 M"), *summary.published("GPT-2 L")]
    assert len(rows) == len(summary.PUBLISHED.read_text().splitlines()) - 1
    for row in rows:
        assert row["source"]
        assert 0 <= float(row["BLEU"]) < 1
        assert 0 < float(row["NIST"]) < 10
