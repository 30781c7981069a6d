"""What methods do alike: what a file says of them, which tensors are theirs, where a layer takes another's place."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_nlg import kinds
from lora_nlg.config import MOST_SEED
from lora_nlg.errors import UserError
from lora_nlg.methods.placement import TARGETS, Given

if TYPE_CHECKING:
    from torch import Tensor

    from lora_nlg.model.gpt2 import GPT2


OF_SHAPES = ("n_in", "n_out")  # settings that are sizes of the model; 0: whatever it has
LATER = (*OF_SHAPES, "joined")  # settings that files of earlier versions do not have, whose default is what was then
SIZES = ("dim", "n", "prefix_length", "adapter_dim", "n_blocks")  # of what is trained


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def rule_broken(field: dataclasses.Field, value: Any) -> str | None:
    """Return what a setting of the name and kind of `field` must be, in words, if `value` is not that."""
    if not kinds.is_of(value, field.type):
        return kinds.in_words(field.type)
    if field.name in SIZES:
        return None if value >= 1 else "a whole number of at least 1"
    if field.name in OF_SHAPES:
        return None if value >= 0 else "a whole number of at least 0"
    if field.name == "targets":
        return None if value and all(target in TARGETS for target in value) else f"some of {', '.join(TARGETS)}"
    if field.name == "layers":
        return None if value is None or (value and all(map(_is_count, value))) else "whole numbers of at least 0"
    if field.name == "seed":
        return None if value is None or 0 <= value <= MOST_SEED else f"from 0 to {MOST_SEED}"
    return None


def check_settings(config: Any) -> None:
    """Raise UserError for a setting that breaks the rule of its kind or name."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if (rule := rule_broken(field, value)) is not None:
            raise UserError(f"{type(config).__name__}'s {field.name} must be {rule}, but is {value!r:.60}")


def check_method(config: Any, known: Iterable[str]) -> None:
    """Raise UserError for a configuration whose `method` is not one of those that are `known` to take it."""
    if config.method not in (names := tuple(known)):
        raise UserError(f"{type(config).__name__}'s method must be {' or '.join(names)}, but is {config.method!r:.60}")


class Common:
    """The functions of `Method` that are the same for every method whose configuration is a frozen dataclass of plain values.

    `mark` is in the names of the method's own tensors and of no others.
    """

    def __init__(self, name: str, config_class: type, mark: str):
        self.name, self.config_class, self.mark = name, config_class, mark

    def is_own(self, name: str) -> bool:
        """Return whether a tensor of this name is the method's."""
        return self.mark in name

    def tensors(self, model: "GPT2") -> "dict[str, Tensor]":
        """Return the method's tensors by name."""
        return {name: parameter for name, parameter in model.named_parameters() if self.is_own(name)}

    def freeze_the_rest(self, model: "GPT2") -> None:
        """Train the method's tensors alone."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.is_own(name))

    def described(self, config: Any) -> dict[str, object]:
        """Return what a file says of what it holds."""
        return {"method": self.name, "settings": json.dumps(dataclasses.asdict(config))}

    def from_description(self, said: Mapping[str, str]) -> Any:
        """Undo `described`; None for what others saved."""
        if "settings" not in said:
            return None
        fields = json.loads(said["settings"])
        known = {field.name: field for field in dataclasses.fields(self.config_class) if field.init}
        if not isinstance(fields, dict) or set(fields) - set(known):
            raise UserError(f"the settings {said['settings'][:60]!r} are not {self.name}'s")
        if missing := next((name for name in known if name not in fields and name not in LATER), None):
            raise UserError(f"its settings have no {missing}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        for name, value in values.items():
            if rule_broken(known[name], value) is not None or (name == "method" and value != self.name):
                raise UserError(f"{name} is {str(value)[:40]!r}")
        return self.config_class(**values)

    def from_file(self, found: Any, tensors: "Mapping[str, Tensor]", path: Path, given: Given) -> Any:
        """Return what the file says. Raises UserError where it says nothing, or for flags that describe LoRA's adapters."""
        if found is None:
            raise UserError(f"{path} holds {self.name} but does not describe it; save it again")
        if given != Given():
            raise UserError(
                f"{path} holds {self.name}, which has no LoRA rank or alpha; leave --lora_dim and --lora_alpha out"
            )
        longest = max(size for tensor in tensors.values() for size in tensor.shape)
        for name, value in dataclasses.asdict(found).items():
            if _is_count(value) and name != "seed" and value > longest and name not in OF_SHAPES:
                raise UserError(f"{path} says that its {name} is {value}, but it has no such tensors; save it again")
        return found

    def check_start(self, found: Any, tensors: "Mapping[str, Tensor]", path: Path, config: Any) -> None:
        """Raise UserError when what a file holds is no start for training with `config`."""
        start = self.from_file(found, tensors, path, Given())
        for name, theirs in dataclasses.asdict(start).items():
            if (ours := getattr(config, name)) != theirs and not (name in OF_SHAPES and theirs == 0):
                raise UserError(f"{path} was trained with {name} {theirs}, not {ours}; give the same")
