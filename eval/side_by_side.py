"""The forms of a comparison: for a terminal, a page, a spreadsheet and a program."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import published
import run_dir
from run_dir import errors, files

WORDS = ("method", "protocol", "source")  # the last columns


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    name: str
    values: Mapping[str, float | None]  # by column; some may lack
    method: str = ""
    protocol: str = ""
    source: str = ""
    form: str = ""  # "+" for differences


def heads(columns: Sequence[str]) -> list[str]:
    """Return the names of the columns: BLEU; or BLEU_U, BLEU_S and BLEU_A, of unseen, seen and all inputs as the paper's Table 14."""
    ends = tuple(run_dir.SPLITS.values())
    halves = [column.endswith(ends) for column in columns]
    return [column if half or not any(halves) else f"{column}_A" for column, half in zip(columns, halves, strict=True)]


def table(comparison: dict) -> list[Line]:
    """Return the lines: this run, what is published, and how far the run is above the paper's rows or others that judge it."""
    lines = [Line("this run", comparison["run"], "", errors.visible(comparison["protocol"] or ""))]
    if comparison["intervals"]:
        for i, end in enumerate(("from", "to")):
            bounds = {metric: interval[i] for metric, interval in comparison["intervals"].items()}
            lines.append(Line(f"this run, 95 % interval {end}", bounds))
    for row in comparison["rows"]:
        lines.append(Line(row["system"], row, row["method"], row["protocol"], row["source"]))
        if row["deviations"]:
            lines.append(Line(f"{row['system']}, ±", row["deviations"], row["method"], "", row["source"]))
    judges = [row for row in comparison["rows"] if row["is_judge"]]
    nearest = [row for row in judges if row["kind"] in published.PAPERS] or judges
    for row in nearest:
        lines.append(Line(f"this run - {row['system']}", row["difference"], row["method"], "", row["source"], "+"))
    return lines


def cells(line: Line, comparison: dict) -> list[str]:
    """Return a value for each column, or a dash."""
    shown = []
    for column in comparison["columns"]:
        value, digits = line.values.get(column), published.digits(comparison["published"], column)
        shown.append("-" if value is None else f"{round(value, digits) + 0.0:{line.form}.{digits}f}")  # no -0.0000
    return shown


def said(comparison: dict) -> list[str]:
    """Return the sentences below the table."""
    without = "Without intervals: run step 06, or measure_scores.py with --bootstrap and --json, for them."
    return [comparison["verdict"], *comparison["notes"], *([] if comparison["intervals"] else [without])]


def as_text(comparison: dict) -> str:
    """Return the comparison for a terminal."""
    lines, names = table(comparison), heads(comparison["columns"])
    width, each = max(len(line.name) for line in lines), 8 if len(names) < 6 else 7
    header = [names]
    if names != comparison["columns"]:  # a metric stands once, above its U, S and A
        apart = [name.split("_") for name in names]
        header = [[metric if half == "U" else "" for metric, half in apart], [half for _, half in apart]]
    shown = [" ".join([" " * width, *(f"{name:>{each}}" for name in row)]).rstrip() for row in header]
    for line in lines:
        figures = " ".join([f"{line.name:<{width}}", *(f"{cell:>{each}}" for cell in cells(line, comparison))])
        shown.append(f"{figures}  {line.protocol}".rstrip())
    return "\n".join([*shown, "", *said(comparison), ""])


def as_markdown(comparison: dict) -> str:
    """Return the comparison as a table for a page, with the sources."""
    names = heads(comparison["columns"])
    shown = [f"| | {' | '.join([*names, *WORDS])} |", f"|---|{'---:|' * len(names)}{'---|' * len(WORDS)}"]
    shown += [f"| {' | '.join(row)} |" for row in _rows(comparison)]
    return "\n".join([*shown, "", *said(comparison), ""])


def as_tsv(comparison: dict) -> str:
    """Return the table alone, with tabs."""
    header = ["system", *heads(comparison["columns"]), *WORDS]
    return "".join("\t".join(row) + "\n" for row in (header, *_rows(comparison)))


def _rows(comparison: dict) -> Iterator[list[str]]:
    for line in table(comparison):
        yield [line.name, *cells(line, comparison), line.method, line.protocol, line.source]


def as_json(comparison: dict) -> str:
    """Return all of it, nothing rounded."""
    return files.json_text(comparison)


FORMATS = {"text": as_text, "md": as_markdown, "json": as_json, "tsv": as_tsv}
