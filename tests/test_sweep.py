"""A sweep: its table beside the paper's, what may not be mixed in it, and the script that trains, decodes and goes on."""

import copy
import fcntl
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import describe_task
import sweep
from comparable import REFERENCES
from lora_nlg import config
from lora_nlg.methods import placement
from metrics.errors import UserError
from metrics.scores import METRICS

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "model": {"n_embd": 1024, "n_layer": 24},
    "optim": {"lr": 0.1},
    "lora": {"rank": 4, "targets": ["q", "v"], "alpha": 32},
    "train": {"random_seed": 0, "seq_len": 9},
    "device": "cpu",
    "world_size": 1,
}


def write_run(
    folder: Path, seed: int = 110, bleu: float = 0.7, rank: int = 4, targets: str = "q,v", penalty: float = 0.8, change=None,
    valid_loss: float | None = 1.2, **signature,
) -> str:  # fmt: skip
    """Write a run's records, its scores all derived from `bleu`. `change` gets the settings of training and decoding."""
    folder.mkdir()
    training = {"settings": copy.deepcopy(SETTINGS), "valid_loss": valid_loss}
    training["settings"]["train"]["random_seed"] = seed
    training["settings"]["lora"] |= {"rank": rank, "targets": targets.split(",")}
    decoding = {"settings": {"search": {"beam": 10, "length_penalty": penalty}}}
    if change:
        change(training["settings"], decoding["settings"])
    if valid_loss is None:
        del training["valid_loss"]
    scores = dict(zip(METRICS, (bleu, 10 * bleu, bleu / 2, bleu, 3 * bleu), strict=True))
    systems = [{"file": "base.txt", "scores": scores}, {"file": "prediction.txt", "scores": scores}]
    signature = {"segments": 630, "references_sha256": REFERENCES, **signature}
    (folder / "scores.json").write_text(json.dumps({"systems": systems, "signature": signature}))
    (folder / "run.json").write_text(json.dumps(training))
    (folder / "beam_prediction.run.json").write_text(json.dumps(decoding))
    return str(folder)


def table(capsys) -> list[list[str]]:
    """Return the cells of the printed TSV, without its header."""
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]


def test_the_papers_row_stands_below_each_of_its_ranks(tmp_path, capsys):
    """By number (8 before 16), and once however many runs a rank has; rank 3 is not in the paper's table."""
    of_runs = ((16, "q,v", 0.8), (8, "q,v", 0.9), (8, "q,v", 0.8), (8, "q", 0.8), (3, "q,v", 0.8))
    runs = [
        write_run(tmp_path / str(i), rank=rank, targets=targets, penalty=penalty)
        for i, (rank, targets, penalty) in enumerate(of_runs)
    ]
    assert sweep.main([*runs, "--format", "tsv"]) == 0
    rows = table(capsys)
    assert [row[:4] for row in rows] == [
        ["3", "q,v", "0.8", "110"],
        ["8", "q", "0.8", "110"],
        ["8", "q,v", "0.8", "110"],
        ["8", "q,v", "0.9", "110"],
        ["8", "-", "-", "paper"],
        ["16", "q,v", "0.8", "110"],
        ["16", "-", "-", "paper"],
    ]
    assert rows[4][4:] == ["1.17", "0.6957", "8.7457", "0.4636", "0.7196", "2.5196"]
    assert rows[0][4:] == ["1.2000", "0.7000", "7.0000", "0.3500", "0.7000", "2.1000"]


def test_several_seeds_have_mean_and_sample_deviation(tmp_path, capsys):
    seeds = ((110, 0.70), (111, 0.71), (112, 0.705))
    runs = [write_run(tmp_path / str(seed), seed, bleu, rank=3) for seed, bleu in seeds]
    assert sweep.main([*runs, write_run(tmp_path / "other", penalty=0.9, rank=3), "--format", "tsv"]) == 0
    rows = table(capsys)
    assert [row[3] for row in rows] == [
        "110",
        "111",
        "112",
        "mean of 3",
        "110",
    ]  # the other penalty's run is not among them
    assert rows[3][4:] == [
        "1.2000±.0000",
        "0.7050±.0050",
        "7.0500±.0500",
        "0.3525±.0025",
        "0.7050±.0050",
        "2.1150±.0150",
    ]


def test_a_deviation_above_one_keeps_its_digits():
    values = dict.fromkeys(("valid_loss", *METRICS), 8.0)
    assert sweep.cells(values, {**values, "NIST": 10.5})[2] == "8.0000±10.5000"


def test_json_has_the_runs_their_statistics_and_the_paper_unrounded(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed, 0.7 + seed / 30000) for seed in (1, 2)]
    sweep.main([*runs, "--format", "json", "--output", str(tmp_path / "sweep.json")])
    (group,) = json.loads((tmp_path / "sweep.json").read_text())["groups"]
    assert [run["BLEU"] for run in group["runs"]] == [0.7 + 1 / 30000, 0.7 + 2 / 30000]
    assert group["mean"]["BLEU"] == pytest.approx(0.70005, abs=1e-12)
    assert group["deviation"]["BLEU"] == pytest.approx(2**-0.5 / 30000, abs=1e-12)
    assert group["paper"]["valid_loss"] == 1.18


def of_webnlg(folder: Path, *work_dirs: str) -> list[str]:
    """Give runs the scores that triples have, and return the flag that says so."""
    scores = {"BLEU": 0.55, "METEOR": 0.41, "TER": 0.39}
    for work_dir in work_dirs:
        path = Path(work_dir) / "scores.json"
        system = {"file": "prediction.txt", "scores": scores}
        path.write_text(json.dumps({"systems": [system], "signature": {"inputs": 9, "protocol": "webnlg2017"}}))
    assert describe_task.main(["webnlg", "--output", str(folder / "task.json")]) == 0
    return ["--data", str(folder / "test_formatted.jsonl")]


@pytest.mark.parametrize("kind", ["text", "md", "tsv", "json"])
def test_runs_of_another_task_have_its_scores_and_no_rows_of_the_paper(kind, tmp_path, capsys):
    """Fails when E2E's scores are looked for, or a rank's row of Table 18 stands below a run of WebNLG."""
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    assert sweep.main([*runs, *of_webnlg(tmp_path, *runs), "--format", kind]) == 0
    said = capsys.readouterr().out
    assert "TER" in said and "NIST" not in said and "Hu et al." not in said
    if kind == "json":
        [group] = json.loads(said)["groups"]
        assert (group["mean"]["TER"], group["paper"]) == (0.39, None)
    else:
        words = said.replace("|", " ").split()
        assert "paper" not in words and words[-4:] == ["1.2000±.0000", "0.5500±.0000", "0.4100±.0000", "0.3900±.0000"]


def test_a_damaged_task_is_one_sentence(tmp_path):
    (tmp_path / "task.json").write_text("{}")
    with pytest.raises(UserError, match=r"task\.json: .*run step 02 again"):
        sweep.main([write_run(tmp_path / "a"), "--data", str(tmp_path / "test_formatted.jsonl")])


def test_full_fine_tuning_has_no_rank(tmp_path, capsys):
    run = write_run(tmp_path / "a", rank=0)
    sweep.main([run, "--format", "tsv"])
    assert [row[:2] for row in table(capsys)] == [["full", "-"]]


def as_vera(training, _):
    training["lora"], training["vera"] = None, {"rank": 4}


def test_another_method_is_neither_full_fine_tuning_nor_lora(tmp_path, capsys):
    """Of the same rank as a row of Table 18, which is LoRA's."""
    sweep.main([write_run(tmp_path / "a", change=as_vera), "--format", "tsv"])
    assert [row[:2] for row in table(capsys)] == [["vera", "-"]]


def test_two_methods_are_not_mixed(tmp_path):
    with pytest.raises(UserError, match="differ in lora alpha"):
        sweep.main([write_run(tmp_path / "a"), write_run(tmp_path / "b", change=as_vera)])


def test_markdown_is_a_table_of_as_many_columns_throughout(tmp_path, capsys):
    sweep.main([write_run(tmp_path / "a"), "--format", "md"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(sweep.COLUMNS) + len(METRICS) + 1}


@pytest.mark.parametrize(
    ("change", "signature", "says"),
    [
        (None, {}, None),
        (None, {"segments": 72}, "scored on 72 inputs that are not E2E's 630"),
        (lambda training, _: training["model"].update(n_embd=768, n_layer=12), {}, "they are of GPT-2 S"),
        (lambda training, _: training["model"].update(n_embd=256, n_layer=4), {}, "4 layers of width 256"),
    ],
)
def test_what_the_paper_may_not_be_compared_with_is_said(tmp_path, capsys, change, signature, says):
    sweep.main([write_run(tmp_path / "a", change=change, **signature)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(sweep.TABLE_18)
    assert ("not to be compared" in last) == (says is not None)
    assert says is None or says in last


def test_a_run_counts_once(tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    with pytest.raises(UserError, match=r"a and .*b have the same seed 110"):
        sweep.main(runs)


def test_an_unfinished_training_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"b has no run\.json of a training that finished"):
        sweep.main([write_run(tmp_path / "a", 1), write_run(tmp_path / "b", 2, valid_loss=None)])


def test_a_run_of_several_ranks_is_refused(tmp_path):
    run = write_run(tmp_path / "a", change=lambda training, _: training["lora"].update(rank={"q": 8, "v": 4}))
    with pytest.raises(UserError, match="a has a rank for each target"):
        sweep.main([run])


def test_a_decoding_without_a_record_is_refused(tmp_path):
    run = write_run(tmp_path / "a")
    (tmp_path / "a/beam_prediction.run.json").unlink()
    with pytest.raises(UserError, match=r"a has no beam_prediction\.run\.json"):
        sweep.main([run])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda training, _: training["optim"].update(lr=0.2), r"optim lr \(0.1, 0.2\)"),
        (lambda training, _: training["train"].update(seq_len=8), r"train seq_len \(9, 8\)"),
        (lambda training, _: training["lora"].update(alpha=16), r"lora alpha \(32, 16\)"),
        (lambda training, _: training.update(world_size=2), r"world_size \(1, 2\)"),
        (lambda _, decoding: decoding["search"].update(beam=5), r"search beam \(10, 5\)"),
    ],
)
def test_runs_of_two_recipes_are_not_mixed(tmp_path, change, says):
    with pytest.raises(UserError, match=f"differ in {says}"):
        sweep.main([write_run(tmp_path / "a", 1), write_run(tmp_path / "b", 2, change=change)])


def test_runs_with_other_references_are_not_mixed(tmp_path):
    runs = [write_run(tmp_path / str(i), i, references_sha256=str(i)) for i in range(2)]
    with pytest.raises(UserError, match="differ in scores references_sha256"):
        sweep.main(runs)


def test_the_machine_may_differ(tmp_path):
    other = write_run(tmp_path / "b", 2, change=lambda training, _: training.update(device="cuda:0"))
    assert sweep.main([write_run(tmp_path / "a", 1), other]) == 0


# scripts/sweep.sh, with steps that only write down how they were called


class Checkout:
    """A folder with the scripts, whose steps and Python note their arguments in `calls`.

    A step whose note begins with FAIL_ON fails. Training and decoding leave a file each, as the real ones do.
    """

    def __init__(self, folder: Path):
        self.folder, self.calls_file = folder / "checkout", folder / "calls"
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        (self.folder / ".venv/bin").mkdir(parents=True)
        note = '#!/usr/bin/env bash\ncall="${CHECK_ONLY:+check }${0##*/} $*"\necho "$call" >>"$CALLS"\n'
        fails = 'if [[ -n ${FAIL_ON:-} && $call == "$FAIL_ON"* ]]; then echo "${WHY:-it broke}"; exit ${CODE:-1}; fi\n'
        work_dir = "work_dir=${call##*--work_dir } work_dir=${work_dir%% *}"
        leaves = {
            "03_train.sh": f"[[ -z ${{CHECK_ONLY:-}} ]] || exit 0; {work_dir}; echo weights >$work_dir/model.final.pt\n",
            "04_beam.sh": f"{work_dir}; cat $work_dir/model.final.pt >>$CALLS\n",
        }
        for name in ("00_setup", "01_download_pretrained_checkpoints", "02_create_datasets", "03_train", "04_beam",
                     "05_decode", "06_evaluate", "07_compare"):  # fmt: skip
            file = f"{name}.sh"
            (self.folder / "scripts" / file).write_text(note + fails + leaves.get(file, ""))
        # What the flags are checked with, before all of this, is tested in test_scripts.py.
        (self.folder / ".venv/bin/python").write_text(note.replace("\n", "\n[[ $1 != -c ]] || exit 0\n", 1))
        (self.folder / ".venv/bin/python").chmod(0o755)

    def run(self, *arguments: str, script: str = "sweep.sh", **environment: str) -> subprocess.CompletedProcess:
        self.calls_file.write_text("")
        environment = {**os.environ, "CALLS": str(self.calls_file), **environment}
        command = ["bash", str(self.folder / "scripts" / script), *arguments]
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
        self.calls = self.calls_file.read_text().splitlines()
        return done

    def made(self, step: str) -> list[str]:
        """Return the arguments that `step` was called with in the last run, without preset and the folder above all."""
        prefix = f"{step} --preset mini --work_dir trained_models/mini/"
        return [call.removeprefix(prefix) for call in self.calls if call.startswith(step)]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


AXES = ("--ranks", "1", "64", "--targets", "q,v", "q", "--seeds", "110", "111", "--length_penalties", "0.8", "0.9")


def test_one_training_serves_every_length_penalty(checkout):
    assert checkout.run("--ranks", "1", "--length_penalties", "0.8", "0.9", "--lr", "1").returncode == 0
    assert checkout.made("03_train.sh") == ["r1_q,v_seed110 --lora_dim 1 --lora_targets q,v --random_seed 110 --lr 1"]
    assert checkout.made("04_beam.sh") == [
        "r1_q,v_seed110/lp0.8 --length_penalty 0.8",
        "r1_q,v_seed110/lp0.9 --length_penalty 0.9",
    ]
    assert checkout.calls.count("weights") == 2  # each finds the training's
    for step in ("05_decode.sh", "06_evaluate.sh", "07_compare.sh"):
        assert checkout.made(step) == ["r1_q,v_seed110/lp0.8", "r1_q,v_seed110/lp0.9"]


def test_every_combination_is_run_once_and_all_are_put_together(checkout):
    assert checkout.run(*AXES).returncode == 0
    trainings = [f"r{rank}_{targets}_seed{seed}" for rank in (1, 64) for targets in ("q,v", "q") for seed in (110, 111)]
    assert [call.split()[0] for call in checkout.made("03_train.sh")] == trainings
    runs = [f"trained_models/mini/{training}/lp{penalty}" for training in trainings for penalty in (0.8, 0.9)]
    data = "--data data/mini/test_formatted.jsonl"
    assert f"python eval/sweep.py {' '.join(runs)} {data}" in checkout.calls
    page = f"{data} --output trained_models/mini/side_by_side.html"
    assert checkout.calls[-1] == f"python eval/report.py {' '.join(runs)} {page}"
    assert sum(call.startswith(("00_setup.sh", "02_create_datasets.sh")) for call in checkout.calls) == 2


def test_what_the_last_training_needs_is_checked_before_the_first(checkout):
    """One check for each rank and targets; what is done needs none."""
    done = checkout.run(
        "--ranks",
        "1",
        "9",
        "--seeds",
        "5",
        "6",
        FAIL_ON="check 03_train.sh --preset mini --work_dir trained_models/mini/r9",
    )
    assert done.returncode == 2
    assert "03_train.sh failed for trained_models/mini/r9_q,v_seed5: it broke" in done.stderr
    assert checkout.made("03_train.sh") == []
    assert len(checkout.made("check 03_train.sh")) == 2
    checkout.run("--ranks", "1")
    checkout.run("--ranks", "1", "2")
    assert [call.split()[0] for call in checkout.made("check 03_train.sh")] == ["r2_q,v_seed110"]


@pytest.mark.parametrize("script", ["sweep.sh", "methods.sh"])
@pytest.mark.parametrize("seed", ["9223372036854775808", "0099999999999999999999"])
def test_a_seed_that_is_too_large_is_found_before_the_first_training(checkout, script, seed):
    """It was found out after all trainings with the one before it."""
    done = checkout.run("--seeds", "5", seed, script=script)
    assert (done.returncode, checkout.calls) == (2, [])
    assert done.stderr == f"{script}: error: --seeds must be from 0 to {config.MOST_SEED}, but has {seed}\n"
    checkout.run("--seeds", "5", str(config.MOST_SEED), script=script, FAIL_ON="00_setup.sh")
    assert checkout.calls == ["00_setup.sh "]


def test_all_targets_are_loras():
    show = "source scripts/many_runs.sh; echo $every_target"
    shown = subprocess.run(["bash", "-c", show], cwd=ROOT, capture_output=True, text=True).stdout
    assert tuple(shown.strip().split(",")) == placement.parse_targets("all")


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--targets", ("q,v", "v,q")),
        ("--targets", ("q", "v", "q,q")),
        ("--targets", ("q,k,v,o,fc,proj,wte", "all")),
        ("--seeds", ("0", "00")),
        ("--seeds", ("7", "8", "007")),
        ("--length_penalties", ("0", "0.0")),
        ("--length_penalties", ("0.0", "-0")),
        ("--length_penalties", ("10", "10.00")),
        ("--length_penalties", ("-00.80", "-0.8")),
    ],
)
def test_a_value_twice_is_found_however_it_is_spelt(checkout, flag, values):
    """The table of the runs was refused, after all of them."""
    done = checkout.run(flag, *values)
    assert (done.returncode, checkout.calls) == (2, [])
    assert done.stderr == f"sweep.sh: error: {flag} has a value twice: {' '.join(values)}\n"


def test_values_that_differ_are_no_value_twice(checkout):
    values = "--targets all q,k,v,o,fc,proj q --seeds 0 1 10 100 --length_penalties 0 1 -1 10 0.1 0.01 1.01 0.1234567 0.1234568"
    done = checkout.run(*values.split(), FAIL_ON="00_setup.sh")
    assert checkout.calls == ["00_setup.sh "], done.stderr


def test_what_is_not_swept_is_the_presets(checkout):
    checkout.run("--lr", "1")
    assert not any("eval/report.py" in call for call in checkout.calls)  # one run has its own page
    assert checkout.made("03_train.sh") == ["r4_q,v_seed110 --lora_dim 4 --lora_targets q,v --random_seed 110 --lr 1"]
    assert checkout.made("04_beam.sh") == ["r4_q,v_seed110/lp0.8 --length_penalty 0.8"]


def test_finished_runs_are_kept_when_the_sweep_grows(checkout):
    checkout.run("--ranks", "1", "2")
    checkout.run("--ranks", "2", "1", "4", "--length_penalties", "0.8", "0.9")
    assert [call.split()[0] for call in checkout.made("03_train.sh")] == ["r4_q,v_seed110"]
    assert [call.split()[0] for call in checkout.made("04_beam.sh")] == [
        "r2_q,v_seed110/lp0.9",
        "r1_q,v_seed110/lp0.9",
        "r4_q,v_seed110/lp0.8",
        "r4_q,v_seed110/lp0.9",
    ]


def test_other_flags_or_another_preset_are_other_runs(checkout):
    checkout.run()
    checkout.run("--lr", "2")
    assert len(checkout.made("03_train.sh")) == len(checkout.made("04_beam.sh")) == 1
    preset = checkout.folder / "scripts/presets/mini.sh"
    preset.write_text(preset.read_text().replace("--beam 10", "--beam 5"))
    checkout.run("--lr", "2")
    assert len(checkout.made("04_beam.sh")) == 1


@pytest.mark.parametrize("script", ["sweep.sh", "methods.sh", "run_seeds.sh"])
def test_a_seed_in_another_spelling_is_the_same_run(script, checkout):
    """Fails when a later call trains 0110 beside 110, which a table then counts as two seeds."""
    flags = {"methods.sh": ["--methods", "lora", "--seeds"], "sweep.sh": ["--seeds"], "run_seeds.sh": []}[script]
    assert checkout.run(*flags, "110", script=script).returncode == 0
    assert checkout.made("03_train.sh")
    assert checkout.run(*flags, "0110", script=script).returncode == 0
    assert checkout.made("03_train.sh") == []


OF_NO_NUMBERS = [  # what gpt2_ft.py ends with, after the name that its errors begin with
    "03_train.sh: error: the loss of step 7 is nan, on the items 1, 2 (counted from 0); start anew with a lower --lr or with --clip",
    "03_train.sh: error: the weights after step 400 are no numbers and are not saved; use a lower --lr or --clip",
]


@pytest.mark.parametrize("why", OF_NO_NUMBERS)
def test_a_rate_that_diverges_is_one_that_is_not_chosen(why, checkout):
    """Fails when hours of trainings end at one too high a rate, or with the seeds, where nothing is chosen any more."""
    at = "03_train.sh --preset mini --work_dir trained_models/methods_mini/bias_lr0.02"
    flags = ("--methods", "bias", "--seeds", "110")
    done = checkout.run(*flags, script="methods.sh", FAIL_ON=at, WHY=why)
    assert "bias               rate 0.02 diverges\n" in done.stdout
    [choice] = [call for call in checkout.calls if "--best_of" in call]
    assert "bias_lr0.02" not in choice and "bias_lr0.05" in choice and "bias_lr0.1" in choice
    checkout.run(*flags, script="methods.sh")
    assert checkout.made("03_train.sh") == []  # nor is it tried again
    checkout.run(*flags, "--weight_decay", "0.5", script="methods.sh")
    tried = [call.split("_seed")[0].rpartition("/")[2] for call in checkout.made("03_train.sh")]
    assert tried[:3] == ["bias_lr0.02", "bias_lr0.05", "bias_lr0.1"]  # but with other flags


def test_a_rate_that_diverged_with_another_seed_is_told_again(checkout):
    """Fails when the mark that it left ends the script without a word."""
    name = "bias_lr0.05_seed111"
    at = f"03_train.sh --preset mini --work_dir trained_models/methods_mini/{name}"
    best = 'case "$*" in *--best_of*) echo "trained_models/methods_mini/bias_lr${BEST}_seed110" ;; esac\n'
    python = checkout.folder / ".venv/bin/python"
    python.write_text(python.read_text() + best)
    flags = ("--methods", "bias", "--seeds")
    checkout.run(*flags, "111", script="methods.sh", FAIL_ON=at, WHY=OF_NO_NUMBERS[0], BEST="0.02")
    assert (checkout.folder / "trained_models/methods_mini" / name / "diverged.txt").exists()
    done = checkout.run(*flags, "110", "111", script="methods.sh", FAIL_ON=at, WHY=OF_NO_NUMBERS[0], BEST="0.05")
    assert done.returncode == 2 and f"{name}: 03_train.sh: error: the loss of step 7 is nan" in done.stderr


def test_other_nodes_take_their_first_ones_word_for_it(checkout):
    """Of several, only the first one's rank says why."""
    at = "03_train.sh --preset mini --work_dir trained_models/methods_mini/bias_lr0.02"
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "a"}
    done = checkout.run("--methods", "bias", "--seeds", "110", script="methods.sh", FAIL_ON=at, CODE="2", **nodes)
    assert "bias               rate 0.02 diverges" in done.stdout
    assert any("bias_lr0.1" in call for call in checkout.made("03_train.sh"))


def test_what_a_rate_that_diverges_says_is_what_training_says():
    source = (ROOT / "src/lora_nlg/training/train.py").read_text()
    assert "the loss of step {step} is {loss}, on" in source
    assert "the weights after step {self.step} are no numbers and" in source


def test_a_preset_with_rates_of_its_own_is_tried_with_those(checkout):
    """Fails when a base that has more to learn is compared at the rates of mini, where full fine-tuning is best at a tenth."""
    checkout.run("--preset", "e2e_small_lora", "--methods", "full", "--seeds", "110", script="methods.sh")
    rates = [re.search(r"full_lr([^_]*)_seed", call)[1] for call in checkout.made("03_train.sh")]
    assert rates[:3] == ["0.0003", "0.001", "0.003"]


def test_every_table_of_rates_has_every_method():
    tables = [path.read_text().splitlines() for path in sorted((ROOT / "scripts").glob("methods*.tsv"))]
    assert len(tables) > 1
    for table in tables:
        assert [line.split("\t")[:2] for line in table] == [line.split("\t")[:2] for line in tables[0]]
        rates = [[float(rate) for rate in line.split("\t")[2].split()] for line in table[1:]]
        assert all(len(three) == 3 and three == sorted(set(three)) for three in rates)


def test_a_paired_test_of_an_earlier_call_is_in_no_later_table(checkout):
    """Fails when what was tested at another rate, against another LoRA, is the p of this one."""
    earlier = checkout.folder / "trained_models/methods_mini/paired/bias.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("{}")
    assert checkout.run("--methods", "bias", "--seeds", "110", script="methods.sh").returncode == 0
    assert any("methods_table.py" in call and "--paired" in call for call in checkout.calls)
    assert not earlier.exists()


def test_another_failure_of_a_rate_is_the_end(checkout):
    at = "03_train.sh --preset mini --work_dir trained_models/methods_mini/bias_lr0.05"
    done = checkout.run("--methods", "bias", script="methods.sh", FAIL_ON=at)
    assert done.returncode == 2 and "bias_lr0.05_seed110: it broke" in done.stderr
    done = checkout.run("--ranks", "1", FAIL_ON="03_train.sh", WHY=OF_NO_NUMBERS[0])
    assert done.returncode == 2 and "the loss of step 7 is nan" in done.stderr


def test_a_method_that_diverges_at_every_rate_is_named(checkout):
    done = checkout.run("--methods", "bias", script="methods.sh", FAIL_ON="03_train.sh", WHY=OF_NO_NUMBERS[0])
    assert done.returncode == 2
    assert "bias diverges at every rate that was tried: 0.02 0.05 0.1\n" in done.stderr


@pytest.mark.parametrize("step", ["03_train.sh", "04_beam.sh", "07_compare.sh"])
def test_it_goes_on_where_a_step_failed(checkout, step):
    done = checkout.run(
        "--seeds", "110", "111", FAIL_ON=f"{step} --preset mini --work_dir trained_models/mini/r4_q,v_seed111"
    )
    assert done.returncode == 2
    assert f"{step} failed for trained_models/mini/r4_q,v_seed111: it broke; all it said is in" in done.stderr
    assert not any("sweep.md" in call for call in checkout.calls)  # nothing is put together
    assert checkout.run("--seeds", "110", "111").returncode == 0
    assert len(checkout.made("03_train.sh")) == (step == "03_train.sh")
    assert [call.split("/")[0] for call in checkout.made("04_beam.sh")] == ["r4_q,v_seed111"]


def test_a_sweep_that_was_copied_without_its_weights_says_what_to_do(checkout):
    """Fails when step 3 is recommended with flags that train something else into the run's folder."""
    checkout.run()
    (checkout.folder / "trained_models/mini/r4_q,v_seed110/model.final.pt").unlink()
    assert checkout.run().returncode == 0  # nothing needs them
    done = checkout.run("--length_penalties", "0.8", "0.9")
    assert done.returncode == 2
    assert "there is no trained_models/mini/r4_q,v_seed110/model.final.pt any more; remove that folder" in done.stderr


def test_what_a_failed_run_left_is_not_taken_for_the_earlier_one(checkout):
    checkout.run()
    checkout.run("--lr", "2", FAIL_ON="03_train.sh")
    checkout.run()
    assert len(checkout.made("03_train.sh")) == len(checkout.made("04_beam.sh")) == 1


def test_other_nodes_train_and_do_no_more(checkout):
    assert checkout.run("--seeds", "1", "2", NNODES="2", NODE_RANK="1", MASTER_ADDR="a").returncode == 0
    called = [call.split()[0] for call in checkout.calls]
    assert called == ["00_setup.sh", "02_create_datasets.sh", "check", *["03_train.sh"] * 2]


def test_two_sweeps_do_not_share_a_folder(checkout):
    folder = checkout.folder / "trained_models/mini"
    folder.mkdir(parents=True)
    with open(folder / ".sweep0.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = checkout.run()
    assert done.returncode == 2
    assert "another sweep, or a step that one has left, is at work in trained_models/mini" in done.stderr
    assert checkout.calls == []


def test_a_sweep_says_whose_the_lock_is(checkout):
    lock = checkout.folder / "trained_models/mini/.sweep0.lock"
    checkout.run()
    assert re.fullmatch(rf"sweep\.sh, process \d+ on {os.uname().nodename} since 20.*\n", lock.read_text())
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert f"trained_models/mini ({lock.read_text().strip()}); wait for it" in checkout.run().stderr
        assert lock.read_text().startswith("sweep.sh, process ")


def test_full_fine_tuning_is_swept_over_seeds(checkout):
    done = checkout.run("--preset", "e2e_small_full", "--seeds", "1")
    assert done.returncode == 0
    (training,) = [call for call in checkout.calls if call.startswith("03_train.sh")]
    assert (
        training
        == "03_train.sh --preset e2e_small_full --work_dir trained_models/e2e_small_full/full_seed1 --random_seed 1"
    )


def test_run_seeds_is_the_sweep_over_seeds(checkout):
    assert checkout.run("110", "111", "--lr", "1", script="run_seeds.sh").returncode == 0
    assert [call.split()[0] for call in checkout.made("03_train.sh")] == ["r4_q,v_seed110", "r4_q,v_seed111"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--seeds", "--lr", "1"), "--seeds needs a value"),
        (("--ranks",), "--ranks needs a value"),
        (("--ranks", "0"), "--ranks must be whole numbers from 1, but has 0"),
        (("--ranks", "4", "8", "4"), "--ranks has a value twice: 4 8 4"),
        (("--seeds", "a"), "--seeds must be whole numbers, but has a"),
        (("--targets", "q v"), "--targets must be names with commas between them, such as q,v, but has q v"),
        (("--length_penalties", ".8x"), "--length_penalties must be numbers such as 0.8, but has .8x"),
        (("--random_seed", "3"), "--random_seed is what --seeds is for"),
        (("--lora_dim=3",), "--lora_dim is what --ranks is for"),
        (("--lora_targets", "q"), "--lora_targets is what --targets is for"),
        (("--length_penalty", "1"), "--length_penalty is what --length_penalties is for"),
        (("--model_card", "gpt2.sm"), "--model_card belongs to all steps"),
        (("--preset", "no"), "unknown preset no"),
        (("--preset", "e2e_scratch", "--ranks", "1"), "preset e2e_scratch trains no adapters"),
        (("7", "--lr", "1"), "unknown argument 7"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_errors_before_any_run(checkout, arguments, says):
    done = checkout.run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert checkout.calls == []
