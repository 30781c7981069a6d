"""The golden numbers' toy model and inputs, for every test that needs a model."""

import json
from pathlib import Path

import pytest
import torch

from golden import formula
from lora_nlg.config import BeamConfig, ModelConfig, OptimConfig, TrainConfig
from lora_nlg.data.examples import Example
from lora_nlg.methods import add_adapters, merge_adapters
from lora_nlg.methods.placement import LoraConfig
from lora_nlg.model.gpt2 import GPT2, empty_model

GOLDEN = Path(__file__).parent / "golden"
CONFIG = ModelConfig(**formula.TOY)
_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
on_a_gpu = pytest.mark.parametrize("device", [pytest.param("cuda", marks=_GPU)])
on_every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=_GPU)])
SEARCH_FLAGS = ("beam", "eval_len", "min_length", "length_penalty", "no_repeat_ngram_size", "repetition_penalty")


def golden(name: str):
    """Return the content of a golden JSON file."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def tensors(rank: int, b_is_zero: bool = False) -> dict[str, torch.Tensor]:
    """Return the toy's float64 weights, with adapters if `rank` is above 0."""
    arrays = {**formula.base_weights(), **(formula.lora_weights(rank=rank, b_is_zero=b_is_zero) if rank else {})}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def model(rank: int = 0, b_is_zero: bool = False, alpha: float = 32) -> GPT2:
    """Return the toy in float64, ready to train."""
    toy = empty_model(CONFIG).double()
    if rank:
        add_adapters(toy, LoraConfig(rank, alpha))
    weights = tensors(rank, b_is_zero)
    with torch.no_grad():
        for name, parameter in toy.named_parameters():
            parameter.copy_(weights.pop(name))
    assert not weights
    return toy


def examples(n: int) -> list[Example]:
    """Return the first `n` examples of the formula."""
    return [Example(**example) for example in formula.examples(n)]


def training_config(flags: dict) -> tuple[TrainConfig, OptimConfig]:
    """Return the settings of a golden run, in float64, that logs every step."""

    def named(names: str) -> dict:
        return {name: flags[name] for name in names.split()}

    training = TrainConfig(
        **named("train_batch_size valid_batch_size seq_len label_smooth random_seed"),
        objective=flags["obj"],
        precision="fp64",
        log_interval=1,
        eval_interval=1000,
        save_interval=1000,
    )
    optim = OptimConfig(
        **named("lr max_step weight_decay correct_bias scheduler warmup_step grad_acc clip"),
        beta1=flags["adam_beta1"],
        beta2=flags["adam_beta2"],
        epsilon=flags["adam_epsilon"],
    )
    return training, optim


def golden_search(case: dict) -> tuple[GPT2, list[list[int]], BeamConfig]:
    """Return the model, with merged adapters, the prompts and the rules of a golden search."""
    merged = model(4)
    merge_adapters(merged)
    longest = case["flags"]["seq_len"] - case["flags"]["eval_len"]
    prompts = [line.context[-longest:] for line in examples(200)[slice(*case["examples"])]]
    return merged, prompts, beam_config(case["flags"])


def beam_config(flags: dict) -> BeamConfig:
    """Return the rules of a golden search."""
    return BeamConfig(**{name: flags[name] for name in SEARCH_FLAGS}, eos_token_ids=tuple(flags["eos_token_id"]))
