"""The page: the values that its template shows, and the rendering."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import curve
import published
from metrics import bootstrap
from report_page import again, alike, costs, figures, learning, opening, outputs, overlay, ranking, standing, words
from report_page.contents import Contents
from report_page.several import Several
from run_dir import errors

HERE = Path(__file__).parent
SCRIPTS = ("table.js", "copy.js")


def render(run: Contents) -> str:
    """Return the page's HTML."""
    return rendered(
        "run.html.jinja",
        run=run,
        verdict=opening.verdict(run),
        facts=opening.facts(run),
        metrics=run.task.scores,
        columns=standing.columns(run),
        digits=lambda column: published.digits(run.task.published, column),
        systems=standing.systems(run),
        published=standing.published_rows(run),
        judges=standing.judges(run),
        band=standing.band(run),
        score_charts=standing.score_charts(run),
        learning_charts=learning.drawn(run),
        learning_table=learning.table(run),
        off_curve=learning.off_curve(run),
        compared_early=curve.EARLY_STEPS,
        slot_counts=outputs.slot_counts(run),
        time_chart=costs.time_chart(run),
        costs=costs.costs(run),
        slowest=costs.slowest(run),
        again=again.folder(run),
        commands=again.commands(run),
        hashes=again.hashes(run),
        segment_metrics=outputs.segment_metrics(run),
        with_base=outputs.with_base(run),
        worst=[outputs.shown(row) for row in outputs.worst(run)],
        rows=[outputs.shown(row) for row in run.rows or []],
    )


def render_several(several: Several) -> str:
    """Return the HTML of several runs side by side."""
    runs = several.runs
    size_chart = overlay.score_against_size(several)
    return rendered(
        "several.html.jinja",
        runs=runs,
        facts=opening.shared_facts([one.run for one in runs]),
        lacking=several.lacking,
        tested=several.tested,
        best=several.best.number,
        verdict=ranking.verdict(several),
        seeds=ranking.over_seeds(several),
        below=ranking.BELOW,
        draws=bootstrap.RESAMPLES,
        methods={one.number: opening.named(one.run.record) for one in runs},
        metrics=runs[0].run.task.scores,
        digits=lambda column: published.digits(runs[0].run.task.published, column),
        with_slots=any(one.run.slots is not None for one in runs),
        looks=overlay.looks(several),
        borders=overlay.BORDERS,
        charts=[*overlay.curves(several), *([] if size_chart is None else [size_chart])],
        commands={one.number: (again.folder(one.run), again.commands(one.run)) for one in runs},
        rows=alike.compared(several),
        n_inputs=len(runs[0].run.rows or []),
    )


def rendered(template: str, **values: Any) -> str:
    """Return a template's HTML. Every text from a file is escaped by the template, and control characters are shown."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for form in (
        figures.number,
        figures.interval,
        figures.whole,
        figures.signed,
        figures.duration,
        figures.deviation,
        figures.p_value,
    ):
        environment.filters[form.__name__] = form
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    environment.globals.update(
        name=words.called,
        less_is_better=words.LESS_IS_BETTER,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    # HTML has no place for control characters, and no escape for NUL.
    return errors.visible_lines(environment.get_template(template).render(**values))
