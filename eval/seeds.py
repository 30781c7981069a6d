"""Put runs of one recipe with different seeds together: every run's scores, their mean and their sample standard deviation."""

import argparse
import json
import statistics
import sys
from pathlib import Path

import run_dir
from run_dir import METRICS, Run, errors, files

HUNDREDFOLD = ("BLEU", "METEOR", "ROUGE_L")  # the paper has these in per cent
DECIMALS = dict(zip(METRICS, (1, 2, 1, 1, 2), strict=True))  # and so many of them


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, allow_abbrev=False)
    p.add_argument("work_dirs", metavar="WORK_DIR", type=Path, nargs="+", help="the folders of two or more runs")
    p.add_argument("--json", metavar="FILE", help="write the same, unrounded, to this file")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    args = parser().parse_args(argv)
    runs = [run_dir.read_run(work_dir) for work_dir in args.work_dirs]
    check_alike(runs)
    by_seed = {run.setting("train", "random_seed"): run.system["scores"] for run in runs}
    columns = {metric: [scores[metric] for scores in by_seed.values()] for metric in METRICS}
    means = {metric: statistics.mean(values) for metric, values in columns.items()}
    deviations = {metric: statistics.stdev(values) for metric, values in columns.items()}
    if args.json:
        with files.atomic_writer(args.json) as file:
            json.dump({"seeds": by_seed, "mean": means, "deviation": deviations}, file, indent=1)
            file.write("\n")

    print(f"{'':20}", *(f"{metric:>9}" for metric in METRICS))
    for seed, scores in by_seed.items():
        print(f"{f'seed {seed}':20}", *(f"{scores[metric]:9.4f}" for metric in METRICS))
    print(f"{'mean':20}", *(f"{means[metric]:9.4f}" for metric in METRICS))
    print(f"{'standard deviation':20}", *(f"{deviations[metric]:9.4f}" for metric in METRICS))
    print(f"{'as the paper writes':20}", *(f"{as_paper(m, means[m], deviations[m]):>9}" for m in METRICS))
    return 0


def check_alike(runs: list[Run]) -> None:
    """Raise UserError unless the runs are two or more, finished, and differ in nothing but their seed."""
    if len(runs) < 2:
        raise errors.UserError("a standard deviation needs two runs or more; give more work dirs")
    seeds: dict[int, Path] = {}
    for run in runs:
        if "valid_loss" not in run.training:
            raise errors.UserError(f"{run.work_dir} has no run.json of a training that finished; run step 03 again")
        seed = run.setting("train", "random_seed")
        if seed in seeds:
            raise errors.UserError(f"{seeds[seed]} and {run.work_dir} have the same seed {seed}; give each seed once")
        seeds[seed] = run.work_dir
        if other := difference(settings(runs[0]), settings(run)):
            raise errors.UserError(
                f"{runs[0].work_dir} and {run.work_dir} differ in {other}, not only in their seed; do not mix them"
            )


def settings(run: Run) -> dict:
    """Return all that must be the same: the settings but for the seed, what was decoded how, and what the scores are of."""
    training = dict(run.training.get("settings", {}))
    training["train"] = {name: value for name, value in training["train"].items() if name != "random_seed"}
    of_scores = {name: run.signature.get(name) for name in ("segments", "references_sha256", "nist_reference_length")}
    return {**training, "search": run.decoding.get("settings", {}).get("search"), "scores": of_scores}


def difference(first: dict, second: dict) -> str | None:
    """Return "optim lr (0.1, 0.2)" for the first setting that two runs do not share; machines may differ."""
    for section in sorted((first.keys() | second.keys()) - {"device"}):
        one, two = first.get(section), second.get(section)
        if isinstance(one, dict) and isinstance(two, dict):
            for name in sorted(one.keys() | two.keys()):
                if one.get(name) != two.get(name):
                    return f"{section} {name} ({one.get(name)}, {two.get(name)})"
        elif one != two:
            return f"{section} ({one}, {two})"
    return None


def as_paper(metric: str, mean: float, deviation: float) -> str:
    """Return "70.4±.1", as Table 3 writes a score."""
    scale, decimals = (100 if metric in HUNDREDFOLD else 1), DECIMALS[metric]
    rounded = f"{scale * deviation:.{decimals}f}"
    return f"{scale * mean:.{decimals}f}±{rounded.removeprefix('0')}"


if __name__ == "__main__":
    sys.exit(errors.run(main))
