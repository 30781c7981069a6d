"""A start that can copy: the heads that small models take longest to find are set by hand (Olsson et al. 2022, induction heads).

In the first block one head looks at the previous position and notes its token beside the token at hand. In the second block two
heads look for the position that has noted the token at hand, and add what stands there: what followed last time comes next. All
of it is trained on like everything else.

Alphabet: C width, H heads, D = C / H. The C directions are split at random into parts of D: positions, the first part of a token's
row, what is noted, and the last part of a token's row.
"""

import math

import torch
from torch import Tensor

from lora_nlg.model.gpt2 import GPT2, Attention, Block

PARTS = 4
LENGTH_OF_POSITIONS, LENGTH_OF_NOTES = 0.6, 0.8  # of a token's row
SHARPNESS = 3.0  # of a look: how far the score of what is sought stands out
COPIED = 3.0  # rows that are added of the token that is found


@torch.no_grad()
def set_copying_heads(model: GPT2, entry: float, generator: torch.Generator) -> None:
    """Set positions and three heads of a randomly started `model`, whose embedding rows are of ± `entry`.

    It needs two blocks, and four heads so that the parts have room; else it is left as it is.
    """
    C, H, n_positions = model.config.n_embd, model.config.n_head, model.config.n_positions
    if model.config.n_layer < 2 or H < PARTS or C % H:
        return
    D, row = C // H, entry * math.sqrt(C)
    places, token, noted, rest = torch.linalg.qr(torch.randn(C, C, generator=generator))[0][:, : PARTS * D].split(D, 1)

    # Positions are phases of D / 2 random frequencies: only equal ones agree in all of them.
    frequencies = math.pi * torch.rand(D // 2, generator=generator)
    phases = torch.arange(n_positions)[:, None] * frequencies  # (n_positions, D / 2)
    circles = torch.cat([phases.cos(), phases.sin()], 1)  # (n_positions, D), each √(D / 2) long
    model.wpe.weight.copy_(circles @ places.T * (LENGTH_OF_POSITIONS * row / math.sqrt(D / 2)))

    length = math.sqrt(C) / row  # what the layer norm multiplies by, about
    note = LENGTH_OF_NOTES * row / math.sqrt(D)
    first, second = (block.attn for block in model.h[:2] if isinstance(block, Block))
    _set_head(first, 0, SHARPNESS * places @ _one_back(frequencies), places, token, note * noted)
    for head, part in enumerate((token, rest)):
        _set_head(second, head, SHARPNESS * token, noted, part, COPIED / length * part)


def _set_head(attention: Attention, head: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> None:
    """Set the maps (C, D) of one head to query, key and value, and the way back, which is (C, D) as well."""
    C, D = query.shape
    own = slice(head * D, (head + 1) * D)
    for third, weight in enumerate((query, key, value)):
        attention.c_attn.weight[:, third * C : (third + 1) * C][:, own] = weight
    attention.c_proj.weight[own] = output.T


def _one_back(frequencies: Tensor) -> Tensor:
    """Return the matrix (D, D) that turns the phases of a position into those of the one before."""
    cos, sin = frequencies.cos().diag(), frequencies.sin().diag()
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])
