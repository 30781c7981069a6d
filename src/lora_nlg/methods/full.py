"""Full fine-tuning: every parameter is trained, and nothing is put on the model (--lora_dim 0)."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lora_nlg.config import ModelConfig
from lora_nlg.methods import placement
from lora_nlg.methods.placement import Given, LoraConfig, no_adapters
from lora_nlg.model.gpt2 import GPT2

__all__ = ["attach", "check_start", "described", "from_description", "from_file", "from_flags", "is_own", "merge", "start",
           "summary", "tensors"]  # fmt: skip


def from_flags(args: argparse.Namespace, model: ModelConfig) -> LoraConfig:
    """Return adapters of rank 0. Raises UserError."""
    return placement.from_flags(args, model, "full")


def summary(config: LoraConfig) -> str:
    """Return what is trained, in words for people."""
    return "the whole model"


def attach(model: GPT2, config: LoraConfig) -> None:
    """Train all of the model, and put nothing on it."""
    model.requires_grad_(True)
    model.zero_grad()  # an earlier training may have left some, which the first update would take for its own


def start(model: GPT2, generator: torch.Generator | None) -> None:
    """Leave the model as it is: its base is the start."""


def merge(model: GPT2) -> None:
    """Leave the model as it is: it is a plain one."""


def tensors(model: GPT2) -> dict[str, Tensor]:
    """Return all parameters by name."""
    return dict(model.named_parameters())


def is_own(name: str) -> bool:
    """Return False: every tensor of a whole model is a base's as well."""
    return False


def described(config: LoraConfig) -> dict[str, object]:
    """Return nothing: the file is a whole model, which needs no description."""
    return {}


def from_description(said: Mapping[str, str]) -> None:
    """Return None: nothing is said of a whole model."""


def from_file(found: object, tensors: Mapping[str, Tensor], path: Path, given: Given) -> LoraConfig:
    """Raise UserError: a whole model is a base."""
    raise no_adapters(path)


def check_start(found: object, tensors: Mapping[str, Tensor], path: Path, config: LoraConfig) -> None:
    """Raise UserError: a whole model is a base."""
    from_file(found, tensors, path, Given())
