"""The page: what the template shows, computed from a run, and the rendering."""

import base64
import hashlib
import shlex
from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import curve
import published
import run_dir
import side_by_side
from report_page import charts
from report_page.contents import SYSTEM, Contents, Row
from report_page.figures import deviation, duration, interval, number, signed, whole
from run_dir import errors

HERE = Path(__file__).parent
SENTENCE_BLEU = "sentBLEU"  # stands for BLEU, which without smoothing is 0 for most sentences
NAMES = {"sentBLEU": "BLEU", "ROUGE_L": "ROUGE-L", "base.txt": "this run, base alone", SYSTEM: "this run"}
NAMES |= {"bleu": "BLEU", "nist": "NIST", "meteor": "METEOR", "rouge_l": "ROUGE-L", "cider": "CIDEr", "gpu": "GPU"}
NAMES |= {"nist_reference_length": "NIST's reference length"}
# Kinds of published scores, and their colours in the charts
CHARTED = {"paper": "paper", "rank": "paper", "public": "public", "since": "public"}
LESS_IS_BETTER = ("TER",)
WORST = 10


def render(run: Contents) -> str:
    """Return the page's HTML. Every text from a file is escaped by the template, and control characters are shown."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=number, interval=interval, whole=whole, signed=signed, duration=duration, deviation=deviation
    )
    environment.globals.update(name=lambda key: NAMES.get(key, key), less_is_better=LESS_IS_BETTER)
    script = (HERE / "table.js").read_text(encoding="utf-8")
    page = environment.get_template("page.html.jinja").render(
        run=run,
        metrics=run.task.scores,
        columns=_columns(run),
        digits=lambda column: published.digits(run.task.published, column),
        segment_metrics=_segment_metrics(run),
        systems=_systems(run),
        published=_published(run),
        judges=_judges(run),
        band=_band(run),
        facts=_facts(run),
        score_charts=_score_charts(run),
        learning_charts=_learning_charts(run),
        learning_table=_learning_table(run),
        off_curve=_off_curve(run),
        compared_early=curve.EARLY_STEPS,
        time_chart=_time_chart(run),
        costs=_costs(run),
        slot_counts=_slot_counts(run),
        rows=[_shown(row) for row in run.rows or []],
        worst=[_shown(row) for row in _worst(run)],
        slowest=_slowest(run),
        commands=_commands(run),
        hashes=_hashes(run),
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return errors.visible_lines(page)  # HTML has no place for control characters, and no escape for NUL


def _systems(run: Contents) -> list[dict]:
    """Return the scored systems, this run first."""
    rows = [
        {"name": NAMES.get(run_dir.output_file(one), one["file"]), "intervals": {}, **one} for one in run.record.systems
    ]
    for row in rows:
        row["kind"] = "run" if run_dir.output_file(row) == SYSTEM else "base"
        row["figures"] = run_dir.figures(row, run.task.scores)
    return sorted(rows, key=lambda row: row["kind"] != "run")


def _published(run: Contents) -> list[dict]:
    """Return the published rows, if the run may be compared with them."""
    return run.comparison["rows"] if run.comparison and run.comparison["comparable"] else []


def _judges(run: Contents) -> list[dict]:
    """Return those by which the verdict judges the run; earlier comparisons had no others."""
    return [row for row in _published(run) if row["kind"] in CHARTED and row.get("is_judge", True)]


def _band(run: Contents) -> tuple[float, float] | None:
    """Return the lowest and the highest BLEU of public runs; None where there is none or but one, whose point is enough."""
    band = run.comparison["band"] if run.comparison and _judges(run) else None
    return (band[0], band[1]) if band and band[0] < band[1] else None


def _columns(run: Contents) -> list[tuple[str, str]]:
    """Return the columns of the table of scores with their heads: BLEU, or BLEU U, BLEU S and BLEU A of WebNLG's halves and all."""
    known = {*run_dir.figures(run.record.system, run.task.scores), *(name for row in _published(run) for name in row)}
    columns = run_dir.columns(run.task.scores, known)
    halves = len(columns) > len(run.task.scores)
    return [
        (name, head.replace("_", " ") if halves else NAMES.get(name, name))
        for name, head in zip(columns, side_by_side.heads(columns), strict=True)
    ]


def _facts(run: Contents) -> list[tuple[str, str]]:
    """Return what was trained on what, as names and values; settings that the record lacks are left out."""
    settings = run.record.training.get("settings", {})
    model, train = (settings.get(name) or {} for name in ("model", "train"))
    facts = []
    if model:
        facts.append(("Model", f"GPT-2 of {model['n_layer']} layers × {model['n_embd']}"))
    facts.append(_method(run.record))
    if "trained_parameters" in run.record.training:
        facts.append(("Trained", f"{whole(run.record.training['trained_parameters'])} parameters"))
    if run.last_step and "train_batch_size" in train:
        processes = settings.get("world_size", 1)
        batch = f"{train['train_batch_size']}{f' × {processes}' if processes > 1 else ''}"
        facts.append(("Training", f"{whole(run.last_step)} steps of {batch}"))
    facts += _scored_on(run.record.signature)
    gpu = run.record.training.get("versions", {}).get("gpu", "none")
    facts.append(("Machine", settings.get("device", "unknown") if gpu == "none" else gpu))
    return facts


def _method(record: run_dir.Run) -> tuple[str, str]:
    """Return what was trained, as a name and a value."""
    method, rank, alpha = run_dir.method_of(record), run_dir.rank_of(record), record.setting("lora", "alpha")
    if method == "full":
        return "Adapters", "none: every parameter is trained"
    named = f"{run_dir.called(method)}{f', r = {rank}' if rank else ''}"
    return (
        ("Adapters", named + (f", α = {alpha:g}" if alpha is not None else ""))
        if method == "lora"
        else ("Method", named)
    )


def _scored_on(signature: dict) -> list[tuple[str, str]]:
    """Return what the scores are of, and by which protocol where there are several."""
    facts = []
    segments, references = signature.get("segments"), signature.get("references")
    if segments is not None and references is not None:
        facts.append(("Scored on", f"{whole(segments)} inputs, {whole(references)} references"))
    if (inputs := signature.get("inputs")) is not None and references is not None:
        facts.append(("Scored on", f"{whole(inputs)} inputs, up to {references} references of each"))
    if "protocol" in signature:
        facts.append(("By the protocol", signature["protocol"]))
    return facts


def _score_charts(run: Contents) -> list[str]:
    """Return a chart for each metric: the run, then what judges it, or the base alone if nothing may stand beside it."""
    judges = _judges(run)
    shown = []
    for metric in run.task.scores:
        marks = [
            charts.Mark(row["name"], row["scores"][metric], row["intervals"].get(metric), row["kind"])
            for row in _systems(run)
            if row["kind"] == "run" or not judges
        ]
        marks += [
            charts.Mark(row["system"], row[metric], _spread(row, metric), CHARTED[row["kind"]])
            for row in judges
            if row.get(metric) is not None
        ]
        band = _band(run) if metric == "BLEU" else None
        # Published scores lie close together: from zero, their differences could not be seen.
        label = NAMES.get(metric, metric) + (", less is better" if metric in LESS_IS_BETTER else "")
        description = f"{label} of {len(marks)} systems; the figures are in the table of scores"
        shown.append(charts.of_scores(f"score-{metric}", description, marks, label, band, from_zero=not judges))
    return [Markup(svg) for svg in shown]


def _spread(row: dict, metric: str) -> tuple[float, float] | None:
    """Return a published score less and more its standard deviation over seeds, if that is published."""
    deviation = row.get("deviations", {}).get(metric)
    return None if deviation is None else (row[metric] - deviation, row[metric] + deviation)


def _learning_charts(run: Contents) -> list[str]:
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


def _learning_table(run: Contents) -> list[dict]:
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


def _off_curve(run: Contents) -> tuple[float, int] | None:
    """Return the largest distance of the training losses from the published ones where the two are compared, and its step."""
    if run.published_curve is None:
        return None
    compared = curve.compared(run.record.log, run.published_curve.curve)
    return max(((abs(loss - known), step) for step, loss, known in compared), default=None)


def _time_chart(run: Contents) -> str | None:
    """Return the chart of the time a step took; None where the log has no training line."""
    if not run.intervals:
        return None
    steps = [line["step"] for line in run.intervals]
    times = charts.Line("this run", steps, [line["ms_per_batch"] for line in run.intervals], "run")
    description = "Time a step took, over the training steps; the figures are in the table below"
    return Markup(charts.over_steps("time", description, [times], "ms a step", from_zero=True))


def _costs(run: Contents) -> list[tuple[str, str]]:
    """Return time and memory as names and values; what the records lack is left out."""
    costs = []
    if run.intervals:
        times = sorted((line["ms_per_batch"], line["step"]) for line in run.intervals)
        rates = sorted(line["tokens_per_s"] for line in run.intervals)
        costs += [
            ("Time a step, median", f"{times[len(times) // 2][0]:.1f} ms"),
            ("Time a step, slowest interval", f"{times[-1][0]:.1f} ms, up to step {whole(times[-1][1])}"),
            ("Tokens a second, median", whole(rates[len(rates) // 2])),
        ]
    if run.validations:
        costs.append(("Validation, all passes", duration(sum(line.get("seconds", 0) for line in run.validations))))
    for name, record in (("Training", run.record.training), ("Decoding", run.record.decoding)):
        if "seconds" in record:
            costs.append((f"{name}, from start to end", duration(record["seconds"])))
        for unit, mib in record.get("peak_memory", {}).items():
            kind = unit.removesuffix("_mib")
            costs.append((f"{name}, peak memory, {NAMES.get(kind, kind)}", f"{whole(mib)} MiB"))
    return costs


def _segment_metrics(run: Contents) -> list[str]:
    """Return the scores of a sentence that are shown: those that segments.tsv has, with smoothed BLEU for BLEU."""
    names = next((list(row.scores) for row in run.rows or [] if row.scores), [])
    return [name for name in names if name != "BLEU" or SENTENCE_BLEU not in names]


def _slot_counts(run: Contents) -> list[tuple[str, Counter]]:
    """Return (slot, {"missing", "wrong", "invented": outputs}), the slot with most errors first."""
    counts: dict[str, Counter] = {}
    for row in run.rows or []:
        for kind, marks in (row.slots or {}).items():
            for mark in marks:
                counts.setdefault(mark if kind == "missing" else mark["slot"], Counter())[kind] += 1
    return sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0]))


def _worst(run: Contents) -> list[Row]:
    """Return the rows of the lowest sentence BLEU, the lowest first; none where that was not scored."""
    scored = [(row.scores[SENTENCE_BLEU], row) for row in run.rows or [] if row.scores and SENTENCE_BLEU in row.scores]
    return [row for _, row in sorted(scored, key=lambda one: one[0])[:WORST]]


def _slowest(run: Contents) -> list[Row]:
    """Return the rows that took longest to decode, the longest first; none where that was not recorded."""
    timed = [(row.seconds, row) for row in run.rows or [] if row.seconds is not None]
    return [row for _, row in sorted(timed, key=lambda one: -one[0])[:WORST]]


def _shown(row: Row) -> dict:
    """Return a row as the template shows it: the input as (slot, value) pairs, its slot errors as (kind, words)."""
    pairs = [[part.strip() for part in pair.split(":", 1)] for pair in row.meaning.split("|")]
    marks = None
    if row.slots is not None:
        marks = [("missing", slot) for slot in row.slots["missing"]]
        marks += [
            ("wrong", f"{one['slot']}: {one['found']} instead of {one['expected']}") for one in row.slots["wrong"]
        ]
        marks += [("invented", f"{one['slot']}: {one['found']}") for one in row.slots["invented"]]
    return {"row": row, "pairs": [(pair[0], pair[-1] if len(pair) > 1 else "") for pair in pairs], "marks": marks}


def _commands(run: Contents) -> list[tuple[str, list[str]]]:
    """Return (what, command in the parts of `_command`) of each step, as recorded; text and scores follow from the file names."""
    folder = run.record.work_dir
    commands = [("Training", _command("src/gpt2_ft.py", *run.record.training.get("argv", [])))]
    if run.record.decoding:
        commands.append(("Beam search", _command("src/gpt2_beam.py", *run.record.decoding.get("argv", []))))
    to_text = ["--sample_file", folder / "beam_prediction.jsonl", "--input_file", run.data]
    to_text += ["--output_pred_file", folder / SYSTEM, "--output_ref_file", folder / run.task.references]
    if run.task.decode_flags:
        to_text += ["--ref_type", run.task.name, *run.task.decode_flags]
    commands.append(("Ids to text", _command("src/gpt2_decode.py", *to_text)))
    scoring: list[object] = [folder / run.task.references, folder / SYSTEM]
    if run.task.protocols:
        scoring += ["--protocol", *run.task.protocols, "--categories", run.data]
    if "mean" in run.record.signature.get("nist_reference_length", ""):
        scoring.append("-p")
    commands.append(("Scores", _command(run.task.scorer, *scoring)))
    return commands


def _hashes(run: Contents) -> dict[str, str]:
    """Return the sha256 of all that the scores came from, by what it is of: as recorded, as the files are now, the scorers'."""
    training, decoding = (record.get("settings", {}) for record in (run.record.training, run.record.decoding))
    recorded = {
        "the base's weights, as trained on": (training.get("base") or {}).get("sha256"),
        "the training data, as trained on": training.get("train_data"),
        "the weights decoded with": decoding.get("weights"),
        "the data decoded": decoding.get("data"),
    }
    return {
        **{name: digest for name, digest in recorded.items() if digest},
        **run.sha256,
        **run.record.signature.get("sha256", {}),
    }


def _command(program: str, *arguments: object) -> list[str]:
    """Return the command, quoted for a shell, in parts that belong on one line: the program, then each flag with its values."""
    parts = [["python", program]]
    for argument in map(str, arguments):
        if argument.startswith("--"):
            parts.append([])
        parts[-1].append(argument)
    return [shlex.join(part) for part in parts]
