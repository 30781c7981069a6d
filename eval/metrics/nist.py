"""NIST (Doddington 2002) as mteval-v13a defines it. An n-gram is worth the bits that its last word adds to the words before."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from metrics import ngrams

ORDER = ngrams.MAX_ORDER
# bits won at each order, n-grams of each order, mean reference length, total reference length, references, segments
COLUMNS = 2 * ORDER + 4
BETA = -math.log(0.5) / math.log(1.5) ** 2  # an output of 2/3 of the reference length keeps half of its score

# The two ways to say how long the references are; they differ if inputs have different numbers of references.
SEGMENT_MEANS = "segment-means"  # the sum over segments of the mean length (the Python tool, -p)
MTEVAL = "mteval-v13a"  # total length / (references / segments) (the Perl tool)


class Information:
    """The bits of every n-gram of some references: log2 of how often its beginning occurs for each time it occurs.

    Its memory grows with the distinct n-grams of the references, not with their number.
    """

    def __init__(self, references: Iterable[ngrams.References]):
        self._counts: Counter[ngrams.Ngram] = Counter()
        for group in references:
            for text in group.texts:
                self._counts.update(ngrams.up_to(text, ORDER))
        self._words = sum(times for ngram, times in self._counts.items() if len(ngram) == 1)

    def __getitem__(self, ngram: ngrams.Ngram) -> float:
        beginning = self._counts[ngram[:-1]] if ngram[1:] else self._words
        return math.log2(beginning / self._counts[ngram])


def statistics(output: list[str], references: ngrams.References, bits: Information) -> np.ndarray:
    """Return the COLUMNS numbers of one segment; `bits` are those of the whole corpus or of this segment."""
    won = [0.0] * ORDER
    for ngram, times in references.hits(output).items():
        won[len(ngram) - 1] += times * bits[ngram]
    total, number = sum(references.lengths), len(references.lengths)
    return np.array([*won, *ngrams.lengths(output, ORDER), total / number, total, number, 1])


def score(statistics: np.ndarray, definition: str = MTEVAL) -> np.ndarray:
    """Return NIST, 0 or more, of statistics (..., COLUMNS), shape (...): of segments as they are, of a corpus if summed."""
    won, counts = statistics[..., :ORDER], statistics[..., ORDER : 2 * ORDER]  # (..., ORDER)
    means, total, references, segments = np.moveaxis(statistics[..., 2 * ORDER :], -1, 0)
    reference_length = means if definition == SEGMENT_MEANS else total / (references / segments)
    ratio = np.minimum(1, counts[..., 0] / np.maximum(reference_length, 1))
    penalty = np.exp(-BETA * np.log(np.maximum(ratio, 1e-300)) ** 2)  # 0 for an output of no words
    return penalty * (won / np.maximum(counts, 1)).sum(axis=-1)
