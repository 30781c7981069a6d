"""The methods: what can be trained in a model. One table, and what a row's module must have.

A new method is a module with the functions of `Method`, a line in METHODS, its tests and a row in docs/ (CONTRIBUTING.md has an
example). Nothing else of this package names a method: programs, training, decoding and files reach it through the functions below.
No torch is imported before a model is there, so that --help and a wrong flag answer at once.
"""

import argparse
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from lora_nlg.config import ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods import placement

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lora_nlg.model.gpt2 import GPT2

Config = Any  # a method's own frozen dataclass; its `method` is the name of its row


class Method(Protocol):
    """The functions of a method's module."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> Config:
        """Return what the flags of gpt2_ft.py describe. Raises UserError."""

    def summary(self, config: Config) -> str:
        """Return what is trained, in words for people."""

    def attach(self, model: "GPT2", config: Config) -> None:
        """Make of a plain model one that the method trains: put in what it needs, not set, and freeze what it does not train."""

    def start(self, model: "GPT2", generator: "torch.Generator | None") -> None:
        """Set what `attach` put in to its start."""

    def tensors(self, model: "GPT2") -> "dict[str, Tensor]":
        """Return what is trained, by name: what a save holds."""

    def is_own(self, name: str) -> bool:
        """Return whether a tensor of this name is the method's, not the base's."""

    def merge(self, model: "GPT2") -> None:
        """Make the model a plain one again that computes the same. Raises UserError where that is not exact."""

    def described(self, config: Config) -> dict[str, object]:
        """Return what a file says of what it holds; nothing if the file is a whole model."""

    def from_description(self, said: Mapping[str, str]) -> Config | None:
        """Undo `described`; None for what others saved."""

    def from_file(
        self, found: Config | None, tensors: "Mapping[str, Tensor]", path: Path, given: placement.Given
    ) -> Config:
        """Return the configuration of the tensors in a file, of which it says `found`, checked against the flags `given`."""

    def check_start(self, found: Config | None, tensors: "Mapping[str, Tensor]", path: Path, config: Config) -> None:
        """Raise UserError when the tensors in a file are no start for training with `config`."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    module: str  # with the functions of `Method`; imported when it is needed
    is_asked: Callable[[argparse.Namespace], bool]  # whether the flags of gpt2_ft.py ask for it
    add_flags: Callable[[argparse.ArgumentParser], object]  # adds its own flags of gpt2_ft.py
    flags: tuple[str, ...]  # those of no effect with another method
    why: str  # they are of none, in words
    section: str  # of run.json's settings, with its configuration


METHODS = {
    "lora": Row(
        module="lora_nlg.methods.lora",
        is_asked=placement.is_asked,
        add_flags=placement.add_flags,
        flags=placement.FLAGS,
        why="--lora_dim 0 trains no adapters",
        section="lora",
    ),
    "full": Row(
        module="lora_nlg.methods.full",
        is_asked=lambda args: False,  # it is what is left where nothing else is asked for
        add_flags=lambda parser: None,
        flags=("no_decay_bias",),
        why="adapters have neither biases nor layer norms",
        section="lora",  # recorded as LoRA of rank 0
    ),
}


PLAIN = "full"  # the method whose files are those of a plain model


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that gpt2_ft.py has for the methods."""
    for row in METHODS.values():
        row.add_flags(parser)


def ignored_flags(args: argparse.Namespace) -> list[tuple[bool, tuple[str, ...], str]]:
    """Return (whether they are of no effect, flags, why) of every method."""
    return [(name != chosen(args), row.flags, row.why) for name, row in METHODS.items()]


def method(name: str) -> Method:
    """Return the functions of a method."""
    return cast(Method, importlib.import_module(METHODS[name].module))


def chosen(args: argparse.Namespace) -> str:
    """Return the method that the flags of gpt2_ft.py ask for: full fine-tuning if they ask for none. Raises UserError for two."""
    asked = [name for name, row in METHODS.items() if row.is_asked(args)]
    if len(asked) > 1:
        raise UserError(f"the flags ask for {' and '.join(asked)}; expected one method, so leave the others out")
    return asked[0] if asked else PLAIN


def from_flags(args: argparse.Namespace, model: ModelConfig) -> Config:
    """Return what the flags of gpt2_ft.py ask for. Raises UserError."""
    return method(chosen(args)).from_flags(args, model)


def of_tensors(names: Iterable[str]) -> str:
    """Return the method whose tensors are among `names`, those of a file; PLAIN if they are a plain model's."""
    names = list(names)
    return next((name for name in METHODS if any(map(method(name).is_own, names))), PLAIN)


def of_base(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors that are the base's, not a method's."""
    own = method(of_tensors(tensors)).is_own
    return {name: tensor for name, tensor in tensors.items() if not own(name)}


def attach(model: "GPT2", config: Config) -> None:
    """Make of a plain model one that is trained as `config` says, not set: for a caller that fills it from a file."""
    method(config.method).attach(model, config)
    model.trained_by = config


def add_adapters(model: "GPT2", config: Config, generator: "torch.Generator | None" = None) -> None:
    """Make of a plain model one that is trained as `config` says, at its start."""
    attach(model, config)
    method(config.method).start(model, generator)


def merge_adapters(model: "GPT2") -> None:
    """Make the model a plain one again that computes the same."""
    if model.trained_by is not None:
        method(model.trained_by.method).merge(model)
        model.trained_by = None


def adapter_tensors(model: "GPT2") -> "dict[str, Tensor]":
    """Return what a save of the model holds, by name: what was put on it, nothing if that is nothing."""
    config = model.trained_by
    return {} if config is None else method(config.method).tensors(model)


def adapter_config(model: "GPT2") -> Config | None:
    """Return the configuration of what was put on the model, None if that is nothing."""
    return model.trained_by
