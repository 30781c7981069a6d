"""Figures as a person reads them."""

import math


def number(value: float | None, digits: int = 4) -> str:
    """Return 0.6059 of 0.60585…, a dash of None, and words of what is no number."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    return f"{value:.{digits}f}".replace("inf", "∞")


def interval(bounds: tuple[float, float], digits: int = 3) -> str:
    """Return 0.594–0.618 of its bounds."""
    return "–".join(number(bound, digits) for bound in bounds)


def whole(value: float) -> str:
    """Return 26 290 of 26290, its blank narrow and not to be broken at."""
    return f"{value:,.0f}".replace(",", "\u202f")


def signed(value: float, digits: int = 4) -> str:
    """Return +0.0123 or −0.0123, with a true minus sign."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # + 0.0: no −0.0000


def deviation(value: float) -> str:
    """Return ±.001 of 0.001, as the paper writes it behind a score."""
    return f"±{f'{value:g}'.removeprefix('0')}"


def duration(seconds: float) -> str:
    """Return "4.6 minutes" of 276."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def score(value: float) -> str:
    """Return .868 of 0.8676, as the paper writes a score below one, and 54.9 of 54.92, one of a hundred."""
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.1f}"


def p_value(value: float) -> str:
    """Return "p = .032", and "p < .001" of what is below."""
    return "p < .001" if value < 0.001 else f"p = {score(value) if value < 1 else 1}"
