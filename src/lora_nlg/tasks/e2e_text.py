"""E2E's text at every stage: raw lines, formatted JSON lines, predictions, and what the scorer reads.

An MR (meaning representation) is the input, "name : Blue Spice | Type : coffee shop | near : Burger King".
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_nlg.data.bpe import END_OF_TEXT
from lora_nlg.errors import UserError

SEPARATOR = "||"  # between the MR and the reference of a raw line
JSON_NAMES = {str: "a string", int: "a whole number", list: "a list"}
HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # JSON can say what no UTF-8 file can hold
SLOT = r"(?P<slot>[^|:]+) : (?P<value>[^|]+)"


@dataclass
class Group:
    """One distinct input: all its references, and what was generated for it."""

    references: list[str] = field(default_factory=list)
    prediction: str | None = None


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield ("path:line", text without the white space around it) of a UTF-8 file.

    A byte order mark and Windows line ends are accepted. Raises UserError for no file, an empty one, a blank line or
    bytes that are not UTF-8.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    raise UserError(f"{where}: the line is blank; every line must hold one example, so remove it")
                yield where, text
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    if where == str(path):
        raise UserError(f"{path} is empty; expected one example a line")


def count_lines(path: str | Path) -> int | None:
    """Return how many lines a file has, for a progress bar; None where it can be read only once, or not at all."""
    if not Path(path).is_file():
        return None
    try:
        with open(path, "rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return None


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


def parse_json(text: str, where: str):
    """Return the value that one line of JSON holds; `where` is its "path:line" for the error."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); expected one JSON object a line") from error


def read_json_lines(path: str | Path, **types: type) -> Iterator[tuple[str, dict]]:
    """Yield ("path:line", JSON object) of every line that has the keys of `types` with values of those types; others are errors."""
    for where, text in read_lines(path):
        fields = parse_json(text, where)
        for key, kind in types.items():
            if not isinstance(fields, dict) or type(fields.get(key)) is not kind:
                raise UserError(
                    f'{where}: expected a JSON object with {JSON_NAMES[kind]} under "{key}", found {text[:60]!r}'
                )
            if kind is str and HALF_PAIR.search(fields[key]):
                raise UserError(
                    f'{where}: "{key}" holds one half of a surrogate pair such as \\ud83d; expected whole characters'
                )
        yield where, fields


def read_formatted(path: str | Path) -> Iterator[dict]:
    """Yield the {"context": MR, "completion": reference} objects of a formatted file; other keys stay."""
    for where, fields in read_json_lines(path, context=str, completion=str):
        if not fields["context"].strip():
            raise UserError(f"{where}: the context is empty; expected a meaning representation")
        yield fields


def check_references(lines: Sequence[dict], path: str | Path) -> None:
    """Raise UserError when a line of the formatted file `path` has an empty reference: in a reference file it would end its group."""
    empty = next((number for number, line in enumerate(lines, 1) if not clean(line["completion"])), None)
    if empty is not None:
        raise UserError(
            f"{path}:{empty}: the completion is empty; expected a reference, so fill it in or drop the line"
        )


def clean(text: str) -> str:
    """Cut `text` at the end-of-text mark, then at a blank line; what is left becomes one stripped line."""
    text = text.split(END_OF_TEXT)[0].split("\n\n")[0]
    return " ".join(text.splitlines()).strip()


def standardise(text: str, tokenize: bool, lower: bool) -> str:
    """Put spaces around every sign that is no letter, digit or underscore (`tokenize`), and fold case (`lower`)."""
    if tokenize:
        text = " ".join(" ".join(re.split(r"(\W)", text)).split())
    return text.lower() if lower else text


def read_predictions(path: str | Path, encoding, n_inputs: int) -> list[tuple[int, str]]:
    """Return (input line counted from 0, text) of every {"id": line, "predict": token ids} in `path`, in the file's order."""
    predictions, first_at = [], {}
    for number, (where, fields) in enumerate(read_json_lines(path, id=int, predict=list), 1):
        line, ids = fields["id"], fields["predict"]
        if first_at.setdefault(line, number) != number:
            raise UserError(f"{where}: id {line} is in line {first_at[line]}, too; expected each once, so drop one")
        if not 0 <= line < n_inputs:
            raise UserError(f"{where}: id {line} is no line of the input file, which has 0 to {n_inputs - 1}")
        bad = next((i for i in ids if type(i) is not int or not 0 <= i < encoding.n_vocab), None)
        if bad is not None:
            raise UserError(f"{where}: expected token ids from 0 to {encoding.n_vocab - 1}, found {bad!r}")
        predictions.append((line, clean(encoding.decode(ids))))
    return predictions


def is_seen(inputs: Sequence[dict], path: str | Path) -> list[bool]:
    """Return for each input whether its category occurs in training: "cate" is true or "seen", else false or "unseen"."""
    known = {True: True, False: False, "seen": True, "unseen": False}
    seen = []
    for number, fields in enumerate(inputs, 1):
        category = fields.get("cate")
        if not isinstance(category, bool | str) or category not in known:
            raise UserError(
                f'{path}:{number}: --filter needs "cate" in every line, true (seen) or false, found {category!r}'
            )
        seen.append(known[category])
    return seen


def group_lines(
    inputs: Sequence[dict], keys: Sequence[str], predictions: Sequence[tuple[int, str]], keep: Sequence[bool]
) -> list[Group]:
    """Group the input lines that `keep` keeps by their key, in first-seen order, with the last prediction for any of its lines.

    `keys` is one string an input line: its MR, or what --ref_unique_file says.
    """
    groups: dict[str, Group] = {}
    for fields, key, kept in zip(inputs, keys, keep, strict=True):
        if kept:
            groups.setdefault(key, Group()).references.append(clean(fields["completion"]))
    for line, text in predictions:
        if keep[line]:
            groups[keys[line]].prediction = text
    return list(groups.values())
