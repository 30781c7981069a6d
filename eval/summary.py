"""Print what a run came to: its scores, sample outputs, time, and where everything is."""

import argparse
import json
import sys
from pathlib import Path

from run_dir import METRICS, distinct_inputs, errors

SAMPLES = 3
NAMES = {"base.txt": "this run, base alone", "prediction.txt": "this run"}


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, allow_abbrev=False)
    p.add_argument("work_dir", type=Path, help="a run's folder, with scores.json")
    p.add_argument("--data", type=Path, required=True, help="the formatted test file, for the sample inputs")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the summary."""
    args = parser().parse_args(argv)
    try:
        systems = json.loads((args.work_dir / "scores.json").read_text(encoding="utf-8"))["systems"]
        outputs = {Path(s["file"]).name: read_lines(Path(s["file"])) for s in systems}
        inputs = distinct_inputs(args.data)
        training = json.loads((args.work_dir / "run.json").read_text(encoding="utf-8"))
        log = [json.loads(line) for line in read_lines(args.work_dir / "log.jsonl")]
    except FileNotFoundError as error:
        print(f"summary.py: error: {error.filename} does not exist; run the steps before this one", file=sys.stderr)
        return 2

    if "valid_loss" not in training:
        print(f"summary.py: error: the training in {args.work_dir} did not finish; run it again", file=sys.stderr)
        return 2

    print("\n== Summary\n")
    print_scores(systems)
    print()
    if all(len(texts) == len(inputs) for texts in outputs.values()):
        print_names_copied(inputs, outputs)
        print_samples(inputs, outputs)
    else:
        print(f"Scored on {min(map(len, outputs.values()))} of the {len(inputs)} inputs only.\n")
    print_training(training, log)
    print(f"everything is in {args.work_dir}/: scores.json, prediction.txt, log.jsonl, run.json, model.final.pt")
    return 0


def read_lines(path: Path) -> list[str]:
    """Return a text file's lines."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def venue_name(mr: str) -> str:
    """Return "Blue Spice" of "name : Blue Spice | Type : coffee shop"."""
    return mr.split("|")[0].split(":", 1)[-1].strip()


def print_scores(systems: list[dict]) -> None:
    """Print the run's scores."""
    named = [(NAMES.get(Path(s["file"]).name, s["file"]), s["scores"]) for s in systems]
    width = max(len(name) for name, _ in named)
    print(" " * width, *(f"{metric:>8}" for metric in METRICS))
    for name, scores in named:
        print(f"{name:<{width}}", *(f"{scores[metric]:8.4f}" for metric in METRICS))


def print_names_copied(inputs: list[str], outputs: dict[str, list[str]]) -> None:
    """Print how many outputs hold the name that their input asks for, which BLEU hardly shows."""
    for name, texts in outputs.items():
        copied = sum(venue_name(mr).lower() in text.lower() for mr, text in zip(inputs, texts, strict=True))
        print(f"{NAMES.get(name, name)}: {copied} of {len(texts)} outputs hold their venue's name")
    print()


def print_samples(inputs: list[str], outputs: dict[str, list[str]]) -> None:
    """Print a few inputs, spread over the file, with what was generated for them."""
    for i in range(0, len(inputs), -(-len(inputs) // SAMPLES)):
        print(f"input      {inputs[i]}")
        for name, texts in outputs.items():
            print(f"{name.removesuffix('.txt'):<10} {texts[i]}")
        print()


def print_training(training: dict, log: list[dict]) -> None:
    """Print how long training took and what it trained."""
    steps = [line for line in log if "ms_per_batch" in line]
    last = max(
        (line.get("eval", line).get("step", 0) for line in log), default=0
    )  # a finished training ends with a validation
    print(f"training: {last:,} steps, ", end="")
    if steps:
        times = sorted(line["ms_per_batch"] for line in steps)
        print(f"median {times[len(times) // 2]:.0f} ms each, ", end="")
    print(f"{training['seconds'] / 60:.1f} minutes, {training['trained_parameters']:,} parameters trained, ", end="")
    print(f"validation loss {training['valid_loss']:.3f}, peak memory {training['peak_memory']['host_mib']:,.0f} MiB")


if __name__ == "__main__":
    sys.exit(errors.run(main))
