"""The published learning curve, and whether a run is on it, by the rule that the training's log goes by.

The rule is lora_nlg.training.curve's a second time, since neither side imports the other; a test holds the two equal.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from metrics import errors, files

TOLERANCE = 0.05  # nats; two public runs of one seed agree within 0.01 everywhere
AGAIN = "get the file from the project's repository again"
EARLY_STEPS = (100, 200, 300, 500)  # compared, as is every thousandth


@dataclass(frozen=True)
class Curve:
    """Losses in nats a token and learning rates by step (micro-batches), each the mean over the published runs."""

    losses: dict[int, float]  # averages since the step before
    rates: dict[int, float]

    def published(self, step: int) -> float | None:
        """Return the average loss at `step`, None where there is none or nothing is to be compared."""
        return self.losses.get(step) if step in EARLY_STEPS or step % 1000 == 0 else None


def is_on(avg_loss: float, published: float) -> bool:
    """Return whether two average losses differ by no more than TOLERANCE; a loss that is no number is off."""
    return abs(avg_loss - published) <= TOLERANCE


def compared(lines: Iterable[dict], curve: Curve) -> list[tuple[int, float, float]]:
    """Return (step, average loss, published one) for each line of a log at a step where the two are compared."""
    steps = [(line["step"], line["avg_loss"]) for line in lines if "avg_loss" in line]
    return [(step, loss, known) for step, loss in steps if (known := curve.published(step)) is not None]


def read(path: Path) -> Curve | None:
    """Return the curve in a tab-separated file with the columns step, lr and avg_loss…; None if there is no such file."""
    if not path.is_file():
        return None
    return Curve(_means(path, "avg_loss"), _means(path, "lr"))


def read_validation(path: Path) -> dict[int, float] | None:
    """Return the validation losses by step in a file with the columns step and …valid_loss; None if there is no such file."""
    return _means(path, "valid_loss") if path.is_file() else None


def _means(path: Path, columns: str) -> dict[int, float]:
    """Return, by step, the mean of the columns that have `columns` at the beginning or the end of their names."""
    rows = csv.DictReader(files.lines(path), delimiter="\t")
    means = {}
    try:
        names = [name for name in rows.fieldnames or () if name.startswith(columns) or name.endswith(columns)]
        if "step" not in (rows.fieldnames or ()) or not names:
            raise errors.UserError(f"{path} has no columns step and {columns}; {AGAIN}")
        for row in rows:
            means[int(row["step"])] = sum(float(row[name]) for name in names) / len(names)
    except (ValueError, TypeError, csv.Error) as error:
        raise errors.UserError(
            f"{path}, line {rows.line_num}: expected numbers under step and {columns}; {AGAIN}"
        ) from error
    return means
