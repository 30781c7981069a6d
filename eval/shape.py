"""The shape that a JSON value must have, and where and how it has another.

A shape is a kind of KINDS; [shape], a list of such values; [first, second], a list of just these two; {"key": shape, "other?": shape},
an object that has "key", may have "other" and may have more; {str: shape}, one whose values are all such; (shape, shape), one of them.
"""

from typing import Any

LARGEST = 2**63  # a greater number is not one that a run counted or measured


class Loss:
    """The kind of a number that may be NaN or infinite, as a loss that went astray is."""


KINDS: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Loss: "a number",
    dict: "an object",
    None: "null",
}


def fault(value: Any, shape: Any, where: str = "") -> str | None:
    """Return "systems.0.scores.BLEU is "x", not a number" for what does not have its shape, None if all has."""
    if isinstance(shape, tuple):
        faults = [fault(value, one, where) for one in shape]
        if None in faults:
            return None
        deeper = [
            one for one in faults if one and not one.startswith(f"{where or 'it'} is ")
        ]  # the value's own kind fits
        return deeper[0] if deeper else _is_not(value, shape, where)
    if isinstance(shape, list):
        if not isinstance(value, list) or (len(shape) > 1 and len(value) != len(shape)):
            return _is_not(value, shape, where)
        shapes = shape if len(shape) > 1 else shape * len(value)
        return _first(fault(one, of, _inside(where, i)) for i, (one, of) in enumerate(zip(value, shapes, strict=True)))
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _is_not(value, shape, where)
        free = shape.get(str)
        faults = [fault(one, free, _inside(where, key)) for key, one in value.items()] if free else []
        return _first([*faults, *(_fault_of_key(value, key, of, where) for key, of in shape.items() if key is not str)])
    return None if _is(value, shape) else _is_not(value, shape, where)


def _first(faults: Any) -> str | None:
    return next((one for one in faults if one), None)


def _fault_of_key(value: dict, key: str, shape: Any, where: str) -> str | None:
    name = key.removesuffix("?")
    if name in value:
        return fault(value[name], shape, _inside(where, name))
    return None if key.endswith("?") else f'{where or "it"} has no "{name}"'


def _inside(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _is(value: Any, kind: Any) -> bool:
    if kind in (int, float, Loss):
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            return False
        return abs(value) < LARGEST or (kind is Loss and isinstance(value, float))  # NaN is below nothing
    return value is None if kind is None else isinstance(value, kind)


def _is_not(value: Any, shape: Any, where: str) -> str:
    shown = repr(value)
    return f"{where or 'it'} is {shown if len(shown) <= 40 else shown[:40] + '…'}, not {_words(shape)}"


def _words(shape: Any) -> str:
    if isinstance(shape, tuple):
        return " or ".join(dict.fromkeys(map(_words, shape)))
    if isinstance(shape, list):
        return "a list" if len(shape) == 1 else f"a list of {len(shape)}"
    return KINDS[dict if isinstance(shape, dict) else shape]
