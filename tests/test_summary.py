"""The table at the end of a run."""

import json
import shutil

import pytest

import summary
from metrics.errors import UserError


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
    lines.append({"eval": {"step": 160, "valid_loss": 1.2345}})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    contexts = ["name : The Fox | Type : pub"] * 2 + ["name : The Duck | price : cheap"]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"context": c}) + "\n" for c in contexts))
    return tmp_path


def test_scores_samples_and_time(run, capsys):
    assert summary.main([str(run), "--data", str(run / "data.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "this run, base alone   0.5000   8.1000" in out
    assert "base alone: 0 of 2 outputs hold" in out
    assert "this run: 1 of 2 outputs hold" in out  # The Hen is not The Duck
    assert "prediction The Fox is a pub ." in out
    assert "training: 160 steps, median 410 ms each, 1.5 minutes, 16,384 parameters" in out


@pytest.mark.parametrize("smoothing", [None, 0, 0.1])
def test_a_smoothed_training_loss_is_said_to_be_one(run, smoothing, capsys):
    """Fails when a run without smoothing says so, too, or one from before the record had it."""
    settings = {} if smoothing is None else {"settings": {"train": {"label_smooth": smoothing}}}
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | settings))
    assert summary.main([str(run), "--data", str(run / "data.jsonl")]) == 0
    said = "validation loss 1.234, peak memory 900 MiB\ntraining losses have label smoothing of 0.1, validation losses none"
    out = capsys.readouterr().out
    assert (said in out) == ("smoothing" in out) == bool(smoothing)


def test_a_missing_file_is_named(run, capsys):
    (run / "log.jsonl").unlink()
    with pytest.raises(UserError, match=r"log\.jsonl does not exist"):
        summary.main([str(run), "--data", str(run / "data.jsonl")])
    assert capsys.readouterr().out == ""


def test_a_part_of_the_inputs_is_said_to_be_one(run, capsys):
    (run / "base.txt").write_text("Nothing .\n")
    assert summary.main([str(run), "--data", str(run / "data.jsonl")]) == 0
    assert "Scored on 1 of the 2 inputs only" in capsys.readouterr().out


def test_a_training_that_did_not_finish_has_no_summary(run, capsys):
    (run / "run.json").write_text(json.dumps({"seconds": 3}))
    with pytest.raises(UserError, match="did not finish"):
        summary.main([str(run), "--data", str(run / "data.jsonl")])


def test_a_copied_work_dir_shows_its_own_texts(run, tmp_path, capsys):
    """scores.json names the files where they were scored: another run may be there by now."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("copy"))
    (run / "prediction.txt").write_text("Another run's .\nAnother run's .\n")
    assert summary.main([str(copy), "--data", str(run / "data.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "prediction The Fox is a pub ." in out and "Another run" not in out
    (copy / "prediction.txt").unlink()
    with pytest.raises(UserError, match=r"copy/prediction\.txt does not exist; run step 05 again"):
        summary.main([str(copy), "--data", str(run / "data.jsonl")])
