"""Make report.html: everything about a run on one page, in one file that needs no network.

    python eval/report.py trained_models/mini --data data/mini/test_formatted.jsonl

Scores, learning curve, slot errors, every input with its output, time, memory, and how to run it again. What a later step has not
made yet is left out, and the page says which step makes it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from run_dir import errors, files


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("work_dir", type=Path, help="a run's folder, with run.json, log.jsonl and scores.json")
    p.add_argument("--data", type=Path, required=True, help="the formatted test file: the inputs and their references")
    p.add_argument("--output", type=Path, help="the page (default: report.html in the run's folder)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Write the page and print where it is."""
    args = parser().parse_args(argv)
    output = args.output or args.work_dir / "report.html"

    from report_page import contents, page

    text = page.render(contents.read(args.work_dir, args.data))
    files.write(output, text)
    print(f"report: {errors.visible(str(output))} ({len(text.encode()) / 1e6:.1f} MB), open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
