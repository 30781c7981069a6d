"""Write the example of own data: weather reports and what a newspaper says of them, as a CSV with a header."""

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags
from lora_nlg.bundled import weather


def parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    p = flags.Parser(description=__doc__)
    p.add_argument("output", metavar="FILE", type=Path, help="the CSV to write")
    p.add_argument("--pairs", type=int, default=300, help="how many pairs")
    p.add_argument("--seed", type=int, default=1, help="the bundled file was made with 1")
    return p


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    args = parser().parse_args(argv)

    from lora_nlg import files

    with files.atomic_writer(args.output) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("source", "target"))
        table.writerows(weather.pairs(args.pairs, args.seed))
    print(f"{args.output}: {args.pairs} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
