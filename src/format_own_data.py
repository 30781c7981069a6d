"""Turn your own data into the formatted files that training and scoring read: DIR/{train,valid,test}_formatted.jsonl.

IN is a folder with train, valid and test, or one file that is split: .txt (source||target a line), .jsonl, .csv or .tsv. A valid or
test file that is missing is split off train, each with a tenth of its different sources, the same ones every time.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags


def parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    p = flags.Parser(description=__doc__)
    p.add_argument("input", metavar="IN", type=Path, help="folder or file")
    p.add_argument("output", metavar="DIR", type=Path, help="folder for the formatted files, another than IN")
    p.add_argument("--source", metavar="NAME", help="key or column of the inputs; default: context, source, input, …")
    p.add_argument("--target", metavar="NAME", help="key or column of the texts; default: completion, target, text, …")
    return p


def main(argv: list[str] | None = None) -> int:
    """Format a data set."""
    args = parser().parse_args(argv)

    from lora_nlg import files
    from lora_nlg.tasks import own

    found = own.find(args.input)
    outputs = {split: args.output / f"{split}_formatted.jsonl" for split in own.SPLITS}
    files.check_outputs(outputs.values(), inputs=found.values())
    columns = own.Columns.named(args.source, args.target)
    if columns != own.USUAL and all(path.suffix.lower() == ".txt" for path in found.values()):
        raise errors.UserError(
            f"--source and --target would have no effect on {args.input}: a .txt has {own.SEPARATOR} and no columns; leave them out"
        )
    splits = {split: list(own.read_raw(path, columns)) for split, path in found.items()}
    for path in found.values():
        if first := own.first_example(path, columns):
            errors.say(
                f"{path}: the first line is read as an example, {first[0]!r} and {first[1]!r}; if it names the columns, say so "
                "with --source and --target"
            )
    missing = [split for split in own.SPLITS if split not in found]
    if missing:
        splits |= own.split_off(splits["train"], missing)
        errors.say(
            f"{args.input} has no {' and no '.join(missing)}: split off, every tenth source of train by seed {own.SEED}"
        )
    for split, path in outputs.items():
        with files.atomic_writer(path) as file:
            for source, target in splits[split]:
                file.write(json.dumps({"context": source, "completion": target}) + "\n")
        errors.say(
            f"{split}: {len(splits[split]):,} lines, {len({s for s, _ in splits[split]}):,} different sources, in {path}"
        )
    learnt = {source for source, _ in splits["train"]}
    if known := len({source for source, _ in splits["test"]} & learnt):
        print(
            f"warning: {known} sources of the test file are in the training file, too, so scores flatter",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
