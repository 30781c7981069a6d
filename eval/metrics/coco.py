"""ROUGE-L and CIDEr of the MS-COCO caption evaluation, on PTB tokens, a segment at a time.

Both are equal to pycocoevalcap's, which fills a table of words by words for each ROUGE-L, and keeps the n-grams of all references in
memory for CIDEr.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metrics import ngrams

ORDER = 4
BETA = 1.2  # ROUGE-L: how much more recall counts than precision
SIGMA = 6.0  # how far, in words, an output's length may be from a reference's
SCALE = 10.0


def rouge_l(outputs: Iterable[str], references: Iterable[list[str]]) -> np.ndarray:
    """Return ROUGE-L of each segment, 0 to 1, shape (segments,); a corpus has their mean. Texts are PTB tokens with spaces."""
    return np.array([_rouge_l(output, group) for output, group in zip(outputs, references, strict=True)])


def _rouge_l(output: str, references: list[str]) -> float:
    words = output.split(" ")  # "" has one word, and it is ""
    others = [reference.split(" ") for reference in references]
    common = _common_lengths(words, others)
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others, strict=True))
    if not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_lengths(words: list[str], others: list[list[str]]) -> list[int]:
    """Return the length of the longest common subsequence of `words` and each of `others`.

    A row of its table grows by 0 or 1 at each word, so a row is a number with a bit for each: 0 where it grows (Hyyrö 2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(words)) - 1
    lengths = []
    for other in others:
        row = full
        for word in other:
            shared = row & places.get(word, 0)
            row = (row + shared | row - shared) & full
        lengths.append(len(words) - row.bit_count())
    return lengths


class Groups(Protocol):
    """The references of each segment, which can be gone through and counted."""

    def __iter__(self) -> Iterator[list[str]]: ...
    def __len__(self) -> int: ...


class Rarity(dict[ngrams.Ngram, float]):
    """How rare each n-gram is: log of the number of segments for each one whose references have it.

    Its memory grows with the distinct n-grams of the references, not with their number.
    """

    def __init__(self, references: Groups):
        segments: Counter[ngrams.Ngram] = Counter()
        for group in references:
            segments.update({ngram for text in group for ngram in ngrams.up_to(text.split(), ORDER)})
        self._log_number = math.log(len(references))
        values = {times: self._log_number - math.log(times) for times in set(segments.values())}
        super().__init__((ngram, values[times]) for ngram, times in segments.items())

    def __missing__(self, ngram: ngrams.Ngram) -> float:
        return self._log_number


def cider(outputs: Iterable[str], references: Iterable[list[str]], rarity: Rarity) -> np.ndarray:
    """Return CIDEr-D of each segment, 0 to 10, shape (segments,); a corpus has their mean. Texts are PTB tokens with spaces.

    `rarity` is that of all segments' references, so a segment's score depends on the others.
    """
    return np.array([_cider(output, group, rarity) for output, group in zip(outputs, references, strict=True)])


@dataclass(frozen=True)
class _Vectors:
    """A text's n-grams, weighted by how often they occur and how rare they are: one vector an order."""

    weights: list[dict[ngrams.Ngram, float]]
    norms: list[float]
    length: int  # in words

    @classmethod
    def of(cls, text: str, rarity: Rarity) -> "_Vectors":
        words = text.split()
        weights = [
            {ngram: times * rarity[ngram] for ngram, times in Counter(ngrams.of_order(words, n)).items()}
            for n in range(1, ORDER + 1)
        ]
        norms = [math.sqrt(sum(weight * weight for weight in vector.values())) for vector in weights]
        return cls(weights, norms, len(words))


def _cider(output: str, references: list[str], rarity: Rarity) -> float:
    of_output = _Vectors.of(output, rarity)
    similarities = [_similarity(of_output, _Vectors.of(reference, rarity)) for reference in references]
    return SCALE * sum(similarities) / len(references)


def _similarity(output: _Vectors, reference: _Vectors) -> float:
    """Return the mean over the orders of the cosine, 0 to 1; an output's weight counts up to the reference's only."""
    total = 0.0
    for ours, theirs, our_norm, their_norm in zip(
        output.weights, reference.weights, output.norms, reference.norms, strict=True
    ):
        if our_norm and their_norm:
            shared = (min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in ours.items() if ngram in theirs)
            total += sum(shared) / (our_norm * their_norm)
    return total / ORDER * math.exp(-((output.length - reference.length) ** 2) / (2 * SIGMA**2))
