"""A published learning curve, and whether a run is on it."""

import csv
from dataclasses import dataclass
from pathlib import Path

from lora_nlg.errors import UserError

TOLERANCE = 0.05  # nats; two runs of one recipe differ by 0.01
EARLY_STEPS = (100, 200, 300, 500)  # compared, as is every thousandth: a wrong recipe shows within minutes


@dataclass(frozen=True)
class Curve:
    """Average training losses by step, each over the steps since the one before."""

    path: Path
    losses: dict[int, float]

    def published(self, step: int) -> float | None:
        """Return the curve's average loss at `step`, None where it has none or nothing is to be compared."""
        compared = step in EARLY_STEPS or step % 1000 == 0
        return self.losses.get(step) if compared else None


def is_on(avg_loss: float, published: float) -> bool:
    """Return whether two average losses differ by no more than TOLERANCE; a loss that is no number is off."""
    return abs(avg_loss - published) <= TOLERANCE


def read(path: str | Path, log_interval: int) -> Curve:
    """Read a tab-separated file with the columns `step` and `avg_loss…`, one for each published run; their mean is the curve.

    Raises UserError where the file is not that, or its averages are over other spans than `log_interval` steps.
    """
    path = Path(path)
    losses = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            columns = [name for name in rows.fieldnames or () if name.startswith("avg_loss")]
            if "step" not in (rows.fieldnames or ()) or not columns:
                raise UserError(
                    f"{path} has no columns step and avg_loss; expected a tab-separated curve with a header"
                )
            for row in rows:
                losses[int(row["step"])] = sum(float(row[name]) for name in columns) / len(columns)
    except OSError as error:
        raise UserError(f"--compare_curve {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--compare_curve {path} is not text; expected a tab-separated curve") from error
    except csv.Error as error:
        raise UserError(f"{path} is no table ({error}); expected a tab-separated curve with a header") from error
    except (ValueError, TypeError) as error:
        where = f"{path}, line {rows.line_num}"
        raise UserError(f"{where}: expected numbers under step and {', '.join(columns)}") from error
    if not losses:
        raise UserError(f"{path} is empty; expected a curve with a line for each log interval")
    span = min(losses)
    if span != log_interval:
        raise UserError(
            f"{path} averages over {span} steps but this run over {log_interval}; pass --log_interval {span} to compare them"
        )
    return Curve(path, losses)
