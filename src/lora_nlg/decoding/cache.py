"""What a beam search remembers of its model: keys and values of every token, and on a GPU the recording of a step.

Alphabet: B sentences, K beams, l prefix length (0 without), T prompt length, H heads, D head width, C width; N rows, the beams that
are searched on, in the order of `rows` (N,) int64, which counts through all B · K.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_nlg.config import BeamConfig
from lora_nlg.model.attention import causal_attention, join_heads, split_heads
from lora_nlg.model.gpt2 import GPT2

COMPILED_STEPS = 16  # in a row with equal shapes: few recordings, and little attention to slots that nothing is in yet
# Steps from one time that dead slots are dropped to the next. Every n steps, a step reads n K / 2 dead slots on average, and moving
# the L living ones, which are read, written aside, read and written back, costs as much as reading 4 L / n: least together at
# n = √(8 L / K), which is 7 for K = 10 and the 66 that live on average over E2E's 64 steps.
DROP_EVERY = 8
MOVE = 4  # reads that moving a slot costs


def first_slots(start: int, beam: int, eval_len: int) -> int:
    """Return how many slots a sentence has at first, of which `start` are its prefix's and prompt's.

    Beams soon have ancestors in common, one at each step, so that eval_len and a few for each beam are all that live.
    """
    return min(start + eval_len + 2 * beam * DROP_EVERY, most_slots(start, beam, eval_len))


def most_slots(start: int, beam: int, eval_len: int) -> int:
    """Return how many slots there are if none is ever dropped; the last token generated is never attended to."""
    return start + beam * (eval_len - 1)


class Cache:
    """Keys and values of the prefix and the prompts, and of generated tokens, stored once a sentence.

    A beam does not own its history: it attends to the slots of all K beams of its sentence under a mask that says which
    of them are its ancestors. Reordering the beams reorders rows of that mask. A slot that is no beam's ancestor any more
    is dead; every few steps the living ones move to the front, over the dead.
    """

    def __init__(self, model: GPT2, lengths: Tensor, config: BeamConfig):
        B, K, prefix = len(lengths), config.beam, model.keys_before()
        start = model.n_before + int(lengths.max())  # l + T
        self.lengths, self.prefix, self.n_before, self.start, self.beam = lengths, prefix, model.n_before, start, K
        size, self.most = (slots(start, K, config.eval_len) for slots in (first_slots, most_slots))
        shape = (B, model.config.n_head, size, model.config.n_embd // model.config.n_head)
        weight = model.wte.weight
        dtype = (
            torch.get_autocast_dtype(weight.device.type)
            if torch.is_autocast_enabled(weight.device.type)
            else weight.dtype
        )
        self.keys = [torch.zeros(shape, dtype=dtype, device=weight.device) for _ in model.h]
        self.values = [torch.zeros_like(k) for k in self.keys]
        slots = torch.arange(size, device=weight.device)
        seen = slots < (self.n_before + lengths).unsqueeze(-1)
        self.mask = seen.unsqueeze(1).repeat(1, K, 1)  # (B, K, size), True: may attend
        self.filled = self.sorted = start  # the slots with keys and values; and when dead ones were looked for
        self.end = start  # no row attends to slots from here on
        self.newest = torch.arange(start - K, start, device=weight.device)  # (K,), the slots of the newest tokens
        self.rows = torch.arange(B, device=weight.device)  # (N,), the beams that are searched on

    def prefill(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        """Attend within the prompts, (B, T, 3C) to (B, T, C), and keep their keys and values, behind the prefix's."""
        _, k, v = split_heads(qkv, n_head)  # (B, H, T, D)
        for kept, own, number in ((self.keys, k, 0), (self.values, v, 1)):
            if self.prefix is not None:
                kept[layer][:, :, : self.n_before] = self.prefix[layer][number]
            kept[layer][:, :, self.n_before : self.start] = own
        return causal_attention(layer, qkv, n_head, self.prefix)

    def extend(self, layer: int, qkv: Tensor, n_head: int) -> Tensor:
        """Attend from the newest token of every row, (N, 3C) to (N, C), to its prompt, its ancestors and itself."""
        B, K, _ = self.mask.shape
        are_all = len(qkv) == B * K  # then `rows` is 0, 1, 2, …
        beams = qkv if are_all else qkv.new_zeros(B * K, qkv.shape[-1]).index_copy_(0, self.rows, qkv)
        q, k, v = split_heads(beams.view(B, K, -1), n_head)  # (B, H, K, D)
        for kept, own in ((self.keys[layer], k), (self.values[layer], v)):
            if own.is_cuda:  # a recording reads where it is
                kept.index_copy_(2, self.newest, own)
            else:
                kept[:, :, self.filled - K : self.filled] = own
        mask = self.mask[:, None, :, : self.end]  # (B, 1, K, end)
        keys, values = self.keys[layer][:, :, : self.end], self.values[layer][:, :, : self.end]
        y = join_heads(F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))  # (B, K, C)
        return y.flatten(0, 1) if are_all else y.flatten(0, 1).index_select(0, self.rows)

    @property
    def is_full(self) -> bool:
        """Whether rows cannot attend to the slots of another step yet."""
        return self.filled + self.beam > self.end

    def reorder(self, parents: Tensor, n_steps: int) -> None:
        """Make beam k the child of beam `parents[:, k]`, and open the slot of its newest token to it alone.

        A cache that is full first makes room for `n_steps` steps.
        """
        # In place, as is `newest`: a recording reads both.
        self.mask.copy_(self.mask.gather(1, parents.unsqueeze(-1).expand_as(self.mask)))
        if self.is_full:
            if self.filled - self.sorted >= self.beam * DROP_EVERY:
                self._drop_dead()
            self.end = min(self.filled + self.beam * n_steps, self.most)
            self._grow()
        torch.arange(self.filled, self.filled + self.beam, out=self.newest)
        self.filled += self.beam
        self.mask[:, :, self.newest] = torch.eye(self.beam, dtype=torch.bool, device=self.mask.device)

    def _drop_dead(self) -> None:
        """Move the generated tokens that a beam descends from to the front, unless hardly any is dead."""
        B, K, size = self.mask.shape
        _, H, _, D = self.keys[0].shape
        ancestors = self.mask[:, :, self.start : self.filled]
        living, order = ancestors.any(dim=1).int().sort(dim=1, descending=True, stable=True)  # (B, filled - start)
        L = int(living.sum(dim=1).max())  # in a sentence with fewer, some dead ones stay
        if DROP_EVERY * (self.filled - self.start - L) > MOVE * L:
            order = order[:, :L]
            ancestors = ancestors.gather(2, order.unsqueeze(1).expand(-1, K, -1))  # (B, K, L)
            self.mask[:, :, self.start :] = F.pad(ancestors, (0, size - self.start - L))
            first = torch.arange(B * H, device=order.device).view(B, H, 1) * size + self.start
            places = (first + order.unsqueeze(1)).flatten()  # (B · H · L,), counted through all sentences and heads
            for kept in (*self.keys, *self.values):
                kept[:, :, self.start : self.start + L] = kept.view(-1, D)[places].view(B, H, L, D)
            self.filled = self.start + L
        self.sorted = self.filled

    def _grow(self) -> None:
        """Get memory for the slots that are used next, and as many again as a drop may leave, where there is none."""
        if (size := self.mask.shape[2]) >= self.end:
            return
        more = min(self.end + self.beam * DROP_EVERY, self.most) - size
        self.mask = F.pad(self.mask, (0, more))
        for kept in (self.keys, self.values):
            for layer, tensor in enumerate(kept):  # one after the other: the old and the new of all would not fit
                kept[layer] = F.pad(tensor, (0, 0, 0, more))

    def select(self, sentences: Tensor) -> None:
        """Keep `sentences` (int64 indices) only."""
        self.lengths, self.mask = self.lengths[sentences], self.mask[sentences]
        for kept in (self.keys, self.values):
            for layer, tensor in enumerate(kept):  # one after the other: the old and the new of all would not fit
                kept[layer] = tensor[sentences]


class CompiledStep:
    """A function of tensors as a CUDA graph: its kernels are launched all at once, not one by one by Python.

    What else it reads it must find where it was at the recording. The result is overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor):
        self.inputs = [x.clone() for x in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(*self.inputs)  # libraries set themselves up at a first call, which cannot be recorded
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function of `inputs`, which have the shapes of those at the recording."""
        for recorded, x in zip(self.inputs, inputs, strict=True):
            recorded.copy_(x)
        self.graph.replay()
        return self.result
