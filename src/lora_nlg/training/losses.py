"""The recipe's loss: mean cross-entropy over the positions that are learnt, and only those are ever computed.

Alphabet: N tokens, C width, M learnt positions in the batch, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_nlg.data.batches import IGNORED, Batch
from lora_nlg.model import attention
from lora_nlg.model.gpt2 import GPT2, at_least_float32, rows_at_once

MASK_SUM_EPS = 1e-4  # Kept for parity: the recipe divides by M + 1e-4, not by M
SMALLEST_SMOOTHING = 1e-4  # Kept for parity: the recipe takes this much, or less, for none


class SummedCrossEntropy(torch.autograd.Function):
    """Σ ce over logits (M, V) whose targets (M,) are not IGNORED, ce = (1 - s) · nll + s · mean over V of -log p.

    What torch's own cross_entropy gives, in less memory: (M, V) numbers are there once, for `logits` is overwritten,
    by log p in the forward pass and by its own gradient in the backward pass, of which there can be one only.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        for rows in logits.split(rows_at_once(logits)):
            rows.copy_(rows.log_softmax(-1))
        counted = targets != IGNORED
        targets = targets.where(counted, 0).unsqueeze(-1)  # (M, 1)
        losses = (smoothing - 1) * logits.gather(-1, targets).squeeze(-1)
        if smoothing:
            losses = losses - smoothing * logits.mean(-1)
        ctx.log_p, ctx.targets, ctx.counted, ctx.smoothing = logits.detach(), targets, counted, smoothing
        return losses.where(counted, 0).sum()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        of_logits, ctx.log_p = ctx.log_p, None
        each, at_once = (grad * ctx.counted).unsqueeze(-1), rows_at_once(of_logits)  # (M, 1)
        for rows, of_row in zip(of_logits.split(at_once), each.split(at_once), strict=True):
            rows.exp_().mul_(of_row)
            if ctx.smoothing:
                rows.sub_(of_row * (ctx.smoothing / of_logits.shape[-1]))
        return of_logits.scatter_add_(-1, ctx.targets, (ctx.smoothing - 1) * each), None, None


def masked_loss(model: GPT2, batch: Batch, label_smooth: float = 0.0) -> Tensor:
    """Return Σ ce / (M + 1e-4), a scalar, with ce = (1 - s) · nll + s · mean over V of -log p at each learnt position."""
    attend = attention.for_batch(batch, model.keys_before())
    learnt = model(batch.ids, batch.positions, attend, keep=batch.learnt)  # (M, C)
    logits = at_least_float32(model.logits(learnt))  # (M, V)
    smoothing = label_smooth if label_smooth > SMALLEST_SMOOTHING else 0.0
    if torch.compiler.is_compiling():  # the compiler makes the most of torch's own
        total = F.cross_entropy(logits, batch.targets, label_smoothing=smoothing, ignore_index=IGNORED, reduction="sum")
    else:
        total = SummedCrossEntropy.apply(logits, batch.targets, smoothing)
    return total / ((batch.targets != IGNORED).sum().to(total.dtype) + MASK_SUM_EPS)
