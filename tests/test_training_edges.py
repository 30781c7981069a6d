"""What a training must not delete, keep or pass over in silence, at the edges that a review of it found."""

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import gpt2_ft
import lora_nlg
from lora_nlg import api, errors
from lora_nlg.config import BeamConfig, OptimConfig, TrainConfig
from lora_nlg.training import train
from lora_nlg.training.saves import Saves, check_folder
from runs import write_training
from test_dist import LAUNCHERS

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "--precision fp64 --device cpu --lora_dim 4 --lora_alpha 32 --lr 0.01 --train_batch_size 4 --max_step 12 --eval_interval 5 "
    "--save_interval 3 --log_interval 3 --random_seed 110"
).split()


@pytest.fixture
def flags(tmp_path):
    """Flags of a toy run in tmp_path/work."""
    return write_training(tmp_path).split() + FLAGS


# What lies in the work dir


@pytest.mark.parametrize("name", ["model.26290.pt", "state.7.pt"])
def test_checkpoints_of_another_program_are_refused_not_deleted(name, flags, tmp_path):
    """The recipe's own runs have these names, but no saves.json."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / name).write_text("precious")
    with pytest.raises(
        errors.UserError, match=f"work holds {name}, but no saves.json or run.json of a run that wrote it"
    ):
        gpt2_ft.main(flags)
    assert (tmp_path / "work" / name).read_text() == "precious"


@pytest.mark.parametrize("left", ["run.json", "log.jsonl", "saves.json", "previous"])
def test_what_a_killed_run_has_left_is_no_other_programs(left, tmp_path):
    """It ended within its first save, or while it moved an earlier run's results."""
    for name in ("model.3.pt", left):
        (tmp_path / name).touch()
    check_folder(tmp_path)
    (tmp_path / left).unlink()
    with pytest.raises(errors.UserError, match=r"holds model\.3\.pt"):
        check_folder(tmp_path)


@pytest.mark.slow
def test_a_file_whose_name_only_begins_like_a_saves_is_kept(flags, tmp_path, capsys):
    gpt2_ft.main(flags)
    kept = [tmp_path / "work" / name for name in ("model.3.my_backup.pt", "model.3_best.pt", "state.old.pt")]
    for path in kept:
        path.write_text("precious")
    assert gpt2_ft.main([*flags, "--resume", "never"]) == 0
    assert [path.read_text() for path in kept] == ["precious"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", ["model.6.pt", "model.final.pt", "model.best.pt", "adapter.safetensors", "previous/model.final.pt"]
)
def test_a_run_does_not_start_from_what_it_would_delete(start, flags, tmp_path, monkeypatch, capsys):
    gpt2_ft.main(flags)
    gpt2_ft.main([*flags, "--resume", "never"])
    monkeypatch.chdir(tmp_path / "work")
    for path in (start, f"../work/{start}"):
        with pytest.raises(errors.UserError, match=r"would move or delete .*, its own start; use another work dir"):
            gpt2_ft.main([*flags, "--lora_checkpoint", path])
    assert (tmp_path / "work" / start).is_file()
    assert gpt2_ft.main([*flags, "--lora_checkpoint", start, "--work_dir", str(tmp_path / "other")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "link"])
def test_previous_that_is_no_folder_of_ours_is_a_sentence(kind, flags, tmp_path, capsys):
    gpt2_ft.main(flags)
    previous = tmp_path / "work/previous"
    previous.write_text("mine") if kind == "file" else previous.symlink_to(tmp_path)
    with pytest.raises(errors.UserError, match=r"cannot write .*previous"):
        gpt2_ft.main([*flags, "--resume", "never"])
    assert (tmp_path / "work/model.final.pt").is_file() and (tmp_path / "train.jsonl").is_file()


@pytest.mark.slow
def test_saves_after_the_one_that_is_resumed_are_off_the_list_before_they_are_deleted(
    flags, tmp_path, monkeypatch, capsys
):
    """Fails when a kill before the next save leaves a list of files that are gone."""
    gpt2_ft.main([*flags, "--keep_last", "9"])
    path = tmp_path / "work/saves.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "final": None}))

    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "masked_loss", cut)
    with pytest.raises(KeyboardInterrupt):
        gpt2_ft.main([*flags, "--keep_last", "9", "--resume", "3"])
    listed = json.loads(path.read_text())
    assert [save["step"] for save in listed["saves"]] == [3] and listed["epochs"] == []
    assert all((tmp_path / "work" / name).is_file() for name in listed["saves"][0]["files"])


# Updates and numbers


def test_a_rate_beyond_float32_is_refused():
    with pytest.raises(errors.UserError, match=r"--lr must be no more than 1e\+38, but is 1e\+39"):
        OptimConfig(1e39, 4)


def test_more_micro_batches_an_update_than_steps_are_refused():
    """There would be none, and the adapters would come out as they went in."""
    with pytest.raises(errors.UserError, match="--grad_acc must be from 1 to the 4 micro-batches of the run"):
        OptimConfig(0.01, 4, grad_acc=5)
    assert OptimConfig(0.01, 4, grad_acc=4).grad_acc == 4


@pytest.mark.slow
def test_micro_batches_that_are_not_learnt_from_are_told(flags, capsys):
    gpt2_ft.main([*flags, "--grad_acc", "5"])
    assert "--grad_acc 5 does not divide the 12 steps; nothing is learnt from the last 2" in capsys.readouterr().err
    gpt2_ft.main([*flags, "--grad_acc", "4", "--resume", "never"])
    assert "does not divide" not in capsys.readouterr().err


@pytest.mark.parametrize("rates", [(0.1, math.nan), (0.1, math.inf), (-0.1, 0.1)])
def test_every_rate_of_a_cycle_is_checked(rates):
    with pytest.raises(errors.UserError, match=r"--i_lrs must be rates of 0 or more, and no more than 1e\+38"):
        OptimConfig(1.0, 6, scheduler="cycle", i_steps=(0, 3), i_lrs=rates)


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_not_the_best(flags, tmp_path, monkeypatch, capsys):
    """A rate that is far too high makes them at the first update, and each step is validated before it is saved."""
    with pytest.raises(errors.UserError, match=r"is nan|no numbers"):
        gpt2_ft.main([*flags, "--precision", "fp32", "--lr", "1e38", "--eval_interval", "1"])
    assert not (tmp_path / "work/model.best.pt").exists()


@pytest.mark.slow
def test_without_a_save_a_loss_that_is_no_number_offers_no_resume(flags, monkeypatch, capsys):
    real = train.masked_loss
    monkeypatch.setattr(train, "masked_loss", lambda *inputs: real(*inputs) * math.nan)
    with pytest.raises(errors.UserError, match=r"the loss of step 1 is nan.*start anew with --skip_nan") as error:
        gpt2_ft.main(flags)
    assert "--resume" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "four"])
def test_a_loss_of_any_rank_that_is_no_number_ends_all_with_one_sentence(launcher, flags, tmp_path):
    """Fails when only that rank ends, and the others meet a connection that is gone."""
    script = tmp_path / "of_the_last_rank.py"
    script.write_text(
        f"import math, os, sys\nsys.path.insert(0, {str(ROOT / 'src')!r})\n"
        "import gpt2_ft\nfrom lora_nlg import errors\nfrom lora_nlg.training import train\n"
        "real, n = train.masked_loss, [0]\n"
        "def lost(model, *inputs):\n"
        "    n[0] += model.training\n"
        "    loss = real(model, *inputs)\n"
        "    is_last = int(os.environ['RANK']) == int(os.environ['WORLD_SIZE']) - 1\n"
        "    return loss * math.nan if is_last and n[0] == 5 and model.training else loss\n"
        "train.masked_loss = lost\nsys.exit(errors.run(gpt2_ft.main))\n"
    )
    command = [sys.executable, *LAUNCHERS[launcher], script, *flags, "--train_batch_size", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == errors.EXIT_USER_ERROR
    assert done.stderr.count("the loss of step 5 is nan") == 1 and "the save of step 3 is whole" in done.stderr
    assert "[rank0]" not in done.stderr and "RuntimeError" not in done.stderr


def test_the_first_step_that_lost_a_number_is_named(tmp_path):
    """On a GPU the losses of many steps are looked at together: when one rank's is lost, the next step's are of all."""
    run = train.Run.__new__(train.Run)
    run.saves = Saves(tmp_path)
    with pytest.raises(errors.UserError, match="the loss of step 5 is nan, on the items 3, 4"):
        run._refuse_losses([(6, [1, 2], math.nan), (5, [3, 4], math.nan), None])
    assert run._refuse_losses([None, None]) is None


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch):
    from torch._inductor.exc import InductorError

    def fails(*_):
        raise InductorError(RuntimeError("No working C++ compiler found"), {})

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    with pytest.raises(errors.UserError, match=r"No working C\+\+ compiler found.*apt install g\+\+.*leave it out"):
        train.compiled(train.masked_loss)()

    def other(*_):
        raise InductorError(RuntimeError("CUDA out of memory"), {})

    monkeypatch.setattr(torch, "compile", lambda *_, **__: other)
    with pytest.raises(InductorError, match="out of memory"):
        train.compiled(train.masked_loss)()


# From Python


needs_vocab = pytest.mark.skipif(
    not (ROOT / "vocab/encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh"
)


@pytest.fixture
def model():
    return lora_nlg.load(ROOT / "pretrained_checkpoints/gpt2.mini", vocab=ROOT / "vocab", device="cpu")


PAIRS = [(f"name : The {name} Jar", f"{reference} The {name} Jar .") for name in ("Tall", "Red") for reference in "ab"]
OPTIM = OptimConfig(4e-3, 3)


@needs_vocab
@pytest.mark.slow
def test_the_same_list_trains_and_validates(model, tmp_path):
    """Fails when the pairs to train on are taken as a validation's because they are the same object."""
    settings = TrainConfig(2, 1, log_interval=1, share_prompts=True)
    same = model.train(PAIRS, PAIRS, tmp_path / "same", optim=OPTIM, settings=settings)
    other = lora_nlg.load(ROOT / "pretrained_checkpoints/gpt2.mini", vocab=ROOT / "vocab", device="cpu")
    assert same == other.train(PAIRS, list(PAIRS), tmp_path / "copy", optim=OPTIM, settings=settings)


@needs_vocab
@pytest.mark.slow
def test_it_leaves_an_unfinished_run_and_one_at_work_alone(model, flags, tmp_path, capsys):
    gpt2_ft.main(flags)
    path = tmp_path / "work/saves.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "final": None}))
    with pytest.raises(errors.UserError, match="holds a run saved at step 12 that is not finished"):
        model.train(PAIRS, PAIRS, tmp_path / "work", optim=OPTIM)
    assert (tmp_path / "work/state.12.pt").is_file()
    held = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, time; f = open({str(tmp_path / 'run.lock')!r}, 'w'); "
         "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE,
    )  # fmt: skip
    held.stdout.readline()
    try:
        with pytest.raises(errors.UserError, match="is in use by another process"):
            model.train(PAIRS, PAIRS, tmp_path, optim=OPTIM)
    finally:
        held.kill()
        held.wait()
    assert model.network.trained_by is None


@needs_vocab
@pytest.mark.slow
def test_it_trains_in_another_thread(model, tmp_path):
    """Where Python sets no signal handlers, as in a web framework."""
    losses = []
    thread = threading.Thread(
        target=lambda: losses.append(model.train(PAIRS, PAIRS, tmp_path / "work", optim=OPTIM)), daemon=True
    )
    thread.start()
    thread.join(120)
    assert len(losses) == 1 and math.isfinite(losses[0])


@needs_vocab
@pytest.mark.slow
def test_its_mistakes_are_sentences(model, tmp_path):
    with pytest.raises(errors.UserError, match="--precision must be one of fp32, bf16, fp16, fp64, but is bf17"):
        lora_nlg.load(ROOT / "pretrained_checkpoints/gpt2.mini", vocab=ROOT / "vocab", precision="bf17")
    with pytest.raises(errors.UserError, match=r"--precision must be one of .* but is half"):
        TrainConfig(precision="half")
    for n in (0, -1, 10**12):
        with pytest.raises(errors.UserError, match=f"n must be from 1 to 1000, but is {n}"):
            model.generate("name : x", n)
    with pytest.raises(errors.UserError, match="--eos_token_id must be of the vocabulary, from 0 to 50256"):
        model.generate("name : x", rules=BeamConfig(2, 4, eos_token_ids=(60000,), min_length=2))
    listed = model.generate("name : x", rules=BeamConfig(2, 4, eos_token_ids=[50256]))  # a list will do
    assert listed == model.generate("name : x", rules=BeamConfig(2, 4, eos_token_ids=(50256,)))
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match=r"cannot write .*file"):
        model.train(PAIRS, PAIRS, tmp_path / "file", optim=OPTIM)


def test_a_damaged_list_is_no_reason_to_delete(tmp_path):
    (tmp_path / "saves.json").write_text("{")
    with pytest.raises(errors.UserError, match="is damaged"):
        api.check_is_free(tmp_path)
    assert Saves(tmp_path).listed["saves"] == []
