"""The published learning curve: the file that is shipped, and what a run on it or off it says."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import curve as evals
import recipe
from lora_nlg.errors import UserError
from lora_nlg.training import curve
from lora_nlg.training.log import Log
from metrics import errors
from test_compare import a_run

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "data/curves/gpt2_md_seed110.tsv"


def test_the_shipped_curve():
    """Seen to fail with the steps counted one interval on."""
    published = curve.read(SHIPPED, log_interval=100)
    assert len(published.losses) == 262
    figures = {100: 5.56, 200: 3.75, 300: 3.08, 500: 2.89, 2000: 2.67}  # as the tutorial's own log has them
    assert {step: published.published(step) for step in figures} == pytest.approx(figures, abs=0.01)
    compared = [step for step in published.losses if published.published(step) is not None]
    assert compared[:7] == [100, 200, 300, 500, 1000, 2000, 3000]


def test_tolerance():
    assert curve.is_on(2.7199, 2.67) and curve.is_on(2.6201, 2.67)
    assert not curve.is_on(2.7201, 2.67) and not curve.is_on(2.6199, 2.67)
    assert not curve.is_on(float("nan"), 2.67)


@pytest.mark.parametrize(("loss", "says"), [(2.0, "on the curve"), (2.25, "OFF the curve by more than 0.05")])
def test_what_a_run_says(tmp_path, capsys, loss, says):
    """Fails when the last loss is compared instead of the average, or every log interval is."""
    published = curve.Curve(Path("some.tsv"), {400: 2.0, 500: 2.01})
    log = Log(tmp_path, max_step=500, is_main=True, curve=published)
    for step in (400, 500):
        log.add(torch.tensor(loss - 1), n_tokens=7)
        log.add(torch.tensor(loss + 1), n_tokens=7)
        log.interval(1, step, step, 0.1, 0.1)
    log.close()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("curve")]
    assert len(lines) == 1
    assert says in lines[0] and "published 2.01" in lines[0]
    said = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][-1]["curve"]
    assert said == {"step": 500, "avg_loss": loss, "published": 2.01, "on_curve": loss == 2.0}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "is not text"),
        ("", "no columns step and avg_loss"),
        ("step\tloss\n100\t1\n", "no columns step and avg_loss"),
        ("step\tavg_loss\n", "is empty"),
        ("step\tavg_loss\n100\t1\n200\tx\n", "line 3: expected numbers under step and avg_loss"),
        ("step\tavg_loss\n100\n", "line 2: expected numbers"),
        ("step\tavg_loss\n100\t" + "1" * 200_000, "is no table"),
        ("step\tavg_loss" + "s" * 200_000, "is no table"),
        ("step\tavg_loss\n50\t1\n", "averages over 50 steps but this run over 100; pass --log_interval 50"),
    ],
)
def test_files_that_are_no_curve(tmp_path, content, words):
    if content is not None:
        (tmp_path / "curve.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        curve.read(tmp_path / "curve.tsv", log_interval=100)


def test_the_papers_preset_compares_with_it():
    show = f"cd {ROOT}; source scripts/common.sh; take_preset --preset e2e_gpt2_md; echo $CURVE"
    shown = subprocess.run(["bash", "-c", show], capture_output=True, text=True, check=True)
    assert ROOT / shown.stdout.strip() == SHIPPED


@pytest.mark.parametrize(
    ("flags", "compares"),
    [
        ("", True),
        ("--lora_dim=4 --lora_targets q,v --random_seed 110", True),
        ("--lora_dim 1", False),
        ("--lora_targets q", False),
        ("--random_seed 111", False),
        ("--log_interval 50", False),
        ("--method lora", True),
        ("--method dora", False),
        ("--method lora+prefix_layer", False),
        ("--lora_init pissa", False),
        ("--lora_plus_ratio 16", False),
        ("--lora_layers=0-11", False),
    ],
)
def test_it_is_left_out_where_it_does_not_apply(tmp_path, flags, compares):
    """Fails when a sweep's rank 1 is told that it is off the curve of rank 4."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "scripts/00_setup.sh").write_text("")
    (tmp_path / ".venv/bin/python").write_text('#!/usr/bin/env bash\necho "$*"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    for made in ("data/e2e/train.jsonl", "pretrained_checkpoints/gpt2-medium/model.safetensors"):
        (tmp_path / made).parent.mkdir(parents=True)
        (tmp_path / made).touch()
    command = ["bash", tmp_path / "scripts/03_train.sh", "--preset", "e2e_gpt2_md", *flags.split()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "src/gpt2_ft.py" in shown
    assert ("--compare_curve data/curves/gpt2_md_seed110.tsv" in shown) == compares


# The rule a second time, in eval, which tells at the end what the log told on the way

TWO_RUNS = "step\tlr\tloss_a\tavg_loss_a\tloss_b\tavg_loss_b\n" + "".join(
    f"{step}\t1e-4\t9\t{2 + step / 1e5:.3f}\t9\t{2.06 + step / 1e5:.3f}\n" for step in range(100, 3100, 100)
)


@pytest.fixture(params=["shipped", "two runs that differ"])
def both(request, tmp_path):
    """A file with a curve, as training and as eval read it."""
    path = SHIPPED
    if request.param != "shipped":
        path = tmp_path / "curve.tsv"
        path.write_text(TWO_RUNS)
    return path, curve.read(path, log_interval=100), evals.read(path)


def test_both_sides_read_the_same_curve(both):
    """Fails when eval takes the first run alone, or other steps."""
    _, trainings, ours = both
    assert ours.losses == pytest.approx(trainings.losses, abs=1e-12)
    for step in [*trainings.losses, 0, 50, 150, 999, 1001, 999_000, 1_000_000]:
        assert (ours.published(step) is None) == (trainings.published(step) is None)
    assert (evals.TOLERANCE, evals.EARLY_STEPS) == (curve.TOLERANCE, curve.EARLY_STEPS)


@pytest.mark.parametrize("published", [0.0, 2.03, 2.67, math.nan])
@pytest.mark.parametrize("off", [0.0, 0.0499, 0.05, 0.0501, -0.05, -0.0501, 1.0, math.nan, math.inf])
def test_both_sides_have_one_tolerance(published, off):
    assert evals.is_on(published + off, published) == curve.is_on(published + off, published)


@pytest.mark.parametrize("off", [0.0, 0.025, 0.035, 0.049, 0.051, -0.049, -0.051, math.nan])
@pytest.mark.parametrize("at", [100, 400, 500, 900, 1000, 2500, 3000])
def test_the_log_and_step_7_never_contradict_each_other(both, tmp_path, monkeypatch, at, off):
    """A run on the mean of the published ones but for one step. Fails when one side compares other steps, or the first run."""
    path, trainings, _ = both
    monkeypatch.setattr(recipe, "CURVE", path)
    log = Log(tmp_path, max_step=3000, is_main=True, curve=trainings)
    for step in range(100, 3100, 100):
        log.add(torch.tensor(trainings.losses[step] + (off if step == at else 0), dtype=torch.float64), n_tokens=1)
        log.interval(1, step, step, 0.1, 0.1)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    said = {line["curve"]["step"]: line["curve"]["on_curve"] for line in lines if "curve" in line}
    left = recipe.off_curve(a_run(log=lines))
    assert (left is None) == all(said.values())
    assert left is None or f"at step {at:,}" in left


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"", "is empty"),
        (b"step\tloss\n100\t1\n", "no columns step and avg_loss"),
        (b"step\tavg_loss\n100\t1\n200\tx\n", "line 3: expected numbers under step and avg_loss"),
        (b"step\tavg_loss\n100\n", "line 2: expected numbers"),
        (b"step\tavg_loss\n100\t" + b"1" * 200_000, "expected numbers"),
        (b"step\tavg_loss\n100\t1\n", "no columns step and lr"),
    ],
)
def test_files_that_are_no_curve_for_eval(tmp_path, content, words):
    (tmp_path / "curve.tsv").write_bytes(content)
    with pytest.raises(errors.UserError, match=words):
        evals.read(tmp_path / "curve.tsv")


def test_validation_losses_are_the_mean_of_the_runs(tmp_path):
    (tmp_path / "valid.tsv").write_text("step\tA_valid_loss\tB_valid_loss\n2000\t1.25\t1.75\n")
    assert evals.read_validation(tmp_path / "valid.tsv") == {2000: 1.5}
    assert evals.read_validation(tmp_path / "none.tsv") is None
