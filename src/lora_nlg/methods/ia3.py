"""IA3 on GPT-2 (Liu et al. 2022, section 3.3): keys, values and the MLP's inner activations are scaled by learnt vectors.

k = l_k · (x W_k + b_k), v = l_v · (x W_v + b_v) and (l_ff · gelu(x W_1 + b_1)) W_2 + b_2: all three start at 1, and can be multiplied
into the weights.
Alphabet: C width, I inner width of the MLP.
"""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.config import ModelConfig
from lora_nlg.methods.common import Common, check_settings
from lora_nlg.methods.places import merge, plain
from lora_nlg.model.gpt2 import GPT2, Conv1D


@dataclass(frozen=True)
class IA3Config:
    """Nothing is to be chosen: keys, values and inner activations of every layer are scaled."""

    joined: bool = False  # queries as well, as PEFT's files have it, where c_attn is one matrix

    def __post_init__(self):
        check_settings(self)

    @property
    def method(self) -> str:
        """The row of the table of methods."""
        return "ia3"

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers are trained: 2C + I a layer, and C where queries are scaled."""
        return model.n_layer * ((2 + self.joined) * model.n_embd + model.n_inner)


def of_all_outputs(factors: Tensor, n_outputs: int) -> Tensor:
    """Return the factors of all of c_attn's outputs: 1 for the queries in front where there are none."""
    return F.pad(factors, (n_outputs - len(factors), 0), value=1.0)


class Scaled(Conv1D):
    """A frozen Conv1D with ia3_factors, one for each of the numbers that are scaled."""

    def __init__(self, base: Conv1D, n_scaled: int):
        super().__init__(*base.weight.shape)
        self.weight, self.bias = base.weight, base.bias
        self.ia3_factors = nn.Parameter(base.weight.new_empty(n_scaled))


class ScaledOutputs(Scaled):
    """c_attn, of whose outputs q, k, v the last two are scaled: the factors (2C,) are l_k, then l_v."""

    def __init__(self, base: Conv1D, config: IA3Config):
        super().__init__(base, base.weight.shape[0] * (2 + config.joined))

    def all_factors(self) -> Tensor:
        """Return what q, k, v are multiplied by (3C,): q by 1."""
        return of_all_outputs(self.ia3_factors, self.weight.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., 3C)."""
        y = super().forward(x)
        return (y * self.all_factors()).to(y.dtype)  # not rounded to half precision, in which 1.003 is 1

    def merged(self) -> Conv1D:
        """Return a plain Conv1D whose columns, and biases, are scaled."""
        factors = self.all_factors().to(self.weight.dtype)
        return plain(self, self.weight * factors, self.bias * factors)


class ScaledInputs(Scaled):
    """The MLP's c_proj, whose inputs are scaled: the factors (I,) are l_ff."""

    def __init__(self, base: Conv1D, config: IA3Config):
        super().__init__(base, base.weight.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., C)."""
        return super().forward((x * self.ia3_factors).to(x.dtype))

    def merged(self) -> Conv1D:
        """Return a plain Conv1D whose rows are scaled."""
        return plain(self, self.weight * self.ia3_factors[:, None].to(self.weight.dtype))


class IA3(Common):
    """The functions of the method."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> IA3Config:
        """Return the configuration, of which no flag decides anything."""
        return IA3Config()

    def summary(self, config: IA3Config) -> str:
        """Return what is trained, in words for people."""
        return "IA3's factors of keys, values and the MLP's inner activations"

    def attach(self, model: GPT2, config: IA3Config) -> None:
        """Put factors that are not set into every layer, and freeze everything else."""
        for block in model.h:
            for owner, attribute, layer in ((block.attn, "c_attn", ScaledOutputs), (block.mlp, "c_proj", ScaledInputs)):
                base = getattr(owner, attribute)
                setattr(owner, attribute, layer(base, config).train(base.training))
        self.freeze_the_rest(model)

    @torch.no_grad()
    def start(self, model: GPT2, generator: torch.Generator | None) -> None:
        """Set every factor to 1."""
        for factors in self.tensors(model).values():
            factors.fill_(1.0)

    merge = staticmethod(merge)


METHOD = IA3("ia3", IA3Config, ".ia3_")
