"""Charts as inline SVG whose colours are the page's CSS variables, so that they follow its light or dark mode.

Every chart is small (about 330 points wide): several stand side by side on a wide screen, and the text is readable on a phone.
"""

import contextlib
import importlib.util
import io
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from run_dir import errors


@contextlib.contextmanager
def _no_settings_of_a_user() -> Iterator[None]:
    """Import matplotlib as if it were new: a notebook's backend in MPLBACKEND and a damaged matplotlibrc are errors there.

    The file that it looks for first is the one in the current folder.
    """
    found = importlib.util.find_spec("matplotlib")
    package = Path(next(iter((found and found.submodule_search_locations) or ["."])))
    backend, here = os.environ.pop("MPLBACKEND", None), os.open(".", os.O_RDONLY)
    os.chdir(package / "mpl-data" if (package / "mpl-data").is_dir() else ".")
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


logging.getLogger("matplotlib").setLevel(
    logging.ERROR
)  # of a home that cannot be written, in which it would keep its fonts
with _no_settings_of_a_user():
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

WIDTH = 4.6  # inches, 72 points each
HEIGHT = 2.7
DODGE, TICKS_APART = 1.08, 1.6  # factors of a size: between runs of one size, between two labels
ROW_HEIGHT = 0.21  # of one system in a chart of scores

SEVERAL = ("several1", "several2", "several3", "several4", "several5", "several6")  # colours of runs side by side
# matplotlib wants real colours; each of these stands for the CSS variable of its name, and means nothing by itself.
COLOURS = {
    name: f"#0000{number:02x}"
    for number, name in enumerate(("ink", "muted", "grid", "run", "valid", "paper", "public", "base", *SEVERAL), 0xA0)
}

RC: dict[Any, Any] = {
    **{name: value for name, value in rcParamsDefault.items() if "backend" not in name},  # whatever was set before
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's font
    "svg.hashsalt": "report",  # the same ids every time
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Line:
    """One line of a chart; `style` is matplotlib's, so that lines differ by more than colour.

    One `behind` is broad and pale, one that is `faint` thin and pale.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str  # in COLOURS
    style: str = "-"
    behind: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """One system in a chart of scores."""

    name: str
    value: float
    interval: tuple[float, float] | None
    colour: str  # in COLOURS


@dataclass(frozen=True)
class Point:
    """One run in a chart of scores against sizes."""

    label: str
    size: float
    score: float
    interval: tuple[float, float] | None
    colour: str  # in COLOURS


def over_steps(
    name: str, description: str, lines: Sequence[Line], y_label: str, from_zero: bool = False, legend: bool = True
) -> str:
    """Return an SVG of `lines` over training steps. `name` makes its ids unique on the page."""
    with rc_context(RC):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            look: dict[str, Any] = {"color": COLOURS[line.colour], "label": errors.visible(line.name)}
            if line.behind:
                look |= {"linewidth": 5, "alpha": 0.4}
            elif line.faint:
                look |= {"linewidth": 0.9, "alpha": 0.6}
            elif len(line.xs) < 20:  # few points: show where they are
                look |= {"marker": "o", "markersize": 3.5}
            axes.plot(line.xs, line.ys, line.style, **look)
        axes.set_xlabel("step (micro-batches)")
        axes.set_ylabel(errors.visible(y_label))
        axes.set_xlim(left=0)
        if from_zero:
            axes.update_datalim([(0, 0)])
            axes.autoscale_view()
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", "\u202f")))
        if legend and len(lines) > 1:
            axes.legend()
        return _inline(figure, name, description)


def of_scores(
    name: str,
    description: str,
    marks: Sequence[Mark],
    x_label: str,
    band: tuple[float, float] | None = None,
    from_zero: bool = False,
) -> str:
    """Return an SVG with a row for each mark, top down, its interval as a line, and `band` shaded behind all.

    Only an axis from zero has bars: elsewhere their lengths would say nothing.
    """
    with rc_context(RC):
        figure = Figure(figsize=(WIDTH, 0.75 + ROW_HEIGHT * len(marks)), layout="constrained")
        axes = figure.add_subplot()
        if band:
            axes.axvspan(*band, color=COLOURS["public"], alpha=0.15, linewidth=0)
        for y, mark in enumerate(marks):
            colour = COLOURS[mark.colour]
            if from_zero:
                axes.barh(y, mark.value, height=0.55, color=colour, alpha=0.25)
            if mark.interval:
                axes.plot(mark.interval, (y, y), "|-", color=colour, markersize=8)
            axes.plot(mark.value, y, "D" if mark.colour == "run" else "o", color=colour, markersize=5)
        axes.set_yticks(range(len(marks)), [errors.visible(mark.name) for mark in marks])
        axes.set_ylim(len(marks) - 0.4, -0.6)
        axes.margins(x=0.08)
        if from_zero:
            axes.set_xlim(left=0)
        axes.set_xlabel(errors.visible(x_label))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(axis="y", length=0)
        return _inline(figure, name, description)


def against_sizes(name: str, description: str, points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Return an SVG of scores, with their intervals, against sizes on a logarithmic axis."""
    with rc_context(RC):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for point, x in zip(points, _side_by_side([point.size for point in points]), strict=True):
            colour = COLOURS[point.colour]
            if point.interval:
                axes.plot((x, x), point.interval, "_-", color=colour, linewidth=1, alpha=0.7)
            axes.plot(x, point.score, "o", color=colour, markersize=5)
            label = errors.visible(point.label)
            axes.annotate(label, (x, point.score), (4, 3), textcoords="offset points", color=COLOURS["ink"])
        axes.set_xscale("log")
        sizes = sorted({point.size for point in points})
        axes.set_xlim(sizes[0] / 2, sizes[-1] * 2)
        ticks = [size for i, size in enumerate(sizes) if i == 0 or size > sizes[i - 1] * TICKS_APART]
        axes.set_xticks(ticks)
        axes.set_xlabel(errors.visible(x_label))
        axes.set_ylabel(errors.visible(y_label))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        return _inline(figure, name, description)


def _side_by_side(sizes: Sequence[float]) -> list[float]:
    """Return the sizes with equal ones a little apart, so that each is seen."""
    seen: Counter = Counter()
    xs = []
    for size in sizes:
        xs.append(size * DODGE ** (seen[size] - (sizes.count(size) - 1) / 2))
        seen[size] += 1
    return xs


def compact(size: float) -> str:
    """Return 16.4k of 16 384, 0.355M of 354 823."""
    for unit, length in (("M", 1e6), ("k", 1e3)):
        if size >= length / 10:
            return f"{size / length:.3g}{unit}"
    return f"{size:g}"


@contextlib.contextmanager
def _as_anywhere() -> Iterator[None]:
    """Draw without SOURCE_DATE_EPOCH, which need not be a number, and without a word about letters that matplotlib's font lacks.

    The page has no date, and its text is drawn by the reader's own font.
    """
    date = os.environ.pop("SOURCE_DATE_EPOCH", None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
            yield
    finally:
        if date is not None:
            os.environ["SOURCE_DATE_EPOCH"] = date


def _inline(figure: Figure, name: str, description: str) -> str:
    """Return the figure as an <svg> that can stand in a page beside others."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _as_anywhere():
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata=metadata)
    svg = re.sub(r"(?s)^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>", "", buffer.getvalue())
    box = re.findall(r'viewBox="([^"]*)"', svg)[0]
    name, description = (escape(errors.visible(text)) for text in (name, description))
    begin = f'<svg viewBox="{box}" role="img" aria-label="{description}">'
    # Functions, as a metric's name, which is in both, may have a backslash
    svg = re.sub(r"<svg[^>]*>", lambda _: begin, svg, count=1)
    svg = re.sub(r'id="|href="#|url\(#', lambda found: f"{found[0]}{name}-", svg)
    svg = re.sub(r'font: ([\d.]+px)[^;"]*', r"font: \1 var(--font)", svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
