"""What the run took: time, memory, and the inputs that took longest."""

from markupsafe import Markup

from report_page import charts
from report_page.contents import Contents, Row
from report_page.figures import duration, whole
from report_page.words import called

SLOWEST = 10


def time_chart(run: Contents) -> str | None:
    """Return the chart of the time a step took; None where the log has no training line."""
    if not run.intervals:
        return None
    steps = [line["step"] for line in run.intervals]
    times = charts.Line("this run", steps, [line["ms_per_batch"] for line in run.intervals], "run")
    description = "Time a step took, over the training steps; the figures are in the table below"
    return Markup(charts.over_steps("time", description, [times], "ms a step", from_zero=True))


def costs(run: Contents) -> list[tuple[str, str]]:
    """Return time and memory as names and values; what the records lack is left out."""
    took = []
    if run.intervals:
        times = sorted((line["ms_per_batch"], line["step"]) for line in run.intervals)
        rates = sorted(line["tokens_per_s"] for line in run.intervals)
        took += [
            ("Time a step, median", f"{times[len(times) // 2][0]:.1f} ms"),
            ("Time a step, slowest interval", f"{times[-1][0]:.1f} ms, up to step {whole(times[-1][1])}"),
            ("Tokens a second, median", whole(rates[len(rates) // 2])),
        ]
    if run.validations:
        took.append(("Validation, all passes", duration(sum(line.get("seconds", 0) for line in run.validations))))
    for name, record in (("Training", run.record.training), ("Decoding", run.record.decoding)):
        if "seconds" in record:
            took.append((f"{name}, from start to end", duration(record["seconds"])))
        for unit, mib in record.get("peak_memory", {}).items():
            kind = unit.removesuffix("_mib")
            took.append((f"{name}, peak memory, {called(kind)}", f"{whole(mib)} MiB"))
    return took


def slowest(run: Contents) -> list[Row]:
    """Return the rows that took longest to decode, the longest first; none where that was not recorded."""
    timed = [(row.seconds, row) for row in run.rows or [] if row.seconds is not None]
    return [row for _, row in sorted(timed, key=lambda one: -one[0])[:SLOWEST]]
