"""Toy runs on disk, for every test that starts a program: their files, the flags that name them, and how two of them differ."""

import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file

import toy
from lora_nlg import errors
from lora_nlg.data.examples import Example


def write_model(folder: Path) -> str:
    """Write the toy's card and its base, and return the flags that name them."""
    write_card(folder)
    save_file(toy.tensors(0), folder / "base.safetensors")
    return f"--model_card {folder}/config.json --init_checkpoint {folder}/base.safetensors"


def write_card(folder: Path, **sizes: int) -> None:
    (folder / "config.json").write_text(json.dumps({**vars(toy.CONFIG), **sizes}))


def adapters(rank: int = 4, b_is_zero: bool = False, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the toy's adapters, as a file has them; the recipe's files have the prefix "module.transformer."."""
    return {prefix + name: tensor for name, tensor in toy.tensors(rank, b_is_zero).items() if "lora_" in name}


def write_adapters(path: Path, rank: int = 4, b_is_zero: bool = False) -> None:
    save_file(adapters(rank, b_is_zero), path)


def write_examples(path: Path, examples: int | Iterable[Example]) -> None:
    """Write `examples`, or the first ones of the formula."""
    lines = toy.examples(examples) if isinstance(examples, int) else examples
    path.write_text("".join(json.dumps(vars(line)) + "\n" for line in lines))


def write_training(folder: Path, n_train: int = 22, n_valid: int = 12) -> str:
    """Write all that a training needs, and return the flags that train in folder/work."""
    model = write_model(folder)
    write_examples(folder / "train.jsonl", n_train)
    write_examples(folder / "valid.jsonl", n_valid)
    return f"--train_data {folder}/train.jsonl --valid_data {folder}/valid.jsonl {model} --work_dir {folder}/work"


def write_decoding(folder: Path, examples: int | Iterable[Example]) -> str:
    """Write all that a decoding of `examples` needs, and return the flags that decode into folder/work."""
    model = write_model(folder)
    write_examples(folder / "data.jsonl", examples)
    return f"--data {folder}/data.jsonl {model} --work_dir {folder}/work"


def results(work_dir: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The log without its times, and the final weights."""
    lines = [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]
    for line in lines:
        for fields in (line, line.get("eval", {}), line.get("texts", {})):
            for name in ("ms_per_batch", "tokens_per_s", "seconds"):
                fields.pop(name, None)
    return lines, torch.load(work_dir / "model.final.pt", weights_only=True)["model_state_dict"]


def differences(first, second) -> list[str]:
    """Where two `results` are not the same bit for bit: lines and fields of the log, tensors, and by how much."""
    found = [f"{len(first[0])} and {len(second[0])} lines in the logs"] if len(first[0]) != len(second[0]) else []
    for number, (one, two) in enumerate(zip(first[0], second[0], strict=False), 1):
        found += [
            f"log line {number}, {name}: {one.get(name)} and {two.get(name)}"
            for name in one | two
            if one.get(name) != two.get(name)
        ]
    for name in first[1] | second[1]:
        one, two = first[1].get(name), second[1].get(name)
        if one is None or two is None:
            found.append(f"{name} is in one of them only")
        elif not torch.equal(one, two):
            gap = (one - two).abs()
            share = (gap / two.abs()).nan_to_num(nan=0.0).max()
            found.append(
                f"{name}: {int((gap != 0).sum())} of {gap.numel()} numbers, by up to {gap.max():.2e}, {share:.2e} of themselves"
            )
    return found


# Processes that are started again and again


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["runs", "torch._dynamo"])


def _become(program: str, flags: list[str], said: Path) -> None:
    """Be the program, as its own process is; what it says goes to a file."""
    file = open(said, "w", buffering=1)  # noqa: SIM115  (for as long as the process lives)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(file.fileno(), descriptor)
        setattr(sys, name, file)
    sys.argv = [f"{program}.py", *flags]
    sys.exit(errors.run(importlib.import_module(program).main))


class Forked:
    """A program in a process of its own, which was forked after the slow imports: 0.2 s in place of 4.

    It can be asked and ended as a subprocess.Popen can.
    """

    def __init__(self, program: str, flags: list[str], said: Path):
        self.said = said
        self.process = FORKS.Process(target=_become, args=(program, flags, said), daemon=True)
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # for what is loaded once
            self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def communicate(self) -> str:
        """Wait for its end, and return what it said."""
        self.process.join()
        return self.said.read_text()
