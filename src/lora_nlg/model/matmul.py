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
    is_float32 = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not autocasts_at(x)
    if (
        HAS_ONEDNN and is_float32 and not torch.compiler.is_compiling()
    ):  # torch's code generator knows its own ways alone
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight.T, bias)


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
            x.flatten(0, -2).T @ rows if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
