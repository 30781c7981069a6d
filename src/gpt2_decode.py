"""Turn predicted token ids into text, and write it with the references in the form that a scorer reads.

Input lines with the same context are one input with several references; its prediction is the last one for any of its lines.

--ref_type e2e: --output_ref_file is one file, the references of an input on consecutive lines and a blank line after each
input. --ref_type webnlg and dart: it is a folder with reference0 … reference(N-1) for --ref_num N; line i of each belongs
to input i and is empty where that input has fewer references. In both, line i of --output_pred_file is input i.

--only_predicted leaves out the inputs without a prediction, in both outputs, and says in PRED_FILE.covered.json which are left;
measure_scores.py reads it and shows the scores as those of a part.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags
from lora_nlg.tasks import TASKS

DEFAULT_REF_NUM = 4
REF_TYPES = (*TASKS, "webnlg", "dart")  # of the last two, only how their references are written is known
COVERED = ".covered.json"  # after the name of the prediction file


def parser() -> argparse.ArgumentParser:
    """Return the recipe's flags and --only_predicted."""
    p = flags.Parser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vocab", default="vocab", help="folder with encoder.json and vocab.bpe; default: %(default)s")
    p.add_argument("--sample_file", required=True, help='predictions, {"id": input line, "predict": ids} a line')
    p.add_argument("--input_file", required=True, help="the formatted file whose encoded form was decoded")
    p.add_argument("--output_ref_file", required=True, help="references: a file, or a folder for webnlg and dart")
    p.add_argument("--output_pred_file", required=True, help="predicted texts, one line an input")
    p.add_argument(
        "--ref_unique_file", help="one line an input line; lines of equal text are one input, whatever their contexts"
    )
    p.add_argument("--ref_type", default="e2e", choices=REF_TYPES)
    p.add_argument("--ref_num", type=int, help=f"webnlg, dart: number of reference files; default: {DEFAULT_REF_NUM}")
    p.add_argument("--tokenize", action="store_true", help="put spaces around punctuation")
    p.add_argument("--lower", action="store_true", help="lower-case")
    p.add_argument(
        "--filter",
        default="all",
        choices=("all", "seen", "unseen"),
        help='only inputs whose "cate" is true (seen in training) or false; default: %(default)s',
    )
    p.add_argument(
        "--only_predicted", action="store_true", help="leave out inputs without a prediction; their scores say so"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Decode one file."""
    args = parser().parse_args(argv)
    one_file = args.ref_type in TASKS and not TASKS[args.ref_type].reference_files
    if one_file and args.ref_num is not None:
        raise errors.UserError(
            f"--ref_num would have no effect: --ref_type {args.ref_type} writes all references; leave it out"
        )
    ref_num = DEFAULT_REF_NUM if args.ref_num is None else args.ref_num
    if ref_num < 1:
        raise errors.UserError(f"--ref_num must be at least 1, but is {ref_num}")

    from lora_nlg import files
    from lora_nlg.data import bpe
    from lora_nlg.tasks import formatted

    folder = Path(args.output_ref_file)
    ref_files = [folder] if one_file else [folder / f"reference{i}" for i in range(ref_num)]
    given = [path for path in (args.sample_file, args.input_file, args.ref_unique_file) if path]
    note = Path(args.output_pred_file + COVERED)
    files.check_outputs([args.output_pred_file, note, *ref_files], inputs=given)
    inputs = list(formatted.read_formatted(args.input_file))
    formatted.check_references(inputs, args.input_file)
    predictions = formatted.read_predictions(args.sample_file, bpe.load_encoding(args.vocab), len(inputs))
    every_group = formatted.group_lines(inputs, group_keys(args, inputs), predictions, kept_lines(args, inputs))
    groups = predicted(every_group, args)
    for group in groups:
        group.references = [formatted.standardise(text, args.tokenize, args.lower) for text in group.references]
        group.prediction = formatted.standardise(group.prediction, args.tokenize, args.lower)

    if len(groups) < len(every_group):  # before the texts, so that a part is never without its note
        write_note(note, every_group)
    write(groups, args.output_pred_file, ref_files, one_file)
    if len(groups) == len(every_group):
        note.unlink(missing_ok=True)
    print(f"decoded {len(groups):,} inputs into {args.output_pred_file}, references in {args.output_ref_file}")
    return 0


def group_keys(args: argparse.Namespace, inputs: list[dict]) -> list[str]:
    """Return what input lines must have in common to be one input."""
    from lora_nlg.data import lines

    if args.ref_unique_file is None:
        return [fields["context"] for fields in inputs]
    keys = [text for _, text in lines.read_lines(args.ref_unique_file)]
    if len(keys) != len(inputs):
        raise errors.UserError(
            f"{args.ref_unique_file} has {len(keys)} lines but {args.input_file} has {len(inputs)}; they must match line by line"
        )
    return keys


def kept_lines(args: argparse.Namespace, inputs: list[dict]) -> list[bool]:
    """Return for each input line whether --filter keeps it."""
    from lora_nlg.tasks import formatted

    if args.filter == "all":
        return [True] * len(inputs)
    kept = [seen == (args.filter == "seen") for seen in formatted.is_seen(inputs, args.input_file)]
    if not any(kept):
        raise errors.UserError(f"--filter {args.filter} leaves no line of {args.input_file}; nothing would be written")
    return kept


def predicted(groups: list, args: argparse.Namespace) -> list:
    """Return the groups that have a prediction; raise UserError if others are left and --only_predicted does not say so."""
    covered = [group for group in groups if group.prediction is not None]
    missing = len(groups) - len(covered)
    if missing and not args.only_predicted:
        raise errors.UserError(
            f"{args.sample_file} has no prediction for {missing:,} of {len(groups):,} inputs of {args.input_file}; "
            "decode them all, or score only the others with --only_predicted"
        )
    if not covered:
        raise errors.UserError(
            f"{args.sample_file} has a prediction for no input of {args.input_file}; nothing would be written"
        )
    if missing:
        print(f"left out {missing:,} of {len(groups):,} inputs, which have no prediction", file=sys.stderr)
    return covered


def write_note(path: Path, groups: list) -> None:
    """Write how many inputs there are, and the numbers, from 0, of those with a prediction."""
    from lora_nlg import files

    covered = [number for number, group in enumerate(groups) if group.prediction is not None]
    with files.atomic_writer(path) as file:
        json.dump({"inputs": len(groups), "covered": covered}, file)
        file.write("\n")


def write(groups: list, pred_file: str, ref_files: list[Path], one_file: bool) -> None:
    """Write predictions, and references: all of them in `one_file`, or the first of each input in as many files as there are."""
    from lora_nlg import files

    with contextlib.ExitStack() as stack:
        pred, *refs = [stack.enter_context(files.atomic_writer(path)) for path in (Path(pred_file), *ref_files)]
        for group in groups:
            pred.write(group.prediction + "\n")
            if one_file:
                refs[0].writelines(reference + "\n" for reference in group.references)
                refs[0].write("\n")
            else:
                padded = group.references + [""] * len(refs)
                for file, reference in zip(refs, padded, strict=False):
                    file.write(reference + "\n")
    dropped = 0 if one_file else sum(max(0, len(group.references) - len(refs)) for group in groups)
    if dropped:
        print(f"--ref_num {len(refs)} left out {dropped:,} references of inputs that have more", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(errors.run(main))
