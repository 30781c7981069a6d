"""E2E: raw lines of a meaning representation (MR) and a reference.

An MR is the input, "name : Blue Spice | Type : coffee shop | near : Burger King".
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lora_nlg.data.lines import read_lines
from lora_nlg.errors import UserError

SEPARATOR = "||"  # between the MR and the reference of a raw line
SLOT = r"(?P<slot>[^|:]+) : (?P<value>[^|]+)"
YES_OR_NO = ("yes", "no")  # what stands for a value that no text has: it says the slot's name, or denies it
WORD = re.compile(r"[^\W_]+|£")
DENIAL = r" (?:no|non|not|t|never) (?:\w+ ){0,2}"  # before a name; t: of isn't


def read_raw(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (MR, reference) of every `MR||reference` line."""
    for where, text in read_lines(path):
        mr, *references = text.split(SEPARATOR)
        if len(references) != 1:
            raise UserError(
                f"{where}: expected MR||reference with || once, found it {len(references)} times in {text[:60]!r}"
            )
        if not mr.strip() or not references[0].strip():
            empty = "reference after" if mr.strip() else "MR before"
            raise UserError(
                f"{where}: there is no {empty} ||; expected both, as in: name : Blue Spice||A coffee shop ."
            )
        yield mr, references[0]


def read_pairs(path: str | Path) -> list[tuple[dict[str, str], str]]:
    """Return ({slot: value}, reference) of every raw line, slots in the line's order."""
    return [(parse_mr(mr, f"{path}:{number}"), reference) for number, (mr, reference) in enumerate(read_raw(path), 1)]


def parse_mr(mr: str, where: str) -> dict[str, str]:
    """Return {slot: value} of "slot : value | slot : value"; `where` is its "path:line" for the error."""
    import regex  # unlike re, it keeps every repetition of a group

    match = regex.fullmatch(rf"{SLOT}(?: \| {SLOT})*", mr)
    if match is None:
        raise UserError(f"{where}: expected slot : value, with | between slots, found {mr[:60]!r}")
    slots = match.captures("slot")
    twice = next((slot for slot in slots if slots.count(slot) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: the slot {twice!r} is there twice; expected each once, so leave one out")
    return dict(zip(slots, match.captures("value"), strict=True))


def told(mr: str, text: str) -> dict[str, bool]:
    """Return for each slot of an MR whether `text` has its value word for word.

    For people who see both. Other words for a value are not known here: eval/slots.py knows them, and counts.
    """
    said = _words(text)
    return {slot: _is_said(slot, value, said) for slot, value in parse_mr(mr, "the MR").items()}


def _is_said(slot: str, value: str, said: str) -> bool:
    if value.strip() not in YES_OR_NO:
        return WORD.search(value) is not None and _words(value) in said
    is_denied = re.search(DENIAL + re.escape(_words(slot).lstrip()), said) is not None
    return is_denied if value.strip() == "no" else _words(slot) in said and not is_denied


def _words(text: str) -> str:
    """Return the words of a text in lower case, a space around each."""
    return f" {' '.join(WORD.findall(text.lower()))} "
