"""x W + b on the fastest kernel there is: in float32 on a CPU oneDNN's, or what forms.py finds faster; torch's own elsewhere.

torch multiplies float32 matrices on a CPU with MKL, which is made for Intel's processors; oneDNN, which torch carries as well,
was up to 1.7 times as fast on an AMD EPYC. Alphabet: N rows, I inputs, O outputs.
"""

import os

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_nlg.model import forms

# oneDNN and torch's layer above it each keep a kernel for every shape they have met, up to 1 024. Batches of text hardly ever
# have the same number of tokens twice: mini took 1.1 GiB more after 400 steps. A step needs a dozen; another takes 1 ms to make.
# Both are read when the first product is computed.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
os.environ.setdefault("LRU_CACHE_CAPACITY", "32")
# A batch's logits are 100 MB, asked of the system anew at every step, which gives and clears them 4 KiB at a time unless it may
# give 2 MiB: a third of the time of mini's product with the head. Read when the first tensor is made; Linux alone knows it.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (..., I) @ weight (I, O) + bias (O,), of shape (..., O)."""
    if not _takes_onednn(x, weight):
        return F.linear(x, weight.T, bias)
    return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else forms.product(x, weight.T, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return GELU, by tanh, of `linear`: where nothing is learnt, before the outputs leave the processor's cache."""
    if _takes_onednn(x, weight) and not torch.is_grad_enabled():
        return forms.product(x, weight.T, bias, gelu=True)
    return F.gelu(linear(x, weight, bias), approximate="tanh")


def add_low_rank_(y: Tensor, x: Tensor, B: Tensor) -> Tensor:
    """Add x (N, R) @ B (O, R)ᵀ to y (N, O) in place, R being small, and return y."""
    return _AddLowRank.apply(y, x, B) if _takes_onednn(y, B) else y.addmm_(x, B.T)


def _takes_onednn(x: Tensor, weight: Tensor) -> bool:
    is_float32 = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not autocasts_at(x)
    # torch's code generator knows its own ways alone.
    return HAS_ONEDNN and is_float32 and not torch.compiler.is_compiling()


def autocasts_at(x: Tensor) -> bool:
    """Return whether autocast is on where x is; there is none on meta, where shapes alone are computed."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


class _Linear(torch.autograd.Function):
    """`linear` and its gradients. Those of a frozen weight are not computed."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return forms.product(x, weight.T, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)  # (N, O)
        return (
            forms.product(grad, weight) if of_x else None,
            forms.gradient(x.flatten(0, -2), rows) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


class _AddLowRank(torch.autograd.Function):
    """`add_low_rank_` and its gradients, as wide products: torch's own have R columns, for which MKL took five times as long."""

    @staticmethod
    def forward(ctx, y: Tensor, x: Tensor, B: Tensor) -> Tensor:
        ctx.save_for_backward(x, B)
        ctx.mark_dirty(y)
        return y.addmm_(x, B.T)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, B = ctx.saved_tensors
        _, of_x, of_B = ctx.needs_input_grad
        return grad, forms.product(grad, B.T) if of_x else None, forms.gradient(x, grad).T if of_B else None
