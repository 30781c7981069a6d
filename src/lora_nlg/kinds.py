"""Whether a value is of the kind that it should be: Python itself takes any for any field or argument. No torch."""

import dataclasses
import os
import types
import typing
from typing import Any

from lora_nlg.errors import UserError

WORDS = {
    int: "a whole number (int)", float: "a number", bool: "True or False", str: "a string", tuple: "a tuple", dict: "a dictionary",
    os.PathLike: "a path", type(None): "None",
}  # fmt: skip


def _parts(kind: Any) -> list[type]:
    """Return the plain types of an annotation: int and dict of `int | dict[str, int]`."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return [typing.get_origin(part) or part for part in kinds]


def is_of(value: Any, kind: Any) -> bool:
    """Return whether `value` is of the annotation `kind`; whole numbers are numbers, lists tuples, but True is no number."""
    parts = _parts(kind)
    if type(value) is bool:
        return bool in parts
    if type(value) is int and float in parts:
        return True
    return isinstance(value, tuple(parts)) or (type(value) is list and tuple in parts)


def in_words(kind: Any) -> str:
    """Return what an annotation takes, for people."""
    return " or ".join(WORDS.get(part, f"a {part.__name__}") for part in _parts(kind))


def check(name: str, value: Any, kind: Any) -> None:
    """Raise UserError, naming the argument `name`, unless `value` is of the annotation `kind`."""
    if not is_of(value, kind):
        raise UserError(f"{name} must be {in_words(kind)}, but is {value!r:.60}")


def check_fields(config: Any) -> None:
    """Raise UserError for a field of a dataclass that is not of its annotation."""
    for field in dataclasses.fields(config):
        check(f"{type(config).__name__}'s {field.name}", getattr(config, field.name), field.type)
