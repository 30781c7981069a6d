"""Turn raw E2E lines (MR||reference) into JSON lines: {"context": MR, "completion": reference}."""

import argparse
import json
import sys

from lora_nlg import errors, flags


def parser() -> argparse.ArgumentParser:
    """Return the two arguments."""
    p = flags.Parser(description=__doc__, allow_abbrev=False)
    p.add_argument("input", metavar="IN", help="raw file")
    p.add_argument("output", metavar="OUT", help="formatted file (JSON lines)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Format one file."""
    args = parser().parse_args(argv)

    from lora_nlg import files
    from lora_nlg.tasks import TASKS

    files.check_outputs([args.output], inputs=[args.input])
    lines = 0
    with files.atomic_writer(args.output) as file:
        for mr, reference in TASKS["e2e"].read_raw(args.input):
            file.write(json.dumps({"context": mr, "completion": reference}) + "\n")
            lines += 1
    print(f"formatted {lines:,} lines into {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
