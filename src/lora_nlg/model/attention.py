"""Who attends to whom: causal attention over rows of equal length, over packed rows, and over rows that share a prompt.

Alphabet: B batch, T time, N tokens, C width, H heads, D = C / H. Tensors are of the model's dtype unless said otherwise.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_nlg.data.batches import Batch

# (layer, qkv (…, 3C), H) -> (…, C). Training attends causally; decoding puts a cache behind the same call.
Attend = Callable[[int, Tensor, int], Tensor]


def for_batch(batch: Batch) -> Attend:
    """Return the attention within each example of `batch`."""
    if batch.compiled:
        return causal_attention
    if batch.ids.is_cuda:
        return PaddedAttention(batch.slots, batch.shape, batch.branches)
    return RowAttention(batch.lengths, batch.branches)


def split_heads(qkv: Tensor, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value, each (B, H, T, D), of (B, T, 3C)."""
    B, T, _ = qkv.shape
    query, key, value = qkv.view(B, T, 3, n_head, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def join_heads(y: Tensor) -> Tensor:
    """Return (B, T, C) of (B, H, T, D)."""
    return y.transpose(1, 2).flatten(2)


def causal_attention(layer: int, qkv: Tensor, n_head: int) -> Tensor:
    """Attend to the same and earlier positions. Rows padded on the right need no mask: what comes later is never seen."""
    return _attention(qkv, n_head, None)


def _attention(qkv: Tensor, n_head: int, mask: Tensor | None) -> Tensor:
    """Map (B, T, 3C) to (B, T, C); `mask` (B, 1, T, T) says who sees whom, by default every earlier position."""
    y = F.scaled_dot_product_attention(*split_heads(qkv, n_head), attn_mask=mask, is_causal=mask is None)
    return join_heads(y)


class RowAttention:
    """Causal attention of N tokens without padding, a row of the batch after the other: no work for padding.

    `lengths` are the rows' tokens, N in all. With `branches` (B, T) int64 a row holds several continuations of one prompt.
    """

    def __init__(self, lengths: Sequence[int], branches: Tensor | None = None):
        self.lengths = list(lengths)
        self.masks: list[Tensor | None] = [None] * len(self.lengths)
        if branches is not None:
            self.masks = [branch_mask(row[None, :n]) for row, n in zip(branches, self.lengths, strict=True)]

    def __call__(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        """Map (N, 3C) to (N, C)."""
        rows = zip(qkv.split(self.lengths), self.masks, strict=True)
        return torch.cat([_attention(row.unsqueeze(0), n_head, mask).squeeze(0) for row, mask in rows])


class PaddedAttention:
    """The same with all rows at once, padded to T for the attention alone: on a GPU more work costs less than more calls.

    `slots` (N,) int64 says which place of the (B, T) rows, counted through, each token has.
    """

    def __init__(self, slots: Tensor, shape: tuple[int, int], branches: Tensor | None = None):
        self.slots, self.shape = slots, shape
        self.mask = None if branches is None else branch_mask(branches)

    def __call__(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        """Map (N, 3C) to (N, C)."""
        B, T = self.shape
        rows = qkv.new_zeros(B * T, qkv.shape[-1]).index_put((self.slots,), qkv)  # index_copy would keep qkv
        return _attention(rows.view(B, T, -1), n_head, self.mask).flatten(0, 1).index_select(0, self.slots)


def branch_mask(branches: Tensor) -> Tensor:
    """Return who (B, 1, T, T) sees whom: a token the prompt before it, which is branch 0, and its own branch, of (B, T)."""
    seen, seeing = branches[:, None, None, :], branches[:, None, :, None]
    return ((seen == 0) | (seen == seeing)).tril()
