"""Say what a task's outputs are held against: as task.json, which the programs of eval/ read, or one field for a script."""

import argparse
import json
import sys

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags
from lora_nlg.mistakes import did_you_mean
from lora_nlg.tasks import TASKS


def parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    p = flags.Parser(description=__doc__)
    p.add_argument("task", choices=TASKS, help="a row of the table of tasks")
    p.add_argument("--output", metavar="FILE", help="write task.json, beside the formatted data")
    p.add_argument("--field", help="print this field alone, e.g. scorer; several values with spaces between them")
    return p


def main(argv: list[str] | None = None) -> int:
    """Write, or print."""
    args = parser().parse_args(argv)
    described = TASKS[args.task].described(args.task)
    if args.field is not None:
        if args.field not in described:
            raise errors.UserError(
                f"--field must be one of {', '.join(described)}, but is {args.field!r}{did_you_mean(args.field, described)}"
            )
        value = described[args.field]
        print(*value if isinstance(value, tuple) else (value,))
    if args.output is not None:
        from lora_nlg import files

        with files.atomic_writer(args.output) as file:
            json.dump(described, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
