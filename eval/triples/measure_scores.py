"""Score outputs of WebNLG or DART: BLEU (0 to 100), METEOR (0 to 1) and TER (less is better), by one of three protocols.

    python eval/triples/measure_scores.py REFERENCES SYS [SYS ...] --protocol webnlg2017|dart|generation_eval

REFERENCES is a folder with reference0, reference1 …, or the formatted .jsonl; SYS has one output a line. With WebNLG's .jsonl, as
REFERENCES or as --categories, the inputs of unseen and of seen categories are scored by themselves, too. docs/triples.md says what
the protocols are for.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the metrics are, for the programs of every task

from metrics import errors
from metrics.protocols import PROTOCOLS

if TYPE_CHECKING:
    from metrics import triples


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="measure_scores.py",
    )
    p.add_argument("references", metavar="REFERENCES", help="a folder with reference0 …, or a .jsonl")
    p.add_argument("systems", metavar="SYS", nargs="+", help="a system's outputs")
    p.add_argument(
        "--protocol", choices=PROTOCOLS, required=True, help="how texts are taken apart and references count"
    )
    p.add_argument(
        "--categories",
        metavar="FILE",
        help='the formatted .jsonl of the references in a folder, whose "cate" tells seen categories from unseen ones',
    )
    p.add_argument(
        "-l",
        "--seg-level",
        metavar="FILE",
        action="append",
        default=[],
        help="write each input's scores, once for each SYS",
    )
    p.add_argument("--json", metavar="FILE", help="write the scores, and all that can change them, to this file")
    p.add_argument("--bootstrap", action="store_true", help="add 95 %% intervals over the choice of inputs")
    p.add_argument("--paired", action="store_true", help="test the difference of two SYS over the choice of inputs")
    return p


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed flags; flags that would do nothing are errors."""
    p = parser()
    args = p.parse_args(argv)
    if "" in (args.references, *args.systems, args.categories, *args.seg_level, args.json):
        p.error("the name of a file is empty; give the file, or leave its flag out")
    if args.seg_level and len(args.seg_level) != len(args.systems):
        p.error(f"each SYS needs its own -l: {len(args.systems)} SYS, but {len(args.seg_level)} -l")
    if args.categories and not Path(args.references).is_dir():
        p.error(f"--categories would have no effect: {args.references} is no folder, and says its categories itself")
    if args.paired and len(args.systems) != 2:
        p.error(f"--paired compares two SYS, but {len(args.systems)} were given")
    return args


def with_categories(references: "triples.References", path: str) -> "triples.References":
    """Return the references with the splits of a formatted file; without, and with a warning, if it is of other inputs."""
    from metrics import triples

    formatted = triples.read_references(path)
    here, there = len(references.groups), len(formatted.groups)
    if formatted.splits and here != there:
        counts = f"{errors.visible(path)} has {there} inputs, the references {here}"
        print(f"warning: unseen and seen categories are not told apart: {counts}", file=sys.stderr)
        return references
    if formatted.splits and (number := triples.other_input(references, formatted)):
        others = f"input {number} of {errors.visible(path)} has other references"
        print(f"warning: unseen and seen categories are not told apart: {others}", file=sys.stderr)
        return references
    return replace(references, splits=formatted.splits)


def main(argv: list[str] | None = None) -> int:
    """Score the systems."""
    args = parse(argv)

    from metrics import bootstrap, files, inputs, java, results, triples

    outputs = [*args.seg_level, *([args.json] if args.json else [])]
    folder = Path(args.references)
    given = [*(folder.iterdir() if folder.is_dir() else [folder]), *args.systems]
    given += [path + inputs.COVERED for path in args.systems]
    files.check_outputs(outputs, inputs=[*given, *([args.categories] if args.categories else [])])
    protocol = PROTOCOLS[args.protocol]
    references = triples.read_references(args.references)
    if args.categories:
        references = with_categories(references, args.categories)
    if references.are_raw and protocol.repeats_first:
        protocol = triples.as_decoded(protocol)
    systems = [triples.read_outputs(path, len(references.groups)) for path in args.systems]
    coverage = inputs.common_coverage(args.systems, systems)
    for path, texts in zip(args.systems, systems, strict=True):
        if empty := results.count_empty(texts):
            print(f"warning: {empty} of {len(texts)} outputs in {errors.visible(path)} are empty", file=sys.stderr)
    runtime = java.find_java()
    scored = triples.score(references, systems, protocol, runtime)

    splits = {
        name: [one.of(chosen) for one in scored] for name, chosen in (references.splits or {}).items() if chosen.any()
    }
    if splits:
        splits["All"] = scored
    intervals = [bootstrap.intervals(one) for one in scored] if args.bootstrap else None
    differences = bootstrap.differences(scored[0], scored[1]) if args.paired else None
    for path, texts, one in zip(args.seg_level, systems, scored, strict=False):
        results.write_segments(path, references.sources, texts, one.segments)
    if args.json:
        signature = triples.signature(args.protocol, protocol, references, runtime)
        if coverage:
            signature |= {"inputs": coverage.inputs, "segments": len(coverage.covered)}
        results.write_json(args.json, args.systems, systems, scored, signature, intervals, differences, splits)
    names = [f"{path} ({coverage})" if coverage else path for path in args.systems]
    for number, (name, one) in enumerate(zip(names, scored, strict=True)):
        print(errors.visible(name))
        of_splits = {split: scores[number].corpus for split, scores in splits.items() if scores is not scored}
        print(results.for_people(one, intervals[number] if intervals else None, of_splits))
    if differences:
        print(results.paired_for_people(names[0], names[1], scored[0], scored[1], differences))
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
