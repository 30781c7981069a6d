"""Run the whole pipeline on 1, 10 and 100 times as much data as is bundled, and show how each program's time and memory grow.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --times 100 1000 --without_model

The data are the bundled generator's, with another seed for each part, so that nearly all inputs differ. Programs run as the scripts
run them, one after the other, each a process of its own: seconds, and the highest resident memory of its Python process in MiB (not
that of the scorer's Java programs; METEOR's is limited to 2 GiB). Training takes 20 steps whatever there is, so it shows what reading
costs, and one validation. Decoding is with 4 beams; --without_model leaves both out, and takes references as outputs. Lines are those
that a program reads; "grows" is the time of a line against the row before.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

BASE = harness.ROOT / "pretrained_checkpoints/gpt2.mini"
SPLITS = ("train", "valid", "test")
# Runs a program and prints its highest resident memory in MiB as the last line of stderr
RUN = """
import atexit, runpy, sys
import harness
del sys.argv[0]
atexit.register(lambda: print(f"\\n{harness.peak_mib()}", file=sys.stderr))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def commands(folder: Path, smoke: bool) -> dict[str, list[tuple[str, ...]]]:
    """Return the command lines of every program, by what is called its name here."""
    made = {split: folder / f"{split}.jsonl" for split in SPLITS}
    formatted = {split: folder / f"{split}_formatted.jsonl" for split in SPLITS}
    base = ("--model_card", "gpt2.mini", "--init_checkpoint", str(BASE), "--work_dir", str(folder))
    outputs = ("--output_pred_file", str(folder / "prediction.txt"), "--output_ref_file", str(folder / "reference.txt"))
    search = ("--beam", "1" if smoke else "4", "--eval_len", "4" if smoke else "80", "--seq_len", "256")
    return {
        "format": [
            ("src/format_converting_e2e.py", str(folder / f"{split}.txt"), str(formatted[split])) for split in SPLITS
        ],
        "encode": [
            ("src/gpt2_encode.py", "--add_bos", "--add_eos", "--input", str(formatted[split]), "--output", str(made[split]))
            for split in SPLITS
        ],
        "train": [
            ("src/gpt2_ft.py", *base, "--train_data", str(made["train"]), "--valid_data", str(made["valid"]), "--seq_len", "256",
             "--lora_dim", "4", "--max_step", "2" if smoke else "20", "--train_batch_size", "12", "--valid_batch_size", "16",
             "--lr", "0.002")
        ],
        "decode": [
            ("src/gpt2_beam.py", *base, *search, "--data", str(made["test"]), "--batch_size", "16", "--length_penalty", "0.8",
             "--lora_checkpoint", str(folder / "model.final.pt"), "--output_file", "beam.jsonl")
        ],
        "ids to text": [
            ("src/gpt2_decode.py", "--sample_file", str(folder / "beam.jsonl"), "--input_file", str(formatted["test"]), *outputs)
        ],
        "score": [("eval/e2e/measure_scores.py", str(folder / "reference.txt"), str(folder / "prediction.txt"))],
    }  # fmt: skip


def write_raw(folder: Path, times: int, smoke: bool) -> dict[str, int]:
    """Write raw files of `times` as much data as is bundled, and return their lines by split."""
    import make_mini_data

    n_lines = dict.fromkeys(SPLITS, 0)
    for seed in range(1, times + 1):
        sets = make_mini_data.make_sets(seed)
        for split in SPLITS:
            lines = sets[f"{split}.txt"][: 20 if smoke else None]
            with open(folder / f"{split}.txt", "a", encoding="utf-8") as file:
                file.writelines(lines)
            n_lines[split] += len(lines)
    return n_lines


def references_as_outputs(folder: Path) -> None:
    """Write each test line's own reference as what a model would have said."""
    with (
        open(folder / "test.jsonl", encoding="utf-8") as lines,
        open(folder / "beam.jsonl", "w", encoding="utf-8") as file,
    ):
        for number, line in enumerate(lines):
            file.write(json.dumps({"id": number, "predict": json.loads(line)["completion"]}) + "\n")


def measured(command: tuple[str, ...]) -> tuple[float, float]:
    """Run a program; return its seconds, and the highest resident memory of its Python process in MiB."""
    paths = [harness.ROOT / "benchmarks", (harness.ROOT / command[0]).parent, harness.ROOT / "src"]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command],
        cwd=harness.ROOT,
        env={**harness.os.environ, "PYTHONPATH": ":".join(map(str, paths))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"pipeline.py: error: {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return seconds, float(done.stderr.splitlines()[-1])


def measure(times: int, without_model: bool, smoke: bool) -> list[dict]:
    """Return a row for every program."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        n_lines = write_raw(Path(name), times, smoke)
        read = {
            "train": n_lines["train"] + n_lines["valid"],
            **dict.fromkeys(("decode", "ids to text", "score"), n_lines["test"]),
        }
        for program, of_program in commands(Path(name), smoke).items():
            if without_model and program in ("train", "decode"):
                references_as_outputs(Path(name))
                continue
            found = [measured(command) for command in of_program]
            row = {"program": program, "times": times, "lines": read.get(program, sum(n_lines.values()))}
            row |= {"seconds": round(sum(s for s, _ in found), 2), "peak_mib": max(mib for _, mib in found)}
            harness.say(f"{times} times: {program}, {row['seconds']} s, {row['peak_mib']:.0f} MiB")
            rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """Return the rows as Markdown, each program's together."""
    lines = []
    for program in dict.fromkeys(row["program"] for row in rows):
        before = None
        for row in (row for row in rows if row["program"] == program):
            a_line = row["seconds"] / row["lines"]
            grows = "" if before is None else f"{a_line / before:.2f}"
            cells = (
                program,
                f"{row['times']} ×",
                f"{row['lines']:,}",
                row["seconds"],
                grows,
                f"{row['peak_mib']:,.0f}",
            )
            lines.append(cells)
            before = a_line
    return harness.table(("program", "data", "lines", "s", "grows", "MiB"), lines)


def main(argv: list[str] | None = None) -> int:
    """Measure and report."""
    p = harness.parser(__doc__, repeats=1)
    p.add_argument("--times", type=int, nargs="+", default=[1, 10, 100], help="default: %(default)s")
    p.add_argument("--without_model", action="store_true", help="neither train nor decode")
    args = p.parse_args(argv)
    harness.start(args)
    rows = [row for n in ([1, 2] if args.smoke else args.times) for row in measure(n, args.without_model, args.smoke)]
    harness.report(args, {"rows": rows}, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
