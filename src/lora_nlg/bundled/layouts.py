"""Documents that show facts about venues in many layouts, but never in the recipe's `name : X | food : Y`.

A base model that reads them learns the words, how to copy a value and how to restate a record, and leaves the recipe's
layout for the adapter to learn.
"""

from collections.abc import Callable, Iterable, Iterator
from random import Random

Items = list[tuple[str, str]]  # (key, value), in the order in which they are shown

# Of the documents that begin with a record, how many go on with prose; the others repeat the record in another layout.
PROSE_AFTER_RECORD = 0.75
# Of the documents that begin with prose, how many stop there; the others go on with a record.
PROSE_ALONE = 0.5
# How often a document is followed by one with the same record in another layout: what is told is before an end of text.
# Such a one may be followed by yet another, so that the base does not take the end of a record for the place where prose begins.
RECORD_AGAIN = 0.5
SEPARATORS = ("\n", "\n", "\n\n")


# A blank stands before every value, as it does before the name that begins a completion in the recipe: "Spice" and " Spice" are two
# tokens, and nothing but their texts says that they are one word.
def _braces(items: Items) -> str:
    return "{" + ", ".join(f'"{key}": {value}' for key, value in items) + "}"


def _assignments(items: Items) -> str:
    return "; ".join(f"{key} = {value}" for key, value in items)


def _arrows(items: Items) -> str:
    return ", ".join(f"{key} -> {value}" for key, value in items)


def _lines(items: Items) -> str:
    return "\n".join(f"{key}: {value}" for key, value in items)


def _tab_table(items: Items) -> str:
    return "\t".join(key for key, _ in items) + "\n " + "\t ".join(value for _, value in items)


def _comma_table(items: Items) -> str:
    return ", ".join(key for key, _ in items) + "\n " + ", ".join(value for _, value in items)


def _brackets(items: Items) -> str:
    return ", ".join(f"{key}[ {value} ]" for key, value in items)


def _tags(items: Items) -> str:
    """Tags in XML's manner; "&" stays as it is, so that a value is the same characters in every layout."""
    return "".join(f"<{key}> {value} </{key}>" for key, value in items)


LAYOUTS: tuple[Callable[[Items], str], ...] = (
    _braces,
    _assignments,
    _arrows,
    _lines,
    _tab_table,
    _comma_table,
    _brackets,
    _tags,
)
KEY_STYLES: tuple[Callable[[str], str], ...] = (
    str,  # as in the MR: "Type", "customer rating"
    str.lower,
    str.title,
    lambda key: key.lower().replace(" ", "_"),
)


def documents(pairs: Iterable[tuple[dict[str, str], str]], rng: Random, share_prose: float = 0.1) -> Iterator[str]:
    """Yield one document for each (MR, reference) of `pairs`, which may be endless.

    A document is one or two parts, a record or prose each. `share_prose` is the share of documents that begin with
    prose, 0 to 1; it is small because a base that begins with prose would look as if it knew the task.
    """
    for mr, reference in pairs:
        first, second = rng.sample(LAYOUTS, 2)
        record, prose = _render(mr, first, rng), " " + reference
        if rng.random() < share_prose:
            parts = [prose] + ([] if rng.random() < PROSE_ALONE else [record])
        elif rng.random() < PROSE_AFTER_RECORD:
            parts = [record, prose]
        else:
            parts = [record, _render(mr, second, rng)]
        yield rng.choice(SEPARATORS).join(parts)
        while rng.random() < RECORD_AGAIN:
            yield _render(mr, rng.choice(LAYOUTS), rng)


def _render(mr: dict[str, str], layout: Callable[[Items], str], rng: Random) -> str:
    """Return `mr` in `layout`, its slots shuffled and its keys in one random style."""
    style = rng.choice(KEY_STYLES)
    items = [(style(key), value) for key, value in mr.items()]
    rng.shuffle(items)
    return layout(items)
