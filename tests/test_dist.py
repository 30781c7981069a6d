"""Several ranks: the same step as one rank that accumulates, every input decoded once, and the launchers."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import toy
from lora_nlg import dist
from lora_nlg.cli import UserError

SRC = Path(__file__).resolve().parents[1] / "src"
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "launch": ["-m", "torch.distributed.launch", "--nproc_per_node=2"],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(vars(toy.CONFIG)))
    save_file(toy.tensors(0), tmp_path / "base.safetensors")
    save_file({k: t for k, t in toy.tensors(4, True).items() if "lora_" in k}, tmp_path / "start.safetensors")
    save_file({k: t for k, t in toy.tensors(4).items() if "lora_" in k}, tmp_path / "adapters.safetensors")
    for name, n in (("train", 24), ("valid", 12)):
        lines = [json.dumps(vars(example)) for example in toy.examples(n)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(program: str, folder: Path, flags: str, launcher: list[str]) -> subprocess.CompletedProcess:
    common = (
        f"--model_card {folder}/config.json --init_checkpoint {folder}/base.safetensors --precision fp64 --device cpu"
    )
    command = [sys.executable, *launcher, str(SRC / program), *common.split(), *flags.split()]
    environment = {**os.environ, "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def train_flags(folder: Path, work: str) -> str:
    return (
        f"--train_data {folder}/train.jsonl --valid_data {folder}/valid.jsonl --work_dir {folder}/{work} "
        f"--lora_checkpoint {folder}/start.safetensors --lora_dim 4 --lora_alpha 32 --lr 0.002 --correct_bias "
        "--train_batch_size 4 --random_seed 110 --log_interval 1"
    )


def test_more_ranks_than_batches_is_an_error_not_an_endless_search(folder):
    flags = train_flags(folder, "few").replace("--train_batch_size 4", "--train_batch_size 24")
    done = run("gpt2_ft.py", folder, flags + " --max_step 3", LAUNCHERS["torchrun"])
    assert done.returncode != 0
    assert "makes 1 batches of 24, too few for 2 processes" in done.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_train_as_one_that_accumulates(folder, launcher):
    """24 items in batches of 4: rank 0 of 2 takes every other item of the same permutation, rank 1 the others. One rank on the
    batches (rank 0's first, rank 1's first, rank 0's second, …) with --grad_acc 2 takes the same steps, in float64.
    """
    done = run("gpt2_ft.py", folder, train_flags(folder, "two") + " --max_step 3", LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("saved") == 1  # rank 0 alone speaks

    from lora_nlg import optim, train
    from lora_nlg.config import OptimConfig, TrainConfig
    from lora_nlg.losses import masked_loss

    model = toy.model(4, b_is_zero=True)
    config = TrainConfig(4, 4, random_seed=110, precision="fp64")
    splits = [train.Split(toy.examples(24), config, dist.Ranks(r, 2, torch.device("cpu"))) for r in (0, 1)]
    settings = OptimConfig(0.002, 3, correct_bias=True)
    optimizer = optim.build_optimizer(model, settings)
    for step, batches in enumerate(zip(*(split.batches(1) for split in splits), strict=True)):
        for batch in batches:
            (masked_loss(model, batch) / 2).backward()
        optimizer.param_groups[0]["lr"] = optim.learning_rate(settings, step)
        optimizer.step()
        optimizer.zero_grad()
    saved = torch.load(folder / "two/model.final.pt", weights_only=True)["model_state_dict"]
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert torch.allclose(saved[f"module.transformer.{name}"], parameter, rtol=1e-9, atol=1e-15)


def test_two_ranks_decode_the_golden_ids_each_input_once(folder):
    """23 distinct inputs over two ranks, three of them on two lines. Fails when another rank's share is lost."""
    lines = toy.examples(23) + toy.examples(23)[5:8]
    (folder / "test.jsonl").write_text("".join(json.dumps(vars(line)) + "\n" for line in lines))
    flags = f"--data {folder}/test.jsonl --lora_checkpoint {folder}/adapters.safetensors --lora_alpha 32 --seq_len 64 "
    flags += "--eval_len 20 --beam 10 --length_penalty 0.8 --eos_token_id 162 --eos_token_id 46 --batch_size 4 "
    done = run("gpt2_beam.py", folder, flags + f"--work_dir {folder}/work", LAUNCHERS["torchrun"])
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in (folder / "work/beam_prediction.jsonl").read_text().splitlines()]
    golden = next(case for case in toy.golden("beam.json") if case["name"] == "recipe")["predict"]
    assert found == [{"id": i, "predict": ids} for i, ids in enumerate(golden[:23] + golden[5:8])]


def test_flags_without_a_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert dist.start("cpu", 0, 0, 0) == dist.Ranks(0, 1, torch.device("cpu"))
    with pytest.raises(UserError, match="--rank must be from 0"):
        dist.start("cpu", 2, 2, 0)
    with pytest.raises(UserError, match="MASTER_ADDR"):
        dist.start("cpu", 0, 2, 0)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="on one GPU"):
        dist.start("cuda:0", 0, 2, 0)
    with pytest.raises(UserError, match="wants GPU 99"):
        dist.start("99", 0, 0, 0)


def test_auto_takes_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dist.start("auto", 0, 0, 0).device == torch.device("cpu")
