"""Counts of n-grams, which BLEU, NIST and CIDEr share."""

import functools
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ORDER = 5  # NIST goes to 5, BLEU to 4

Ngram = tuple[str, ...]


def of_order(tokens: list[str], n: int) -> Iterator[Ngram]:
    """Yield the n-grams of n tokens, from left to right."""
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def up_to(tokens: list[str], order: int = MAX_ORDER) -> Iterator[Ngram]:
    """Yield the n-grams of orders 1 to `order`."""
    tokens = list(map(sys.intern, tokens))  # the n-grams of a whole corpus then share each word
    return itertools.chain.from_iterable(of_order(tokens, n) for n in range(1, order + 1))


def lengths(tokens: list[str], order: int) -> list[int]:
    """Return how many n-grams there are of each order from 1 to `order`; never less than 0, however short the text."""
    return [max(0, len(tokens) - n) for n in range(order)]


@dataclass(frozen=True)
class References:
    """One input's references, as tokens, and what the scores need to know of them."""

    texts: list[list[str]]

    @functools.cached_property
    def lengths(self) -> list[int]:
        """The number of tokens of each."""
        return list(map(len, self.texts))

    @functools.cached_property
    def largest(self) -> dict[Ngram, int]:
        """The most often each n-gram occurs in any one of them."""
        largest: dict[Ngram, int] = {}
        for text in self.texts:
            for ngram, times in Counter(up_to(text)).items():
                if times > largest.get(ngram, 0):
                    largest[ngram] = times
        return largest

    def hits(self, output: list[str]) -> dict[Ngram, int]:
        """Return the output's n-grams that a reference has too, each counted at most as often as in one reference."""
        clipped = ((ngram, min(times, self.largest.get(ngram, 0))) for ngram, times in Counter(up_to(output)).items())
        return {ngram: times for ngram, times in clipped if times}
