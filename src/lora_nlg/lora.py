"""LoRA on GPT-2's attention: W stays as it is, ΔW = scale · B A of rank R is learnt (Hu et al. 2021, section 4.1).

Alphabet: C width, R rank, N rows (B · T).
"""

import math

import loralib
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.config import LoraConfig
from lora_nlg.gpt2 import GPT2, Conv1D

QUERY, VALUE = 0, 2  # which thirds of c_attn's 3C outputs are adapted; the key third (1) is not


class LoraConv1D(Conv1D):
    """A frozen c_attn with adapters on its query and value thirds.

    The tensors are packed as loralib's MergedLinear packs them, so files can be exchanged:
        lora_A (2R, C): rows 0 … R-1 are the query's A, rows R … 2R-1 the value's
        lora_B (2C, R): rows 0 … C-1 are the query's B, rows C … 2C-1 the value's
    For gpt2.md at R = 4 these are (8, 1024) and (2048, 4): 16 384 parameters a layer, 393 216 in 24 layers.
    """

    def __init__(self, base: Conv1D, config: LoraConfig):
        super().__init__(*base.weight.shape)
        self.weight, self.bias = base.weight, base.bias
        self.config = config
        C = self.weight.shape[0]
        self.lora_A = nn.Parameter(self.weight.new_empty(2 * config.rank, C))
        self.lora_B = nn.Parameter(self.weight.new_empty(2 * C, config.rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, 3C). The product with B A is taken right to left and never forms the (C, C) ΔW."""
        C, scale = self.weight.shape[0], self.config.scale
        out = F.linear(x, self.weight.T, self.bias)  # (B, T, 3C)
        down = F.linear(F.dropout(x, self.config.dropout, self.training), self.lora_A) * scale  # (B, T, 2R)
        down_q, down_v = down.chunk(2, dim=-1)  # (B, T, R) each
        B_q, B_v = self.lora_B.chunk(2)  # (C, R) each
        q, k, v = out.split(C, dim=-1)
        return torch.cat([q + F.linear(down_q, B_q), k, v + F.linear(down_v, B_v)], dim=-1)

    def delta_weight(self) -> Tensor:
        """Return ΔW (C, 3C) in c_attn's (in, out) layout."""
        A_q, A_v = self.lora_A.chunk(2)  # (R, C)
        B_q, B_v = self.lora_B.chunk(2)  # (C, R)
        delta_q, delta_v = (B_q @ A_q).T, (B_v @ A_v).T  # (C in, C out)
        return self.config.scale * torch.cat([delta_q, torch.zeros_like(delta_q), delta_v], dim=1)


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
