"""BLEU (Papineni et al. 2002) as mteval-v13a defines it: integer statistics of a segment, their sum, and the score of a sum."""

import numpy as np

from metrics import ngrams

ORDER = 4
COLUMNS = 2 * ORDER + 1  # hits of each order, n-grams of each order, reference length
NO_HITS = 1e-15  # in place of 0 hits, so that a logarithm exists
NO_NGRAMS = 1e-9  # in place of 0 n-grams; far above NO_HITS, so that a missing order costs score


def statistics(output: list[str], references: ngrams.References) -> np.ndarray:
    """Return the COLUMNS integers of one segment. The reference length is the closest one's, the shorter of two as close."""
    hits = [0] * ORDER
    for ngram, times in references.hits(output).items():
        if len(ngram) <= ORDER:
            hits[len(ngram) - 1] += times
    closest = min(references.lengths, key=lambda length: (abs(length - len(output)), length))
    return np.array([*hits, *ngrams.lengths(output, ORDER), closest], dtype=np.int64)


def score(statistics: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """Return BLEU, 0 to 1, of statistics (..., COLUMNS), shape (...): of segments as they are, of a corpus if summed.

    `smoothing` is added to the hits and to the n-grams of each order; 1 gives the sentence BLEU of the segment table.
    """
    hits, counts = statistics[..., :ORDER] + smoothing, statistics[..., ORDER : 2 * ORDER] + smoothing  # (..., ORDER)
    precisions = np.maximum(hits, NO_HITS) / np.maximum(counts, NO_NGRAMS)
    output_length, reference_length = statistics[..., ORDER], statistics[..., -1]
    brevity = np.exp(np.minimum(0, 1 - reference_length / np.maximum(output_length, NO_NGRAMS)))
    return brevity * np.exp(np.log(precisions).mean(axis=-1))
