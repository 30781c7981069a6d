"""References, system outputs and sources, from plain text or from a table (.tsv, .csv).

In a table of references, rows with the same source are the references of one input. In a table of outputs with sources, each
row goes to the input of its source.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metrics import files, tables
from metrics.errors import UserError
from metrics.tables import Column, Row

COVERED = ".covered.json"  # after a file's name: the note that gpt2_decode.py --only_predicted leaves beside it

SOURCE = Column("source", ("mr", "src", "source", "input", "context", "meaning_representation"))
REFERENCE = Column(
    "reference", ("ref", "refs", "reference", "references", "human_ref", "orig_ref", "target", "completion")
)
OUTPUT = Column(
    "output",
    ("sys_out", "sys", "system", "output", "system_output", "out", "pred", "prediction", "hyp", "hypothesis"),
    if_two=(*REFERENCE.names, "text", "txt"),  # a system's file may have the form of the data set's
)


@dataclass(frozen=True)
class References:
    """The references of each input, and the inputs' sources where the file has them."""

    groups: list[list[str]]
    sources: list[str] | None


@dataclass(frozen=True)
class Outputs:
    """A system's output for each input, and the inputs' sources where the file has them."""

    texts: list[str]
    sources: list[str] | None


@dataclass(frozen=True)
class Coverage:
    """Which of the inputs have outputs, where the others were left out on purpose."""

    inputs: int  # all there are
    covered: list[int]  # the numbers, from 0, of those with an output

    def __str__(self):
        return f"{len(self.covered)} of {self.inputs} inputs"


def read_references(path: str) -> References:
    """Read the references: on consecutive lines with a blank line after each input's, or a table."""
    if not tables.is_table(path):
        return References(_groups(path), None)
    rows = tables.read(path, REFERENCE, SOURCE)
    for row in rows:
        if not row.text:
            raise UserError(f"{path}, line {row.line}: the reference is empty; fill it in or drop the row")
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.source is None:  # no row has one
            return References([[row.text] for row in rows], None)
        groups.setdefault(row.source, []).append(row.text)
    return References(list(groups.values()), list(groups))


def read_outputs(path: str, references: References) -> Outputs:
    """Read one output for each input of `references`: a line each, or a table. Raises UserError if their numbers differ."""
    if not tables.is_table(path):
        outputs = Outputs(_lines(path), None)
    else:
        rows = tables.read(path, OUTPUT, SOURCE)
        sources = [row.source for row in rows if row.source is not None]  # of all rows or of none
        if sources and references.sources is not None and len(set(references.sources)) == len(references.sources):
            return Outputs(_in_order(path, rows, references.sources), references.sources)
        outputs = Outputs([row.text for row in rows], sources or None)
    if len(outputs.texts) != len(references.groups):
        raise UserError(
            f"{path} has {len(outputs.texts)} outputs but the references are of {len(references.groups)} inputs;"
            " give one output for each group of references (in plain text, a blank line ends a group)"
        )
    return outputs


def read_sources(path: str, inputs: int) -> list[str]:
    """Read the source of each of `inputs` inputs: a line each, or a table. Raises UserError if it has more or fewer."""
    if tables.is_table(path):
        sources = list(dict.fromkeys(row.text for row in tables.read(path, SOURCE)))
    else:
        sources = _lines(path)
    if len(sources) != inputs:
        raise UserError(f"{path} has {len(sources)} sources but the references are of {inputs} inputs")
    return sources


def with_sources(references: References, path: str) -> References:
    """Return the references with the sources of the file `path`, one for each input: a line each, or a table.

    Raises UserError if it has more or fewer, or others than a table of references has.
    """
    sources = read_sources(path, len(references.groups))
    for number, (source, other) in enumerate(zip(sources, references.sources or sources, strict=True), 1):
        if source != other:
            raise UserError(f"{path}: source {number} is not that of the references: {source!r}; leave out -s")
    return References(references.groups, sources)


def read_coverage(path: str, outputs: int) -> Coverage | None:
    """Return the note beside `path`, a file of `outputs` outputs, None if there is none. Raises UserError if it is of others."""
    note = path + COVERED
    if not os.path.lexists(note):
        return None
    try:
        fields = json.loads(files.read(note))
        coverage = Coverage(fields["inputs"], fields["covered"])
        rising = [-1, *coverage.covered, coverage.inputs]
        if any(type(number) is not int for number in rising) or any(a >= b for a, b in itertools.pairwise(rising)):
            raise ValueError("they are not numbers of inputs, rising")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{note} is damaged; expected what gpt2_decode.py --only_predicted writes: decode again"
        ) from error
    if len(coverage.covered) != outputs:
        raise UserError(f"{note} is of {len(coverage.covered)} outputs but {path} has {outputs}; decode again")
    return coverage


def common_coverage(paths: Sequence[str], systems: Sequence[Sequence[str]]) -> Coverage | None:
    """Return which inputs the outputs cover, None if all of them. Raises UserError if not every system covers the same."""
    notes = [read_coverage(path, len(texts)) for path, texts in zip(paths, systems, strict=True)]
    other = next((path for path, note in zip(paths, notes, strict=True) if note != notes[0]), None)
    if other is not None:
        raise UserError(
            f"{paths[0]} and {other} do not cover the same inputs, so their scores cannot be compared; score each by itself"
        )
    return notes[0]


def first_line_as_input(path: str, text: Column) -> list[str] | None:
    """Return the cells of a table's first line if they name no column, so that they were read as an input; else None."""
    if not tables.is_table(path):
        return None
    first = tables.cells_of(path)[0][1]
    known = {*SOURCE.names, *text.names, *text.if_two}
    return None if known & set(map(tables.plain, first)) else first


def _lines(path: str) -> list[str]:
    return [line.strip() for line in plain_lines(path)]


def plain_lines(path: str) -> Iterator[str]:
    """Yield the lines of a file of plain texts. Raises UserError for one of JSON, whose braces would be scored as words.

    That is one by its name, or of lines that this project writes: a text may be JSON, too. And for a table under another name, whose
    sources would be scored with the texts: every line that is not blank has as many tabs, and some.
    """
    tabs = []
    for number, line in enumerate(files.lines(path), 1):
        if number == 1 and (os.path.splitext(path)[1].lower() in (".json", ".jsonl") or _is_own_row(line)):
            raise UserError(f"{path} holds JSON; give one text a line, or a table (.csv, .tsv)")
        if text := line.strip():
            tabs.append(text.count("\t"))
        yield line
    if len(tabs) > 1 and len(set(tabs)) == 1 and (n := tabs[0]):
        has = "a tab" if n == 1 else f"{n} tabs"
        raise UserError(f"{path} has {has} in every line, as a table has; name it .tsv, or keep the texts alone")


def _is_own_row(line: str) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and any(keys <= set(row) for keys in ({"id", "predict"}, {"context", "completion"}))


def _groups(path: str) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    surplus = 0  # the number of the first blank line with no reference before it; at the end it does no harm
    for number, line in enumerate(plain_lines(path), 1):
        if text := line.strip():
            if surplus:
                raise UserError(
                    f"{path}, line {surplus}: a blank line ends an input's references, but there is none before it"
                )
            groups[-1].append(text)
        elif groups[-1]:
            groups.append([])
        else:
            surplus = surplus or number
    if not groups[-1]:
        groups.pop()
    if not groups:
        raise UserError(f"{path} has no reference, only blank lines")
    return groups


def _in_order(path: str, rows: list[Row], sources: list[str]) -> list[str]:
    """Return the outputs in the order of the references' `sources`. An input may have several rows if they are equal."""
    by_source: dict[str, str] = {}
    known = set(sources)
    for row in rows:
        if row.source not in known:
            raise UserError(f"{path}, line {row.line}: the references have no input {row.source!r}")
        if by_source.setdefault(row.source, row.text) != row.text:
            raise UserError(f"{path}, line {row.line}: a second, different output for the input {row.source!r}")
    if len(by_source) != len(sources):
        missing = next(source for source in sources if source not in by_source)
        raise UserError(
            f"{path} has outputs for {len(by_source)} inputs but the references are of {len(sources)}; {missing!r} is missing"
        )
    return [by_source[source] for source in sources]
