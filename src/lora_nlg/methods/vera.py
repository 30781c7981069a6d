"""VeRA on GPT-2 (Kopiczko et al. 2024): ΔW = diag(b) B diag(d) A, where A and B are random, frozen, and the same in all layers.

What is trained is d (R,), which starts at 0.1, and b (out,), which starts at 0, of each target. A (R, in) and B (out, R) come out of a
seed, as large as the largest adapted module needs; another takes their first columns and rows.
Alphabet: C width, R rank, N rows.
"""

import argparse
import dataclasses
import functools
import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from lora_nlg.config import ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods import placement, sizes
from lora_nlg.methods.common import Common, check_settings
from lora_nlg.methods.places import columns_of, merge, plain, put
from lora_nlg.model.gpt2 import GPT2, Conv1D
from lora_nlg.model.matmul import linear

START_OF_D = 0.1
DEFAULT_DIM = 256


@dataclass(frozen=True)
class VeraConfig:
    """Where the vectors are, and which A and B stand between them."""

    dim: int  # R
    _: KW_ONLY
    targets: tuple[str, ...] = ("q", "v")
    layers: tuple[int, ...] | None = None  # None: all
    seed: int | None = 0  # of A and B; None: the file holds them
    n_in: int = 0  # columns of A; 0: as many as the largest of the targets' matrices has inputs
    n_out: int = 0  # rows of B; 0: as many as the largest of their modules has outputs

    @property
    def method(self) -> str:
        """The row of the table of methods."""
        return "vera"

    def __post_init__(self):
        check_settings(self)
        if "wte" in self.targets:
            raise placement.of_lora_alone("--lora_targets wte", "vera")

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers are trained: R + outputs a matrix."""
        outputs = [placement.target_sizes(model)[target][1] for target in self.targets]
        n_layers = model.n_layer if self.layers is None else len(self.layers)
        return n_layers * sum(self.dim + n_out for n_out in outputs)


def shapes_of(model: ModelConfig, targets: tuple[str, ...]) -> tuple[int, int]:
    """Return the columns of A and the rows of B: the most inputs and outputs of a module with some of the targets."""
    of_targets = [placement.target_sizes(model)[target] for target in targets]
    in_attention = any(target in placement.ATTENTION_TARGETS for target in targets)
    return max(n for n, _ in of_targets), max([3 * model.n_embd * in_attention, *(n for _, n in of_targets)])


class Projections(nn.Module):
    """A (R, in) and B (out, R), which all layers share: N(0, 1)-like uniform numbers, bounded by √(6 / columns)."""

    def __init__(self, n_in: int, n_out: int, config: VeraConfig, like: Tensor):
        super().__init__()
        self.vera_A = nn.Parameter(like.new_empty(config.dim, n_in), requires_grad=False)
        self.vera_B = nn.Parameter(like.new_empty(n_out, config.dim), requires_grad=False)
        if config.seed is not None and not like.is_meta:
            self.draw(config.seed)

    @torch.no_grad()
    def draw(self, seed: int) -> None:
        """Draw A, then B, in float32 on the CPU: the same whatever the model's dtype and device are."""
        generator = torch.Generator().manual_seed(seed)
        for matrix in (self.vera_A, self.vera_B):
            bound = math.sqrt(6 / matrix.shape[1])  # Kaiming-uniform with a gain of √2
            matrix.copy_(torch.empty(matrix.shape).uniform_(-bound, bound, generator=generator))


class VeraConv1D(Conv1D):
    """A frozen Conv1D with vera_d (n, R) and vera_b (n · out,) of its n targets, one after the other."""

    def __init__(self, base: Conv1D, config: VeraConfig, targets: tuple[str, ...], shared: Projections):
        super().__init__(*base.weight.shape)
        self.weight, self.bias, self.shared = base.weight, base.bias, shared
        self.columns = columns_of(targets, base.weight.shape[1])
        self.vera_d = nn.Parameter(base.weight.new_empty(len(targets), config.dim))
        self.vera_b = nn.Parameter(base.weight.new_empty(sum(part.stop - part.start for part in self.columns)))

    @torch.no_grad()
    def start(self) -> None:
        """Set d to 0.1 and b to 0."""
        self.vera_d.fill_(START_OF_D)
        self.vera_b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out): W x + bias + b · (B (d · (A x)))."""
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        y = super().forward(rows)  # (N, out), a fresh matrix
        Ax = linear(rows, self.shared.vera_A[:, : rows.shape[1]].T)  # (N, R)
        for columns, d, b in self.each():
            y[:, columns] += (linear(d * Ax, self.shared.vera_B[columns].T) * b).to(y.dtype)
        return y.view(*x.shape[:-1], y.shape[1])

    def each(self):
        """Return (columns, d, b) of every target."""
        sizes_of = [part.stop - part.start for part in self.columns]
        return zip(self.columns, self.vera_d, self.vera_b.split(sizes_of), strict=True)

    def merged(self) -> Conv1D:
        """Return a plain Conv1D with W + ΔW."""
        weight, A = self.weight.clone(), self.shared.vera_A[:, : self.weight.shape[0]]
        for columns, d, b in self.each():
            weight[:, columns] += (b[:, None] * (self.shared.vera_B[columns] @ (d[:, None] * A))).T.to(weight.dtype)
        return plain(self, weight)


class Vera(Common):
    """The functions of the method."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> VeraConfig:
        """Return what the flags of gpt2_ft.py describe. Raises UserError."""
        places = placement.places_of(args, model)
        count = lambda dim: VeraConfig(dim, **places).n_parameters(model)  # noqa: E731
        dim = sizes.size_of(args, "vera_dim", DEFAULT_DIM, sizes.MOST_DIM, count)
        n_in, n_out = shapes_of(model, places["targets"])
        return VeraConfig(dim, n_in=n_in, n_out=n_out, **places)

    def summary(self, config: VeraConfig) -> str:
        """Return what is trained, in words for people."""
        return f"VeRA's vectors on {placement.places_text(config)}, rank {config.dim}"

    def attach(self, model: GPT2, config: VeraConfig) -> VeraConfig:
        """Put vectors that are not set where `config` says, and freeze everything else; return it with the sizes of A and B."""
        n_in, n_out = shapes_of(model.config, config.targets)
        if (n_in, n_out) != (config.n_in or n_in, config.n_out or n_out):
            raise UserError(
                f"VeRA's A and B are for {config.n_in} inputs and {config.n_out} outputs; check --model_card"
            )
        shared = Projections(n_in, n_out, config, model.wte.weight)
        put(model, config, lambda base: functools.partial(VeraConv1D, shared=shared))
        self.freeze_the_rest(model)
        shared.requires_grad_(False)
        return dataclasses.replace(config, n_in=n_in, n_out=n_out)

    def start(self, model: GPT2, generator: torch.Generator | None) -> None:
        """Set every d and b; A and B are the seed's."""
        for module in model.modules():
            if isinstance(module, VeraConv1D):
                module.start()

    def tensors(self, model: GPT2) -> dict[str, Tensor]:
        """Return d and b of each module, and A and B where no seed gives them."""
        own = super().tensors(model)
        is_drawn = model.trained_by is None or model.trained_by.seed is not None
        return {name: tensor for name, tensor in own.items() if not (is_drawn and ".shared." in name)}

    merge = staticmethod(merge)


METHOD = Vera("vera", VeraConfig, ".vera_")
