"""ROUGE-L and CIDEr of the MS-COCO caption evaluation, by the classes of pycocoevalcap, on PTB tokens."""

import numpy as np


def rouge_l(outputs: list[str], references: list[list[str]]) -> np.ndarray:
    """Return ROUGE-L of each segment, 0 to 1, shape (segments,); a corpus has their mean. Texts are PTB tokens with spaces."""
    from pycocoevalcap.rouge.rouge import Rouge

    return _segment_scores(Rouge(), outputs, references)


def cider(outputs: list[str], references: list[list[str]]) -> np.ndarray:
    """Return CIDEr-D of each segment, 0 to 10, shape (segments,); a corpus has their mean. Texts are PTB tokens with spaces.

    A word's weight depends on how many segments' references have it, so a segment's score depends on all the references.
    """
    from pycocoevalcap.cider.cider import Cider

    if not any(
        text.split() for group in references for text in group
    ):  # Cider takes a maximum over the references' words
        return np.zeros(len(outputs))
    return _segment_scores(Cider(), outputs, references)


def _segment_scores(metric, outputs: list[str], references: list[list[str]]) -> np.ndarray:
    _, scores = metric.compute_score(dict(enumerate(references)), {i: [output] for i, output in enumerate(outputs)})
    return np.asarray(scores, dtype=np.float64)
