"""Counts of n-grams, which BLEU, NIST and CIDEr share."""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

MAX_ORDER = 5  # NIST goes to 5, BLEU to 4

Ngram = tuple[str, ...]


def count(tokens: list[str], order: int = MAX_ORDER) -> "Counter[Ngram]":
    """Count the n-grams of orders 1 to `order`."""
    tokens = list(map(sys.intern, tokens))  # the n-grams of a whole corpus then share each word
    return Counter(tuple(tokens[i : i + n]) for n in range(1, order + 1) for i in range(len(tokens) - n + 1))


def lengths(tokens: list[str], order: int) -> list[int]:
    """Return how many n-grams there are of each order from 1 to `order`; never less than 0, however short the text."""
    return [max(0, len(tokens) - n) for n in range(order)]


@dataclass(frozen=True)
class References:
    """What the scores need to know of one input's references."""

    lengths: list[int]  # tokens in each
    largest: "Counter[Ngram]"  # the most often it occurs in any one of them
    total: "Counter[Ngram]"  # how often it occurs in all of them together

    @classmethod
    def of(cls, references: Iterable[list[str]]) -> "References":
        """Count tokenised references."""
        references = list(references)
        largest: Counter[Ngram] = Counter()
        total: Counter[Ngram] = Counter()
        for counts in map(count, references):
            largest |= counts
            total.update(counts)
        return cls([len(reference) for reference in references], largest, total)

    def hits(self, output: list[str]) -> dict[Ngram, int]:
        """Return the output's n-grams that a reference has too, each counted at most as often as in one reference."""
        clipped = ((ngram, min(times, self.largest[ngram])) for ngram, times in count(output).items())
        return {ngram: times for ngram, times in clipped if times}
