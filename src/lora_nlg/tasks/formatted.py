"""Formatted lines, {"context": input, "completion": reference}, of whatever task, and what a scorer reads of them: groups.

A group is one distinct input with all its references and the text that was generated for it.
"""

import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_nlg.config import BLANK_LINE_ID, END_OF_TEXT_ID, GPT2_VOCAB_SIZE
from lora_nlg.data.bpe import END_OF_TEXT
from lora_nlg.data.lines import HALF_PAIR, read_json_lines
from lora_nlg.errors import UserError

USUAL_ENDS = (END_OF_TEXT_ID, BLANK_LINE_ID)  # of the recipe's runs


@dataclass
class Group:
    """One distinct input: all its references, and what was generated for it."""

    references: list[str] = field(default_factory=list)
    prediction: str | None = None


def as_lines(examples: Iterable[tuple[str, str] | tuple[str, str, dict]]) -> Iterator[str]:
    """Yield the line, with its end, of every (input, reference) and of further keys, where there is a third."""
    for context, completion, *more in examples:
        yield json.dumps({"context": context, "completion": completion} | dict(*more)) + "\n"


def read_formatted(path: str | Path) -> Iterator[dict]:
    """Yield the {"context": MR, "completion": reference} objects of a formatted file; other keys stay."""
    for where, fields in read_json_lines(path, context=str, completion=str):
        if not fields["context"].strip():
            raise UserError(f"{where}: the context is empty; expected an input")
        yield fields


def check_references(lines: Sequence[dict], path: str | Path) -> None:
    """Raise UserError when a line of the formatted file `path` has an empty reference: in a reference file it would end its group."""
    empty = next((number for number, line in enumerate(lines, 1) if not clean(line["completion"])), None)
    if empty is not None:
        raise UserError(
            f"{path}:{empty}: the completion is empty; expected a reference, so fill it in or drop the line"
        )


def check_characters(text: str, where: str) -> None:
    """Raise UserError, with `where`, for a text that no UTF-8 file could hold; the engine would make another character of it."""
    if HALF_PAIR.search(text):
        raise UserError(
            f"{where}: the text holds one half of a surrogate pair such as \\ud83d; expected whole characters"
        )


def check_vocabulary(vocab_size: int, model: str) -> None:
    """Raise UserError unless the tokens of `model`, its name in words, are those that GPT-2's vocabulary has texts for."""
    if vocab_size != GPT2_VOCAB_SIZE:
        raise UserError(
            f"{model} has {vocab_size} tokens, not GPT-2's {GPT2_VOCAB_SIZE}; take a model with GPT-2's vocabulary"
        )


def clean(text: str) -> str:
    """Cut `text` at the end-of-text mark, then at a blank line; what is left becomes one stripped line."""
    text = text.split(END_OF_TEXT)[0].split("\n\n")[0]
    return " ".join(text.splitlines()).strip()


def text_of(ids: Sequence[int], encoding, end_tokens: Container[int]) -> str:
    """Return the text of generated `ids`: what stands before the first end token, on one line.

    Whatever the end token is, it is no part of the text, as the recipe's two are not; behind it stands padding.
    """
    end = next((place for place, token in enumerate(ids) if token in end_tokens), len(ids))
    return clean(encoding.decode(ids[:end]))


def standardise(text: str, tokenize: bool, lower: bool) -> str:
    """Fold case (`lower`), then put spaces around every sign that is no letter, digit or underscore (`tokenize`).

    In this order, as the recipe does: the capital İ of Turkish becomes two signs, of which the second stands apart.
    """
    if lower:
        text = text.lower()
    return " ".join(" ".join(re.split(r"(\W)", text)).split()) if tokenize else text


def read_predictions(
    path: str | Path, encoding, n_inputs: int, end_tokens: Container[int] = USUAL_ENDS
) -> list[tuple[int, str]]:
    """Return (input line counted from 0, text) of every {"id": line, "predict": token ids} in `path`, in the file's order."""
    predictions: list[tuple[int, str]] = []
    first_at: dict[int, int] = {}
    for number, (where, fields) in enumerate(read_json_lines(path, id=int, predict=list), 1):
        line, ids = fields["id"], fields["predict"]
        if first_at.setdefault(line, number) != number:
            raise UserError(f"{where}: id {line} is in line {first_at[line]}, too; expected each once, so drop one")
        if not 0 <= line < n_inputs:
            raise UserError(f"{where}: id {line} is no line of the input file, which has 0 to {n_inputs - 1}")
        bad = next((i for i in ids if type(i) is not int or not 0 <= i < encoding.n_vocab), None)
        if bad is not None:
            raise UserError(f"{where}: expected token ids from 0 to {encoding.n_vocab - 1}, found {bad!r}")
        predictions.append((line, text_of(ids, encoding, end_tokens)))
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
