"""Put the runs of scripts/methods.sh into one table: a row a method, the paper's rows below.

    python eval/methods_table.py trained_models/methods_mini/*/lp --output methods.md
    python eval/methods_table.py trained_models/methods_mini/*/lp --earlier docs/methods_mini.json
    python eval/methods_table.py --best_of RUN RUN …        # prints the folder with the lowest validation loss

Runs that differ in nothing but the seed are one row: mean ± sample standard deviation. `--paired DIR` has a file METHOD.json for each
method, of measure_scores.py --paired against LoRA: its p of BLEU is in the row. `--earlier` has the figures that `--json` wrote of
runs made elsewhere or before, with other methods or other seeds: their rows come first.
"""

import argparse
import csv
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import published
import run_dir
from run_dir import METRICS, Run, errors, files
from shape import Loss, fault

GPT3 = Path(__file__).with_name("published_gpt3.tsv")
BEGIN, END = "<!-- methods on {}: begin, written by scripts/methods.sh -->\n", "<!-- methods on {}: end -->\n"
# What --json writes and --earlier reads: what the runs are of, each method's figures by seed, and its paired test.
FIGURES = {
    "seed": int, "trained": int, "rate": float, **dict.fromkeys(METRICS, float), "valid_loss": Loss,
    "ms": (float, None), "peak_mib": (float, None), "bytes": (int, None),
}  # fmt: skip
OF = dict.fromkeys(("steps", "batch", "layers", "width", "inputs"), (int, None))
TEST = {"difference": float, "p": float}
TABLE = {"of": OF, "methods": {str: [FIGURES]}, "paired": {str: TEST}}
HEADER = (
    "method", "trained", "rate", *METRICS, "p of BLEU against LoRA", "validation loss", "ms a step", "peak MiB", "MB on disk"
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work_dirs", metavar="WORK_DIR", type=Path, nargs="*", help="the runs' folders")
    p.add_argument(
        "--best_of", action="store_true", help="print the folder of the training with the lowest validation loss"
    )
    p.add_argument("--paired", metavar="DIR", type=Path, help="the paired tests against LoRA, METHOD.json each")
    p.add_argument(
        "--earlier", metavar="FILE", type=Path, nargs="+", default=[], help="what --json wrote of other runs"
    )
    p.add_argument(
        "--coming",
        metavar="METHOD:SEED",
        nargs="+",
        help="only look whether these runs (SEED any: of a rate that is not chosen yet) can be added to --earlier's",
    )
    p.add_argument("--output", metavar="FILE", help="write to this file as well")
    p.add_argument("--json", metavar="FILE", help="write the figures, nothing rounded, to this file as well")
    p.add_argument("--doc", metavar="FILE", help="put the table between this file's marks as well, those of --of")
    p.add_argument("--of", metavar="PRESET", default="mini", help="the preset that the runs are of")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print, and write."""
    args = parser().parse_args(argv)
    if not args.work_dirs and not args.coming:
        raise errors.UserError(
            "no run is given; give the folders of runs with scores, such as trained_models/methods_mini/*/lp"
        )
    if args.best_of:
        print(min(args.work_dirs, key=lambda folder: (valid_loss(folder), str(folder))))
        return 0
    tests = args.paired.glob("*.json") if args.paired else ()
    # The figures that are joined to earlier ones may take their place: they hold them all.
    kept = [path for path in args.earlier if args.json is None or os.path.realpath(path) != os.path.realpath(args.json)]
    run_dir.check_outputs([args.output, args.json, args.doc], args.work_dirs, [*kept, *tests])
    earlier = [(run_dir.read_object(path, TABLE, "methods.sh"), path) for path in args.earlier]
    if args.coming:
        check_coming(earlier, args.coming)
        return 0
    table = table_of([run_dir.read_run(folder) for folder in args.work_dirs], args.paired)
    for tables, path in reversed(earlier):
        table = joined(tables, table, path)
    shown = page(table)
    if args.output is not None:
        files.write(args.output, shown)
    if args.json is not None:
        files.write(args.json, files.json_text(table))
    if args.doc is not None:
        files.put_between(args.doc, BEGIN.format(args.of), END.format(args.of), shown)
    print(errors.visible_lines(shown), end="")
    return 0


def check_coming(earlier: list[tuple[dict, Path]], coming: list[str]) -> None:
    """Raise UserError for earlier TABLEs that cannot be joined, or that have one of the runs that are to be made, METHOD:SEED."""
    for table, path in earlier:
        joined(table, {**earlier[0][0], "methods": {}}, path)
        if again := next((name for name in table["methods"] if f"{name}:any" in coming), None):
            raise errors.UserError(
                f"{path} has {again} already, whose rate is to be the same; give --rates_of, or other --methods"
            )
        there = {f"{name}:{run['seed']}" for name, runs in table["methods"].items() for run in runs}
        if again := next((run for run in coming if run in there), None):
            raise errors.UserError(
                f"{path} has {again.replace(':', ' with seed ')} already; give other --methods or --seeds"
            )


def valid_loss(folder: Path) -> float:
    """Return the validation loss at a training's end. Raises UserError if it did not end."""
    found = run_dir.read_object(folder / "run.json", {"valid_loss": float}, "03")
    return found["valid_loss"]


def table_of(runs: list[Run], tests: Path | None) -> dict:
    """Return the TABLE of runs, in the order given. Raises UserError for a training that did not end, and as `add` does."""
    first, methods = runs[0], dict[str, list[dict]]()
    for run in runs:
        if "valid_loss" not in run.training:
            raise errors.UserError(f"{run.work_dir} has no run.json of a training that finished; run step 03 again")
        if wrong := fault(own := figures(run), FIGURES):
            raise run_dir.damaged(f"{run.work_dir}/run.json: {wrong}", "03")
        add(methods, run_dir.method_of(run), own, run.work_dir)
    of = (
        first.setting("optim", "max_step"), first.setting("train", "train_batch_size"), first.setting("model", "n_layer"),
        first.setting("model", "n_embd"), first.signature.get("segments"),
    )  # fmt: skip
    paired_tests = {name: test for name in methods if (test := paired(tests, name))}
    return {"of": dict(zip(OF, of, strict=True)), "methods": methods, "paired": paired_tests}


def joined(earlier: dict, table: dict, path: Path) -> dict:
    """Return two TABLEs as one, the `earlier` one, of `path`, first. Raises UserError if they are of other things."""
    for what in OF:
        if (value := earlier["of"][what]) != (own := table["of"][what]):
            raise errors.UserError(f"{path} has {value} {what}, and these runs have {own}; they make no one table")
    methods: dict[str, list[dict]] = {}
    for name, runs in [*earlier["methods"].items(), *table["methods"].items()]:
        if not runs:
            raise errors.UserError(f"{path} has no run of {name}; leave the method out")
        for run in runs:
            add(methods, name, run, path)
    return {"of": table["of"], "methods": methods, "paired": table["paired"] | earlier["paired"]}


def add(methods: dict[str, list[dict]], name: str, run: dict, where: Path) -> None:
    """Add a run's figures to its method's. Raises UserError, naming `where`, if they differ in more than the seed, or not in it."""
    for other in methods.setdefault(name, []):
        if other["seed"] == run["seed"]:
            raise errors.UserError(f"{where}: {name} with seed {run['seed']} is there twice; give each once")
        for what in ("trained", "rate"):
            if other[what] != run[what]:
                raise errors.UserError(
                    f"{where}: {name} has runs of {what} {other[what]} and {run[what]}; a row's runs differ in the seed alone"
                )
    methods[name].append(run)


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
    return run_dir.read_object(path, {"paired": {"BLEU": TEST}}, "06")["paired"]["BLEU"]


def page(table: dict) -> str:
    """Return what the runs are, and the table, in Markdown."""
    of, methods = table["of"], table["methods"]
    seeds = sorted({run["seed"] for runs in methods.values() for run in runs})
    what = (
        f"{of['steps']} steps of {of['batch']} examples on a model of {of['layers']} layers of width {of['width']}, "
        f"seeds {', '.join(map(str, seeds))}, scored on {of['inputs']} inputs; mean ± sample standard deviation.\n"
    )
    rows = [row(name, runs, table["paired"].get(name)) for name, runs in methods.items()]
    return "\n".join([what, markdown(HEADER, rows), *as_published(methods)])


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
        return mean if len(values) < 2 else f"{mean} ± {form(run_dir.deviation(values)).removeprefix('0')}"

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
