"""The recipe's loss: mean cross-entropy over the positions that are learnt, and only those are ever computed.

Alphabet: N tokens, C width, M learnt positions in the batch, V vocabulary.
"""

import torch
from torch import Tensor

from lora_nlg.examples import IGNORED, Batch
from lora_nlg.gpt2 import GPT2, at_least_float32

MASK_SUM_EPS = 1e-4  # Kept for parity: the recipe divides by M + 1e-4, not by M
SMALLEST_SMOOTHING = 1e-4  # Kept for parity: the recipe takes this much, or less, for none


class SummedCrossEntropy(torch.autograd.Function):
    """Σ ce over logits (M, V) whose targets (M,) are not IGNORED, ce = (1 - s) · nll + s · mean over V of -log p.

    What torch's own cross_entropy gives, in half as many passes over (M, V) numbers: its gradient is made in one tensor.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        log_p = logits.log_softmax(-1)  # (M, V)
        counted = targets != IGNORED
        targets = targets.where(counted, 0).unsqueeze(-1)  # (M, 1)
        ctx.save_for_backward(log_p, targets, counted)
        ctx.smoothing = smoothing
        losses = (smoothing - 1) * log_p.gather(-1, targets).squeeze(-1)
        if smoothing:
            losses = losses - smoothing * log_p.mean(-1)
        return losses.where(counted, 0).sum()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        log_p, targets, counted = ctx.saved_tensors
        each = (grad * counted).unsqueeze(-1)  # (M, 1)
        of_logits = log_p.exp().mul_(each)
        if ctx.smoothing:
            of_logits.sub_(each * (ctx.smoothing / log_p.shape[-1]))
        return of_logits.scatter_add_(-1, targets, (ctx.smoothing - 1) * each), None, None


def masked_loss(model: GPT2, batch: Batch, label_smooth: float = 0.0) -> Tensor:
    """Return Σ ce / (M + 1e-4), a scalar, with ce = (1 - s) · nll + s · mean over V of -log p at each learnt position."""
    learnt = model(batch.ids, batch.positions, batch.attend, keep=batch.learnt)  # (M, C)
    logits = at_least_float32(model.logits(learnt))  # (M, V)
    smoothing = label_smooth if label_smooth > SMALLEST_SMOOTHING else 0.0
    total = SummedCrossEntropy.apply(logits, batch.targets, smoothing)
    return total / ((batch.targets != IGNORED).sum().to(total.dtype) + MASK_SUM_EPS)
