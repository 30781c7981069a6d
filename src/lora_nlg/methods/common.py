"""What methods do alike: what a file says of them, which tensors are theirs, where a layer takes another's place."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_nlg.errors import UserError
from lora_nlg.methods.placement import TARGETS, Given

if TYPE_CHECKING:
    from torch import Tensor

    from lora_nlg.model.gpt2 import GPT2


OF_SHAPES = ("n_in", "n_out")  # settings that are sizes of the model; 0: whatever it has


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


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
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        for name, value in values.items():
            if not self.is_value(name, value):
                raise UserError(f"{name} is {str(value)[:40]!r}")
        return self.config_class(**values)

    def is_value(self, name: str, value: Any) -> bool:
        """Return whether `value` can be that of the setting `name`: sizes are whole numbers from 1 on."""
        if name == "method":
            return value == self.name
        if name == "targets":
            return isinstance(value, tuple) and bool(value) and all(target in TARGETS for target in value)
        if name == "layers":
            return value is None or (isinstance(value, tuple) and bool(value) and all(map(_is_count, value)))
        if name == "seed":
            return value is None or (_is_count(value) and value < 1 << 63)
        if name == "scale":
            return type(value) in (int, float)
        if name == "joined":
            return isinstance(value, bool)
        return _is_count(value) and value >= (0 if name in OF_SHAPES else 1)

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
