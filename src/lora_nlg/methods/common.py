"""What methods do alike: what a file says of them, which tensors are theirs, where a layer takes another's place."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_nlg.errors import UserError
from lora_nlg.methods.placement import Given

if TYPE_CHECKING:
    from torch import Tensor

    from lora_nlg.model.gpt2 import GPT2


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
        return self.config_class(**{n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()})

    def from_file(self, found: Any, tensors: "Mapping[str, Tensor]", path: Path, given: Given) -> Any:
        """Return what the file says. Raises UserError where it says nothing, or for flags that describe LoRA's adapters."""
        if found is None:
            raise UserError(f"{path} holds {self.name} but does not describe it; save it again")
        if given != Given():
            raise UserError(
                f"{path} holds {self.name}, which has no LoRA rank or alpha; leave --lora_dim and --lora_alpha out"
            )
        return found

    def check_start(self, found: Any, tensors: "Mapping[str, Tensor]", path: Path, config: Any) -> None:
        """Raise UserError when what a file holds is no start for training with `config`."""
        start = self.from_file(found, tensors, path, Given())
        for name, theirs in dataclasses.asdict(start).items():
            if (ours := getattr(config, name)) != theirs:
                raise UserError(f"{path} was trained with {name} {theirs}, not {ours}; give the same")
