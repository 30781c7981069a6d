"""Make report.html: everything about a run on one page, in one file that needs no network. Of several runs: one page side by side.

    python eval/report.py trained_models/mini --data data/mini/test_formatted.jsonl
    python eval/report.py trained_models/A trained_models/B trained_models/C --data data/mini/test_formatted.jsonl

Scores, learning curve, slot errors, every input with its output, time, memory, and how to run it again. What a later step has not
made yet is left out, and the page says which step makes it. Several runs must be of the same test inputs. They stand beside each
other: scores with paired tests against the first one given, curves, scores against sizes, outputs with their differences marked.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import run_dir
from run_dir import errors, files

SEVERAL = "side_by_side.html"


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument(
        "work_dirs",
        metavar="WORK_DIR",
        type=Path,
        nargs="+",
        help="a run's folder, with run.json, log.jsonl and scores.json",
    )
    p.add_argument("--data", type=Path, required=True, help="the formatted test file: the inputs and their references")
    p.add_argument(
        "--output",
        type=Path,
        help=f"the page (default: report.html in the run's folder; of several {SEVERAL} in the folder that holds them all)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Write the page and print where it is."""
    args = parser().parse_args(argv)

    from report_page import contents, page, several

    if len(args.work_dirs) == 1:
        output = args.output or args.work_dirs[0] / "report.html"
    else:
        output = args.output or Path(os.path.commonpath([folder.absolute() for folder in args.work_dirs])) / SEVERAL
    run_dir.check_outputs([output], args.work_dirs, [args.data])
    if len(args.work_dirs) == 1:
        text = page.render(contents.read(args.work_dirs[0], args.data))
    else:
        text = page.render_several(several.read(args.work_dirs, args.data))
    files.write(output, text)
    print(f"report: {errors.visible(str(output))} ({len(text.encode()) / 1e6:.1f} MB), open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
