"""Put the runs of a sweep into one table, laid out as the paper's Table 18: a row a run, and the paper's row below each rank.

    python eval/sweep.py trained_models/mini/r*/lp*

The runs may differ in rank, targets, seed and length penalty alone. Those that differ in nothing but the seed are followed by their
mean and sample standard deviation.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import comparable
import published
import run_dir
from run_dir import METRICS, Run, errors, files

COLUMNS = ("r", "targets", "penalty", "seed", "valid loss", *METRICS)
LEAST_WIDTHS = (4, 7, 7, 5, 10, 7, 7, 7, 7, 7)  # so that rows printed one at a time stand below each other
VALUES = ("valid_loss", *METRICS)
SWEPT = {"lora": ("rank", "targets"), "train": ("random_seed",), "search": ("length_penalty",)}
TABLE_18 = "paper: Hu et al. 2021, Table 18, GPT-2 Medium on E2E after 26 000 steps"


@dataclass(frozen=True)
class Group:
    """The runs of one method and rank, of the same targets and with one length penalty; they differ in their seeds."""

    method: str  # as run_dir.method_of has it
    rank: int  # 0 but of LoRA
    targets: str  # "q,v"
    length_penalty: float
    runs: dict[int, Run]  # by seed

    def values(self, run: Run) -> dict[str, float]:
        """Return a run's figures by VALUES."""
        return {
            "valid_loss": run.training["valid_loss"],
            **{metric: run.system["scores"][metric] for metric in METRICS},
        }

    def over_seeds(self, statistic) -> dict[str, float]:
        """Return `statistic`, a mean or a deviation, of each of VALUES over the runs."""
        of_runs = [self.values(run) for run in self.runs.values()]
        return {name: statistic([values[name] for values in of_runs]) for name in VALUES}


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work_dirs", metavar="WORK_DIR", type=Path, nargs="+", help="the runs' folders, with scores.json")
    p.add_argument("--format", choices=FORMATS, default="text", help="what is written")
    p.add_argument("--output", metavar="FILE", help="write to this file instead of the terminal")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print or write the table."""
    args = parser().parse_args(argv)
    runs = [run_dir.read_run(work_dir) for work_dir in args.work_dirs]
    shown = FORMATS[args.format](grouped(runs), note(runs))
    files.write_or_print(args.output, shown)
    return 0


def grouped(runs: list[Run]) -> list[Group]:
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
        group = groups.setdefault(key, Group(*key, {}))
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
    of_scores = {name: run.signature.get(name) for name in ("segments", "references_sha256", "nist_reference_length")}
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


def table_18() -> dict[int, dict[str, float]]:
    """Return the paper's figures by rank, each by VALUES."""
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


def rows(groups: list[Group]) -> list[list[str]]:
    """Return the table's rows by COLUMNS: each run, mean and deviation of several seeds, and below each rank the paper's."""
    paper, table = table_18(), []
    for i, group in enumerate(groups):
        name = [
            str(group.rank) if group.rank else group.method,
            errors.visible(group.targets) or "-",
            f"{group.length_penalty:g}",
        ]
        table += [[*name, str(seed), *cells(group.values(run))] for seed, run in group.runs.items()]
        if len(group.runs) > 1:
            mean, deviation = group.over_seeds(statistics.mean), group.over_seeds(statistics.stdev)
            table.append([*name, f"mean of {len(group.runs)}", *cells(mean, deviation)])
        is_last = i + 1 == len(groups) or groups[i + 1].rank != group.rank
        if is_last and group.rank in paper:
            valid_loss, figures = paper[group.rank]["valid_loss"], cells(paper[group.rank])[1:]
            table.append([str(group.rank), "-", "-", "paper", f"{valid_loss:.2f}", *figures])
    return table


def cells(values: dict[str, float], deviations: dict[str, float] | None = None) -> list[str]:
    """Return the figures by VALUES; with deviations as "0.7040±.0010", the way the paper writes them."""
    if deviations is None:
        return [f"{values[name]:.4f}" for name in VALUES]
    return [f"{values[name]:.4f}±{f'{deviations[name]:.4f}'.removeprefix('0')}" for name in VALUES]


def as_text(groups: list[Group], paper: str) -> str:
    """Return the table for a terminal."""
    table = [COLUMNS, *rows(groups)]
    widths = [max(least, *(len(row[i]) for row in table)) for i, least in enumerate(LEAST_WIDTHS)]
    lines = [" ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([*lines, "", paper, ""])


def as_markdown(groups: list[Group], paper: str) -> str:
    """Return the table for a page."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * (len(COLUMNS) - 2)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows(groups)]
    return "\n".join([*lines, "", paper, ""])


def as_tsv(groups: list[Group], _: str) -> str:
    """Return the table alone, with tabs."""
    return "".join("\t".join(row) + "\n" for row in (COLUMNS, *rows(groups)))


def as_json(groups: list[Group], paper: str) -> str:
    """Return all of it, nothing rounded."""
    paper_rows = table_18()
    listed = [
        {
            "method": group.method,
            "rank": group.rank,
            "targets": group.targets,
            "length_penalty": group.length_penalty,
            "runs": [
                {"seed": seed, "work_dir": str(run.work_dir), **group.values(run)} for seed, run in group.runs.items()
            ],
            "mean": group.over_seeds(statistics.mean),
            "deviation": group.over_seeds(statistics.stdev) if len(group.runs) > 1 else None,
            "paper": paper_rows.get(group.rank),
        }
        for group in groups
    ]
    return files.json_text({"groups": listed, "note": paper})


FORMATS = {"text": as_text, "md": as_markdown, "json": as_json, "tsv": as_tsv}


if __name__ == "__main__":
    sys.exit(errors.run(main))
