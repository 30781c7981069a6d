"""Turn a task's raw lines into JSON lines: {"context": input, "completion": reference}."""

import argparse
import sys

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags
from lora_nlg.tasks import TASKS


def parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    p = flags.Parser(description=__doc__)
    p.add_argument("task", choices=TASKS, help="a row of the table of tasks")
    p.add_argument("input", metavar="IN", help="raw file")
    p.add_argument("output", metavar="OUT", help="formatted file (JSON lines)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Format one file."""
    args = parser().parse_args(argv)

    from lora_nlg import files
    from lora_nlg.tasks import formatted

    files.check_outputs([args.output], inputs=[args.input])
    lines = 0
    with files.atomic_writer(args.output) as file:
        for line in formatted.as_lines(TASKS[args.task].read_raw(args.input)):
            file.write(line)
            lines += 1
        if not lines:
            raise errors.UserError(f"{args.input} has no text that a {args.task} data set takes; check that it is one")
    errors.say(f"formatted {lines:,} lines into {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
