"""The recipe's loss: mean cross-entropy over the positions that are learnt, and only those are ever computed.

Alphabet: N tokens, C width, M learnt positions in the batch, V vocabulary.
"""

from torch import Tensor
from torch.nn import functional as F

from lora_nlg.examples import IGNORED, Batch
from lora_nlg.gpt2 import GPT2, at_least_float32

MASK_SUM_EPS = 1e-4  # Kept for parity: the recipe divides by M + 1e-4, not by M
SMALLEST_SMOOTHING = 1e-4  # Kept for parity: the recipe takes this much, or less, for none


def masked_loss(model: GPT2, batch: Batch, label_smooth: float = 0.0) -> Tensor:
    """Return Σ ce / (M + 1e-4), a scalar, with ce = (1 - s) · nll + s · mean over V of -log p at each learnt position."""
    learnt = model(batch.ids, batch.positions, batch.attend, keep=batch.learnt)  # (M, C)
    logits = at_least_float32(model.logits(learnt))  # (M, V)
    smoothing = label_smooth if label_smooth > SMALLEST_SMOOTHING else 0.0
    total = F.cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=smoothing, ignore_index=IGNORED)
    return total / ((batch.targets != IGNORED).sum().to(total.dtype) + MASK_SUM_EPS)
