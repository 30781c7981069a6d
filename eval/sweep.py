"""Put the runs of a sweep into one table, laid out as the paper's Table 18: a row a run, and the paper's row below each rank.

    python eval/sweep.py trained_models/mini/r*/lp*

The runs may differ in rank, targets, seed and length penalty alone. Those that differ in nothing but the seed are followed by their
mean and sample standard deviation.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import comparable
import published
import run_dir
import task
from run_dir import METRICS, Run, errors, files

COLUMNS = {"r": 4, "targets": 7, "penalty": 7, "seed": 5, "valid loss": 10}  # and the task's scores
OF_SCORE = 7  # such least widths let rows that are printed one at a time stand below each other
OF_TASK = "the formatted test file: tells the task, whose scores they are; default: E2E's"
# What of scores.json's signature must be the same
OF_SCORES = ("segments", "inputs", "protocol", "references_sha256", "nist_reference_length")
SWEPT = {"lora": ("rank", "targets"), "train": ("random_seed",), "search": ("length_penalty",)}
Values = dict[str, float]  # the validation loss and the scores, by name
TABLE_18 = "paper: Hu et al. 2021, Table 18, GPT-2 Medium on E2E after 26 000 steps"


@dataclass(frozen=True)
class Group:
    """The runs of one method and rank, of the same targets and with one length penalty; they differ in their seeds."""

    method: str  # as run_dir.method_of has it
    rank: int  # 0 but of LoRA
    targets: str  # "q,v"
    length_penalty: float
    runs: dict[int, Run]  # by seed
    scores: Sequence[str] = METRICS  # the task's

    def values(self, run: Run) -> Values:
        """Return a run's figures."""
        return {
            "valid_loss": run.training["valid_loss"],
            **{score: run.system["scores"][score] for score in self.scores},
        }

    def over_seeds(self, statistic) -> Values:
        """Return `statistic`, a mean or a deviation, of each figure over the runs."""
        of_runs = [self.values(run) for run in self.runs.values()]
        return {name: statistic([values[name] for values in of_runs]) for name in of_runs[0]}


@dataclass(frozen=True)
class Table:
    """What is shown: the groups, the paper's figures by rank, and what is to be said of those."""

    groups: list[Group]
    paper: dict[int, Values]
    note: str

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [*COLUMNS, *self.groups[0].scores]


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work_dirs", metavar="WORK_DIR", type=Path, nargs="+", help="the runs' folders, with scores.json")
    p.add_argument("--data", type=Path, help=OF_TASK)
    p.add_argument("--format", choices=FORMATS, default="text", help="what is written")
    p.add_argument("--output", metavar="FILE", help="write to this file instead of the terminal")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print or write the table."""
    args = parser().parse_args(argv)
    run_dir.check_outputs([args.output], args.work_dirs, [args.data])
    of = task_of(args)
    runs = [run_dir.read_run(work_dir, of.scores) for work_dir in args.work_dirs]
    paper = table_18() if of.published == "e2e" else {}
    shown = FORMATS[args.format](Table(grouped(runs, of.scores), paper, note(runs) if paper else ""))
    files.write_or_print(args.output, shown)
    return 0


def task_of(args: argparse.Namespace) -> task.Task:
    """Return the task that --data tells, or else E2E's."""
    return task.read(args.data) if args.data else task.Task()


def grouped(runs: list[Run], scores: Sequence[str] = METRICS) -> list[Group]:
    """Return the runs by rank, targets and length penalty.

    Raises UserError for a run that did not finish or has several ranks, for two that differ in other settings than a sweep's, and
    for a seed given twice.
    """
    groups: dict[tuple, Group] = {}
    for run in runs:
        if "valid_loss" not in run.training:
            raise errors.UserError(f"{run.work_dir} has no run.json of a training that finished; run step 03 again")
        if run.setting("search", "length_penalty") is None:
            raise errors.UserError(
                f"{run.work_dir} has no beam_prediction.run.json that says how it was decoded; run step 04 again"
            )
        if other := difference(settings(runs[0]), settings(run)):
            raise errors.UserError(
                f"{runs[0].work_dir} and {run.work_dir} differ in {other}, which is not swept over; do not mix them"
            )
        method = run_dir.method_of(run)
        rank = run_dir.rank_of(run) if method == "lora" else 0
        if not isinstance(rank, int):
            raise errors.UserError(f"{run.work_dir} has a rank for each target, so that it has no line in this table")
        targets = ",".join(run.setting("lora", "targets") or ()) if rank else ""
        key = (method, rank, targets, run.setting("search", "length_penalty"))
        group = groups.setdefault(key, Group(*key, {}, scores))
        seed = run.setting("train", "random_seed")
        if seed is None:
            raise errors.UserError(f"{run.work_dir}/run.json does not say with which seed; run step 03 again")
        if seed in group.runs:
            raise errors.UserError(
                f"{group.runs[seed].work_dir} and {run.work_dir} have the same seed {seed}; give each run once"
            )
        group.runs[seed] = run
    return [groups[key] for key in sorted(groups)]


def settings(run: Run) -> dict:
    """Return all that must be the same: every setting but the swept ones, and what the scores are of."""
    all_of_them = {**run.training.get("settings", {}), "search": run.decoding.get("settings", {}).get("search") or {}}
    for section, names in SWEPT.items():
        kept = (all_of_them.get(section) or {}).items()
        all_of_them[section] = {name: value for name, value in kept if name not in names}
    of_scores = {name: run.signature.get(name) for name in OF_SCORES}
    return {**all_of_them, "scores": of_scores}


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


def table_18() -> dict[int, Values]:
    """Return the paper's figures by rank."""
    return {
        row.rank: {"valid_loss": row.valid_loss, **row.scores}
        for row in published.read()
        if row.kind == "rank" and row.rank is not None and row.valid_loss is not None  # which these rows all have
    }


def note(runs: list[Run]) -> str:
    """Return what the paper's rows are, and whether these runs may be held against them."""
    reason = next(filter(None, map(comparable.why_not, runs)), None)
    other = next((model for model in map(comparable.model, runs) if model != "GPT-2 M"), None)
    if reason is None and other:
        reason = f"they are of {other}"
    return f"{TABLE_18}; not to be compared with these runs: {reason}." if reason else f"{TABLE_18}."


def rows(shown: Table) -> list[list[str]]:
    """Return the table's rows by column: each run, mean and deviation of several seeds, and below each rank the paper's."""
    groups, paper, table = shown.groups, shown.paper, []
    for i, group in enumerate(groups):
        name = [
            str(group.rank) if group.rank else group.method,
            errors.visible(group.targets) or "-",
            f"{group.length_penalty:g}",
        ]
        table += [[*name, str(seed), *cells(group.values(run))] for seed, run in group.runs.items()]
        if len(group.runs) > 1:
            mean, deviation = group.over_seeds(statistics.mean), group.over_seeds(run_dir.deviation)
            table.append([*name, f"mean of {len(group.runs)}", *cells(mean, deviation)])
        is_last = i + 1 == len(groups) or groups[i + 1].rank != group.rank
        if is_last and group.rank in paper:
            known = paper[group.rank]
            figures = [f"{known[score]:.4f}" if score in known else "-" for score in group.scores]
            table.append([str(group.rank), "-", "-", "paper", f"{known['valid_loss']:.2f}", *figures])
    return table


def cells(values: Values, deviations: Values | None = None) -> list[str]:
    """Return the figures; with deviations as "0.7040±.0010", the way the paper writes them."""
    if deviations is None:
        return [f"{value:.4f}" for value in values.values()]
    return [f"{value:.4f}±{f'{deviations[name]:.4f}'.removeprefix('0')}" for name, value in values.items()]


def as_text(shown: Table) -> str:
    """Return the table for a terminal."""
    table = [shown.columns, *rows(shown)]
    least = [COLUMNS.get(name, OF_SCORE) for name in shown.columns]
    widths = [max(width, *(len(row[i]) for row in table)) for i, width in enumerate(least)]
    lines = [" ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([*lines, *ending(shown)])


def as_markdown(shown: Table) -> str:
    """Return the table for a page."""
    lines = [f"| {' | '.join(shown.columns)} |", f"|---|---|{'---:|' * (len(shown.columns) - 2)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows(shown)]
    return "\n".join([*lines, *ending(shown)])


def ending(shown: Table) -> list[str]:
    """Return the lines below a table: what the paper's rows are, where there are any."""
    return ["", shown.note, ""] if shown.note else [""]


def as_tsv(shown: Table) -> str:
    """Return the table alone, with tabs."""
    return "".join("\t".join(row) + "\n" for row in (shown.columns, *rows(shown)))


def as_json(shown: Table) -> str:
    """Return all of it, nothing rounded."""
    listed = [
        {
            "method": group.method,
            "rank": group.rank,
            "targets": group.targets,
            "length_penalty": group.length_penalty,
            "runs": [
                {"seed": seed, "work_dir": errors.visible(str(run.work_dir)), **group.values(run)}
                for seed, run in group.runs.items()
            ],
            "mean": group.over_seeds(statistics.mean),
            "deviation": group.over_seeds(run_dir.deviation) if len(group.runs) > 1 else None,
            "paper": shown.paper.get(group.rank),
        }
        for group in shown.groups
    ]
    return files.json_text({"groups": listed, "note": shown.note})


FORMATS = {"text": as_text, "md": as_markdown, "json": as_json, "tsv": as_tsv}


if __name__ == "__main__":
    sys.exit(errors.run(main))
