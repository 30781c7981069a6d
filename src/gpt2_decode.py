"""Turn predicted token ids into text, and write it with the references in the form that a scorer reads.

Input lines with the same context are one input with several references; its prediction is the last one for any of its lines. A text
ends before the first end token: those of the record that gpt2_beam.py leaves beside the predictions, else 50256 and 628.

--ref_type e2e: --output_ref_file is one file, the references of an input on consecutive lines and a blank line after each
input. --ref_type webnlg and dart: it is a folder with reference0 … reference(N-1) for --ref_num N, and nothing else; line i of
each belongs to input i, and is that of reference0 again where the input has fewer references. In both, line i of
--output_pred_file is input i.

--only_predicted leaves out the inputs without a prediction, in both outputs, and says in PRED_FILE.covered.json which are left;
measure_scores.py reads it and shows the scores as those of a part.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags
from lora_nlg.tasks import TASKS

DEFAULT_REF_NUM = 4
REF_TYPES = tuple(TASKS)
COVERED = ".covered.json"  # after the name of the prediction file


def parser() -> argparse.ArgumentParser:
    """Return the recipe's flags and --only_predicted."""
    p = flags.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vocab", default="vocab", help="folder with encoder.json and vocab.bpe")
    p.add_argument("--sample_file", required=True, help='predictions, {"id": input line, "predict": ids} a line')
    p.add_argument("--input_file", required=True, help="the formatted file whose encoded form was decoded")
    p.add_argument("--output_ref_file", required=True, help="references: a file, or a folder for webnlg and dart")
    p.add_argument("--output_pred_file", required=True, help="predicted texts, one line an input")
    p.add_argument(
        "--ref_unique_file", help="one line an input line; lines of equal text are one input, whatever their contexts"
    )
    p.add_argument("--ref_type", default="e2e", choices=REF_TYPES, help="the task, and so the form of the references")
    p.add_argument("--ref_num", type=int, help=f"webnlg, dart: number of reference files; default: {DEFAULT_REF_NUM}")
    p.add_argument("--tokenize", action="store_true", help="put spaces around punctuation")
    p.add_argument("--lower", action="store_true", help="lower-case")
    p.add_argument(
        "--filter",
        default="all",
        choices=("all", "seen", "unseen"),
        help='only inputs whose "cate" is true (seen in training) or false',
    )
    p.add_argument(
        "--only_predicted", action="store_true", help="leave out inputs without a prediction; their scores say so"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Decode one file."""
    args = parser().parse_args(argv)
    one_file = not TASKS[args.ref_type].reference_files
    if one_file and args.ref_num is not None:
        raise errors.UserError(
            f"--ref_num would have no effect: --ref_type {args.ref_type} writes all references; leave it out"
        )
    ref_num = DEFAULT_REF_NUM if args.ref_num is None else args.ref_num
    if ref_num < 1:
        raise errors.UserError(f"--ref_num must be at least 1, but is {ref_num}")

    from lora_nlg import files
    from lora_nlg.data import bpe
    from lora_nlg.decoding import outputs
    from lora_nlg.tasks import formatted

    refs = Path(args.output_ref_file)
    given = [path for path in (args.sample_file, args.input_file, args.ref_unique_file) if path]
    note = Path(args.output_pred_file + COVERED)
    if not one_file:
        check_folder(refs, [args.output_pred_file, *given])
    ref_files = [refs] if one_file else [refs / f"reference{i}" for i in range(ref_num)]
    files.check_outputs([args.output_pred_file, note, *ref_files], inputs=given)
    inputs = list(formatted.read_formatted(args.input_file))
    if one_file:  # elsewhere an empty reference is a line as any other: DART has one
        formatted.check_references(inputs, args.input_file)
    ends = outputs.end_tokens(Path(args.sample_file), Path(args.input_file))
    predictions = formatted.read_predictions(args.sample_file, bpe.load_encoding(args.vocab), len(inputs), ends)
    every_group = formatted.group_lines(inputs, group_keys(args, inputs), predictions, kept_lines(args, inputs))
    groups = predicted(every_group, args)
    for group in groups:
        group.references = [formatted.standardise(text, args.tokenize, args.lower) for text in group.references]
        group.prediction = formatted.standardise(group.prediction, args.tokenize, args.lower)

    if len(groups) < len(every_group):  # before the texts, so that a part is never without its note
        write_note(note, every_group)
    if one_file:
        write(groups, args.output_pred_file, refs)
    else:
        write_folder(groups, args.output_pred_file, refs, ref_num)
    if len(groups) == len(every_group):
        note.unlink(missing_ok=True)
    errors.say(f"decoded {len(groups):,} inputs into {args.output_pred_file}, references in {args.output_ref_file}")
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


def write(groups: list, pred_file: str, ref_file: Path) -> None:
    """Write predictions, and references: those of an input on consecutive lines, and a blank line after each input's."""
    from lora_nlg import files

    with files.atomic_writer(pred_file) as pred, files.atomic_writer(ref_file) as refs:
        for group in groups:
            pred.write(group.prediction + "\n")
            refs.writelines(reference + "\n" for reference in group.references)
            refs.write("\n")


def write_folder(groups: list, pred_file: str, folder: Path, ref_num: int) -> None:
    """Write predictions, and a folder of `ref_num` files with a reference of each input; the first again where there are fewer."""
    from lora_nlg import files

    with files.atomic_writer(pred_file) as pred, files.atomic_folder(folder) as new:
        pred.writelines(group.prediction + "\n" for group in groups)
        for i in range(ref_num):
            with files.atomic_writer(new / f"reference{i}") as file:
                file.writelines(group.references[i if i < len(group.references) else 0] + "\n" for group in groups)
    if dropped := sum(max(0, len(group.references) - ref_num) for group in groups):
        print(f"--ref_num {ref_num} left out {dropped:,} references of inputs that have more", file=sys.stderr)


def check_folder(folder: Path, others: list[str]) -> None:
    """Raise UserError if replacing the folder of references would lose anything but references, or one of the files `others`."""
    inside = [name for name in others if Path(os.path.realpath(folder)) in Path(os.path.realpath(name)).parents]
    if inside:
        raise errors.UserError(
            f"{inside[0]} is in {folder}, which holds references alone; name another place for one of them"
        )
    known = re.compile(r"reference\d+")
    foreign = [name for name in sorted(os.listdir(folder)) if not known.fullmatch(name)] if folder.is_dir() else []
    if foreign:
        raise errors.UserError(
            f"{folder} holds {foreign[0]}, and --output_ref_file is to hold references alone; name another folder, or a new one"
        )


if __name__ == "__main__":
    sys.exit(errors.run(main))
