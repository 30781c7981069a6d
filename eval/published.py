"""The published scores: published.tsv, where the paper's tables and public runs of its code are, with their sources."""

import csv
from dataclasses import dataclass
from pathlib import Path

from run_dir import METRICS, errors
from task import Task

TABLE = Path(__file__).with_name("published.tsv")
TABLES = {"e2e": TABLE}  # by the name that a task has for what is published of it


@dataclass(frozen=True)
class Row:
    """One line of the table. BLEU, METEOR and ROUGE_L are from 0 to 1, as this project has them, not in per cent."""

    model: str  # GPT-2 S, GPT-2 M, GPT-2 L
    method: str  # LoRA, fine-tuning, …; none for a model that was not tuned
    kind: str  # paper: Table 3; rank: Table 18; public: a run of the public code; untuned
    system: str
    rank: int | None  # LoRA's; None where it is not said or there is none
    trained: str  # parameters, as the source writes them
    scores: dict[str, float]  # by METRICS, less those that are not published
    deviations: dict[str, float]  # standard deviations over seeds, where given
    valid_loss: float | None
    source: str


def read() -> list[Row]:
    """Return all rows."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        return [_row(cells) for cells in csv.DictReader(file, delimiter="\t")]


def is_for(task: Task) -> bool:
    """Return whether anything is published for a task. Raises UserError if it names scores that are not here."""
    if task.published is not None and task.published not in TABLES:
        raise errors.UserError(
            f"the task {task.name} is to be held against the published scores {task.published!r}, but there are none but "
            f"{', '.join(TABLES)}; run step 02 again"
        )
    return task.published is not None


def beside(model: str | None, rank: int) -> list[Row]:
    """Return the rows to hold a run against: of its model, its method (rank 0: fine-tuning) and, except for Table 3's, its rank."""
    method = "LoRA" if rank else "fine-tuning"
    rows = [row for row in read() if (row.model, row.method) == (model, method)]
    return [row for row in rows if row.kind == "paper" or row.rank in (None, rank)]


def _row(cells: dict[str, str]) -> Row:
    scores, deviations = (
        {metric: float(cells[metric + end]) for metric in METRICS if cells[metric + end]} for end in ("", "_sd")
    )
    return Row(
        model=cells["model"],
        method=cells["method"],
        kind=cells["kind"],
        system=cells["system"],
        rank=int(cells["rank"]) if cells["rank"] else None,
        trained=cells["trained"],
        scores=scores,
        deviations=deviations,
        valid_loss=float(cells["valid_loss"]) if cells["valid_loss"] else None,
        source=cells["source"],
    )
