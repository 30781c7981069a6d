"""Score outputs with the five metrics of E2E NLG: BLEU, NIST, METEOR, ROUGE-L and CIDEr.

    python eval/e2e/measure_scores.py REF SYS [SYS ...] -p

REF holds the references of each input on consecutive lines, with a blank line after each input; SYS one output a line. Both may
be tables (.tsv, .csv) whose header names the columns: mr or src, ref, sys_out or output.
"""

import argparse
import sys

from e2e_metrics import errors


class CheckJava(argparse.Action):
    """Run Java and both of its programs, say which it is, and end."""

    def __call__(self, parser, namespace, values, option_string=None):
        from e2e_metrics import java, meteor, ptb

        found = java.find_java()
        [tokens] = ptb.tokenise(found, [["Java runs ."]])
        with meteor.Meteor(
            found, "-m", "exact"
        ) as aligner:  # exact matches do without the paraphrases, which load for seconds
            aligner.send(tokens, [tokens])
            aligner.receive(1)
        print(f"Java {found.version} runs METEOR and the PTB tokeniser: {found.path}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the recipe's flags and this project's own."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    return p


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed flags; flags that would do nothing are errors."""
    p = parser()
    args = p.parse_args(argv)
    if args.header and not args.table:
        p.error("-H would have no effect without -t; give both")
    if args.seg_level and len(args.seg_level) != len(args.systems):
        p.error(f"each SYS needs its own -l: {len(args.systems)} SYS, but {len(args.seg_level)} -l")
    if args.paired and len(args.systems) != 2:
        p.error(f"--paired compares two SYS, but {len(args.systems)} were given")
    if args.paired and args.table:
        p.error("--paired prints a table of its own; leave out -t, or write everything with --json")
    return args


def show(args: argparse.Namespace, scored: list, intervals: list | None, differences: dict | None) -> None:
    """Print the scores as the flags say."""
    from e2e_metrics import results

    if args.header:
        print(results.table_header(args.bootstrap))
    for path, one, bounds in zip(args.systems, scored, intervals or [None] * len(scored), strict=True):
        if args.table:
            print(results.table_line(path, one, bounds))
        elif args.bootstrap or not args.paired:  # the paired table has the scores as well, without their intervals
            shown = results.for_people(one, bounds)
            print(f"{path}\n{shown}" if len(args.systems) > 1 else shown)
    if differences:
        print(results.paired_for_people(*args.systems, *scored, differences))


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    from e2e_metrics import bootstrap, inputs, java, nist, results, scores

    references = inputs.read_references(args.references)
    systems = [inputs.read_outputs(path, references) for path in args.systems]
    sources = inputs.read_sources(args.src, len(references.groups)) if args.src else references.sources
    for path, system in zip(args.systems, systems, strict=True):
        if empty := results.count_empty(system.texts):
            print(f"warning: {empty} of {len(system.texts)} outputs in {path} are empty", file=sys.stderr)

    definition = nist.SEGMENT_MEANS if args.python else nist.MTEVAL
    runtime = java.find_java()
    texts = [system.texts for system in systems]
    scored = scores.score(references.groups, texts, definition, runtime)

    intervals = [bootstrap.intervals(one) for one in scored] if args.bootstrap else None
    differences = bootstrap.differences(*scored) if args.paired else None

    for path, system, one in zip(args.seg_level, systems, scored, strict=False):
        results.write_segments(path, sources or system.sources, system.texts, one)
    if args.json:
        signature = results.signature(references.groups, definition, runtime)
        results.write_json(args.json, args.systems, texts, scored, signature, intervals, differences)
    show(args, scored, intervals, differences)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
