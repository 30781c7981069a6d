"""Encoded JSON lines as examples, and examples as rows.

Token ids are whole numbers from 0, less than the vocabulary's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_nlg.data.lines import parse_json, read_lines
from lora_nlg.errors import UserError


@dataclass(frozen=True)
class Example:
    """One line of an encoded file: token ids of the meaning representation and of its reference."""

    context: list[int]
    completion: list[int]


def read_examples(path: str | Path, vocab_size: int) -> list[Example]:
    """Read an encoded file, one {"context": ids, "completion": ids} a line. Raises UserError naming path and line."""
    shared = list(range(vocab_size))  # one object a token: an int of its own for each of millions takes 32 bytes
    parsed = (_parse_example(line, where, vocab_size) for where, line in read_lines(path))
    return [Example([shared[i] for i in e.context], [shared[i] for i in e.completion]) for e in parsed]


def _parse_example(line: str, where: str, vocab_size: int) -> Example:
    fields = parse_json(line, where)
    if not isinstance(fields, dict) or any(type(fields.get(key)) is not list for key in ("context", "completion")):
        raise UserError(f'{where}: expected {{"context": [ids], "completion": [ids]}}, found {line[:60]!r}')
    example = Example(fields["context"], fields["completion"])
    ids = example.context + example.completion
    bad = next((i for i in ids if type(i) is not int or not 0 <= i < vocab_size), None)
    if bad is not None:
        raise UserError(f"{where}: expected token ids from 0 to {vocab_size - 1}, found {bad!r}")
    if not example.context:
        raise UserError(f"{where}: the context is empty; expected at least one token id")
    return example


def make_rows(examples: Sequence[Example], share_prompts: bool) -> list[list[Example]]:
    """Return a row for each example or, sharing prompts, for all those of one context, in first-seen order."""
    if not share_prompts:
        return [[example] for example in examples]
    rows: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        rows.setdefault(tuple(example.context), []).append(example)
    return list(rows.values())


def row_length(row: Sequence[Example], seq_len: int) -> int:
    """Return the tokens of a row, whose context is there once."""
    n_context = min(len(row[0].context), seq_len)
    return n_context + sum(min(len(example.completion), seq_len - n_context) for example in row)
