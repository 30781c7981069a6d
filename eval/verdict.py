"""The sentence about a run: where its scores stand among the published ones, and what in its records may be the reason."""

import math

import published
import recipe
import run_dir
from comparable import model
from published import Row
from run_dir import Run

# BLEU on the task's scale. E2E's is the largest deviation over LoRA's seeds that published.tsv has; that of triples is what another
# protocol is worth, see docs/triples.md.
SPREAD = {"e2e": 0.003, "webnlg": 1.0, "dart": 1.0}
LESS_IS_BETTER = ("TER",)


def sentence(run: Run, judges: list[Row], of: str) -> str:
    """Return it, of the rows that the run is judged by."""
    public, row = band(judges), nearest(run, judges, published.PAPERS) or nearest(run, judges, ("since",))
    scores = {metric: round(value, published.digits(of, metric)) for metric, value in run.system["scores"].items()}
    bleu = f"BLEU {_number(scores['BLEU'], of, 'BLEU')}"
    if row is None and public is None:
        method, rank = run_dir.method_of(run), run_dir.rank_of(run)
        trained = f"{run_dir.called(method)}{f' of rank {rank}' if rank else ''}"
        return f"{bleu}: nothing is published for {model(run)} and {trained}."
    where, off = position(scores["BLEU"], public, row, of)
    if row and of != "e2e":
        for metric in (metric for metric in ("METEOR", "TER") if metric in row.scores and metric in scores):
            where += f"; {metric} {_number(scores[metric], of, metric)} is {beside(scores[metric], row, metric, of)}"
    reasons = recipe.departures(run, of)
    has_a_curve = (of, model(run), run_dir.method_of(run)) == ("e2e", "GPT-2 M", "lora")
    if has_a_curve and not reasons and (left := recipe.off_curve(run)):
        reasons = [left]
    if empty := run.system.get("empty_outputs"):
        reasons.append(f"{empty} empty outputs")
    if not reasons:
        why = "nothing in its records is unlike the recipe"
    else:
        why = f"{'the likely reason' if off else 'unlike the recipe'}: {', '.join(reasons)}"
    return f"{bleu} is {where}; {why}."


def band(judges: list[Row]) -> list[float] | None:
    """Return the lowest and the highest BLEU of public runs of the recipe, None if there are none."""
    public = [row.scores["BLEU"] for row in judges if row.kind == "public"]
    return [min(public), max(public)] if public else None


def nearest(run: Run, judges: list[Row], kinds: tuple[str, ...]) -> Row | None:
    """Return the row of these kinds, and of the run's rank, that trains about as many parameters as the run; None if there is none."""
    rows = [row for row in judges if row.kind in kinds]
    if run_dir.method_of(run) == "lora":
        rows = [row for row in rows if row.rank in (None, run_dir.rank_of(run))]
    own = run.training.get("trained_parameters")

    def distance(row: Row) -> float:
        return abs(math.log(row.parameters / own)) if own and row.parameters else math.inf

    return min(rows, key=distance, default=None)


def position(bleu: float, public: list[float] | None, row: Row | None, of: str) -> tuple[str, bool]:
    """Return where a BLEU stands, in words, and whether it is off: further from all that is published than SPREAD."""
    words, figures = [], list(public or [])
    if public:
        low, high = public
        ends = " to ".join(_number(end, of, "BLEU") for end in dict.fromkeys(public))
        where, name = (
            ("inside", f"the band of public runs ({ends})") if low < high else ("at", f"the one public run's {ends}")
        )
        is_in = low <= bleu <= high
        words.append(f"{where} {name}" if is_in else apart(bleu, low if bleu < low else high, name, of, "BLEU"))
    if row:
        words.append(beside(bleu, row, "BLEU", of))
        figures.append(row.scores["BLEU"])
    return " and ".join(words), not min(figures) - SPREAD[of] <= bleu <= max(figures) + SPREAD[of]


def beside(value: float, row: Row, metric: str, of: str) -> str:
    """Return "0.0085 below the paper's 0.7040 (Table 3)"; the table is named once, with BLEU."""
    figure, table = row.scores[metric], row.source.rpartition(", ")[2]
    name = f"{'the paper' if row.kind in published.PAPERS else row.system}'s {_number(figure, of, metric)}"
    if metric == "BLEU":
        several_sizes = row.trained and row.method not in ("LoRA", "fine-tuning")
        name += f" ({table}{f', {row.trained}' if several_sizes else ''})"
    near = abs(value - figure) <= row.deviations.get(metric, half_a_digit(of, metric)) + 1e-9
    return f"at {name}" if near else apart(value, figure, name, of, metric)


def half_a_digit(of: str, metric: str) -> float:
    """Return half of the last digit of what the paper publishes."""
    if of == "e2e":
        return 0.0005
    return 0.05 if metric == "BLEU" else 0.005


def apart(value: float, other: float, name: str, of: str, metric: str) -> str:
    """Return "0.0085 below NAME"; where less is better it is said."""
    better = "" if metric not in LESS_IS_BETTER else f" ({'better' if value < other else 'worse'} than)"
    return f"{_number(abs(value - other), of, metric)} {'below' if value < other else 'above'}{better} {name}"


def _number(value: float, of: str, metric: str) -> str:
    return f"{value:.{published.digits(of, metric)}f}"
