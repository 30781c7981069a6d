"""PiSSA (Meng et al. 2024): LoRA whose A and B start as the first R singular vectors of W, which keeps the rest.

W itself is never written to: what it would lose, scale · B0 A0, is kept beside A and B, is not trained, and is taken off at each use.
A file that holds it needs nothing but the base that it was trained on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_nlg.errors import UserError
from lora_nlg.methods import lora
from lora_nlg.methods.lora import is_own, packed, start, tensors, wide_B
from lora_nlg.methods.placement import (
    LoraConfig,
    check_start,
    described,
    from_description,
    from_file,
    from_flags,
    summary,
)
from lora_nlg.methods.places import columns_of, merge, put
from lora_nlg.model.gpt2 import GPT2, Embedding

__all__ = ["attach", "check_start", "described", "from_description", "from_file", "from_flags", "is_own", "merge", "start",
           "summary", "tensors"]  # fmt: skip


class Pissa(lora.Adapters):
    """LoRA's adapters, and what they started as: lora_A0 and lora_B0, of the same shapes."""

    def make_room(self, n_in: int, n_out: int, config: LoraConfig, targets: tuple[str, ...]) -> None:
        """Make room for the adapters of `targets`, whose matrices are (n_in, n_out) each."""
        super().make_room(n_in, n_out, config, targets)
        self.lora_A0 = nn.Parameter(torch.empty_like(self.lora_A), requires_grad=False)
        self.lora_B0 = nn.Parameter(torch.empty_like(self.lora_B), requires_grad=False)

    @torch.no_grad()
    def start(self, generator: torch.Generator | None) -> None:
        """Set A and B so that scale · B A is the part of W along its first R singular vectors; nothing is drawn."""
        pairs = []
        for target, W in zip(self.targets, self.matrices(), strict=True):  # (out, in)
            pairs.append(first_vectors(W, self.config.rank_of(target), self.config.scale_of(target)))
        A, B = packed(pairs)
        for kept, given in ((self.lora_A, A), (self.lora_B, B), (self.lora_A0, A), (self.lora_B0, B)):
            kept.copy_(given)

    def matrices(self) -> list[Tensor]:
        """Return each target's part (out, in) of W."""
        raise NotImplementedError

    def scaled_B0(self) -> Tensor:
        """Return scale · B0 (all outputs, ΣR), see `scaled_B`."""
        return wide_B(self.lora_B0, self.targets, self.ranks, [self.config.scale_of(target) for target in self.targets])

    def delta_at_start(self) -> Tensor:
        """Return scale · B0 A0 (all outputs, in)."""
        return self.scaled_B0() @ self.lora_A0


class PissaConv1D(Pissa, lora.LoraConv1D):
    """A frozen Conv1D with adapters."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out): W x + b + scale · (B (A x) - B0 (A0 x))."""
        y, rows = super().forward(x), x.reshape(-1, x.shape[-1])
        A0x = F.linear(rows, self.lora_A0)  # (N, ΣR)
        y.view(-1, y.shape[-1]).addmm_(A0x, self.scaled_B0().T.to(y.dtype), alpha=-1)
        return y

    def matrices(self) -> list[Tensor]:
        """Return each target's part (out, in) of W."""
        return [self.weight[:, columns].T for columns in columns_of(self.targets, self.weight.shape[1])]

    def delta_weight(self) -> Tensor:
        """Return ΔW (in, out)."""
        return super().delta_weight() - self.delta_at_start().T


class PissaEmbedding(Pissa, lora.LoraEmbedding):
    """A frozen embedding with adapters, see `LoraEmbedding`."""

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (...) to (..., C)."""
        rows = F.embedding(ids, self.lora_B0)  # (..., R)
        return super().forward(ids) - F.linear(rows, self.lora_A0.T * self.config.scale_of("wte"))

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., C) to (..., V)."""
        return super().logits(hidden) - F.linear(F.linear(hidden, self.lora_A0), self.scaled_B0())

    def matrices(self) -> list[Tensor]:
        """Return W (V, C)."""
        return [self.weight]

    def delta_weight(self) -> Tensor:
        """Return ΔW (V, C)."""
        return super().delta_weight() - self.delta_at_start()


@torch.no_grad()
def start_of_whole_modules(model: GPT2) -> set[str]:
    """Set lora_A0 and lora_B0 as PEFT starts, with the singular vectors of a module's whole W, and return their names."""
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, PissaConv1D):
            targets, R = len(module.targets), module.ranks[0]
            A0, B0 = first_vectors(module.weight.T, R, module.config.scale_of(module.targets[0]))
            module.lora_A0.copy_(A0.repeat(targets, 1))
            module.lora_B0.copy_(B0)
            names |= {f"{name}.lora_A0", f"{name}.lora_B0"}
    return names


def first_vectors(W: Tensor, R: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return A (R, in) and B (out, R) with scale · B A the part of W (out, in) along its first R singular vectors."""
    if min(W.shape) < R:
        raise UserError(
            f"PiSSA takes singular vectors, of which a matrix has {min(W.shape)}, fewer than the rank {R}; lower it"
        )
    U, S, V = torch.linalg.svd(W.to(torch.promote_types(W.dtype, torch.float32)), full_matrices=False)
    root = (S[:R] / scale).sqrt()
    return root[:, None] * V[:R], U[:, :R] * root


def attach(model: GPT2, config: LoraConfig) -> None:
    """Put adapters that are not set where `config` says, and freeze everything else."""
    model.requires_grad_(False)
    put(model, config, lambda base: PissaEmbedding if isinstance(base, Embedding) else PissaConv1D)
