"""What the training's log shows: losses and rates over its steps, beside the published ones where these are of the same recipe."""

from markupsafe import Markup

import curve
from report_page import charts
from report_page.contents import Contents


def drawn(run: Contents) -> list[str]:
    """Return the charts of the losses and of the learning rate, less those without a point of this run."""
    steps = [line["step"] for line in run.intervals]
    losses, rates = [], []
    if run.intervals:
        losses.append(charts.Line("training", steps, [line["avg_loss"] for line in run.intervals], "run"))
        rates.append(charts.Line("this run", steps, [line["lr"] for line in run.intervals], "run"))
    if run.validations:
        valid_steps, valid_losses = ([line[key] for line in run.validations] for key in ("step", "valid_loss"))
        losses.append(charts.Line("validation", valid_steps, valid_losses, "valid"))
    if known := run.published_curve:
        losses[:0] = [
            _published_line("published, training", known.curve.losses),
            _published_line("published, validation", known.valid_losses, ":"),
        ]
        rates.insert(0, _published_line("published", known.curve.rates))
    described = "over the training steps; the figures are in the table below"
    shown = [charts.over_steps("loss", f"Loss {described}", losses, "loss (nats a token)")]
    if run.intervals:
        shown.append(charts.over_steps("rate", f"Learning rate {described}", rates, "learning rate", from_zero=True))
    return [Markup(svg) for svg in shown]


def _published_line(name: str, values: dict[int, float], style: str = "-") -> charts.Line:
    return charts.Line(name, list(values), list(values.values()), "public", style, behind=True)


def table(run: Contents) -> list[dict]:
    """Return a row for each step that has a loss: of training, of validation, or of both, beside the published ones."""
    losses = run.published_curve.curve.losses if run.published_curve else {}
    published_valid = run.published_curve.valid_losses if run.published_curve else {}
    training = {line["step"]: line for line in run.intervals}
    valid = {line["step"]: line["valid_loss"] for line in run.validations}
    return [
        {
            "step": step,
            "loss": training.get(step, {}).get("avg_loss"),
            "valid": valid.get(step),
            "rate": training.get(step, {}).get("lr"),
            "published": losses.get(step),
            "published_valid": published_valid.get(step),
        }
        for step in sorted({*training, *valid})
    ]


def off_curve(run: Contents) -> tuple[float, int] | None:
    """Return the largest distance of the training losses from the published ones where the two are compared, and its step."""
    if run.published_curve is None:
        return None
    compared = curve.compared(run.record.log, run.published_curve.curve)
    return max(((abs(loss - known), step) for step, loss, known in compared), default=None)
