"""LoRA together with a prefix: the paper's LoRA+PE and LoRA+PL (section D). Both are put on, each by its own method."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_nlg import kinds
from lora_nlg.config import ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods import lora, prefix, sizes
from lora_nlg.methods.placement import Given, LoraConfig, without_rank
from lora_nlg.methods.prefix import PrefixConfig, PrefixMethod
from lora_nlg.model.gpt2 import GPT2

BETWEEN = "+"  # the names of two methods


@dataclass(frozen=True)
class PairConfig:
    """LoRA's configuration, and the prefix's."""

    lora: LoraConfig
    prefix: PrefixConfig

    def __post_init__(self) -> None:
        kinds.check_fields(self)
        if type(self.lora) is not LoraConfig:  # DoRA's, which is one of these, would be put on as LoRA
            raise UserError(f"PairConfig's lora must be a LoraConfig, but is {self.lora!r:.60}")
        if not self.lora.rank:
            raise without_rank(self.method)
        if self.lora.is_pissa:
            raise UserError(
                f"--lora_init pissa would have no effect: --method {self.method} does not read it; leave it out"
            )

    @property
    def method(self) -> str:
        """The row of the table of methods."""
        return f"lora{BETWEEN}{self.prefix.method}"

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers are trained."""
        return self.lora.n_parameters(model) + self.prefix.n_parameters(model)


def _with_budget(args: argparse.Namespace, budget: str | None, rank: str | None = None) -> argparse.Namespace:
    """Return the flags with another budget, and another rank if one is given."""
    return argparse.Namespace(**{**vars(args), "trained_budget": budget, "lora_dim": rank or args.lora_dim})


class Pair:
    """The functions of LoRA with one of the prefixes."""

    def __init__(self, of_prefix: PrefixMethod):
        self.of_prefix = of_prefix

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> PairConfig:
        """Return what the flags of gpt2_ft.py describe: of a budget LoRA has what the prefix leaves. Raises UserError."""
        of_prefix = self.of_prefix.from_flags(_with_budget(args, None), model)
        left = None
        if args.trained_budget is not None:
            left = sizes.parse_budget(args.trained_budget, "trained_budget") - of_prefix.n_parameters(model)
            least = lora.from_flags(_with_budget(args, None, rank="1"), model).n_parameters(model)
            if left < least:
                raise UserError(
                    f"--trained_budget {args.trained_budget} is less than the {of_prefix.n_parameters(model):,} parameters of "
                    f"{of_prefix.prefix_length} positions and the {least:,} of rank 1; lower --prefix_length"
                )
        of_lora = lora.from_flags(_with_budget(args, None if left is None else str(left)), model)
        return PairConfig(of_lora, of_prefix)

    def summary(self, config: PairConfig) -> str:
        """Return what is trained, in words for people."""
        return f"{lora.summary(config.lora)}, and {self.of_prefix.summary(config.prefix)}"

    def attach(self, model: GPT2, config: PairConfig) -> None:
        """Put both on, not set, and freeze everything else."""
        self.of_prefix.attach(model, config.prefix)
        lora.attach(model, config.lora)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.is_own(name))

    def start(self, model: GPT2, generator: torch.Generator | None) -> None:
        """Set both to their start: the prefix as the base has it, whose adapters are zero."""
        lora.start(model, generator)
        self.of_prefix.start(model, generator)

    def tensors(self, model: GPT2) -> dict[str, Tensor]:
        """Return the tensors of both by name."""
        return {**lora.tensors(model), **self.of_prefix.tensors(model)}

    def is_own(self, name: str) -> bool:
        """Return whether a tensor of this name is one of both."""
        return lora.is_own(name) or self.of_prefix.is_own(name)

    def merge(self, model: GPT2) -> PrefixConfig:
        """Merge LoRA's adapters and leave the prefix, with which it is trained on."""
        lora.merge(model)
        return model.trained_by.prefix

    def described(self, config: PairConfig) -> dict[str, object]:
        """Return what a file says of both."""
        of_prefix = self.of_prefix.described(config.prefix)
        return {**lora.described(config.lora), **of_prefix, "method": config.method}

    def from_description(self, said: Mapping[str, str]) -> PairConfig | None:
        """Undo `described`; None for what others saved."""
        of_lora, of_prefix = lora.from_description(said), self.of_prefix.from_description(said)
        return None if of_lora is None or of_prefix is None else PairConfig(of_lora, of_prefix)

    def from_file(self, found: Any, tensors: Mapping[str, Tensor], path: Path, given: Given) -> PairConfig:
        """Return what the file says, LoRA's part checked against the flags. Raises UserError."""
        of_prefix = self.of_prefix.from_file(found and found.prefix, tensors, path, Given())
        return PairConfig(lora.from_file(found.lora, tensors, path, given), of_prefix)

    def check_start(self, found: Any, tensors: Mapping[str, Tensor], path: Path, config: PairConfig) -> None:
        """Raise UserError when what a file holds is no start for training with `config`."""
        self.of_prefix.check_start(found and found.prefix, tensors, path, config.prefix)
        lora.check_start(found.lora, tensors, path, config.lora)


EMBED, LAYER, KV = map(Pair, (prefix.EMBED, prefix.LAYER, prefix.KV))
