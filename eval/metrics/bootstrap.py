"""How far scores depend on which inputs the test set happens to have: the bootstrap over inputs (Koehn 2004), paired for two systems.

Inputs are drawn with replacement, as many as there are, RESAMPLES times; every system sees the same draws. What an n-gram is worth
(NIST) and how rare a word is (CIDEr) stay as the whole set of references has it. The spread is that of the inputs only: another
training seed moves a score as well.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

RESAMPLES = 1000
SEED = 110
DRAWN_AT_ONCE = 10_000_000  # inputs: 160 MB
LEVEL = 0.95  # share of the resampled scores that an interval holds


class Scores(Protocol):
    """What is resampled: a system's corpus scores by metric, of all segments and of weighted ones (see metrics.scores)."""

    @property
    def bleu_statistics(self) -> np.ndarray:
        """A row for each segment."""

    @property
    def corpus(self) -> dict[str, float]:
        """The scores of all segments together."""

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return them if segment i stood in the corpus weights[..., i] times."""


@dataclass(frozen=True)
class Difference:
    """How far a second system's score is above a first one's."""

    value: float
    interval: tuple[float, float]  # of LEVEL
    p: float  # see `p_value`


def resample(scores: Scores, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, np.ndarray]:
    """Return the corpus scores, by metric, (resamples,) each, of segments drawn with replacement; a seed makes the draws."""
    segments = len(scores.bleu_statistics)
    random, chances = np.random.default_rng(seed), np.full(segments, 1 / segments)
    at_once = max(1, DRAWN_AT_ONCE // segments)
    blocks = [
        # numpy multiplies matrices of integers slowly
        scores.weighted(random.multinomial(segments, chances, size=min(at_once, resamples - i)).astype(np.float64))
        for i in range(0, resamples, at_once)
    ]
    return {metric: np.concatenate([block[metric] for block in blocks]) for metric in blocks[0]}


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """Return the bounds that hold LEVEL of the values, with as many below as above."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def intervals(scores: Scores) -> dict[str, tuple[float, float]]:
    """Return the interval of each metric."""
    return {metric: interval(values) for metric, values in resample(scores).items()}


def differences(first: Scores, second: Scores) -> dict[str, Difference]:
    """Return, for each metric, how far `second` is above `first`. Both must be of the same inputs in the same order."""
    of_first, of_second = resample(first), resample(second)
    result = {}
    for metric in first.corpus:
        resampled = of_second[metric] - of_first[metric]
        value = second.corpus[metric] - first.corpus[metric]
        result[metric] = Difference(value, interval(resampled), p_value(resampled))
    return result


def p_value(resampled: np.ndarray) -> float:
    """Return the two-sided p of resampled differences: twice the share without the commoner sign, at least 2 / (draws + 1)."""
    without = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return min(
        1.0, float(2 * (without + 1) / (len(resampled) + 1))
    )  # + 1: the real inputs are a draw too, and no p is 0
