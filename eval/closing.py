"""Print what a whole pipeline came to, on one screen: scores with their intervals, two examples, what to open, what to type next."""

import argparse
import itertools
import shlex
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import run_dir
import summary
import task
from run_dir import Run, errors

EXAMPLES = 2
LONGEST = 150  # signs of a text; two lines of a terminal


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__)
    p.add_argument("work_dir", type=Path, help="a run's folder, after step 7")
    p.add_argument("--data", type=Path, required=True, help="the formatted test file, for the inputs")
    p.add_argument("--log", metavar="FILE", help="where all that the steps said is")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the screen."""
    args = parser().parse_args(argv)
    of = task.read(args.data)
    run = run_dir.read_run(args.work_dir, of.scores)
    run_dir.check_trained(run)
    summary.check_finished(run)
    print()
    print_scores(run, of.scores)
    print()
    print_examples(run, run_dir.distinct_inputs(args.data))
    print_judgement(run, of)
    summary.print_training(run)
    print()
    print_next(run, of, args.log)
    return 0


def print_scores(run: Run, metrics: tuple[str, ...]) -> None:
    """Print the scores of the run and of its base alone, and the interval of the run's."""
    summary.print_scores(run.systems, metrics)
    if intervals := run.system.get("intervals"):
        width = max(len(summary.NAMES.get(run_dir.output_file(system), system["file"])) for system in run.systems)
        for name, bound in (("95 % from", 0), ("to", 1)):
            print(f"{name:>{width}}", *(f"{intervals[metric][bound]:8.4f}" for metric in metrics))


def print_examples(run: Run, inputs: list[str]) -> None:
    """Print two inputs, one of each half of the file, with what the run made of them."""
    outputs = summary.read_outputs(run)
    if any(len(texts) != len(inputs) for texts in outputs.values()):
        return
    for i in range(0, len(inputs), -(-len(inputs) // EXAMPLES)):
        print(errors.visible(f"input      {cut(inputs[i])}"))
        for name, texts in outputs.items():
            print(errors.visible(f"{name.removesuffix('.txt'):<10} {cut(texts[i])}"))
        print()


def cut(text: str) -> str:
    """Return a text that is short enough for a screen."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def print_judgement(run: Run, of: task.Task) -> None:
    """Print how the run stands beside the published ones, and how many slots it got wrong."""
    comparison, slots = run_dir.read_comparison(run.work_dir, of.scores), run_dir.read_slots(run.work_dir)
    if comparison is not None:
        print(errors.visible(comparison["verdict"]))
    if slots is not None:
        n = sum(slots[kind] for kind in ("missing", "wrong", "invented"))
        counted = "1 error" if n == 1 else f"{n:,} errors"
        print(f"slot error rate {slots['slot_error_rate']:.4f}: {counted} in {slots['slots']:,} slots asked for")


def print_next(run: Run, of: task.Task, log: str | None) -> None:
    """Print what to open and what to type."""
    lines = [("report", str(run.work_dir / "report.html")), ("ask it", asking(run, of))]
    lines.append(("your data", "bash scripts/run_all.sh --preset mine --data FILE"))
    if log:
        lines.append(("all it said", log))
    for name, what in lines:
        if what:
            print(errors.visible(f"{name:<12}{what}"))


def asking(run: Run, of: task.Task) -> str:
    """Return the command that asks the model for texts; nothing where run.json does not say what it was made of."""
    words = [
        part for word in run.training.get("argv", ()) for part in word.split("=", 1)
    ]  # --flag=value as --flag value
    given = dict(itertools.pairwise(words))
    card, base = given.get("--model_card"), given.get("--init_checkpoint")
    if card is None or base is None:
        return ""
    trained = str(run.work_dir / "model.final.pt")
    whole = run_dir.method_of(run) == "full"
    model = ["--init_checkpoint", trained] if whole else ["--init_checkpoint", base, "--lora_checkpoint", trained]
    about = [] if of.name == "e2e" else ["--task", of.name]
    return shlex.join([".venv/bin/python", "src/gpt2_generate.py", "--model_card", card, *model, *about])


if __name__ == "__main__":
    sys.exit(errors.run(main))
