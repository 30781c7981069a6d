"""Tables of texts: files whose lines are rows of cells, as people and spreadsheets write them.

Cells are quoted as in a CSV file, whatever separates them: a tab if the first line has one, else a comma, or a semicolon if it has
no comma, as spreadsheets write where numbers have commas. The first line may name the columns; without names there must be two,
source and text. What a wrong decoding made of £ and é is mended.

The training programs' twin is lora_nlg.data.tables: neither side imports the other. A test holds them equal.
"""

import csv
import os
import re
from dataclasses import dataclass

from metrics.errors import UserError
from metrics.files import lines as raw_lines
from metrics.files import one_line
from metrics.mistakes import did_you_mean

# £ and é whose UTF-8 bytes were read as Latin-1, in both cases; and £ of another Windows code page, where it is a Polish letter,
# which no number follows.
_MISREAD = ((re.compile("[Ââ]£"), "£"), (re.compile("[Ãã]©"), "é"), (re.compile(r"Ł(?=\s?\d)"), "£"))
_SAID_SEPARATOR = re.compile(r'"?sep=([,;\t])"?\s*')
_LONGEST_CELL = 2**31 - 1  # characters; csv's own limit is that of no text


@dataclass(frozen=True, slots=True)
class Column:
    """What a column is for, and the names that a header may give it: lower case, blanks and dashes as underscores."""

    role: str
    names: tuple[str, ...]
    if_two: tuple[str, ...] = ()  # further names, where there are only two columns
    if_none: tuple[str, ...] = ()  # and those that count where there is none of `names`
    said: str | None = None  # as the user has named it, who means this one and no other


@dataclass(frozen=True, slots=True)
class Row:
    """A row's text and, where the table has sources, its source; neither has a line break."""

    line: int  # of the file, where the row ends
    text: str
    source: str | None


def plain(name: str) -> str:
    """Return a name as `Column.names` has it."""
    return name.strip().strip("\ufeff").strip().lower().replace(" ", "_").replace("-", "_")


def is_table(path: str) -> bool:
    """Return whether a file is read as a table, which its name says."""
    return os.path.splitext(path)[1].lower() in (".tsv", ".csv")


def read(path: str, text: Column, source: Column | None = None) -> list[Row]:
    """Return the rows in the file's order, without blank lines. Raises UserError, naming the line, for what is no such table."""
    rows = cells_of(path)
    first = rows[0][1]
    text_at, source_at = _find_both(path, first, text, source)
    if text_at is None and source_at is None and source and len(first) == 2:
        source_at, text_at, names = 0, 1, "the first line has 2"
    elif text_at is None:
        header = one_line(", ".join(first))
        raise UserError(f"{path}: the header {header!r} names no {text.role} column; call it {text.names[0]!r}")
    else:
        del rows[0]
        names = f"the header names {len(first)} columns"
    if not rows:
        raise UserError(f"{path} has a header and no rows")
    for line, cells in rows:
        if len(cells) != len(first):
            raise UserError(f"{path}, line {line}: {len(cells)} cells, but {names}")
    return [Row(line, cells[text_at], None if source_at is None else cells[source_at]) for line, cells in rows]


def _find_both(path: str, header: list[str], text: Column, source: Column | None) -> tuple[int | None, int | None]:
    """Return where the text and the source are; of two columns, the one beside that which the user has named is the other."""
    text_at = _find(path, header, text)
    source_at = _find(path, header, source) if source else None
    if source and len(header) == 2:
        if source.said and source_at is not None and text_at is None:
            text_at = 1 - source_at
        if text.said and text_at is not None and source_at is None:
            source_at = 1 - text_at
    return text_at, source_at


def _find(path: str, header: list[str], column: Column) -> int | None:
    names = [plain(cell) for cell in header]
    found = [i for i, name in enumerate(names) if name in column.names]
    if not found:
        found = [i for i, name in enumerate(names) if name in column.if_none]
    if not found and len(header) == 2:
        found = [i for i, name in enumerate(names) if name in column.if_two]
    if column.said and not found:
        said = f"{one_line(column.said)!r}{did_you_mean(column.said, header)}"
        raise UserError(f"{path}: the header has no column {said}; its columns are {one_line(', '.join(header))}")
    if len(found) > 1:
        columns = one_line(", ".join(header[i] for i in found))
        raise UserError(f"{path}: the header names more than one {column.role} column: {columns}")
    return found[0] if found else None


def cells_of(path: str) -> list[tuple[int, list[str]]]:
    """Return the number of the line where each row ends, and the row's cells; there is at least one row."""
    lines = list(raw_lines(path))
    for wrong, right in _MISREAD:
        lines = [wrong.sub(right, line) for line in lines]
    first = next((line for line in lines if line.strip()), "")
    if said := _SAID_SEPARATOR.fullmatch(first):  # which a spreadsheet writes, and reads
        lines[lines.index(first)] = "\n"
    separator = said[1] if said else _separator(path, first)
    limit = csv.field_size_limit(_LONGEST_CELL)  # which is everybody's
    try:
        # Blanks beside the separator first: else a row whose cells have them would be one cell.
        rows = _in_single_quotes(lines, separator, " *") or _in_single_quotes(lines, separator, "")
        rows = rows or _as_csv(path, lines, separator)
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise UserError(f"{path} has only empty lines and cells")
    return [(line, [one_line(cell).strip() for cell in cells]) for line, cells in rows]


def _separator(path: str, first: str) -> str:
    """Return what separates the cells of a file whose first line is `first`; what is quoted does not, unless a .tsv has a tab."""
    is_tsv = path.lower().endswith(".tsv")
    if "\t" in (first if is_tsv else re.sub('"[^"]*"', "", first)) or (is_tsv and "," not in first):
        return "\t"
    bare = re.sub('"[^"]*("|$)', "", first)  # a quote may be closed on a later line
    return ";" if ";" in bare and "," not in first else ","


def _in_single_quotes(lines: list[str], separator: str, beside: str) -> list[tuple[int, list[str]]] | None:
    """Return the rows if single quotes enclose every cell, but perhaps those of the first line, else None.

    `beside` is a pattern of what may stand on both sides of the separator.
    """
    between = re.compile(f"'{beside}{separator}{beside}'")
    rows: list[tuple[int, list[str]]] = []
    is_quoted = False  # a line of several cells, which is no text with apostrophes
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if len(line) > 1 and line[0] == line[-1] == "'":
            cells = [cell.replace("''", "'") for cell in between.split(line[1:-1])]
            is_quoted |= len(cells) > 1
        elif rows and line:
            return None
        else:
            cells = [_unquoted(cell.strip()) for cell in line.split(separator)] if line else []
        if cells:
            rows.append((number, cells))
    is_table = (len(rows) > 1 or is_quoted) and all(len(cells) == len(rows[0][1]) for _, cells in rows)
    return rows if is_table else None


def _as_csv(path: str, lines: list[str], separator: str) -> list[tuple[int, list[str]]]:
    """Return the rows, with the quotes taken off that enclose a cell; such a cell may have line breaks and separators."""
    # A blank may stand before a quote, unless the quotes enclose a part of the cell alone.
    skips = _is_csv(lines, separator)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=skips)
    try:
        rows = [(reader.line_num, cells) for cells in reader if "".join(cells).strip()]
        if separator != "\t" or not any("\n" in cell and "\t" in cell for _, cells in rows for cell in cells):
            return rows
    except csv.Error as error:
        if separator != "\t":
            why = (
                "a line break that is no \\n stands outside of quotes" if "new-line character" in str(error) else error
            )
            raise UserError(f"{path}, line {reader.line_num}: not a CSV table: {why}") from error
    # Tabs are no part of a text, so they alone say where cells end; a quote that encloses no whole cell is part of the text.
    cells_of_lines = [[_unquoted(cell.strip()) for cell in line.split("\t")] for line in lines]
    return [(number, cells) for number, cells in enumerate(cells_of_lines, 1) if any(cells)]


def _is_csv(lines: list[str], separator: str) -> bool:
    """Return whether the rows can be read with blanks skipped in front of cells."""
    try:
        return all(True for _ in csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True))
    except csv.Error:
        return False


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if re.fullmatch('"(?:[^"]|"")*"', cell) else cell
