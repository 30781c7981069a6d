"""Put the runs of scripts/placement.sh into two tables, laid out as the paper's Tables 5 and 6, its figures for GPT-3 below.

    python eval/placement_table.py trained_models/placement/r*/lp*

published_placement.tsv says which ranks and matrices a table has; runs with others are left out. Runs that differ in nothing but
the seed are one cell: mean ± sample standard deviation.
"""

import argparse
import csv
import math
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import run_dir
import sweep
from run_dir import errors, files
from sweep import Group

PAPER = Path(__file__).with_name("published_placement.tsv")
TASKS = ("WikiSQL", "MultiNLI")  # validation accuracy, per cent
BEGIN, END = "<!-- placement: begin, written by scripts/placement.sh -->\n", "<!-- placement: end -->\n"
ERRORS_APART = 2  # standard errors by which two means must differ to count as different

Cell = tuple[int, str]  # rank and targets: (4, "q,v")


@dataclass(frozen=True)
class Finding:
    """One of the paper's findings on GPT-3, about two cells: the first is better than the second, or only as good."""

    text: str
    first: Cell
    second: Cell
    better: bool


FINDINGS = (
    Finding("one budget does better on q and v than on q alone", (4, "q,v"), (8, "q"), better=True),
    Finding("one budget does better on all four matrices than on q alone", (2, "q,k,v,o"), (8, "q"), better=True),
    Finding("rank 1 on q and v is as good as rank 64", (1, "q,v"), (64, "q,v"), better=False),
)


@dataclass(frozen=True)
class Published:
    """One line of published_placement.tsv."""

    table: int  # 5 or 6
    cell: Cell
    accuracy: dict[str, float]  # by TASKS
    deviation: dict[str, float]  # over seeds, one for a whole task


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("work_dirs", metavar="WORK_DIR", type=Path, nargs="+", help="the runs' folders, with scores.json")
    p.add_argument("--data", type=Path, help=sweep.OF_TASK)
    p.add_argument("--output", metavar="FILE", help="write to this file as well")
    p.add_argument("--doc", metavar="FILE", help="put them between this file's placement marks as well")
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the tables, and write them."""
    args = parser().parse_args(argv)
    run_dir.check_outputs([args.output, args.doc], args.work_dirs, [args.data])
    of = sweep.task_of(args)
    runs = [run_dir.read_run(work_dir, of.scores) for work_dir in args.work_dirs]
    shown = page(sweep.grouped(runs, of.scores), published())
    if args.output is not None:
        files.write(args.output, shown)
    if args.doc is not None:
        files.put_between(args.doc, BEGIN, END, shown)
    print(errors.visible_lines(shown), end="")
    return 0


def published() -> list[Published]:
    """Return the paper's figures."""
    with open(PAPER, encoding="utf-8", newline="") as file:
        return [
            Published(
                int(cells["table"]),
                (int(cells["rank"]), cells["targets"]),
                {task: float(cells[task]) for task in TASKS},
                {task: float(cells[task + "_sd"]) for task in TASKS},
            )
            for cells in csv.DictReader(file, delimiter="\t")
        ]


def page(made: list[Group], paper: list[Published]) -> str:
    """Return both tables, what they are of, and what carries over, in Markdown."""
    groups = cells_of(made, paper)
    return "\n".join([made_of(groups), table_5(groups, paper), table_6(groups, paper), carries_over(groups)])


def cells_of(made: list[Group], paper: list[Published]) -> dict[Cell, Group]:
    """Return the runs of each of the paper's cells. Raises UserError for a cell without runs or with two length penalties."""
    wanted = {line.cell for line in paper}
    groups: dict[Cell, Group] = {}
    for group in made:
        cell = (group.rank, group.targets)
        if cell in groups:
            penalties = f"{groups[cell].length_penalty:g} and {group.length_penalty:g}"
            raise errors.UserError(f"there are runs with length penalties {penalties}; give those with one of them")
        groups[cell] = group
    for rank, targets in sorted(wanted - groups.keys()):
        raise errors.UserError(f"there is no run with rank {rank} on {targets}; bash scripts/placement.sh makes it")
    found = {cell: group for cell, group in groups.items() if cell in wanted}
    for run in (run for group in found.values() for run in group.runs.values()):
        if "trained_parameters" not in run.training or run.setting("lora", "alpha") is None:
            raise errors.UserError(
                f"{run.work_dir}/run.json lacks alpha or the number of trained parameters; run step 03 again"
            )
    return found


def made_of(groups: dict[Cell, Group]) -> str:
    """Return a paragraph that says what was trained, how long and on how many inputs it was scored."""
    seeds = sorted({seed for group in groups.values() for seed in group.runs})
    run = next(iter(next(iter(groups.values())).runs.values()))
    inputs = run.signature.get("segments", run.signature.get("inputs"))
    steps, batch = run.setting("optim", "max_step"), run.setting("train", "train_batch_size")
    spread = ": mean ± sample standard deviation" if len(seeds) > 1 else ""
    return (
        f"{shape(run)} trained for {steps} steps of {batch} examples with alpha {run.setting('lora', 'alpha'):g}, scored on "
        f"{inputs} inputs, decoded with {run.setting('search', 'beam')} beams; seeds "
        f"{', '.join(map(str, seeds))}{spread}. The loss is better lower, all else higher.\n"
    )


def shape(run: run_dir.Run) -> str:
    """Return "4 layers of width 256"."""
    return f"{run.setting('model', 'n_layer')} layers of width {run.setting('model', 'n_embd')}"


def table_5(groups: dict[Cell, Group], paper: list[Published]) -> str:
    """Return one budget on different matrices: a column a placement."""
    lines = [line for line in paper if line.table == 5]
    rows = [("", [line.cell for line in lines])]
    heads = [f"{targets}, r = {rank}" for rank, targets in rows[0][1]]
    counted = ["parameters", *(parameters(groups[cell]) for cell in rows[0][1])]
    return markdown("As Table 5: one budget on different matrices", heads, [counted, *figures(groups, lines, rows)])


def table_6(groups: dict[Cell, Group], paper: list[Published]) -> str:
    """Return ranks on different matrices: a column a rank, a row a placement."""
    lines = [line for line in paper if line.table == 6]
    ranks = sorted({line.cell[0] for line in lines})
    placements = dict.fromkeys(line.cell[1] for line in lines)
    rows = [(f", {targets}", [(rank, targets) for rank in ranks]) for targets in placements]
    return markdown("As Table 6: ranks", [f"r = {rank}" for rank in ranks], figures(groups, lines, rows))


def figures(
    groups: dict[Cell, Group], lines: list[Published], rows: list[tuple[str, list[Cell]]]
) -> Iterator[list[str]]:
    """Yield the rows of a table for each of our figures, then for each of the paper's; `rows` has the ends of their names."""
    score = next(iter(groups.values())).scores[0]
    for name, figure in (("validation loss", "valid_loss"), (score, score)):
        for end, cells in rows:
            yield [name + end, *(ours(groups[cell], figure) for cell in cells)]
    accuracies = {line.cell: line.accuracy for line in lines}
    for task in TASKS:
        for end, cells in rows:
            name = f"GPT-3, {task}, % (± {lines[0].deviation[task]}){end}"
            yield [name, *(f"{accuracies[cell][task]:.1f}" for cell in cells)]


def markdown(title: str, heads: list[str], rows: Iterable[list[str]]) -> str:
    """Return a table under its title; the first column, of names, has no head."""
    shown = [["", *heads], ["---", *["---:"] * len(heads)], *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(row)} |" for row in shown), ""])


def parameters(group: Group) -> str:
    """Return how many parameters a run of `group` trains: "16 384"."""
    return f"{next(iter(group.runs.values())).training['trained_parameters']:,}".replace(",", " ")


def ours(group: Group, figure: str) -> str:
    """Return "0.1800 ± 0.0012", or the figure alone where there is one seed."""
    mean = group.over_seeds(statistics.mean)[figure]
    if len(group.runs) == 1:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {group.over_seeds(run_dir.deviation)[figure]:.4f}"


def carries_over(groups: dict[Cell, Group]) -> str:
    """Return one sentence: which of the paper's findings these runs have as well, and what that is worth."""
    if min(len(group.runs) for group in groups.values()) < 2:
        return "With one seed nothing can be said about what carries over from GPT-3.\n"
    found: dict[bool, list[str]] = {True: [], False: []}
    for finding in FINDINGS:
        found[holds_here(finding, groups)].append(f"that {finding.text}")
    says = {True: "it carries over ", False: "it does not carry over "}
    outcome = "; ".join(says[holds] + ", and ".join(texts) for holds, texts in found.items() if texts)
    run = next(iter(next(iter(groups.values())).runs.values()))
    return (
        f"By the validation loss, counting differences above {ERRORS_APART} standard errors, {outcome}; but {shape(run)}, one "
        "short training at one rate and another task can show a direction at most, and no size, of what holds for GPT-3.\n"
    )


def holds_here(finding: Finding, groups: dict[Cell, Group]) -> bool:
    """Return whether the loss of the finding's first cell is below that of the second; or, if it is only as good, not above."""
    first, second = groups[finding.first], groups[finding.second]
    gain = second.over_seeds(statistics.mean)["valid_loss"] - first.over_seeds(statistics.mean)["valid_loss"]
    variances = [group.over_seeds(statistics.variance)["valid_loss"] / len(group.runs) for group in (first, second)]
    margin = ERRORS_APART * math.sqrt(sum(variances))
    return gain > margin if finding.better else gain >= -margin


if __name__ == "__main__":
    sys.exit(errors.run(main))
