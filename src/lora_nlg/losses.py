"""The recipe's loss: mean cross-entropy over the positions that are learnt, and only those are ever computed.

Alphabet: B batch, T time, C width, M learnt positions in the batch, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_nlg.examples import Batch
from lora_nlg.gpt2 import GPT2

MASK_SUM_EPS = 1e-4  # Kept for parity: the recipe divides by M + 1e-4, not by M


def masked_loss(model: GPT2, batch: Batch, label_smooth: float = 0.0) -> Tensor:
    """Return Σ ce / (M + 1e-4), a scalar, with ce = (1 - s) · nll + s · mean over V of -log p at each learnt position.

    Logits in half precision are raised to float32 before the sum; float64 stays float64.
    """
    hidden = model(batch.ids)  # (B, T, C)
    learnt = hidden.flatten(0, 1).index_select(0, batch.positions)  # (M, C)
    logits = model.logits(learnt)  # (M, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=label_smooth)
    return total / (len(batch.targets) + MASK_SUM_EPS)
