"""From encoded JSON lines to batches: the recipe's examples, in the recipe's order, without its padding.

Alphabet: B batch, T time, N tokens, M learnt positions. Token ids are int64.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from lora_nlg.cli import UserError
from lora_nlg.e2e_text import parse_json, read_lines
from lora_nlg.gpt2 import PackedAttention

FILLER_SEED = 911  # Kept for parity: the recipe draws the items that fill the last batch from random.Random(911)


@dataclass(frozen=True)
class Example:
    """One line of an encoded file: token ids of the meaning representation and of its reference."""

    context: list[int]
    completion: list[int]


@dataclass(frozen=True)
class Batch:
    """Examples as tensors: the N tokens that are fed, one example's after the other's, without padding."""

    ids: Tensor  # (N,), inputs; nothing is predicted from an example's last token, so that is left out
    positions: Tensor  # (N,), of each in its example
    slots: Tensor  # (N,), where each would stand if every row were padded to T: row · T + position
    shape: tuple[int, int]  # B, T: the examples, and the longest one's inputs
    learnt: Tensor  # (M,), which of the N tokens are learnt from, that is, whose next token is a target
    targets: Tensor  # (M,), those next tokens

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    @property
    def attend(self) -> PackedAttention:
        """The attention within each example."""
        return PackedAttention(self.slots, self.shape)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; the copy to a GPU overlaps with computing."""
        if device.type == "cpu":
            return self
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{n: t.pin_memory().to(device, non_blocking=True) for n, t in tensors.items()})


def read_examples(path: str | Path, vocab_size: int) -> list[Example]:
    """Read an encoded file, one {"context": ids, "completion": ids} a line. Raises UserError naming path and line."""
    return [_parse_example(line, where, vocab_size) for where, line in read_lines(path)]


def _parse_example(line: str, where: str, vocab_size: int) -> Example:
    fields = parse_json(line, where)
    if not isinstance(fields, dict) or any(type(fields.get(key)) is not list for key in ("context", "completion")):
        raise UserError(f'{where}: expected {{"context": [ids], "completion": [ids]}}, found {line[:60]!r}')
    example = Example(fields["context"], fields["completion"])
    ids = example.context + example.completion
    bad = next((i for i in ids if type(i) is not int or not 0 <= i < vocab_size), None)
    if bad is not None:
        raise UserError(f"{where}: expected token ids from 0 to {vocab_size - 1}, found {bad!r}")
    if not example.context:
        raise UserError(f"{where}: the context is empty; expected at least one token id")
    return example


def collate(examples: Sequence[Example], seq_len: int, objective: str) -> Batch:
    """Make a batch. `clm` learns the completion, `jlm` every token but the first; what exceeds `seq_len` is cut on the right."""
    ids, positions, slots, learnt, targets = [], [], [], [], []
    sequences = [(e.context + e.completion)[:seq_len] for e in examples]
    T = max(1, max(len(s) for s in sequences) - 1)
    for row, (example, sequence) in enumerate(zip(examples, sequences, strict=True)):
        n_inputs, start = len(sequence) - 1, len(ids)
        first = 0 if objective == "jlm" else len(example.context) - 1
        ids += sequence[:-1]
        positions += range(n_inputs)
        slots += range(row * T, row * T + n_inputs)
        learnt += range(start + first, start + n_inputs)
        targets += sequence[first + 1 :]
    ids, positions, slots, learnt, targets = (
        torch.tensor(values, dtype=torch.int64) for values in (ids, positions, slots, learnt, targets)
    )
    return Batch(ids, positions, slots, (len(examples), T), learnt, targets)


class ItemOrder:
    """Which items make up each micro-batch of a rank: torch's DistributedSampler over the recipe's filled-up data set.

    The number of items is rounded up to a multiple of the batch size; each filler is drawn anew whenever it comes up,
    from a generator that lives as long as this object.
    """

    def __init__(
        self, n_items: int, batch_size: int, seed: int, world_size: int = 1, rank: int = 0, drop_last: bool = True
    ):
        self.n_items, self.batch_size, self.drop_last = n_items, batch_size, drop_last
        self.n_batches = -(-n_items // batch_size)  # over all ranks
        padded = range(self.n_batches * batch_size)
        self.sampler = DistributedSampler(padded, num_replicas=world_size, rank=rank, seed=seed)
        self.fillers = random.Random(FILLER_SEED)

    def epoch(self, number: int) -> Iterator[list[int]]:
        """Yield the item ids of each micro-batch of epoch `number`, which the recipe counts from 1 (validation: 0)."""
        self.sampler.set_epoch(number)
        batch = []
        for item in self.sampler:
            batch.append(item if item < self.n_items else self.fillers.randint(0, self.n_items - 1))
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch
