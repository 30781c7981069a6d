"""The published scores, with their sources: published.tsv of E2E, published_triples.tsv of WebNLG and DART."""

import csv
from dataclasses import dataclass
from pathlib import Path

import run_dir
from run_dir import errors
from task import Task

TABLE = Path(__file__).with_name("published.tsv")
TRIPLES = TABLE.with_name("published_triples.tsv")
TABLES = {"e2e": TABLE, "webnlg": TRIPLES, "dart": TRIPLES}  # by the name that a task has for what is published of it
PAPERS = ("paper", "rank")  # the kinds of the paper's own tables
RECIPE = (*PAPERS, "public")  # the kinds by which a run of the recipe is judged
WORDS = {"task", "model", "method", "kind", "system", "rank", "trained", "valid_loss", "protocol", "source"}
DEVIATION = "_sd"  # ends the column of a score's standard deviation
MILLIONS = "M"


@dataclass(frozen=True)
class Row:
    """One line of a table, its scores on this project's scale: E2E's BLEU, METEOR and ROUGE_L are not in per cent."""

    model: str  # GPT-2 S, GPT-2 M, GPT-2 L
    method: str  # one of run_dir.METHODS' names, or another; none for a model that was not tuned
    # paper: Tables 3, 13, 14; rank: Table 18; public: a run of the public code with its settings; since: whatever else came after
    # the paper, by other methods, settings or code; untuned
    kind: str
    system: str
    rank: int | None  # LoRA's and its like's; None where it is not said or there is none
    trained: str  # parameters, as the source writes them
    scores: dict[
        str, float
    ]  # by metric, less those that are not published; BLEU_U and BLEU_S are WebNLG's unseen and seen
    deviations: dict[str, float]  # standard deviations over seeds, where given
    valid_loss: float | None
    protocol: str  # how the row was trained or scored, as far as it is known
    source: str

    @property
    def parameters(self) -> float | None:
        """How many are trained: 350 000 of "0.35M"."""
        number = self.trained.removesuffix(MILLIONS)
        return float(number) * (1e6 if self.trained.endswith(MILLIONS) else 1) if number else None


def read(of: str = "e2e") -> list[Row]:
    """Return all rows of a task."""
    with open(TABLES[of], encoding="utf-8", newline="") as file:
        return [_row(cells) for cells in csv.DictReader(file, delimiter="\t") if cells.get("task", of) == of]


def name_of(task: Task) -> str | None:
    """Return by which name scores are published for a task, None if none are. Raises UserError if it names some that are not here."""
    if task.published is not None and task.published not in TABLES:
        raise errors.UserError(
            f"the task {task.name} is to be held against the published scores {task.published!r}, but there are none but "
            f"{', '.join(TABLES)}; run step 02 again"
        )
    return task.published


def digits(of: str | None, column: str) -> int:
    """Return how many decimals of a score are shown. BLEU of triples is from 0 to 100, all else from 0 to 1 or so."""
    return 2 if TABLES.get(of or "") == TRIPLES and column.startswith("BLEU") else 4


def beside(of: str, model: str | None, method: str, rank: int | None) -> list[Row]:
    """Return what is published of a model: the paper's rows, then method by method, in both parts those of `method` first.

    Of Table 18 it is the row of `rank` alone; sweep.py has the others.
    """
    name = run_dir.called(method)
    rows = [row for row in read(of) if row.model == model and row.kind != "untuned"]
    rows = [row for row in rows if row.kind != "rank" or (row.method, row.rank) == (name, rank)]
    methods = [name, *dict.fromkeys(row.method for row in rows)]
    parts = {"paper": 0, "rank": 1}  # and the rest
    return sorted(rows, key=lambda row: (parts.get(row.kind, 2), methods.index(row.method)))


def judges(rows: list[Row], method: str, rank: int | None) -> list[Row]:
    """Return the rows that a run is judged by: of its method and, but for Table 3's and the like, its rank.

    Rows by another protocol than the recipe's are no judges, unless the method has no others.
    """
    own = [row for row in rows if row.method == run_dir.called(method)]
    recipes = [row for row in own if row.kind in RECIPE]
    return [row for row in recipes if row.kind == "paper" or row.rank in (None, rank)] if recipes else own


def _row(cells: dict[str, str]) -> Row:
    figures = {name: float(cell) for name, cell in cells.items() if name not in WORDS and cell}
    ends = len(DEVIATION)
    return Row(
        model=cells["model"],
        method=cells["method"],
        kind=cells["kind"],
        system=cells["system"],
        rank=int(cells["rank"]) if cells["rank"] else None,
        trained=cells["trained"],
        scores={name: value for name, value in figures.items() if not name.endswith(DEVIATION)},
        deviations={name[:-ends]: value for name, value in figures.items() if name.endswith(DEVIATION)},
        valid_loss=float(cells["valid_loss"]) if cells.get("valid_loss") else None,
        protocol=cells["protocol"],
        source=cells["source"],
    )
