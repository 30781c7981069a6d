"""Several seeds of one recipe: their mean and deviation, what may not be mixed, and the script that runs them."""

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import seeds
from e2e_metrics.errors import UserError
from e2e_metrics.scores import METRICS

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "optim": {"lr": 0.1},
    "lora": {"rank": 4},
    "train": {"random_seed": 0, "seq_len": 9},
    "device": "cpu",
    "world_size": 1,
}


def write_run(folder: Path, seed: int, bleu: float = 0.7, change=None, unfinished: bool = False, **signature) -> str:
    """Write a run's records, its scores all derived from `bleu`."""
    folder.mkdir()
    training = {"settings": copy.deepcopy(SETTINGS), "valid_loss": 1.2}
    training["settings"]["train"]["random_seed"] = seed
    decoding = {"settings": {"search": {"beam": 10}}}
    if change:
        change(training["settings"], decoding["settings"])
    if unfinished:
        del training["valid_loss"]
    scores = dict(zip(METRICS, (bleu, 10 * bleu, bleu / 2, bleu, 3 * bleu), strict=True))
    systems = [{"file": "base.txt", "scores": {}}, {"file": "prediction.txt", "scores": scores}]
    (folder / "scores.json").write_text(json.dumps({"systems": systems, "signature": {"segments": 630, **signature}}))
    (folder / "run.json").write_text(json.dumps(training))
    (folder / "beam_prediction.run.json").write_text(json.dumps(decoding))
    return str(folder)


def test_mean_and_sample_deviation(tmp_path, capsys):
    runs = [write_run(tmp_path / str(seed), seed, bleu) for seed, bleu in ((110, 0.70), (111, 0.71), (112, 0.705))]
    assert seeds.main([*runs, "--json", str(tmp_path / "seeds.json")]) == 0
    rows = {line[:20].strip(): line[20:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["seed 111"][0] == "0.7100"
    assert rows["mean"] == ["0.7050", "7.0500", "0.3525", "0.7050", "2.1150"]
    assert rows["standard deviation"] == ["0.0050", "0.0500", "0.0025", "0.0050", "0.0150"]  # n - 1, as for a sample
    assert rows["as the paper writes"][:2] == ["70.5±.5", "7.05±.05"]
    result = json.loads((tmp_path / "seeds.json").read_text())
    assert result["seeds"]["112"]["BLEU"] == 0.705
    assert result["deviation"]["NIST"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("metric", "mean", "deviation", "written"),
    [("BLEU", 0.704, 0.001, "70.4±.1"), ("NIST", 8.8499, 0.0204, "8.85±.02"), ("CIDEr", 2.5, 0.0, "2.50±.00"),
     ("METEOR", 0.468, 0.0123, "46.8±1.2"), ("NIST", 8.0, 10.5, "8.00±10.50")],
)  # fmt: skip
def test_the_papers_manner(metric, mean, deviation, written):
    assert seeds.as_paper(metric, mean, deviation) == written


def test_one_run_has_no_deviation(tmp_path):
    with pytest.raises(UserError, match="two runs or more"):
        seeds.main([write_run(tmp_path / "a", 110)])


def test_a_seed_counts_once(tmp_path):
    runs = [write_run(tmp_path / name, 110) for name in "ab"]
    with pytest.raises(UserError, match=r"a and .*b have the same seed 110"):
        seeds.main(runs)


def test_an_unfinished_training_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"b has no run\.json of a training that finished"):
        seeds.main([write_run(tmp_path / "a", 1), write_run(tmp_path / "b", 2, unfinished=True)])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda training, _: training["optim"].update(lr=0.2), r"optim lr \(0.1, 0.2\)"),
        (lambda training, _: training["train"].update(seq_len=8), r"train seq_len \(9, 8\)"),
        (lambda training, _: training.update(world_size=2), r"world_size \(1, 2\)"),
        (lambda training, _: training.pop("lora"), "lora"),
        (lambda _, decoding: decoding["search"].update(beam=5), r"search beam \(10, 5\)"),
    ],
)
def test_runs_of_two_recipes_are_not_mixed(tmp_path, change, says):
    with pytest.raises(UserError, match=f"differ in {says}"):
        seeds.main([write_run(tmp_path / "a", 1), write_run(tmp_path / "b", 2, change=change)])


def test_runs_with_other_references_are_not_mixed(tmp_path):
    runs = [write_run(tmp_path / str(i), i, references_sha256=str(i)) for i in range(2)]
    with pytest.raises(UserError, match="differ in scores references_sha256"):
        seeds.main(runs)


def test_the_machine_may_differ(tmp_path):
    other = write_run(tmp_path / "b", 2, change=lambda training, _: training.update(device="cuda:0"))
    assert seeds.main([write_run(tmp_path / "a", 1), other]) == 0


# scripts/run_seeds.sh, with a pipeline that only writes down how it was called


class Checkout:
    """A folder with the script, its presets, and a run_all.sh and a Python that note their arguments in `calls`."""

    def __init__(self, folder: Path):
        self.folder, self.calls_file = folder / "checkout", folder / "calls"
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        (self.folder / ".venv/bin").mkdir(parents=True)
        note = '#!/usr/bin/env bash\necho "$*" >>"$CALLS"\n'
        (self.folder / ".venv/bin/python").write_text(note)
        (self.folder / ".venv/bin/python").chmod(0o755)
        run_all = note + 'mkdir -p "$4"\n[[ "$*" != *"--random_seed ${FAIL_ON:-none}" ]]\n'
        (self.folder / "scripts/run_all.sh").write_text(run_all)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        self.calls_file.write_text("")
        environment = {**os.environ, "CALLS": str(self.calls_file), **environment}
        command = ["bash", str(self.folder / "scripts/run_seeds.sh"), *arguments]
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
        self.calls = self.calls_file.read_text().splitlines()
        return done


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_every_seed_has_its_folder_and_all_are_put_together(checkout):
    assert checkout.run("110", "111", "--lr", "1").returncode == 0
    assert checkout.calls == [
        "--preset mini --work_dir trained_models/mini/seed110 --lr 1 --random_seed 110",
        "--preset mini --work_dir trained_models/mini/seed111 --lr 1 --random_seed 111",
        "eval/seeds.py trained_models/mini/seed110 trained_models/mini/seed111 --json trained_models/mini/seeds.json",
    ]


def test_finished_seeds_are_kept(checkout):
    checkout.run("110", "111")
    done = checkout.run("110", "112", "111")
    assert "Seed 110 is done" in done.stdout
    assert [call.split()[-1] for call in checkout.calls[:-1]] == ["112"]
    assert checkout.calls[-1].split()[1:4] == [f"trained_models/mini/seed{seed}" for seed in (110, 112, 111)]


def test_other_flags_or_another_preset_are_another_run(checkout):
    checkout.run("110", "111")
    checkout.run("110", "111", "--lr", "2")
    assert len(checkout.calls) == 3
    preset = checkout.folder / "scripts/presets/mini.sh"
    preset.write_text(preset.read_text().replace("--beam 10", "--beam 5"))
    checkout.run("110", "111", "--lr", "2")
    assert len(checkout.calls) == 3


def test_a_seed_that_failed_runs_again(checkout):
    assert checkout.run("110", "111", FAIL_ON="111").returncode != 0
    assert len(checkout.calls) == 2  # and nothing is put together
    checkout.run("110", "111")
    assert [call.split()[-1] for call in checkout.calls[:-1]] == ["111"]


def test_what_a_failed_run_left_is_not_taken_for_the_earlier_one(checkout):
    checkout.run("110", "111")
    checkout.run("110", "111", "--lr", "2", FAIL_ON="110")
    checkout.run("110", "111")
    assert [call.split()[-1] for call in checkout.calls[:-1]] == ["110"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "two seeds or more"),
        (("110",), "two seeds or more"),
        (("110", "110"), "a seed is given twice"),
        (("110", "111", "--random_seed", "3"), "is what the seeds are for"),
        (("110", "111", "--preset", "no"), "unknown preset no"),
    ],
)
def test_wrong_arguments_are_errors_before_any_run(checkout, arguments, says):
    done = checkout.run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert checkout.calls == []
