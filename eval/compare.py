"""Hold a run's scores against the paper's and those published since, and say in a sentence what came out."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import published
import run_dir
import task
import verdict
from comparable import model, why_not
from run_dir import Run, errors, files
from side_by_side import FORMATS

E2E = task.Task()
INTERVAL = "The interval is over the choice of inputs."
SEEDS = (
    "Published scores share these inputs, so smaller differences count too;\n"
    f"over seeds, BLEU's published standard deviations are at most {verdict.SPREAD['e2e']}."
)
LESS_IS_BETTER = "TER: less is better, so that a difference below zero is a gain."
HALVES = "U, S, A: inputs of categories that training has not seen, has seen, and all."


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
    run_dir.check_outputs([args.output], [args.work_dir], [args.data], made="comparison.json")
    inputs = len(run_dir.distinct_inputs(args.data)) if args.data else None
    of = task.read(args.data) if args.data else task.Task()
    shown = FORMATS[args.format](compare(run_dir.read_run(args.work_dir, of.scores), inputs, of))
    files.write_or_print(args.output, shown)
    return 0


def compare(run: Run, inputs: int | None = None, of: task.Task = E2E) -> dict:
    """Return the comparison: what comparison.json holds. `inputs` is how many the whole test set has, `of` its task."""
    reason: str | None = f"nothing is published for the task {errors.visible(of.name)}"
    rows: list[published.Row] = []
    judges, said = rows, ""
    if name := published.name_of(of):
        reason = why_not(run, inputs, name) if "BLEU" in of.scores else "it has no BLEU, by which runs are judged"
    if name and reason is None:
        method, rank = run_dir.method_of(run), run_dir.rank_of(run)
        rows = published.beside(name, model(run), method, rank)
        judges = published.judges(rows, method, rank)
        said = verdict.sentence(run, judges, name)
    own = run_dir.figures(run.system, of.scores)
    columns = run_dir.columns(of.scores, {*own, *(column for row in rows for column in row.scores)})
    result = {
        "published": name,
        "comparable": reason is None,
        "why_not": reason,
        "verdict": said or f"Not to be compared with the paper: {reason}.",
        "protocol": run.signature.get("protocol"),
        "band": verdict.band(judges),
        "columns": columns,
        "run": own,
        "intervals": run.system.get("intervals"),
        "rows": [_shown(row, own, columns, row in judges) for row in rows],
    }
    return {**result, "notes": notes_on(result)}


def _shown(row: published.Row, own: dict[str, float], columns: list[str], is_judge: bool) -> dict:
    return {
        "system": row.system,
        "kind": row.kind,
        "method": row.method,
        "protocol": row.protocol,
        "source": row.source,
        "is_judge": is_judge,
        **{column: row.scores.get(column) for column in columns},
        "deviations": row.deviations,
        "difference": {name: own[name] - row.scores[name] for name in columns if name in own and name in row.scores},
    }


def notes_on(comparison: dict) -> list[str]:
    """Return what a reader of the table should know."""
    notes = []
    if comparison["comparable"] and comparison["published"] != "e2e":
        notes.append(protocols(comparison["protocol"]))
    if comparison["intervals"] and comparison["comparable"]:
        notes.append(f"{INTERVAL} {SEEDS}" if comparison["published"] == "e2e" else INTERVAL)
    if "BLEU_U" in comparison["columns"]:
        lacks = "" if "BLEU_U" in comparison["run"] else " This run has those of all alone; step 06 makes the others."
        notes.append(HALVES + lacks)
    if "TER" in comparison["columns"]:
        notes.append(LESS_IS_BETTER)
    return notes


def protocols(own: str | None) -> str:
    """Return by which protocol the figures of triples are."""
    by = f"by the protocol {errors.visible(own)}" if own else "by a protocol that scores.json does not name"
    return (
        f"This run's figures are {by}. By which one the paper's are cannot be read off for sure, so that a difference of "
        "a point or so of BLEU, or .01 or so of METEOR or TER, proves nothing."
    )


if __name__ == "__main__":
    sys.exit(errors.run(main))
