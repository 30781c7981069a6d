"""How large a method is: a size that a flag gives, or the largest within a budget of parameters. No torch."""

import argparse
import re
from collections.abc import Callable

from lora_nlg.errors import UserError

MOST_DIM = 65_536  # of a rank or a width: beyond is a mistake
SUFFIXES = {"": 1, "k": 1_000, "M": 1_000_000}  # of a budget


def size_of(
    args: argparse.Namespace, flag: str, default: int, most: int, count: Callable[[int], int], limit: str = ""
) -> int:
    """Return the size that `--FLAG` gives, from 1 to `most`, or the largest within --trained_budget. Raises UserError.

    `count` says how many parameters a size takes: as many more for each size more. `limit` says in an error why `most` is the most.
    """
    size = getattr(args, flag)
    if args.trained_budget is not None:
        if size is not None:
            raise UserError(f"--trained_budget chooses what --{flag} sets; give one of the two")
        return largest("trained_budget", args.trained_budget, f"--{flag}", most, count)
    size = default if size is None else size
    if not 1 <= size <= most:
        raise UserError(f"--{flag} must be from 1 to {most}{limit}, but is {size}")
    return size


def largest(flag: str, text: str, what: str, most: int, count: Callable[[int], int], where: str = "") -> int:
    """Return the largest size from 1 to `most` of at most the parameters that `--FLAG TEXT` says. Raises UserError."""
    budget, least, step = parse_budget(text, flag), count(1), count(2) - count(1)
    if not least <= budget < count(most) + step:
        raise UserError(
            f"--{flag} must be from {least:,}, what {what} 1 takes{where}, to {count(most):,}, {what} {most}, but is {text}"
        )
    return 1 + (budget - least) // step


def parse_budget(text: str, flag: str = "lora_budget") -> int:
    """Return the parameters of a budget, e.g. 390 000 of "0.39M"."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)(k|M|)", text)
    if found is None:
        raise UserError(f"--{flag} must be a number of parameters such as 390000, 390k or 0.39M, but is {text!r}")
    return round(float(found[1]) * SUFFIXES[found[2]])
