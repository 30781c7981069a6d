"""Bottleneck adapters: small networks up(ReLU(down(x))) between the layers of a frozen base.

    adapter_h  two in a block, after the attention's projection and after the MLP, y + up(f(down(y))) before the residual sum
               (Houlsby et al. 2019)
    adapter_l  one at the end of a block, h + up(f(down(LN h))), its layer norm trained as well (Lin et al. 2020)

They cannot be merged: the function between has no matrix. `up` starts at zero, so that they start as nothing.
Alphabet: C width, L layers, d the width between.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.config import ModelConfig
from lora_nlg.methods import sizes
from lora_nlg.methods.common import Common, check_method, check_settings
from lora_nlg.model.gpt2 import GPT2, Block, Conv1D
from lora_nlg.model.matmul import linear

STD_OF_DOWN = 0.01  # Houlsby et al.'s near-identity start
DEFAULT_DIMS = {"adapter_h": 8, "adapter_l": 6}  # at which adapter_l has the table's .37M on GPT-2 Medium


@dataclass(frozen=True)
class AdapterConfig:
    """Which adapter, and how wide it is between."""

    method: str  # adapter_h, adapter_l
    adapter_dim: int  # d

    def __post_init__(self):
        check_settings(self)
        check_method(self, DEFAULT_DIMS)

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers are trained."""
        C, L, d = model.n_embd, model.n_layer, self.adapter_dim
        one = 2 * C * d + d + C
        return 2 * L * one if self.method == "adapter_h" else L * (one + 2 * C)


class Bottleneck(nn.Module):
    """up(ReLU(down(x))) with biases; down is (d, C), up (C, d)."""

    def __init__(self, width: int, dim: int, like: Tensor):
        super().__init__()
        self.down_weight = nn.Parameter(like.new_empty(dim, width))
        self.down_bias = nn.Parameter(like.new_empty(dim))
        self.up_weight = nn.Parameter(like.new_empty(width, dim))
        self.up_bias = nn.Parameter(like.new_empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return linear(F.relu(linear(x, self.down_weight.T, self.down_bias)), self.up_weight.T, self.up_bias)

    @torch.no_grad()
    def start(self, generator: torch.Generator | None) -> None:
        """Draw `down` from N(0, 0.01²), and set the rest to zero."""
        self.down_weight.normal_(0, STD_OF_DOWN, generator=generator)
        for parameter in (self.down_bias, self.up_weight, self.up_bias):
            parameter.zero_()


class HoulsbyConv1D(Conv1D):
    """A frozen Conv1D, and behind it y + up(f(down(y)))."""

    def __init__(self, base: Conv1D, dim: int):
        super().__init__(*base.weight.shape)
        self.weight, self.bias = base.weight, base.bias
        self.adapter_h = Bottleneck(base.weight.shape[1], dim, base.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        y = super().forward(x)
        return y + self.adapter_h(y)


class LinBlock(Block):
    """A frozen block, and behind it h + up(f(down(LN h)))."""

    def __init__(self, base: Block, dim: int):
        nn.Module.__init__(self)  # the block's parts are there already
        self.ln_1, self.attn, self.ln_2, self.mlp = base.ln_1, base.attn, base.ln_2, base.mlp
        width, like = base.ln_1.normalized_shape[0], base.ln_1.weight
        self.adapter_l: Any = Bottleneck(width, dim, like)
        self.adapter_l.ln = nn.LayerNorm(width, eps=base.ln_1.eps, device=like.device, dtype=like.dtype)

    def forward(self, *inputs) -> Tensor:
        """Do what the block does, and then what the adapter does."""
        h = super().forward(*inputs)
        return h + self.adapter_l(self.adapter_l.ln(h))


class AdapterMethod(Common):
    """The functions of one of the two."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> AdapterConfig:
        """Return what the flags of gpt2_ft.py describe. Raises UserError."""
        count = lambda dim: AdapterConfig(self.name, dim).n_parameters(model)  # noqa: E731
        dim = sizes.size_of(args, "adapter_dim", DEFAULT_DIMS[self.name], sizes.MOST_DIM, count)
        return AdapterConfig(self.name, dim)

    def summary(self, config: AdapterConfig) -> str:
        """Return what is trained, in words for people."""
        where = "two in a block" if self.name == "adapter_h" else "one in a block, and its layer norm"
        return f"bottleneck adapters of width {config.adapter_dim}, {where}"

    def attach(self, model: GPT2, config: AdapterConfig) -> None:
        """Put adapters that are not set into every block, and freeze everything else."""
        block: Any
        for layer, block in enumerate(model.h):
            if self.name == "adapter_h":
                block.attn.c_proj = HoulsbyConv1D(block.attn.c_proj, config.adapter_dim)
                block.mlp.c_proj = HoulsbyConv1D(block.mlp.c_proj, config.adapter_dim)
            else:
                model.h[layer] = LinBlock(block, config.adapter_dim)
        self.freeze_the_rest(model)

    def start(self, model: GPT2, generator: torch.Generator | None) -> None:
        """Start every adapter as nothing, its layer norm as that of a new model."""
        for module in model.modules():
            if isinstance(module, Bottleneck):
                module.start(generator)
                if isinstance(norm := getattr(module, "ln", None), nn.LayerNorm):
                    norm.reset_parameters()

    def merge(self, model: GPT2) -> AdapterConfig:
        """Leave the adapters where they are: they are no matrix."""
        return model.trained_by


H, L = (AdapterMethod(name, AdapterConfig, f".{name}.") for name in DEFAULT_DIMS)
