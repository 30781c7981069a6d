"""LoRA on GPT-2's attention: W stays as it is, ΔW = scale · B A of rank R is learnt (Hu et al. 2021, section 4.1).

Alphabet: C width, R rank, N rows (B · T).
"""

import math
from collections.abc import Iterator

import loralib
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.config import LoraConfig
from lora_nlg.gpt2 import GPT2, Conv1D


class LoraConv1D(Conv1D):
    """A frozen c_attn with adapters on some of its thirds, in the paper those of the query and the value.

    The tensors of n adapted thirds are packed as loralib's MergedLinear packs them, so files can be exchanged:
        lora_A (nR, C): R rows a third, in the order of c_attn's outputs: the query's A, then the value's
        lora_B (nC, R): C rows a third, in the same order
    For gpt2.md with query and value at R = 4 these are (8, 1024) and (2048, 4): 16 384 parameters a layer, 393 216 in 24 layers.
    """

    def __init__(self, base: Conv1D, config: LoraConfig):
        super().__init__(*base.weight.shape)
        self.weight, self.bias = base.weight, base.bias
        self.config = config
        C, n = self.weight.shape[0], len(config.targets)
        self.lora_A = nn.Parameter(self.weight.new_empty(n * config.rank, C))
        self.lora_B = nn.Parameter(self.weight.new_empty(n * C, config.rank))

    def pairs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (third, A (R, C), B (C, R)) of every adapted third: 0 query, 1 key, 2 value."""
        n = len(self.config.targets)
        yield from zip(self.config.thirds, self.lora_A.chunk(n), self.lora_B.chunk(n), strict=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, 3C). The product with B A is taken right to left and never forms the (C, C) ΔW."""
        C, R, scale = self.weight.shape[0], self.config.rank, self.config.scale
        thirds = list(super().forward(x).split(C, dim=-1))  # 3 × (B, T, C)
        down = F.linear(F.dropout(x, self.config.dropout, self.training), self.lora_A) * scale  # (B, T, nR)
        for (third, _, B), down_third in zip(self.pairs(), down.split(R, dim=-1), strict=True):
            thirds[third] = thirds[third] + F.linear(down_third, B)
        return torch.cat(thirds, dim=-1)

    def delta_weight(self) -> Tensor:
        """Return ΔW (C, 3C) in c_attn's (in, out) layout."""
        C = self.weight.shape[0]
        delta = torch.zeros_like(self.weight)
        for third, A, B in self.pairs():
            delta[:, third * C : (third + 1) * C] = self.config.scale * (B @ A).T  # (C in, C out)
        return delta


def add_adapters(model: GPT2, config: LoraConfig, generator: torch.Generator | None = None) -> None:
    """Put adapters into every block, A Kaiming-uniform with a = √5 and B zero, and freeze everything else."""
    for block in model.h:
        adapted = LoraConv1D(block.attn.c_attn, config)
        with torch.no_grad():
            bound = math.sqrt(6 / ((1 + 5) * adapted.lora_A.shape[1]))  # Kaiming-uniform: √(6 / ((1 + a²) fan_in))
            adapted.lora_A.uniform_(-bound, bound, generator=generator)
            adapted.lora_B.zero_()
        block.attn.c_attn = adapted
    loralib.mark_only_lora_as_trainable(model)


@torch.no_grad()
def merge_adapters(model: GPT2) -> None:
    """Replace every adapted c_attn by a plain one with W + ΔW: the same function at the base model's cost."""
    for block in model.h:
        adapted = block.attn.c_attn
        merged = Conv1D(*adapted.weight.shape)
        merged.weight = nn.Parameter(adapted.weight + adapted.delta_weight(), requires_grad=False)
        merged.bias = adapted.bias
        block.attn.c_attn = merged


def adapter_tensors(model: GPT2) -> dict[str, Tensor]:
    """Return the adapters' tensors by name (`h.0.attn.c_attn.lora_A`, …)."""
    return loralib.lora_state_dict(model)


def adapter_config(model: GPT2) -> LoraConfig | None:
    """Return the configuration of the model's adapters, None if it has none."""
    return getattr(model.h[0].attn.c_attn, "config", None)
