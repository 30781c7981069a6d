"""Turn WebNLG 2017's JSON into JSON lines, one a text: {"context": triples, "completion": text, "cate": seen in training}."""

import argparse
import sys

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import format_converting
from lora_nlg import errors, flags


def parser() -> argparse.ArgumentParser:
    """Return the recipe's two arguments."""
    p = flags.Parser(description=__doc__)
    p.add_argument("input", metavar="IN", help="train.json, dev.json or test.json of the challenge")
    p.add_argument("output", metavar="OUT", help="formatted file (JSON lines)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Format one file."""
    args = parser().parse_args(argv)
    return format_converting.main(["webnlg", args.input, args.output])


if __name__ == "__main__":
    sys.exit(errors.run(main))
