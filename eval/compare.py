"""Hold a run's scores against the paper's and those of public runs of its code, and say in a sentence what came out."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import published
import recipe
import run_dir
import task
from run_dir import Run, errors, files

INPUTS = 630  # of the E2E test set
REFERENCES = "cda3fdb4ce7f50ed7926e9e5c98e311b83b221f5b6cdb93ef97cc3c664334cc4"  # sha256 of its reference file, as step 5 writes it
E2E = task.Task()
MODELS = {(768, 12): "GPT-2 S", (1024, 24): "GPT-2 M", (1280, 36): "GPT-2 L"}  # by width and layers
SEEDS_SPREAD = 0.003  # BLEU; the largest standard deviation over LoRA's seeds that published.tsv has
NOTE = (
    "The interval is over the choice of inputs. Published scores share these inputs, so smaller differences count too;\n"
    f"over seeds, BLEU's published standard deviations are at most {SEEDS_SPREAD}."
)


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    p = errors.Parser(description=__doc__, allow_abbrev=False)
    p.add_argument("work_dir", type=Path, help="a run's folder, with scores.json")
    p.add_argument("--data", type=Path, help="the formatted test file: tells a part of the test set from another one")
    p.add_argument("--format", choices=FORMATS, default="text", help="what is written")
    p.add_argument("--output", metavar="FILE", help="write to this file instead of the terminal")
    return p


def main(argv: list[str] | None = None) -> int:
    """Compare as the flags say."""
    args = parser().parse_args(argv)
    inputs = len(run_dir.distinct_inputs(args.data)) if args.data else None
    of = task.read(args.data) if args.data else task.Task()
    shown = FORMATS[args.format](compare(run_dir.read_run(args.work_dir, of.scores), inputs, of))
    files.write_or_print(args.output, shown)
    return 0


def compare(run: Run, inputs: int | None = None, of: task.Task = E2E) -> dict:
    """Return the comparison: what comparison.json holds. `inputs` is how many the whole test set has, `of` its task."""
    scores, bounds = {metric: run.system["scores"][metric] for metric in of.scores}, run.system.get("intervals")
    reason = (
        why_not(run, inputs) if published.is_for(of) else f"nothing is published for the task {errors.visible(of.name)}"
    )
    rank = run.setting("lora", "rank") or 0
    rows = [] if reason else published.beside(model(run), rank)
    public = [row.scores["BLEU"] for row in rows if row.kind == "public"]
    band = [min(public), max(public)] if public else None
    return {
        "comparable": reason is None,
        "why_not": reason,
        "verdict": f"Not to be compared with the paper: {reason}." if reason else verdict(run, rows, band),
        "band": band,
        "run": scores,
        "intervals": bounds,
        "rows": [
            {
                "system": row.system,
                "kind": row.kind,
                "source": row.source,
                **{metric: row.scores.get(metric) for metric in of.scores},
                "deviations": row.deviations,
                "difference": {
                    metric: scores[metric] - row.scores[metric] for metric in scores if metric in row.scores
                },
            }
            for row in rows
        ],
    }


def model(run: Run) -> str | None:
    """Return which GPT-2 the run's model has the shape of, None if none that anything is published for."""
    return MODELS.get((run.setting("model", "n_embd"), run.setting("model", "n_layer")))


def why_not(run: Run, inputs: int | None = None) -> str | None:
    """Return, in words, why the run's scores are not on the scale of the published ones; None if they are."""
    reasons = []
    width, layers = run.setting("model", "n_embd"), run.setting("model", "n_layer")
    if width is None:
        reasons.append("there is no run.json that says how it was trained")
    elif model(run) is None:
        reasons.append(f"its base, {layers} layers of width {width}, is not one of {', '.join(MODELS.values())}")
    elif "--init_checkpoint random" in " ".join(run.training.get("argv", [])).replace("=", " "):
        reasons.append("its base has random weights")
    scored, known = run.signature.get("segments"), run.signature.get("references_sha256")
    if scored != INPUTS and inputs == INPUTS:
        reasons.append(f"only {scored} of the test set's {INPUTS} inputs are scored")
    elif scored != INPUTS:
        reasons.append(f"it is scored on {scored} inputs that are not E2E's {INPUTS}")
    elif known is None:
        reasons.append("scores.json does not say which references it is of; run step 06 again")
    elif known != REFERENCES:
        reasons.append(
            "it is scored with other references than the recipe's tokenised ones, the official ones for example"
        )
    return ", and ".join(reasons) or None


def verdict(run: Run, rows: list[published.Row], band: list[float] | None) -> str:
    """Return one sentence: where the run's BLEU stands, and what in its records may be the reason."""
    bleu = round(run.system["scores"]["BLEU"], 4)
    rank = run.setting("lora", "rank") or 0
    paper = [row for row in rows if row.kind in ("paper", "rank") and row.rank in (None, rank)]
    if not paper and not band:
        return f"BLEU {bleu:.4f}: nothing is published for {model(run)} and {f'LoRA of rank {rank}' if rank else 'fine-tuning'}."
    where, off = position(bleu, band, paper[0] if paper else None)
    reasons = recipe.departures(run)
    if not reasons and model(run) == "GPT-2 M" and (left := recipe.off_curve(run)):
        reasons = [left]
    if empty := run.system.get("empty_outputs"):
        reasons.append(f"{empty} empty outputs")
    if not reasons:
        why = "nothing in its records is unlike the recipe"
    else:
        why = f"{'the likely reason' if off else 'unlike the recipe'}: {', '.join(reasons)}"
    return f"BLEU {bleu:.4f} is {where}; {why}."


def position(bleu: float, band: list[float] | None, paper: published.Row | None) -> tuple[str, bool]:
    """Return where a BLEU stands, in words, and whether it is off: further from all that is published than seeds spread."""
    words, figures = [], []
    if band:
        low, high = band
        name = f"the band of public runs ({low:.4f} to {high:.4f})"
        words.append(f"inside {name}" if low <= bleu <= high else apart(bleu, low if bleu < low else high, name))
        figures += band
    if paper:
        figure = paper.scores["BLEU"]
        name = f"the paper's {figure:.4f} ({paper.source.rpartition(', ')[2]})"
        near = abs(bleu - figure) <= paper.deviations.get("BLEU", 0.0005) + 1e-9  # half of the paper's last digit
        words.append(f"at {name}" if near else apart(bleu, figure, name))
        figures.append(figure)
    off = not min(figures) - SEEDS_SPREAD <= bleu <= max(figures) + SEEDS_SPREAD
    return " and ".join(words), off


def apart(value: float, other: float, name: str) -> str:
    """Return "0.0085 below NAME"."""
    return f"{abs(value - other):.4f} {'below' if value < other else 'above'} {name}"


def table(comparison: dict) -> list[tuple[str, dict[str, float], str, str]]:
    """Return the lines of the table for people: a name, values by score (some may lack), how to print them, and a source."""
    lines = [("this run", comparison["run"], ".4f", "")]
    if comparison["intervals"]:
        for i, end in enumerate(("from", "to")):
            bounds = {metric: interval[i] for metric, interval in comparison["intervals"].items()}
            lines.append((f"this run, 95 % interval {end}", bounds, ".4f", ""))
    for row in comparison["rows"]:
        lines.append((row["system"], row, ".4f", row["source"]))
        if row["deviations"]:
            lines.append((f"{row['system']}, ±", row["deviations"], ".4f", row["source"]))
    lines += [(f"this run - {row['system']}", row["difference"], "+.4f", row["source"]) for row in comparison["rows"]]
    return lines


def cells(values: dict[str, float], form: str, metrics: Sequence[str] = E2E.scores) -> list[str]:
    """Return a value for each metric, or a dash."""
    known = [values.get(metric) for metric in metrics]
    return ["-" if value is None else format(round(value, 4) + 0.0, form) for value in known]  # + 0.0: no -0.0000


def as_text(comparison: dict) -> str:
    """Return the comparison for a terminal."""
    lines, metrics = table(comparison), list(comparison["run"])
    width = max(len(name) for name, *_ in lines)
    shown = [" ".join([" " * width, *(f"{metric:>8}" for metric in metrics)])]
    shown += [
        " ".join([f"{name:<{width}}", *(f"{cell:>8}" for cell in cells(values, form, metrics))])
        for name, values, form, _ in lines
    ]
    notes = [comparison["verdict"], *notes_on(comparison)]
    return "\n".join([*shown, "", *notes, ""])


def as_markdown(comparison: dict) -> str:
    """Return the comparison as a table for a page, with the sources."""
    metrics = list(comparison["run"])
    shown = [f"| | {' | '.join(metrics)} | source |", f"|---|{'---:|' * len(metrics)}---|"]
    for name, values, form, source in table(comparison):
        shown.append(f"| {' | '.join([name, *cells(values, form, metrics), source])} |")
    return "\n".join([*shown, "", comparison["verdict"], *notes_on(comparison), ""])


def as_tsv(comparison: dict) -> str:
    """Return the table alone, with tabs."""
    metrics = list(comparison["run"])
    shown = ["\t".join(("system", *metrics, "source"))]
    shown += [
        "\t".join((name, *cells(values, form, metrics), source)) for name, values, form, source in table(comparison)
    ]
    return "\n".join([*shown, ""])


def as_json(comparison: dict) -> str:
    """Return all of it, nothing rounded."""
    return files.json_text(comparison)


def notes_on(comparison: dict) -> list[str]:
    """Return what a reader of the table should know."""
    if not comparison["intervals"]:
        return ["Without intervals: run step 06, or measure_scores.py with --bootstrap and --json, for them."]
    return [NOTE] if comparison["comparable"] else []


FORMATS = {"text": as_text, "md": as_markdown, "json": as_json, "tsv": as_tsv}


if __name__ == "__main__":
    sys.exit(errors.run(main))
