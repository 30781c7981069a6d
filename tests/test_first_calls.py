"""No vector function is called for the first time by several threads at once (see first_calls.py)."""

import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import toy
from lora_nlg import dist
from lora_nlg.config import BeamConfig, OptimConfig, TrainConfig
from lora_nlg.data.batches import Split
from lora_nlg.decoding.beam import Endings, beam_search
from lora_nlg.model import first_calls
from lora_nlg.training.saves import Saves
from lora_nlg.training.train import train

SRC = Path(__file__).resolve().parents[1] / "src"
LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
NAMES = {"ErfInv": "erfinv", "Ln": "log"}  # MKL's names that are not torch's in lower case


def functions_of_mkl() -> set[str]:
    """What torch's CPU library takes from MKL's vector functions, by the symbols in it and under torch's names."""
    if not LIBRARY.is_file():
        pytest.skip("torch's CPU library is elsewhere on this system")
    with open(LIBRARY, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        symbols = {match[1].decode() for match in re.finditer(rb"\0vm[sd]([A-Z][A-Za-z0-9]{1,8})(?=\0)", content)}
    if not symbols:
        pytest.skip("this torch is built without MKL")
    return {NAMES.get(symbol, symbol.lower()) for symbol in symbols}


def traced(work) -> set[str]:
    """The names of all torch operations in `work()`, those that others call included, without prefix and trailing underscore."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        work()
    names = {event.name for event in trace.events() if event.name.startswith("aten::")}
    return {name.removeprefix("aten::").removeprefix("_foreach_").rstrip("_") for name in names}


def test_every_function_that_torch_takes_from_mkl_is_called():
    """Fails when one is left out of FUNCTIONS, or a later torch takes one more."""
    assert functions_of_mkl() <= set(first_calls.FUNCTIONS)


def test_a_training_step_calls_no_other(tmp_path):
    """Label smoothing, clipping, dropout, two updates and a validation. Fails when exp or sqrt is left out of FUNCTIONS."""
    config = TrainConfig(4, 4, label_smooth=0.1, precision="fp64", log_interval=2, eval_interval=2, save_interval=2)
    optim = OptimConfig(1e-3, 2, correct_bias=True, clip=1.0, scheduler="cosine")
    ranks = dist.Ranks(0, 1, torch.device("cpu"))
    splits = [Split(toy.examples(12), config, ranks, validation=validation) for validation in (False, True)]
    called = traced(lambda: train(toy.model(4), *splits, optim, Saves(tmp_path), ranks)) & functions_of_mkl()
    assert {"exp", "sqrt"} <= called <= set(first_calls.FUNCTIONS)


def test_a_search_calls_no_other():
    rules = BeamConfig(
        3, 6, min_length=2, length_penalty=0.8, no_repeat_ngram_size=2, repetition_penalty=1.2, eos_token_ids=(5,)
    )
    model = toy.model().requires_grad_(False)
    called = traced(lambda: beam_search(model, [[1, 2, 3], [4]], rules, Endings(2))) & functions_of_mkl()
    assert {"exp", "log"} <= called <= set(first_calls.FUNCTIONS)  # of logsumexp


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["model.gpt2", "training.train", "decoding.beam", "bundled.pretrain", "storage.checkpoints"]
)
def test_they_are_called_before_a_program_computes(module):
    """In a process of its own, on one number each, in both dtypes. Fails when first_calls.make is not called at import."""
    code = f"""
import sys, torch
sys.path.insert(0, {str(SRC)!r})
called = []
def spy(name, real):
    def function(x):
        called.append((name, x.dtype, x.numel()))
        return real(x)
    return function
names = {first_calls.FUNCTIONS!r}
for name in names:
    setattr(torch, name, spy(name, getattr(torch, name)))
import lora_nlg.{module}
assert set(called) == {{(name, dtype, 1) for name in names for dtype in (torch.float32, torch.float64)}}, called
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
