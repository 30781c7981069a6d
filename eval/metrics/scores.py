"""All five scores of one or several systems: the entry for programs that build on them."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from metrics import METRICS as METRICS
from metrics import bleu, coco, meteor, nist, ptb
from metrics.errors import UserError
from metrics.files import temporary_folder
from metrics.java import SHORT_RUN, Java, find_java
from metrics.ngrams import References
from metrics.processes import Processes
from metrics.tokenise import tokenise
from metrics.waiting import spin_until, start

_Counts = tuple[np.ndarray, np.ndarray, np.ndarray]  # for BLEU, NIST, and NIST of every segment by itself
_Captions = tuple[np.ndarray, np.ndarray]  # ROUGE-L and CIDEr, (segments,) each
SEGMENT_METRICS = ("BLEU", "sentBLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")


@dataclass(frozen=True)
class Scores:
    """One system's scores, and the statistics, (segments, COLUMNS of the module), that they are computed from."""

    segments: dict[str, np.ndarray]  # by SEGMENT_METRICS, each (segments,)
    bleu_statistics: np.ndarray
    nist_statistics: np.ndarray
    meteor_statistics: np.ndarray
    nist_definition: str

    @functools.cached_property
    def corpus(self) -> dict[str, float]:
        """The scores of all segments together, by METRICS."""
        return {name: float(value) for name, value in self.weighted(np.ones(len(self.bleu_statistics))).items()}

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the corpus scores, by METRICS, each (...), if segment i stood in the corpus weights[..., i] times.

        BLEU, NIST and METEOR are functions of summed statistics, ROUGE_L and CIDEr means over the segments.
        """
        return {
            "BLEU": bleu.score(weights @ self.bleu_statistics),
            "NIST": nist.score(weights @ self.nist_statistics, self.nist_definition),
            "METEOR": meteor.score(weights @ self.meteor_statistics),
            "ROUGE_L": weights @ self.segments["ROUGE_L"] / weights.sum(axis=-1),
            "CIDEr": weights @ self.segments["CIDEr"] / weights.sum(axis=-1),
        }


def score(
    references: Sequence[Sequence[str]],
    systems: Sequence[Sequence[str]],
    nist_definition: str = nist.MTEVAL,
    java: Java | None = None,
) -> list[Scores]:
    """Score every system's outputs, one text for each group of references; all share METEOR's processes and one tokeniser.

    Beside the texts that it is given, it holds about 600 bytes a segment, and two tables that grow with the distinct n-grams of
    the references, and for a moment METEOR's paraphrases; PTB tokens are in temporary files.
    `nist_definition` is nist.MTEVAL or nist.SEGMENT_MEANS. Raises UserError if the numbers of texts differ, a group is
    empty, no Java runs, or a Java program fails.
    """
    _check(references, systems)
    java = java or find_java()
    quick = replace(java, flags=SHORT_RUN) if len(systems) * len(references) <= meteor.SHORT else java
    every_reference = (reference for group in references for reference in group)
    with temporary_folder() as folder, Processes() as processes:
        tokenising = start(ptb.tokenise, quick, [every_reference, *systems], folder, processes)
        counting = start(_count, references, systems)
        spin_until(tokenising.done, "PTB tokeniser")
        reference_tokens, *output_tokens = tokenising.result()
        groups = ptb.Groups(reference_tokens, [len(group) for group in references])
        every_text = itertools.chain(reference_tokens, *output_tokens)
        selecting = start(meteor.for_texts, java, every_text, folder, len(systems) * len(references))
        spin_until(selecting.done, "paraphrases")
        with selecting.result() as aligner:
            for outputs in output_tokens:
                aligner.send(outputs, groups)
            captioning = start(_caption_scores, output_tokens, groups)
            aligned = [aligner.receive(len(references)) for _ in systems]
        spin_until(lambda: counting.done() and captioning.done(), "BLEU, NIST, ROUGE-L, CIDEr")
    return [
        _combine(of_counts, of_captions, of_meteor, nist_definition)
        for of_counts, of_captions, of_meteor in zip(counting.result(), captioning.result(), aligned, strict=True)
    ]


def _check(references: Sequence[Sequence[str]], systems: Sequence[Sequence[str]]) -> None:
    if not references:
        raise UserError("there are no references to score against")
    for number, group in enumerate(references, 1):
        if not group:
            raise UserError(f"input {number} has no reference")
    for outputs in systems:
        if len(outputs) != len(references):
            raise UserError(f"{len(outputs)} outputs cannot be scored against references of {len(references)} inputs")


def _count(references: Sequence[Sequence[str]], systems: Sequence[Sequence[str]]) -> list[_Counts]:
    """Return each system's statistics for BLEU, NIST, and NIST of every segment by itself, (segments, COLUMNS) each."""
    bits = nist.Information(map(_counted, references))
    of_bleu = np.empty((len(systems), len(references), bleu.COLUMNS), dtype=np.int64)
    of_nist = np.empty((len(systems), len(references), nist.COLUMNS))
    of_own_nist = np.empty_like(of_nist)
    for i, (group, *outputs) in enumerate(zip(references, *systems, strict=True)):
        counted = _counted(group)  # a second time: the n-grams of all segments together would not fit into memory
        own_bits = nist.Information([counted])
        for s, output in enumerate(outputs):
            tokens = tokenise(output)
            of_bleu[s, i] = bleu.statistics(tokens, counted)
            of_nist[s, i] = nist.statistics(tokens, counted, bits)
            of_own_nist[s, i] = nist.statistics(tokens, counted, own_bits)
    return list(zip(of_bleu, of_nist, of_own_nist, strict=True))


def _counted(references: Sequence[str]) -> References:
    return References(list(map(tokenise, references)))


def _caption_scores(systems: Sequence[ptb.Tokens], groups: ptb.Groups) -> list[_Captions]:
    """Return each system's ROUGE-L and CIDEr, (segments,) each, of PTB tokens."""
    rarity = coco.Rarity(groups)
    return [(coco.rouge_l(outputs, groups), coco.cider(outputs, groups, rarity)) for outputs in systems]


def _combine(of_counts: _Counts, of_captions: _Captions, of_meteor: np.ndarray, nist_definition: str) -> Scores:
    of_bleu, of_nist, of_own_nist = of_counts
    rouge_l, cider = of_captions
    segments = {
        "BLEU": bleu.score(of_bleu),
        "sentBLEU": bleu.score(of_bleu, smoothing=1),
        "NIST": nist.score(of_own_nist),
        "METEOR": meteor.score(of_meteor),
        "ROUGE_L": rouge_l,
        "CIDEr": cider,
    }
    return Scores(segments, of_bleu, of_nist, of_meteor, nist_definition)
