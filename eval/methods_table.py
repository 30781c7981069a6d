"""Put the runs of scripts/methods.sh into one table: a row a method, the paper's rows below.

    python eval/methods_table.py trained_models/methods_mini/*/lp --output methods.md
    python eval/methods_table.py --best_of RUN RUN …        # prints the folder with the lowest validation loss

Runs that differ in nothing but the seed are one row: mean ± sample standard deviation. `--paired DIR` has a file METHOD.json for each
method, of measure_scores.py --paired against LoRA: its p of BLEU is in the row.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import published
import run_dir
from run_dir import METRICS, Run, errors, files

GPT3 = Path(__file__).with_name("published_gpt3.tsv")
BEGIN, END = "<!-- methods on {}: begin, written by scripts/methods.sh -->\n", "<!-- methods on {}: end -->\n"
HEADER = (
    "method", "trained", "rate", *METRICS, "p of BLEU against LoRA", "validation loss", "ms a step", "peak MiB", "MB on disk"
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work_dirs", metavar="WORK_DIR", type=Path, nargs="+", help="the runs' folders")
    p.add_argument(
        "--best_of", action="store_true", help="print the folder of the training with the lowest validation loss"
    )
    p.add_argument("--paired", metavar="DIR", type=Path, help="the paired tests against LoRA, METHOD.json each")
    p.add_argument("--output", metavar="FILE", help="write to this file as well")
    p.add_argument("--json", metavar="FILE", help="write the figures, nothing rounded, to this file as well")
    p.add_argument("--doc", metavar="FILE", help="put the table between this file's marks as well, those of --of")
    p.add_argument("--of", metavar="PRESET", default="mini", help="the preset that the runs are of")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print, and write."""
    args = parser().parse_args(argv)
    if args.best_of:
        print(min(args.work_dirs, key=lambda folder: (valid_loss(folder), str(folder))))
        return 0
    groups = grouped([run_dir.read_run(folder) for folder in args.work_dirs])
    shown = page(groups, {name: paired(args.paired, name) for name in groups})
    if args.output:
        files.write(args.output, shown)
    if args.json:
        files.write(args.json, files.json_text({name: [figures(run) for run in runs] for name, runs in groups.items()}))
    if args.doc:
        files.put_between(args.doc, BEGIN.format(args.of), END.format(args.of), shown)
    print(errors.visible_lines(shown), end="")
    return 0


def valid_loss(folder: Path) -> float:
    """Return the validation loss at a training's end. Raises UserError if it did not end."""
    found = run_dir.read_object(folder / "run.json", {"valid_loss": float}, "03")
    return found["valid_loss"]


def grouped(runs: list[Run]) -> dict[str, list[Run]]:
    """Return the runs by method, in the order given. Raises UserError for a training that did not end or a seed given twice."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if "valid_loss" not in run.training:
            raise errors.UserError(f"{run.work_dir} has no run.json of a training that finished; run step 03 again")
        of_method = groups.setdefault(run_dir.method_of(run), [])
        seed = run.setting("train", "random_seed")
        if any(other.setting("train", "random_seed") == seed for other in of_method):
            raise errors.UserError(f"{run.work_dir} is a second run of its method with seed {seed}; give each once")
        of_method.append(run)
    return groups


def figures(run: Run) -> dict:
    """Return a run's figures."""
    steps = [line["ms_per_batch"] for line in run.log if "ms_per_batch" in line]
    return {
        "seed": run.setting("train", "random_seed"),
        "trained": run.training.get("trained_parameters"),
        "rate": run.setting("optim", "lr"),
        **run.system["scores"],
        "valid_loss": run.training["valid_loss"],
        "ms": statistics.median(steps) if steps else None,
        "peak_mib": (run.training.get("peak_memory") or {}).get("host_mib"),
        "bytes": run.training.get("bytes_on_disk"),
    }


def paired(folder: Path | None, method: str) -> dict | None:
    """Return the paired test of BLEU of a method against LoRA; None if there is none."""
    path = None if folder is None else folder / f"{method}.json"
    if path is None or not path.is_file():
        return None
    shape = {"paired": {"BLEU": {"difference": float, "p": float}}}
    return run_dir.read_object(path, shape, "06")["paired"]["BLEU"]


def page(groups: dict[str, list[Run]], tests: dict[str, dict | None]) -> str:
    """Return what the runs are, and the table, in Markdown."""
    first = next(iter(groups.values()))[0]
    seeds = sorted({run.setting("train", "random_seed") for runs in groups.values() for run in runs})
    what = (
        f"{first.setting('optim', 'max_step')} steps of {first.setting('train', 'train_batch_size')} examples on a model of "
        f"{first.setting('model', 'n_layer')} layers of width {first.setting('model', 'n_embd')}, seeds {', '.join(map(str, seeds))}, "
        f"scored on {first.signature.get('segments')} inputs; mean ± sample standard deviation.\n"
    )
    rows = [row(name, [figures(run) for run in runs], tests[name]) for name, runs in groups.items()]
    return "\n".join([what, markdown(HEADER, rows), *as_published(groups)])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose figures begin with the third column."""
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_published(methods: Iterable[str]) -> list[str]:
    """Return what is published of the same methods: GPT-2 Medium on E2E, GPT-3 on its tasks."""
    methods = list(methods)
    called = [run_dir.METHODS[name] for name in methods if name in run_dir.METHODS]
    of_medium = [
        [one.method, one.trained, one.system, *(f"{one.scores[m]:.4g}" if m in one.scores else "–" for m in METRICS)]
        for name in called
        for one in published.read()
        if (one.model, one.method) == ("GPT-2 M", name) and one.kind in ("paper", "since")
    ]
    with open(GPT3, encoding="utf-8", newline="") as file:
        of_gpt3 = [
            list(cells.values())[1:] for cells in csv.DictReader(file, delimiter="\t") if cells["method"] in methods
        ]
    return [
        "Published of GPT-2 Medium on E2E, the paper's Table 3 and since:\n",
        markdown(("method", "trained", "system", *METRICS), of_medium),
        "Published of GPT-3 (Hu et al. 2021, Table 4): validation accuracy and ROUGE, per cent.\n",
        markdown(("method", "trained", "WikiSQL", "MNLI-m", "SAMSum R1", "R2", "RL"), of_gpt3),
    ]


def row(name: str, runs: list[dict], test: dict | None) -> list[str]:
    """Return one line of the table."""

    def over(field: str, form: Callable[[float], str]) -> str:
        values = [run[field] for run in runs if run[field] is not None]
        if not values:
            return "–"
        mean = form(statistics.mean(values))
        return mean if len(values) < 2 else f"{mean} ± {form(statistics.stdev(values)).removeprefix('0')}"

    four = "{:.4f}".format
    return [
        f"`{name}`", f"{runs[0]['trained']:,}", f"{runs[0]['rate']:g}", *(over(metric, four) for metric in METRICS),
        "–" if test is None else f"{test['p']:.3f}", over("valid_loss", "{:.3f}".format), f"{median(runs, 'ms'):.0f}",
        f"{median(runs, 'peak_mib'):,.0f}", f"{(runs[0]['bytes'] or 0) / 1e6:.2f}",
    ]  # fmt: skip


def median(runs: list[dict], field: str) -> float:
    """Return the median of a figure over the runs that have it; 0 if none has."""
    values = [run[field] for run in runs if run[field] is not None]
    return statistics.median(values) if values else 0.0


if __name__ == "__main__":
    sys.exit(errors.run(main))
