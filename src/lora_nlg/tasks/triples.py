"""Triples, what WebNLG and DART have for inputs: `subject : property : object`, with ` | ` between them.

Their raw files are JSON, which is read whole; what is wrong in one is named by its entry, counted from 1.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lora_nlg.data.lines import HALF_PAIR
from lora_nlg.errors import UserError

BETWEEN, INSIDE = " | ", " : "
WORDS = {str: "a text", list: "a list", dict: "an object"}


def joined(triples: Iterable[Sequence[str]], where: str) -> str:
    """Return (subject, property, object) triples as one input, in their order. Raises UserError, with `where`, if there are none."""
    text = BETWEEN.join(INSIDE.join(triple) for triple in triples)
    if not text.strip():
        raise UserError(f"{where}: it has no triples; expected at least one subject, property and object")
    return text


def check_input(text: str, where: str) -> None:
    """Raise UserError, with `where`, unless every part of `text` has a subject, a property and an object.

    Values may hold a colon themselves, so more parts than three are no mistake.
    """
    for part in text.strip().split(BETWEEN):
        if part.count(INSIDE) < 2:
            raise UserError(
                f"{where}: expected subject : property : object, with | between triples, found {part[:60]!r}"
            )


def load(path: str | Path):
    """Return the value of a JSON file in UTF-8; a byte order mark is accepted. Raises UserError for no file and no JSON."""
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); get the file anew") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); get the file anew") from error


def check(value, shape, where: str, name: str = "") -> None:
    """Raise UserError, saying `where` and under which name, unless `value` has `shape`.

    A shape is str; {key: shape}, where other keys are free; [shape] for a list of any length; or (shape, …) for one of that length.
    """
    kind = str if shape is str else dict if isinstance(shape, dict) else list
    count = f" of {len(shape)}" if isinstance(shape, tuple) else ""
    if type(value) is not kind or (count and len(value) != len(shape)):
        under = f" under {name}" if name else ""
        raise UserError(f"{where}: expected {WORDS[kind]}{count}{under}, found {json.dumps(value)[:60]}")
    if isinstance(value, str) and HALF_PAIR.search(value):
        raise UserError(
            f"{where}: {name} holds one half of a surrogate pair such as \\ud83d; expected whole characters"
        )
    if isinstance(shape, dict):
        for key, inner in shape.items():
            if key not in value:
                raise UserError(f'{where}: expected "{key}"{f" in {name}" if name else ""}, which is not there')
            check(value[key], inner, where, f"{name}.{key}" if name else key)
    elif kind is list:
        shapes = shape if isinstance(shape, tuple) else shape * len(value)
        for i, (one, inner) in enumerate(zip(value, shapes, strict=True), 1):
            check(one, inner, where, f"{name}.{i}" if name else str(i))
