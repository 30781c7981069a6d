"""Who attends to whom: causal attention over rows of equal length, over packed rows, and over rows that share a prompt.

Alphabet: B batch, T time, N tokens, C width, H heads, D = C / H. Tensors are of the model's dtype unless said otherwise.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_nlg.data.batches import Batch

# (layer, qkv (…, 3C), H) -> (…, C). Training attends causally; decoding puts a cache behind the same call.
Attend = Callable[[int, Tensor, int], Tensor]
# Keys and values of l positions that stand before every row's first token, (2, H, l, D) for each layer. Every token sees them.
Prefix = Sequence[Tensor]


def for_batch(batch: Batch, prefix: Prefix | None = None) -> Attend:
    """Return the attention within each example of `batch`, behind a prefix if there is one."""
    if batch.compiled:
        return causal_after(prefix)
    if batch.ids.is_cuda:
        return PaddedAttention(batch.slots, batch.shape, batch.branches, prefix)
    return RowAttention(batch.lengths, batch.branches, prefix)


def split_heads(qkv: Tensor, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value, each (B, H, T, D), of (B, T, 3C)."""
    B, T, _ = qkv.shape
    query, key, value = qkv.view(B, T, 3, n_head, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def join_heads(y: Tensor) -> Tensor:
    """Return (B, T, C) of (B, H, T, D)."""
    return y.transpose(1, 2).flatten(2)


def causal_attention(layer: int, qkv: Tensor, n_head: int, prefix: Prefix | None = None) -> Tensor:
    """Attend to the same and earlier positions. Rows padded on the right need no mask: what comes later is never seen."""
    if prefix is None:
        return _attention(qkv, n_head, None)
    return _attention(qkv, n_head, behind(prefix[layer].shape[2], qkv), prefix[layer])


def causal_after(prefix: Prefix | None) -> Attend:
    """Return causal attention, behind a prefix if there is one."""
    return causal_attention if prefix is None else functools.partial(causal_attention, prefix=prefix)


def _attention(qkv: Tensor, n_head: int, mask: Tensor | None, prefix: Tensor | None = None) -> Tensor:
    """Map (B, T, 3C) to (B, T, C); `mask` says who sees whom, by default every earlier position.

    With the `prefix` (2, H, l, D) of the layer the mask is (B or 1, 1, T, l + T), else (B or 1, 1, T, T).
    """
    query, key, value = split_heads(qkv, n_head)
    if prefix is not None:
        key, value = (
            torch.cat((before.to(own.dtype).expand(len(own), -1, -1, -1), own), 2)
            for before, own in zip(prefix, (key, value), strict=True)
        )
    return join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None))


def behind(length: int, qkv: Tensor) -> Tensor:
    """Return who (1, 1, T, l + T) sees whom in rows qkv (B, T, 3C) behind a prefix of `length` l: all of it, and what came before."""
    T = qkv.shape[1]
    return torch.ones(1, 1, T, length + T, dtype=torch.bool, device=qkv.device).tril(length)


class RowAttention:
    """Causal attention of N tokens without padding, a row of the batch after the other: no work for padding.

    `lengths` are the rows' tokens, N in all. With `branches` (B, T) int64 a row holds several continuations of one prompt.
    """

    def __init__(self, lengths: Sequence[int], branches: Tensor | None = None, prefix: Prefix | None = None):
        self.lengths, self.prefix = list(lengths), prefix
        self.masks: list[Tensor | None] = [None] * len(self.lengths)
        if branches is not None:
            self.masks = [branch_mask(row[None, :n], prefix) for row, n in zip(branches, self.lengths, strict=True)]
        elif prefix is not None:  # the same for every layer
            self.masks = [behind(prefix[0].shape[2], prefix[0].new_empty(1, n, 0)) for n in self.lengths]

    def __call__(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        """Map (N, 3C) to (N, C)."""
        before = None if self.prefix is None else self.prefix[layer]
        rows = zip(qkv.split(self.lengths), self.masks, strict=True)
        return torch.cat([_attention(row.unsqueeze(0), n_head, mask, before).squeeze(0) for row, mask in rows])


class PaddedAttention:
    """The same with all rows at once, padded to T for the attention alone: on a GPU more work costs less than more calls.

    `slots` (N,) int64 says which place of the (B, T) rows, counted through, each token has.
    """

    def __init__(
        self, slots: Tensor, shape: tuple[int, int], branches: Tensor | None = None, prefix: Prefix | None = None
    ):
        self.slots, self.shape, self.prefix = slots, shape, prefix
        self.mask = None if branches is None else branch_mask(branches, prefix)

    def __call__(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        """Map (N, 3C) to (N, C)."""
        B, T = self.shape
        rows = qkv.new_zeros(B * T, qkv.shape[-1]).index_put((self.slots,), qkv)  # index_copy would keep qkv
        rows = rows.view(B, T, -1)
        if self.prefix is None:
            y = _attention(rows, n_head, self.mask)
        else:
            before = self.prefix[layer]
            y = _attention(rows, n_head, behind(before.shape[2], rows) if self.mask is None else self.mask, before)
        return y.flatten(0, 1).index_select(0, self.slots)


def branch_mask(branches: Tensor, prefix: Prefix | None = None) -> Tensor:
    """Return who (B, 1, T, T) sees whom: a token the prompt before it, which is branch 0, and its own branch, of (B, T).

    With a prefix of l positions it is (B, 1, T, l + T): all see it.
    """
    seen, seeing = branches[:, None, None, :], branches[:, None, :, None]
    mask = ((seen == 0) | (seen == seeing)).tril()
    return mask if prefix is None else F.pad(mask, (prefix[0].shape[2], 0), value=True)
