"""The outputs as the page shows them: each beside what was asked for, with its slot errors, and the worst of them."""

from collections import Counter

from report_page.contents import Contents, Row

SENTENCE_BLEU = "sentBLEU"  # stands for BLEU, which without smoothing is 0 for most sentences
WORST = 5
KINDS = ("missing", "wrong", "invented")


def segment_metrics(run: Contents) -> list[str]:
    """Return the scores of a sentence that are shown: those that segments.tsv has, with smoothed BLEU for BLEU."""
    names = next((list(row.scores) for row in run.rows or [] if row.scores), [])
    return [name for name in names if name != "BLEU" or SENTENCE_BLEU not in names]


def with_base(run: Contents) -> bool:
    """Return whether there are outputs of the base alone to stand beside the run's."""
    return any(row.of_base is not None for row in run.rows or [])


def slot_counts(run: Contents) -> list[tuple[str, Counter]]:
    """Return (slot, {"missing", "wrong", "invented": outputs}), the slot with most errors first."""
    counts: dict[str, Counter] = {}
    for row in run.rows or []:
        for kind in KINDS:
            for mark in (row.slots or {}).get(kind, ()):
                counts.setdefault(mark if kind == "missing" else mark["slot"], Counter())[kind] += 1
    return sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0]))


def worst(run: Contents) -> list[Row]:
    """Return the rows of the lowest sentence BLEU, the lowest first; none where that was not scored."""
    scored = [(row.scores[SENTENCE_BLEU], row) for row in run.rows or [] if row.scores and SENTENCE_BLEU in row.scores]
    return [row for _, row in sorted(scored, key=lambda one: one[0])[:WORST]]


def pairs(row: Row) -> list[tuple[str, str]]:
    """Return what an input asks for as (slot, value)."""
    split = [[part.strip() for part in pair.split(":", 1)] for pair in row.meaning.split("|")]
    return [(pair[0], pair[-1] if len(pair) > 1 else "") for pair in split]


def slot_marks(row: Row) -> list[tuple[str, str]] | None:
    """Return an output's slot errors as (kind, words); None where they were not counted."""
    if row.slots is None:
        return None
    return [
        *(("missing", slot) for slot in row.slots["missing"]),
        *(("wrong", f"{one['slot']}: {one['found']} instead of {one['expected']}") for one in row.slots["wrong"]),
        *(("invented", f"{one['slot']}: {one['found']}") for one in row.slots["invented"]),
    ]


def shown(row: Row) -> dict:
    """Return a row as the template shows it."""
    return {"row": row, "pairs": pairs(row), "marks": slot_marks(row)}
