"""Turn raw E2E lines (MR||reference) into JSON lines: {"context": MR, "completion": reference}."""

import argparse
import sys

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import format_converting
from lora_nlg import errors, flags


def parser() -> argparse.ArgumentParser:
    """Return the recipe's two arguments."""
    p = flags.Parser(description=__doc__)
    p.add_argument("input", metavar="IN", help="raw file")
    p.add_argument("output", metavar="OUT", help="formatted file (JSON lines)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Format one file."""
    args = parser().parse_args(argv)
    return format_converting.main(["e2e", args.input, args.output])


if __name__ == "__main__":
    sys.exit(errors.run(main))
