"""FourierFT on GPT-2 (Gao et al. 2024): ΔW = scale · Re(inverse 2-D FFT of S), S zero but for n coefficients that are learnt.

Their places are drawn once, from a seed, and are the same for all matrices of one shape. The coefficients are real and start at 0.
With the places (u, v) of a matrix of O outputs and I inputs, ΔW[o, i] = scale / (O I) · Σ c_n cos(2π (u_n o / O + v_n i / I)).
Alphabet: C width, N rows, n coefficients, O outputs, I inputs.
"""

import argparse
import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from lora_nlg.config import ModelConfig, require
from lora_nlg.errors import UserError
from lora_nlg.methods import placement, sizes
from lora_nlg.methods.common import Common, check_settings
from lora_nlg.methods.places import columns_of, merge, plain, put
from lora_nlg.model.gpt2 import GPT2, Conv1D
from lora_nlg.model.matmul import autocasts_at, linear

DEFAULT_N = 1000
DEFAULT_SCALE = 300.0


@dataclass(frozen=True)
class FourierConfig:
    """Where coefficients are, how many, and how large what they give is."""

    n: int  # a matrix
    _: KW_ONLY
    scale: float = DEFAULT_SCALE
    targets: tuple[str, ...] = ("q", "v")
    layers: tuple[int, ...] | None = None  # None: all
    seed: int = 777  # of the places
    joined: bool = False  # c_attn is one matrix of 3C outputs, not one a target: as PEFT has it

    @property
    def method(self) -> str:
        """The row of the table of methods."""
        return "fourier"

    def __post_init__(self):
        check_settings(self)
        require(0 < self.scale < math.inf, "fourier_scale", "greater than 0 and finite", self.scale)
        most = placement.MOST_SCALE
        require(self.scale <= most, "fourier_scale", f"no more than {most:g}", self.scale)
        if "wte" in self.targets:
            raise placement.of_lora_alone("--lora_targets wte", "fourier")
        if self.joined and 0 < len({"q", "k", "v"} & set(self.targets)) < 3:
            raise UserError("coefficients of c_attn as one matrix are of q, k and v together, not of some of them")

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers are trained: n a matrix."""
        n_matrices = len(self.targets) - (2 if self.joined and "q" in self.targets else 0)
        return self.n * n_matrices * (model.n_layer if self.layers is None else len(self.layers))


def check_places(n_out: int, n_in: int, n: int) -> None:
    """Raise UserError if a matrix has fewer than n places."""
    if n > n_out * n_in:
        raise UserError(f"{n:,} coefficients are more than a matrix of {n_out} x {n_in} has places; check --model_card")


def places_in(n_out: int, n_in: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the n places (u, v) of the spectrum of a matrix, without repetition. Raises UserError if it has fewer."""
    check_places(n_out, n_in, n)
    drawn = torch.randperm(n_out * n_in, generator=torch.Generator().manual_seed(seed))[:n]
    return drawn // n_in, drawn % n_in


def half_places(u: Tensor, v: Tensor, n_out: int, n_in: int) -> tuple[Tensor, Tensor]:
    """Return where in the half spectrum (O, I / 2 + 1), counted through, halves of coefficients are, and of which.

    The inverse of real coefficients has a real part that is the inverse of half of each at (u, v) and half at (-u, -v): a Hermitian
    spectrum, of which irfft2 takes the places with v up to I / 2.
    """
    half = n_in // 2 + 1
    rows, columns = torch.cat((u, -u % n_out)), torch.cat((v, -v % n_in))
    inside = (columns < half).nonzero().squeeze(1)
    return (rows * half + columns)[inside], inside % len(u)


def delta_of(c: Tensor, where: Tensor, which: Tensor, n_out: int, n_in: int) -> Tensor:
    """Return Re(inverse 2-D FFT of S) (O, I) of the coefficients c (n,), whose places are those of `half_places`."""
    half = n_in // 2 + 1
    spectrum = c.new_zeros(n_out * half).index_add(0, where, c[which] / 2).view(n_out, half)
    return torch.fft.irfft2(spectrum.to(torch.promote_types(c.dtype, torch.complex64)), s=(n_out, n_in))


class FourierLinear(torch.autograd.Function):
    """x (N, I) @ (W + ΔW) + bias, or x @ ΔW without a W, with the gradients of x and of the coefficients alone.

    The gradient of a coefficient is a place of the spectrum of gᵀ x, for which no (O, I) product is made: it is the sum over rows of
    the products of their own spectra.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, c: Tensor, module: "FourierConv1D", weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        changed = module.changed(c, weight)
        ctx.save_for_backward(x, changed)
        ctx.module, ctx.dtype = module, c.dtype
        return linear(x, changed, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, changed = ctx.saved_tensors
        module, grad = ctx.module, grad.to(ctx.dtype)
        of_x = linear(grad, changed.T).to(x.dtype) if ctx.needs_input_grad[0] else None
        at_v = torch.fft.fft(x.to(ctx.dtype), dim=-1).index_select(1, module.v)  # (N, n)
        of_c = []
        for columns in module.columns:
            at_u = torch.fft.fft(grad[:, columns], dim=-1).index_select(1, module.u)  # (N, n)
            of_c.append((at_u * at_v).real.sum(0) * (module.scale / (grad[:, columns].shape[1] * x.shape[1])))
        return of_x, torch.stack(of_c), None, None, None


class FourierConv1D(Conv1D):
    """A frozen Conv1D with fourier_c (matrices, n), the coefficients of each target's matrix."""

    u: Tensor
    v: Tensor
    where: Tensor
    which: Tensor

    def __init__(self, base: Conv1D, config: FourierConfig, targets: tuple[str, ...]):
        super().__init__(*base.weight.shape)
        self.weight, self.bias, self.scale = base.weight, base.bias, config.scale
        n_in, n_out = base.weight.shape
        self.columns = [slice(0, n_out)] if config.joined else columns_of(targets, n_out)
        width = self.columns[0].stop - self.columns[0].start
        check_places(width, n_in, config.n)
        if base.weight.is_meta:  # shapes alone; to draw of all places of a large matrix takes seconds
            u = v = where = which = torch.empty(config.n, dtype=torch.int64, device="meta")
        else:
            u, v = places_in(width, n_in, config.n, config.seed)
            where, which = half_places(u, v, width, n_in)
        for name, places in (("u", u), ("v", v), ("where", where), ("which", which)):
            self.register_buffer(name, places.to(base.weight.device), persistent=False)
        self.fourier_c = nn.Parameter(base.weight.new_empty(len(self.columns), config.n))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out): (W + ΔW) x + bias."""
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        # In W's half precision a small ΔW would be lost.
        in_W = self.weight.dtype == self.fourier_c.dtype and not autocasts_at(x)
        W, bias = (self.weight, self.bias) if in_W else (None, None)
        if torch.compiler.is_compiling():  # which knows no gradients but torch's own
            y = linear(rows, self.changed(self.fourier_c, W), bias)
        else:
            y = FourierLinear.apply(rows, self.fourier_c, self, W, bias)
        y = y if in_W else super().forward(rows) + y
        return y.view(*x.shape[:-1], y.shape[1])

    def changed(self, c: Tensor, weight: Tensor | None) -> Tensor:
        """Return W + ΔW (in, out), or ΔW without a W."""
        n_in, n_out = self.weight.shape
        made = c.new_zeros(n_in, n_out) if weight is None else weight.clone()
        for columns, of_matrix in zip(self.columns, c, strict=True):
            delta = delta_of(of_matrix, self.where, self.which, columns.stop - columns.start, n_in)  # (out, in)
            made[:, columns].add_(delta.T, alpha=self.scale)
        return made

    def merged(self) -> Conv1D:
        """Return a plain Conv1D with W + ΔW."""
        return plain(self, self.changed(self.fourier_c.detach(), self.weight.detach()))


class Fourier(Common):
    """The functions of the method."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> FourierConfig:
        """Return what the flags of gpt2_ft.py describe. Raises UserError."""
        places = placement.places_of(args, model)
        scale = DEFAULT_SCALE if args.fourier_scale is None else args.fourier_scale
        of_targets = [placement.target_sizes(model)[target] for target in places["targets"]]
        most = min(n_in * n_out for n_in, n_out in of_targets)
        count = lambda n: FourierConfig(n, **places).n_parameters(model)  # noqa: E731
        n = sizes.size_of(args, "fourier_n", DEFAULT_N, most, count, ", the places of the smallest matrix")
        return FourierConfig(n, scale=scale, **places)

    def summary(self, config: FourierConfig) -> str:
        """Return what is trained, in words for people."""
        return f"{config.n:,} Fourier coefficients a matrix on {placement.places_text(config)}"

    def attach(self, model: GPT2, config: FourierConfig) -> None:
        """Put coefficients that are not set where `config` says, and freeze everything else."""
        put(model, config, lambda base: FourierConv1D)
        self.freeze_the_rest(model)

    @torch.no_grad()
    def start(self, model: GPT2, generator: torch.Generator | None) -> None:
        """Set every coefficient to 0."""
        for module in model.modules():
            if isinstance(module, FourierConv1D):
                module.fourier_c.zero_()

    merge = staticmethod(merge)


METHOD = Fourier("fourier", FourierConfig, ".fourier_")
