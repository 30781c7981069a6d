"""Where a run stands: the table of its scores beside those of its base and the published ones, and the charts of it."""

from markupsafe import Markup

import run_dir
import side_by_side
from report_page import charts
from report_page.contents import SYSTEM, Contents
from report_page.words import LESS_IS_BETTER, NAMES, called

# Kinds of published scores, and their colours in the charts
CHARTED = {"paper": "paper", "rank": "paper", "public": "public", "since": "public"}


def systems(run: Contents) -> list[dict]:
    """Return the scored systems, this run first."""
    rows = [
        {"name": NAMES.get(run_dir.output_file(one), one["file"]), "intervals": {}, **one} for one in run.record.systems
    ]
    for row in rows:
        row["kind"] = "run" if run_dir.output_file(row) == SYSTEM else "base"
        row["figures"] = run_dir.figures(row, run.task.scores)
    return sorted(rows, key=lambda row: row["kind"] != "run")


def published_rows(run: Contents) -> list[dict]:
    """Return the published rows, if the run may be compared with them."""
    return run.comparison["rows"] if run.comparison and run.comparison["comparable"] else []


def judges(run: Contents) -> list[dict]:
    """Return those by which the verdict judges the run; earlier comparisons had no others."""
    return [row for row in published_rows(run) if row["kind"] in CHARTED and row.get("is_judge", True)]


def band(run: Contents) -> tuple[float, float] | None:
    """Return the lowest and the highest BLEU of public runs; None where there is none or but one, whose point is enough."""
    bounds = run.comparison["band"] if run.comparison and judges(run) else None
    return (bounds[0], bounds[1]) if bounds and bounds[0] < bounds[1] else None


def columns(run: Contents) -> list[tuple[str, str]]:
    """Return the columns of the table of scores with their heads: BLEU, or BLEU U, BLEU S and BLEU A of WebNLG's halves and all."""
    known = {
        *run_dir.figures(run.record.system, run.task.scores),
        *(name for row in published_rows(run) for name in row),
    }
    names = run_dir.columns(run.task.scores, known)
    halves = len(names) > len(run.task.scores)
    return [
        (name, head.replace("_", " ") if halves else called(name))
        for name, head in zip(names, side_by_side.heads(names), strict=True)
    ]


def score_charts(run: Contents) -> list[str]:
    """Return a chart for each metric: the run, then what judges it, or the base alone if nothing may stand beside it."""
    judged_by = judges(run)
    shown = []
    for metric in run.task.scores:
        marks = [
            charts.Mark(row["name"], row["scores"][metric], row["intervals"].get(metric), row["kind"])
            for row in systems(run)
            if row["kind"] == "run" or not judged_by
        ]
        marks += [
            charts.Mark(row["system"], row[metric], _spread(row, metric), CHARTED[row["kind"]])
            for row in judged_by
            if row.get(metric) is not None
        ]
        # Published scores lie close together: from zero, their differences could not be seen.
        label = called(metric) + (", less is better" if metric in LESS_IS_BETTER else "")
        description = f"{label} of {len(marks)} systems; the figures are in the table of scores"
        shaded = band(run) if metric == "BLEU" else None
        shown.append(charts.of_scores(f"score-{metric}", description, marks, label, shaded, from_zero=not judged_by))
    return [Markup(svg) for svg in shown]


def _spread(row: dict, metric: str) -> tuple[float, float] | None:
    """Return a published score less and more its standard deviation over seeds, if that is published."""
    deviation = row.get("deviations", {}).get(metric)
    return None if deviation is None else (row[metric] - deviation, row[metric] + deviation)
