"""Text files, a line at a time: UTF-8, and JSON where it is wanted."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from lora_nlg.errors import UserError

JSON_NAMES = {str: "a string", int: "a whole number", list: "a list"}
BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]")
HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # JSON can say what no UTF-8 file can hold


def one_line(text: str) -> str:
    """Replace tabs, and all that some program takes for the end of a line, by spaces."""
    return BREAKS.sub(" ", text)


def raw_lines(path: str | Path) -> Iterator[str]:
    """Yield a UTF-8 file's lines with "\n" at their ends and without a byte order mark. Raises UserError, also if it is empty."""
    number, text = 0, ""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").replace("\r\n", "\n")
                if number == 1 and _is_utf_16(line):
                    raise UserError(f"{path}: UTF-16 without its mark, by its NUL bytes; save it as UTF-8")
                if number == 1 and not text.endswith("\n") and "\r" in text.rstrip("\r"):
                    raise UserError(f"{path}: its lines end with \\r alone; save it with \\n or \\r\\n")
                if text:
                    yield text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    if not text:  # a file that holds a byte order mark alone is empty, too
        raise UserError(f"{path} is empty; expected one example a line")


def _is_utf_16(line: bytes) -> bool:
    """Return whether a line is UTF-16, mostly ASCII: its NULs are in one byte of each letter. A text may have others."""
    of_either = line[::2].count(0), line[1::2].count(0)
    return len(line) > 3 and min(of_either) == 0 and 3 * max(of_either) > len(line)


def read_lines(path: str | Path, *, skip_blank: bool = False) -> Iterator[tuple[str, str]]:
    """Yield ("path:line", text without the white space around it) of a UTF-8 file.

    A byte order mark and Windows line ends are accepted. Raises UserError for no file, an empty one, a blank line (which
    `skip_blank` leaves out) or bytes that are not UTF-8.
    """
    for number, line in enumerate(raw_lines(path), 1):
        if text := line.strip():
            yield f"{path}:{number}", text
        elif not skip_blank:
            raise UserError(f"{path}:{number}: the line is blank; every line must hold one example, so remove it")


def count_lines(path: str | Path) -> int | None:
    """Return how many lines a file has, for a progress bar; None where it can be read only once, or not at all."""
    if not Path(path).is_file():
        return None
    try:
        with open(path, "rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return None


def parse_json(text: str, where: str, keys_once: bool = False):
    """Return the value that one line of JSON holds; `where` is its "path:line" for the error.

    With `keys_once`, a key that the object itself has twice is an error; else its last value counts.
    """
    keys: list[str] = []

    def noted(pairs: list[tuple[str, object]]) -> dict:
        keys[:] = [key for key, _ in pairs]  # in the end those of the outermost
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=noted if keys_once else None)
        twice = next((key for key in keys if keys.count(key) > 1), None) if len(set(keys)) < len(keys) else None
        if twice is not None:
            raise UserError(f"{where}: the object has the key {twice!r} twice; leave one of them")
        return value
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
