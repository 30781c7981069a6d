"""Print what a run came to: its scores, sample outputs, time, and where everything is."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import run_dir
import task
from run_dir import errors

SAMPLES = 3
NAMES = {"base.txt": "this run, base alone", run_dir.SYSTEM: "this run"}
COPIED = {"name": "venue's name"}  # a slot that outputs should hold word for word, as people call it


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__)
    p.add_argument("work_dir", type=Path, help="a run's folder, with scores.json")
    p.add_argument("--data", type=Path, required=True, help="the formatted test file, for the sample inputs")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the summary."""
    args = parser().parse_args(argv)
    of = task.read(args.data)
    run = run_dir.read_run(args.work_dir, of.scores)
    run_dir.check_trained(run)
    outputs = read_outputs(run)
    inputs = run_dir.distinct_inputs(args.data)
    check_finished(run)
    run_dir.check_data(args.work_dir, of.references, args.data)

    print("\n== Summary\n")
    print_scores(run.systems, of.scores)
    print()
    if all(len(texts) == len(inputs) for texts in outputs.values()):
        if of.copied:
            print_copied(inputs, outputs, of.copied)
        print_samples(inputs, outputs)
    else:
        print(f"Scored on {min(map(len, outputs.values()))} of the {len(inputs)} inputs only.\n")
    print_training(run)
    print(
        f"everything is in {errors.visible(str(args.work_dir))}/: scores.json, prediction.txt, log.jsonl, run.json, model.final.pt"
    )
    return 0


def check_finished(run: run_dir.Run) -> None:
    """Raise UserError for a training that did not end, or whose record lacks what `print_training` prints."""
    if "valid_loss" not in run.training:
        raise errors.UserError(f"the training in {run.work_dir} did not finish; run it again")
    if missing := {"seconds", "trained_parameters", "peak_memory"} - run.training.keys():
        raise errors.UserError(f'{run.work_dir / "run.json"} has no "{min(missing)}"; run step 03 again')


def read_outputs(run: run_dir.Run) -> dict[str, list[str]]:
    """Return the texts of every scored system of the work dir by the name of their file."""
    outputs = {}
    for name in map(run_dir.output_file, run.systems):
        texts = run_dir.scored_outputs(run.work_dir, name)
        if texts is None:
            raise errors.UserError(f"{run.work_dir / name} does not exist; run step 05 again")
        outputs[name] = texts
    return outputs


def slot_value(mr: str, slot: str) -> str:
    """Return "Blue Spice" for the slot name of "name : Blue Spice | Type : coffee shop"; nothing where it has none."""
    pairs = (pair.partition(":") for pair in mr.split("|"))
    return next((value.strip() for name, _, value in pairs if name.strip() == slot), "")


def print_scores(systems: Sequence[dict], metrics: Sequence[str]) -> None:
    """Print the run's scores."""
    named = [(errors.visible(NAMES.get(run_dir.output_file(s), s["file"])), s["scores"]) for s in systems]
    width = max(len(name) for name, _ in named)
    print(" " * width, *(f"{errors.visible(metric):>8}" for metric in metrics))
    for name, scores in named:
        print(f"{name:<{width}}", *(f"{scores[metric]:8.4f}" for metric in metrics))


def print_copied(inputs: list[str], outputs: dict[str, list[str]], slot: str) -> None:
    """Print how many outputs hold the value of `slot` that their input asks for, which BLEU hardly shows of a name."""
    values = [slot_value(mr, slot).lower() for mr in inputs]
    for name, texts in outputs.items():
        copied = sum(value in text.lower() for value, text in zip(values, texts, strict=True) if value)
        asked = sum(map(bool, values))
        print(
            errors.visible(f"{NAMES.get(name, name)}: {copied} of {asked} outputs hold their {COPIED.get(slot, slot)}")
        )
    print()


def print_samples(inputs: list[str], outputs: dict[str, list[str]]) -> None:
    """Print a few inputs, spread over the file, with what was generated for them."""
    for i in range(0, len(inputs), -(-len(inputs) // SAMPLES)):
        print(errors.visible(f"input      {inputs[i]}"))
        for name, texts in outputs.items():
            print(errors.visible(f"{name.removesuffix('.txt'):<10} {texts[i]}"))
        print()


def print_training(run: run_dir.Run) -> None:
    """Print how long training took and what it trained."""
    training, log = run.training, run.log
    times = sorted(line["ms_per_batch"] for line in log if "ms_per_batch" in line)
    # A finished training ends with a validation.
    last = max((line.get("eval", line).get("step", 0) for line in log), default=0)
    print(f"training: {last:,} steps, ", end="")
    if times:
        print(f"median {times[len(times) // 2]:.0f} ms each, ", end="")
    print(f"{training['seconds'] / 60:.1f} minutes, {training['trained_parameters']:,} parameters trained, ", end="")
    print(f"validation loss {training['valid_loss']:.3f}, peak memory {training['peak_memory']['host_mib']:,.0f} MiB")
    if smoothing := run.setting("train", "label_smooth"):
        print(
            f"training losses have label smoothing of {smoothing:g}, validation losses none: the two are not to be compared"
        )


if __name__ == "__main__":
    sys.exit(errors.run(main))
