"""Encode and score files of 100 000 and of 1 000 000 lines, the bundled data again and again, and show the memory that takes.

Measures: the highest resident memory of the Python process, in MiB. Does not measure speed, nor the memory of the two Java
programs (METEOR's is limited to 2 GiB). Takes an hour, most of it METEOR's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data/mini/train.txt"
# Runs a program and prints its highest resident memory in KiB as the last line of stderr
RUN = """
import atexit, resource, runpy, sys
del sys.argv[0]
atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def peak_mib(program: Path, *arguments: str | Path) -> float:
    """Return the highest resident memory of a program."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, program, *arguments],
        env=os.environ | {"PYTHONPATH": str(program.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return int(done.stderr.splitlines()[-1]) / 1024


def write(folder: Path, lines: int) -> None:
    """Write `lines` pairs to encode, as many references, and the first reference of every input as its output."""
    pairs = [line.split("||") for line in DATA.read_text(encoding="utf-8").splitlines()]
    groups: dict[str, list[str]] = {}
    for mr, reference in pairs:
        groups.setdefault(mr, []).append(reference)
    with (
        open(folder / "formatted", "w") as formatted,
        open(folder / "refs", "w") as refs,
        open(folder / "sys", "w") as sys_,
    ):
        for _ in range(-(-lines // len(pairs))):
            formatted.writelines(json.dumps({"context": mr, "completion": text}) + "\n" for mr, text in pairs)
            refs.writelines("\n".join(group) + "\n\n" for group in groups.values())
            sys_.writelines(group[0] + "\n" for group in groups.values())


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--lines", type=int, nargs="+", default=[100_000, 1_000_000], help="of the files; default: %(default)s"
    )
    measured = {}
    for lines in parser.parse_args().lines:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder, lines)
            flags = ("--vocab", ROOT / "vocab", "--input", folder / "formatted", "--output", folder / "encoded")
            encoding = peak_mib(ROOT / "src/gpt2_encode.py", *flags)
            scoring = peak_mib(ROOT / "eval/e2e/measure_scores.py", folder / "refs", folder / "sys")
        measured[lines] = {"encoding_mib": round(encoding), "scoring_mib": round(scoring)}
        print(f"{lines:,} lines: {encoding:.0f} MiB to encode, {scoring:.0f} MiB to score", flush=True)
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
