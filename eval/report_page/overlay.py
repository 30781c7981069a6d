"""The charts of several runs: their curves over each other, and their scores against what they train."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from report_page import charts
from report_page.several import Beside, Several
from report_page.words import called

STYLES = ("-", "--", ":")  # so that neighbours differ by more than colour; in the key as border styles
BORDERS = {"-": "solid", "--": "dashed", ":": "dotted"}
REST = "public"


def looks(several: Several) -> dict[int, tuple[str, str]]:
    """Return (colour, style) of the runs that have their own, by number: all, or the first and the best where there are too many."""
    numbers = [one.number for one in several.runs]
    if len(numbers) > len(charts.SEVERAL):
        numbers = list(dict.fromkeys((several.runs[0].number, several.best.number)))
    return {
        number: (colour, STYLES[i % len(STYLES)])
        for i, (number, colour) in enumerate(zip(numbers, charts.SEVERAL, strict=False))
    }


def curves(several: Several) -> list[str]:
    """Return the charts of the validation and of the training losses, less one without a point."""
    shown = []
    for name, label, points in (
        ("valid", "validation loss (nats a token)", _validations),
        ("loss", "training loss (nats a token)", _trainings),
    ):
        lines = _lines(several, points)
        if lines:
            description = f"{label} of {len(lines)} runs over their steps"
            shown.append(charts.over_steps(f"several-{name}", description, lines, label, legend=False))
    return [Markup(svg) for svg in shown]


def _lines(several: Several, points: Callable[[Beside], Sequence[tuple[float, float]]]) -> list[charts.Line]:
    """Return a line for each run that has points, those with a look of their own over the others."""
    own = looks(several)
    rest: list[charts.Line] = []
    first: list[charts.Line] = []
    for one in several.runs:
        if found := points(one):
            steps, losses = zip(*found, strict=True)
            colour, style = own.get(one.number, (REST, "-"))
            line = charts.Line(one.name, steps, losses, colour, style, faint=one.number not in own)
            (first if one.number in own else rest).append(line)
    return [*rest, *first]


def _validations(one: Beside) -> list[tuple[float, float]]:
    return [(line["step"], line["valid_loss"]) for line in one.run.validations]


def _trainings(one: Beside) -> list[tuple[float, float]]:
    return [(line["step"], line["avg_loss"]) for line in one.run.intervals]


def score_against_size(several: Several) -> str | None:
    """Return the chart of the score against the trained parameters; None where no record says how many those are."""
    own, metric = looks(several), several.metric
    points = [
        charts.Point(
            str(one.number),
            one.run.record.training["trained_parameters"],
            one.score(metric),
            one.run.record.system.get("intervals", {}).get(metric),
            own.get(one.number, (REST, ""))[0],
        )
        for one in several.runs
        if one.run.record.training.get("trained_parameters")
    ]
    if not points:
        return None
    description = (
        f"{called(metric)} of {len(points)} runs against their trained parameters; the figures are in the table"
    )
    return Markup(charts.against_sizes("size", description, points, "trained parameters", called(metric)))
