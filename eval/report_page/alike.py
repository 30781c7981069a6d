"""What several runs made of one input: equal outputs once, the others with their differences from the first run's marked."""

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from report_page import outputs
from report_page.contents import Row
from report_page.several import Several

MOST = 20_000  # outputs on a page, so that a browser opens it; the inputs on which the runs differ most are shown


@dataclass(frozen=True)
class Variant:
    """One output, and the runs that made it."""

    numbers: list[int]  # of the runs
    pieces: list[tuple[str, str]]  # ("same", "added" or "removed", words), from the first run's output to this one
    bleu: float | None  # of the sentence
    marks: list[tuple[str, str]] | None  # its slot errors as (kind, words)


@dataclass(frozen=True)
class Compared:
    """One input, and what became of it."""

    row: Row  # the first run's
    pairs: list[tuple[str, str]]  # what is asked for
    variants: list[Variant]  # the first run's before the others
    spread: float | None  # from the lowest sentence BLEU to the highest


def compared(several: Several) -> list[Compared]:
    """Return the inputs in their order; of more than MOST outputs those whose sentence BLEU is spread most."""
    of_runs = [one.run.rows or [] for one in several.runs]
    inputs = [_compared(rows) for rows in zip(*of_runs, strict=True)]
    most = MOST // len(of_runs)
    chosen = sorted(inputs, key=lambda one: -(one.spread or 0))[:most]
    return sorted(chosen, key=lambda one: one.row.number)


def _compared(rows: Sequence[Row]) -> Compared:
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows, 1):
        numbers.setdefault(row.output, []).append(number)
    variants = []
    for output, of_runs in numbers.items():
        row = rows[of_runs[0] - 1]
        bleu = (row.scores or {}).get(outputs.SENTENCE_BLEU)
        variants.append(Variant(of_runs, marked(rows[0].output, output), bleu, outputs.slot_marks(row)))
    scored = [one.bleu for one in variants if one.bleu is not None]
    spread = max(scored) - min(scored) if len(scored) == len(variants) else None
    return Compared(rows[0], outputs.pairs(rows[0]), variants, spread)


def marked(first: str, other: str) -> list[tuple[str, str]]:
    """Return the words of both texts in the order of `other`: ("same", words), ("removed", those of `first` alone), ("added", …)."""
    before, after = first.split(), other.split()
    pieces: list[tuple[str, list[str]]] = []
    for _, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if before[i:j] == after[k:m]:
            pieces.append(("same", after[k:m]))
        else:
            pieces += [("removed", before[i:j]), ("added", after[k:m])]
    return [
        (kind, " ".join(itertools.chain.from_iterable(words for _, words in group)))
        for kind, group in itertools.groupby((piece for piece in pieces if piece[1]), key=lambda piece: piece[0])
    ]
