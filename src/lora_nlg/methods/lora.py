"""LoRA on GPT-2: W stays as it is, ΔW = scale · B A of rank R is learnt (Hu et al. 2021, section 4.1).

The scale, alpha / R, is `LoraConfig.scale_of` in placement.py, which has all of LoRA's settings.

Alphabet: C width, R rank, ΣR the ranks of all targets in one module together, N rows (B · T, or as many tokens as are packed).
"""

import math
from collections.abc import Sequence

import loralib
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.methods.placement import (
    ATTENTION_TARGETS,
    LoraConfig,
    check_start,
    described,
    from_description,
    from_file,
    from_flags,
    summary,
)
from lora_nlg.methods.places import merge, plain, put
from lora_nlg.model.gpt2 import GPT2, Conv1D, Embedding
from lora_nlg.model.matmul import add_low_rank_, linear

# The functions of a method's module; those that need no torch are placement's.
__all__ = ["attach", "check_start", "described", "from_description", "from_file", "from_flags", "is_own", "merge", "start",
           "summary", "tensors"]  # fmt: skip


class Adapters(nn.Module):
    """What an adapted module has beside its frozen weights: an A and a B for each of its targets.

    lora_A (ΣR, in) holds R rows a target, in the order of the module's outputs. lora_B depends on the ranks of the targets:
        all the same: (n · out, R) for n targets, as loralib packs them, so files can be exchanged
        different:    (out, ΣR), R columns a target
    For gpt2.md with query and value at R = 4, c_attn has (8, 1024) and (2048, 4): 16 384 parameters a layer, 393 216 in 24.
    """

    weight: nn.Parameter  # of the module that is adapted

    def make_room(self, n_in: int, n_out: int, config: LoraConfig, targets: tuple[str, ...]) -> None:
        """Make room for the adapters of `targets`, whose matrices are (n_in, n_out) each."""
        self.config, self.targets = config, targets
        self.ranks = [config.rank_of(target) for target in targets]
        shape = (len(targets) * n_out, self.ranks[0]) if len(set(self.ranks)) == 1 else (n_out, sum(self.ranks))
        self.lora_A = nn.Parameter(self.weight.new_empty(sum(self.ranks), n_in))
        self.lora_B = nn.Parameter(self.weight.new_empty(shape))

    @torch.no_grad()
    def start(self, generator: torch.Generator | None) -> None:
        """Draw A, and set B to zero unless the configuration draws it, too."""
        std_A, std_B = self.config.init_std
        if std_A is None:
            bound = math.sqrt(6 / ((1 + 5) * self.lora_A.shape[1]))  # Kaiming-uniform: √(6 / ((1 + a²) fan_in)), a = √5
            self.lora_A.uniform_(-bound, bound, generator=generator)
        else:
            self.lora_A.normal_(0, std_A, generator=generator)
        if std_B:
            self.lora_B.normal_(0, std_B, generator=generator)
        else:
            self.lora_B.zero_()

    def pairs(self, A: Tensor, B: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (A (R, in), B (out, R)) of each target, views of lora_A and lora_B or of what has their shapes."""
        return unpacked(A, B, self.ranks)

    def take_down(self, x: Tensor) -> Tensor:
        """Return A x (N, ΣR) of x (N, in), in training with dropout on x."""
        dropout = self.config.dropout if self.training else 0.0
        if dropout:  # torch's own takes twice as long to draw, and scales x in place of the small product
            x = x * (torch.rand(x.shape, device=x.device) >= dropout)
        return linear(x, self.lora_A.T) * (1 / (1 - dropout))

    def scaled_B(self) -> Tensor:
        """Return scale · B (all outputs, ΣR): one matrix, zero where a target's outputs would meet another's A.

        Multiplying by the zeros costs less than putting the targets' own products together, as long as ΣR is far below C.
        """
        return wide_B(self.lora_B, self.targets, self.ranks, [self.config.scale_of(target) for target in self.targets])


def split_B(B: Tensor, ranks: list[int]) -> tuple[Tensor, ...]:
    """Return each target's B (out, R) of a module's packed one, see `Adapters`."""
    return B.chunk(len(ranks)) if len(set(ranks)) == 1 else B.split(ranks, dim=1)


def unpacked(A: Tensor, B: Tensor, ranks: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Return each target's A (R, in) and B (out, R), views of a module's packed ones."""
    return list(zip(A.split(ranks), split_B(B, ranks), strict=True))


def packed(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Undo `unpacked`."""
    side_by_side = len({len(A) for A, _ in pairs}) > 1  # B, of different ranks
    return torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], 1 if side_by_side else 0)


def wide_B(B: Tensor, targets: tuple[str, ...], ranks: list[int], scales: list[float]) -> Tensor:
    """Return a module's packed B, see `Adapters`, as one matrix (all outputs, ΣR), each target's part times its scale."""
    is_attention = targets[0] in ATTENTION_TARGETS
    parts = split_B(B, ranks)
    n_out = parts[0].shape[0]
    wide = B.new_zeros(n_out * (len(ATTENTION_TARGETS) if is_attention else 1), sum(ranks))
    column = 0
    for target, part, R, scale in zip(targets, parts, ranks, scales, strict=True):
        row = n_out * ATTENTION_TARGETS.index(target) if is_attention else 0
        wide[row : row + n_out, column : column + R] = part * scale
        column += R
    return wide


class LoraConv1D(Adapters, Conv1D):
    """A frozen Conv1D with adapters."""

    def __init__(self, base: Conv1D, config: LoraConfig, targets: tuple[str, ...]):
        super().__init__(*base.weight.shape)
        self.weight, self.bias = base.weight, base.bias
        n_in, n_out = base.weight.shape
        self.make_room(
            n_in, n_out // len(ATTENTION_TARGETS) if targets[0] in ATTENTION_TARGETS else n_out, config, targets
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out): W x + b + scale · B (A x), where the product B A is never formed."""
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        y = super().forward(rows)  # (N, out), W x + b: a fresh matrix, to which the rest can be added in place
        Ax = self.take_down(rows)  # (N, ΣR)
        add_low_rank_(y, Ax, self.scaled_B().to(y.dtype))  # to: autocast leaves calls in place alone
        return y.view(*x.shape[:-1], y.shape[1])

    def delta_weight(self) -> Tensor:
        """Return ΔW (in, out)."""
        return (self.scaled_B() @ self.lora_A).T

    def merged(self) -> Conv1D:
        """Return a plain Conv1D with W + ΔW."""
        return plain(self, self.weight + self.delta_weight())


class LoraEmbedding(Adapters, Embedding):
    """A frozen embedding with adapters, seen from the output layer: A (R, C) takes the hidden state down, B (V, R) up to the tokens.

    A token's vector is its row of W + scale · B A, and the output layer's weights are the same matrix, as in GPT-2.
    """

    def __init__(self, base: Embedding, config: LoraConfig, targets: tuple[str, ...]):
        super().__init__(*base.weight.shape)
        self.weight = base.weight
        V, C = base.weight.shape
        self.make_room(C, V, config, targets)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (...) to (..., C)."""
        rows = F.embedding(ids, self.lora_B)  # (..., R)
        return super().forward(ids) + F.linear(rows, self.lora_A.T * self.config.scale_of("wte"))

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., C) to (..., V): W x + scale · B (A x)."""
        rows = hidden.reshape(-1, hidden.shape[-1])  # (N, C)
        y = super().logits(rows)  # (N, V), W x
        add_low_rank_(y, self.take_down(rows), self.scaled_B().to(y.dtype))
        return y.view(*hidden.shape[:-1], y.shape[1])

    def delta_weight(self) -> Tensor:
        """Return ΔW (V, C)."""
        return self.scaled_B() @ self.lora_A

    def merged(self) -> Embedding:
        """Return a plain Embedding with W + ΔW."""
        made = Embedding(*self.weight.shape)
        made.weight = nn.Parameter(self.weight + self.delta_weight(), requires_grad=False)
        return made


def attach(model: GPT2, config: LoraConfig) -> None:
    """Put adapters that are not set where `config` says, and freeze everything else."""
    put(model, config, lambda base: LoraEmbedding if isinstance(base, Embedding) else LoraConv1D)
    loralib.mark_only_lora_as_trainable(model)


def start(model: GPT2, generator: torch.Generator | None) -> None:
    """Set the adapters of `model` to their random start."""
    for module in model.modules():
        if isinstance(module, Adapters):
            module.start(generator)


def tensors(model: GPT2) -> dict[str, Tensor]:
    """Return the adapters' tensors by name (`h.0.attn.c_attn.lora_A`, …)."""
    return loralib.lora_state_dict(model)


def is_own(name: str) -> bool:
    """Return whether a tensor of this name is an adapter's."""
    return ".lora_" in name
