"""Where layers can be put into a model: its matrices, and what takes their place."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lora_nlg.methods.placement import ATTENTION_TARGETS, MODULES
from lora_nlg.model.gpt2 import GPT2, Conv1D


def places(model: GPT2) -> Iterator[tuple[int | None, str, nn.Module, str]]:
    """Yield all that can be adapted: its layer (None: the embedding), its name in MODULES, and the owner and attribute it is at."""
    for layer, block in enumerate(model.h):
        for name in MODULES:
            if name != "wte":
                owner, attribute = name.split(".")
                yield layer, name, getattr(block, owner), attribute
    yield None, "wte", model, "wte"


def put(model: GPT2, config: Any, layer_for: Callable[[nn.Module], Callable[..., nn.Module]]) -> None:
    """Put `layer_for(module)(module, config, targets)` in the place of every module that has some of the config's `targets`.

    `targets` are those that the module has; modules outside the config's `layers` stay.
    """
    for layer, name, owner, attribute in places(model):
        targets = tuple(target for target in MODULES[name] if target in config.targets)
        if targets and (layer is None or config.layers is None or layer in config.layers):
            base = getattr(owner, attribute)
            made = layer_for(base)(base, config, targets)
            setattr(owner, attribute, made.train(base.training))  # a model that decodes does not drop out


@torch.no_grad()
def merge(model: GPT2) -> None:
    """Replace every module that can be `merged` by a plain one: the same function at the base model's cost."""
    for _, _, owner, attribute in places(model):
        module: Any = getattr(owner, attribute)
        if hasattr(module, "merged"):
            setattr(owner, attribute, module.merged())


def columns_of(targets: tuple[str, ...], n_outputs: int) -> list[slice]:
    """Return which of a module's outputs each target has: a third of c_attn's, all of another's."""
    if targets[0] not in ATTENTION_TARGETS:
        return [slice(0, n_outputs)]
    width = n_outputs // len(ATTENTION_TARGETS)
    return [slice(width * i, width * (i + 1)) for i in map(ATTENTION_TARGETS.index, targets)]


def plain(base: Conv1D, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Conv1D:
    """Return a frozen Conv1D with `weight`, and the bias of `base` unless another is given."""
    made = Conv1D(*base.weight.shape)
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = base.bias if bias is None else nn.Parameter(bias, requires_grad=False)
    return made
