"""From examples to batches: the recipe's, in the recipe's order, without its padding.

Alphabet: B batch, T time, N tokens, M learnt positions. Token ids are int64.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, DistributedSampler

from lora_nlg.config import TrainConfig
from lora_nlg.data.examples import Example, make_rows, row_length
from lora_nlg.dist import Ranks
from lora_nlg.errors import UserError

IGNORED = -100  # a target that counts for nothing; torch's own default
FILLER_SEED = 911  # Kept for parity: the recipe draws the items that fill the last batch from random.Random(911)
COMPILED_MULTIPLE = (
    32  # tokens: in epoch 1 E2E's batches of 8 come in three shapes, 96 (4 305 times), 64 (935), 128 (18)
)


@dataclass(frozen=True)
class Batch:
    """Examples as tensors: the N tokens that are fed, one row's after the other's, without padding."""

    ids: Tensor  # (N,), inputs; nothing is predicted from an example's last token, so that is left out
    positions: Tensor  # (N,), of each in its example
    slots: Tensor  # (N,), where each would stand if every row were padded to T: row · T + place
    lengths: tuple[int, ...]  # (B,), the tokens of each row; the longest one's are T
    learnt: (
        Tensor  # (M,), which of the N tokens are learnt from; one that several examples share is there once for each
    )
    targets: Tensor  # (M,), the token that follows each; IGNORED where a compiled batch is filled up
    branches: Tensor | None = (
        None  # (B, T), in rows of several examples: 0 for the context, then 1, 2 … (see branch_mask)
    )
    compiled: bool = False  # filled up to one of few shapes, for --compile

    @property
    def n_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def shape(self) -> tuple[int, int]:
        """B and T, before any filling up."""
        return len(self.lengths), max(self.lengths)

    def fill_up(self, multiple: int) -> "Batch":
        """Return a batch of the same loss in one of few shapes: ids (B, T), T a multiple of `multiple`, and M = B · T / 2.

        A program compiled for a shape, or recorded as a CUDA graph, is then used again.
        """
        B, longest = self.shape
        T = multiple * -(-max(longest, -(-2 * len(self.targets) // B)) // multiple)
        row, place = self.slots // longest, self.slots % longest
        ids = torch.zeros(B, T, dtype=torch.int64)
        ids[row, place] = self.ids
        missing = (0, B * T // 2 - len(self.targets))
        learnt = F.pad((row * T + place)[self.learnt], missing)
        targets = F.pad(self.targets, missing, value=IGNORED)
        positions = torch.arange(T).clamp(max=longest - 1)  # of what fills up, any that the model has
        return Batch(ids, positions, self.slots, self.lengths, learnt, targets, compiled=True)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; the copy to a GPU overlaps with computing."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {
            name: value.pin_memory().to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def collate(rows: Sequence[Sequence[Example]], seq_len: int, objective: str) -> Batch:
    """Make a batch of rows, each of one example or of several of one context, which is then fed once.

    `clm` learns the completion, `jlm` (rows of one example only) every token but the first. What exceeds `seq_len` in an
    example is cut on the right.
    """
    ids: list[int] = []
    positions: list[int] = []
    learnt: list[int] = []
    targets: list[int] = []
    branches: list[list[int]] = []  # of each row
    for row in rows:
        context = row[0].context[:seq_len]
        start, last = len(ids), len(ids) + len(context) - 1
        ids += context
        positions += range(len(context))
        branches.append([0] * len(context))
        if objective == "jlm":
            learnt += range(start, last)
            targets += context[1:]
        for branch, example in enumerate(row, 1):
            completion = example.completion[: seq_len - len(context)]
            fed = completion[:-1]
            learnt += [last, *range(len(ids), len(ids) + len(fed))] if completion else []
            targets += completion
            ids += fed
            positions += range(len(context), len(context) + len(fed))
            branches[-1] += [branch] * len(fed)
    T = max(map(len, branches))
    slots = [row * T + place for row, tokens in enumerate(branches) for place in range(len(tokens))]
    padded = [tokens + [-1] * (T - len(tokens)) for tokens in branches] if any(len(row) > 1 for row in rows) else None
    return Batch(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        lengths=tuple(map(len, branches)),
        learnt=torch.tensor(learnt, dtype=torch.int64),  # which an example without a completion leaves empty
        targets=torch.tensor(targets, dtype=torch.int64),
        branches=None if padded is None else torch.tensor(padded),
    )


def prefetch(batches: Iterator) -> Iterator:
    """Yield from `batches`, of which another thread makes the next one meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


class ItemOrder:
    """Which items make up each micro-batch of a rank: torch's DistributedSampler over the recipe's filled-up data set.

    The number of items is rounded up to a multiple of the batch size; each filler is drawn anew whenever it comes up,
    from a generator that lives as long as this object. With `lengths`, of the items, those of every `window` micro-batches
    are put into batches of like lengths, which are shuffled.
    """

    def __init__(
        self,
        n_items: int,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        drop_last: bool = True,
        lengths: Sequence[int] | None = None,
        window: int = 1,
    ):
        self.lengths, self.window = lengths, window
        self.n_items, self.batch_size, self.drop_last = n_items, batch_size, drop_last
        self.n_batches = -(-n_items // batch_size)  # over all ranks
        padded = cast(
            Dataset, range(self.n_batches * batch_size)
        )  # all that a sampler asks of a data set is its length
        self.sampler: DistributedSampler[int] = DistributedSampler(
            padded, num_replicas=world_size, rank=rank, seed=seed
        )
        self.fillers = random.Random(FILLER_SEED)

    def epoch(self, number: int) -> Iterator[list[int]]:
        """Yield the item ids of each micro-batch of epoch `number`, which the recipe counts from 1 (validation: 0)."""
        batches = self._batches(number)
        if self.lengths is None:
            yield from batches
        else:
            shuffled = random.Random(number)
            while window := list(itertools.islice(batches, self.window)):
                sizes = [len(batch) for batch in window]
                items = iter(sorted(itertools.chain(*window), key=self.lengths.__getitem__))
                window = [list(itertools.islice(items, size)) for size in sizes]
                shuffled.shuffle(window)
                yield from window

    def _batches(self, number: int) -> Iterator[list[int]]:
        self.sampler.set_epoch(number)
        batch = []
        for item in self.sampler:
            batch.append(item if item < self.n_items else self.fillers.randint(0, self.n_items - 1))
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch


class Split:
    """One encoded file as the batches of this rank."""

    def __init__(self, examples: list[Example], config: TrainConfig, ranks: Ranks, validation: bool = False):
        self.config, self.device, self.validation = config, ranks.device, validation
        self.n_examples = len(examples)
        self.n_cut = sum(len(e.context) + len(e.completion) > config.seq_len for e in examples)
        self.n_lost = sum(bool(e.completion) and len(e.context) >= config.seq_len for e in examples)
        self.rows = make_rows(examples, config.share_prompts and not validation)
        # Kept for parity: validation is on the completion, also when training is on the context as well.
        self.objective = "clm" if validation else config.objective
        if self.objective == "clm" and self.n_lost == sum(bool(e.completion) for e in examples):
            # its loss would be a perfect 0
            kind = "validation" if validation else "training"
            raise UserError(
                f"no {kind} example has a token of its text within --seq_len {config.seq_len}; raise it, or shorten the inputs"
                if self.n_lost
                else f"the text of every {kind} example is empty"
            )
        batch_size = config.valid_batch_size if validation else config.train_batch_size
        lengths = None
        if config.length_window and not validation:
            lengths = [row_length(row, config.seq_len) for row in self.rows]
        self.order = ItemOrder(
            len(self.rows), batch_size, config.random_seed, ranks.world_size, ranks.rank, not validation, lengths,
            config.length_window,
        )  # fmt: skip

    @property
    def batches_an_epoch(self) -> int:
        """How many whole batches an epoch has for each rank: what is left over is not trained on."""
        return len(self.order.sampler) // self.order.batch_size

    def stream(self, skip: int = 0) -> Iterator[tuple[int, int, list[int], Batch]]:
        """Yield (epoch, number of the batch in it, its items, batch), counted from 1, for max_epoch epochs or without end.

        The first `skip` batches are drawn, so that later ones come out the same, but not made.
        """
        epochs = itertools.count(1) if self.config.max_epoch is None else range(1, self.config.max_epoch + 1)
        numbered = ((epoch, *pair) for epoch in epochs for pair in enumerate(self.order.epoch(epoch), 1))
        for epoch, in_epoch, items in itertools.islice(numbered, skip, None):
            yield epoch, in_epoch, items, self.batch(items)

    def batch(self, items: list[int]) -> Batch:
        """Return the rows `items` as one batch on this rank's device."""
        batch = collate([self.rows[i] for i in items], self.config.seq_len, self.objective)
        if self.config.compile and not self.validation:
            batch = batch.fill_up(COMPILED_MULTIPLE)
        return batch.to(self.device)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of `epoch`."""
        return map(self.batch, self.order.epoch(epoch))
