"""Score outputs with the five metrics of E2E NLG: BLEU, NIST, METEOR, ROUGE-L and CIDEr.

    python eval/e2e/measure_scores.py REF SYS [SYS ...] -p

REF holds the references of each input on consecutive lines, with a blank line after each input; SYS one output a line. Both may
be tables (.tsv, .csv) with quoted cells; a header names the columns (mr or src, ref, sys_out or output), without one there are
two, source and text. Outputs with sources go to the references of their source.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the metrics are, for the programs of every task

from metrics import errors

if TYPE_CHECKING:
    from metrics import inputs


class CheckJava(argparse.Action):
    """Run Java and both of its programs, say which it is, and end."""

    def __call__(self, parser, namespace, values, option_string=None):
        from metrics import files, java, meteor, ptb

        found = java.find_java()
        with files.temporary_folder() as folder:
            [[tokens]] = map(list, ptb.tokenise(found, [["Java runs ."]], folder))
        # Exact matches do without the paraphrases, which load for seconds.
        with meteor.Meteor(found, "-m", "exact") as aligner:
            aligner.send([tokens], [[tokens]])
            aligner.receive(1)
        print(f"Java {found.version} runs METEOR and the PTB tokeniser: {errors.visible(found.path)}")
        parser.exit()


class IndexParaphrases(argparse.Action):
    """Make the index of METEOR's paraphrases, say where it is, and end."""

    def __call__(self, parser, namespace, values, option_string=None):
        from metrics import java, paraphrases

        n_pairs = paraphrases.make_index(java.data_file(java.PARAPHRASES), paraphrases.INDEX)
        print(f"{n_pairs:,} pairs in {errors.visible(str(paraphrases.INDEX))}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the recipe's flags and this project's own."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("references", metavar="REF", help="references, as text or as a table")
    p.add_argument("systems", metavar="SYS", nargs="+", help="outputs, as text or as a table; one file a system")
    p.add_argument("-p", "--python", action="store_true", help="NIST's reference length as the Python tool has it")
    p.add_argument(
        "-l",
        "--seg-level",
        metavar="FILE",
        action="append",
        default=[],
        help="write the segments' scores to this TSV; one -l for each SYS",
    )
    p.add_argument("-s", "--src", metavar="SRC", help="the inputs, one a line or a table, for -l's first column")
    p.add_argument("-t", "--table", action="store_true", help="print one line with tabs for each SYS")
    p.add_argument("-H", "--header", action="store_true", help="with -t: print the line of column names first")
    p.add_argument("--json", metavar="FILE", help="write the scores, and all that can change them, to this file")
    p.add_argument("--bootstrap", action="store_true", help="add 95 %% intervals over the choice of inputs")
    p.add_argument("--paired", action="store_true", help="test the difference of two SYS over the choice of inputs")
    p.add_argument("--check_java", action=CheckJava, nargs=0, help="run Java, print its version and path, and end")
    p.add_argument(
        "--index_paraphrases", action=IndexParaphrases, nargs=0,
        help="make the index that spares METEOR its paraphrase table, as set-up does, and end",
    )  # fmt: skip
    return p


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed flags; flags that would do nothing are errors."""
    p = parser()
    args = p.parse_args(argv)
    if "" in (args.references, *args.systems, args.src, *args.seg_level, args.json):
        p.error("the name of a file is empty; give the file, or leave its flag out")
    if args.header and not args.table:
        p.error("-H would have no effect without -t; give both")
    if args.seg_level and len(args.seg_level) != len(args.systems):
        p.error(f"each SYS needs its own -l: {len(args.systems)} SYS, but {len(args.seg_level)} -l")
    if args.paired and len(args.systems) != 2:
        p.error(f"--paired compares two SYS, but {len(args.systems)} were given")
    if args.paired and args.table:
        p.error("--paired prints a table of its own; leave out -t, or write everything with --json")
    return args


def show(
    args: argparse.Namespace, names: list[str], scored: list, intervals: list | None, differences: dict | None
) -> None:
    """Print the scores as the flags say."""
    from metrics import results

    if args.header:
        print(results.table_header(args.bootstrap))
    for name, one, bounds in zip(names, scored, intervals or [None] * len(scored), strict=True):
        if args.table:
            print(results.table_line(name, one, bounds))
        elif args.bootstrap or not args.paired:  # the paired table has the scores as well, without their intervals
            shown = results.for_people(one, bounds)
            print(shown if name == args.systems[0] and len(names) == 1 else f"{errors.visible(name)}\n{shown}")
    if differences:
        (first_name, second_name), (first, second) = names, scored
        print(results.paired_for_people(first_name, second_name, first, second, differences))


def say_first_lines(args: argparse.Namespace, references: "inputs.References", systems: "list[inputs.Outputs]") -> None:
    """Say of tables without a header, whose first lines are the same, that they are read as an input: they may be a header."""
    from metrics import inputs

    for path, system in zip(args.systems, systems, strict=True):
        if references.sources is None or system.texts[0] != references.groups[0][0]:
            continue  # the tables are read once more only where their first texts are the same
        first = inputs.first_line_as_input(args.references, inputs.REFERENCE)
        if first is not None and inputs.first_line_as_input(path, inputs.OUTPUT) == first:
            print(
                f"{errors.visible(path)}: the first line, which is that of {errors.visible(args.references)}, is read as an input, "
                f"{first[0]!r} and {first[1]!r}; if it names the columns, call them {inputs.SOURCE.names[0]}, "
                f"{inputs.REFERENCE.names[0]} and {inputs.OUTPUT.names[0]}",
                file=sys.stderr,
            )


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    from metrics import bootstrap, files, inputs, java, nist, results, scores

    outputs = [*args.seg_level, *([args.json] if args.json else [])]
    given = [args.references, *args.systems, *(path + inputs.COVERED for path in args.systems)]
    files.check_outputs(outputs, inputs=[*given, *([args.src] if args.src else [])])
    references = inputs.read_references(args.references)
    if args.src:
        references = inputs.with_sources(references, args.src)
    systems = [inputs.read_outputs(path, references) for path in args.systems]
    say_first_lines(args, references, systems)
    texts = [system.texts for system in systems]
    coverage = inputs.common_coverage(args.systems, texts)
    for path, system in zip(args.systems, systems, strict=True):
        if empty := results.count_empty(system.texts):
            print(
                f"warning: {empty} of {len(system.texts)} outputs in {errors.visible(path)} are empty", file=sys.stderr
            )

    definition = nist.SEGMENT_MEANS if args.python else nist.MTEVAL
    runtime = java.find_java()
    scored = scores.score(references.groups, texts, definition, runtime)

    intervals = [bootstrap.intervals(one) for one in scored] if args.bootstrap else None
    differences = bootstrap.differences(*scored) if args.paired else None

    for path, system, one in zip(args.seg_level, systems, scored, strict=False):
        results.write_segments(path, references.sources or system.sources, system.texts, one.segments)
    if args.json:
        signature = results.signature(references.groups, definition, runtime)
        signature["inputs"] = coverage.inputs if coverage else len(references.groups)
        results.write_json(args.json, args.systems, texts, scored, signature, intervals, differences)
    names = [f"{path} ({coverage})" if coverage else path for path in args.systems]
    show(args, names, scored, intervals, differences)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
