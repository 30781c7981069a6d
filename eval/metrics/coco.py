"""ROUGE-L and CIDEr of the MS-COCO caption evaluation, on PTB tokens, a segment at a time.

ROUGE-L is pycocoevalcap's. CIDEr is computed here, equal to pycocoevalcap's, which keeps the n-grams of all references in memory.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metrics import ngrams

ORDER = 4
SIGMA = 6.0  # how far, in words, an output's length may be from a reference's
SCALE = 10.0


def rouge_l(outputs: Iterable[str], references: Iterable[list[str]]) -> np.ndarray:
    """Return ROUGE-L of each segment, 0 to 1, shape (segments,); a corpus has their mean. Texts are PTB tokens with spaces."""
    from pycocoevalcap.rouge.rouge import Rouge

    rouge = Rouge()
    return np.array([rouge.calc_score([output], group) for output, group in zip(outputs, references, strict=True)])


class Groups(Protocol):
    """The references of each segment, which can be gone through and counted."""

    def __iter__(self) -> Iterator[list[str]]: ...
    def __len__(self) -> int: ...


class Rarity:
    """How rare each n-gram is: log of the number of segments for each one whose references have it.

    Its memory grows with the distinct n-grams of the references, not with their number.
    """

    def __init__(self, references: Groups):
        self._segments: Counter[ngrams.Ngram] = Counter()
        for group in references:
            self._segments.update({ngram for text in group for ngram in ngrams.count(text.split(), ORDER)})
        self._log_number = math.log(len(references))

    def __getitem__(self, ngram: ngrams.Ngram) -> float:
        return self._log_number - math.log(self._segments.get(ngram, 1))


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
        weights: list[dict[ngrams.Ngram, float]] = [{} for _ in range(ORDER)]
        for ngram, times in ngrams.count(words, ORDER).items():
            weights[len(ngram) - 1][ngram] = times * rarity[ngram]
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
