"""Own data: texts of any kind, each with the text that is to be made of it, in the files that people have.

A file is .txt (`source||target` a line), .jsonl ({"context": source, "completion": target, or a list of them}), .csv or .tsv (a
column of sources and one of targets); a folder has train and may have valid and test, in any of these forms. Lines with the same
source are its several references.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_nlg.data import tables
from lora_nlg.data.bpe import END_OF_TEXT
from lora_nlg.data.lines import HALF_PAIR, parse_json, read_lines
from lora_nlg.data.tables import Column
from lora_nlg.errors import UserError
from lora_nlg.mistakes import did_you_mean

SPLITS = {
    "train": ("train",),
    "valid": ("valid", "validation", "dev", "val"),
    "test": ("test",),
}  # and what people call them
FORMS = (".txt", ".jsonl", ".csv", ".tsv")
SEPARATOR = "||"  # of a .txt
# Names of keys and columns, in lower case with blanks and dashes as underscores
SOURCE = Column(
    "source",
    ("context", "source", "src", "input", "mr", "meaning_representation", "prompt", "instruction"),
    if_none=("question", "source_text", "input_text", "document", "article"),
)
TARGET = Column(
    "target",
    ("completion", "target", "tgt", "output", "reference", "ref", "human_ref", "text"),
    if_none=("answer", "response", "target_text", "output_text", "summary", "description"),
)
SHARE, MOST = 10, 1000  # a split that is missing gets every tenth source of another, but no more than this many
SEED = 110

Pair = tuple[str, str]  # source, target


@dataclass(frozen=True)
class Columns:
    """Which keys or columns hold the sources and the targets."""

    source: Column = SOURCE
    target: Column = TARGET

    @classmethod
    def named(cls, source: str | None, target: str | None) -> "Columns":
        """Return those that are called `source` and `target`; where one is None, the usual names stand for it but the other's.

        Raises UserError for a name that is empty, and for one that both have: a model would learn to copy.
        """
        for flag, name in (("--source", source), ("--target", target)):
            if name is not None and not tables.plain(name):
                raise UserError(f"{flag} is empty; give it the name of a key or column, or leave it out")
        if source is not None and target is not None and tables.plain(source) == tables.plain(target):
            raise UserError(
                f"--source {source!r} and --target {target!r} are the same key or column, and a text would be learnt from itself; "
                "name two"
            )
        return cls(_named(SOURCE, source, but=target), _named(TARGET, target, but=source))


def _named(usual: Column, said: str | None, but: str | None) -> Column:
    """Return the column that the user calls `said`, or the usual one, which is not what the user calls `but`."""
    if said is not None:
        return Column(usual.role, (tables.plain(said),), said=said)
    other = tables.plain(but or "")
    names, if_none = (tuple(name for name in names if name != other) for names in (usual.names, usual.if_none))
    return Column(usual.role, names, if_none=if_none)


USUAL = Columns()


def find(place: Path) -> dict[str, Path]:
    """Return the file of each split that the folder `place` has; a file by itself is "train". Raises UserError without train."""
    if place.is_file():
        if place.suffix.lower() not in FORMS:
            raise UserError(f"{place} must end in one of {', '.join(FORMS)}, which says how it is read")
        return {"train": place}
    if not place.is_dir():
        raise UserError(f"{place} does not exist; expected a folder with a train file, or a file")
    try:
        files = sorted(path for path in place.iterdir() if path.is_file())
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror or error}; check its rights") from error
    found = {}
    for split, names in SPLITS.items():
        paths = [path for name in names for form in FORMS for path in files if path.name.lower() == name + form]
        if len(paths) > 1:
            raise UserError(f"{place} has {paths[0].name} and {paths[1].name} for {split}; leave one of them")
        if paths:
            found[split] = paths[0]
    if "train" not in found:
        raise UserError(f"{place} has no train file; expected train with one of {', '.join(FORMS)} at its end")
    return found


def read_raw(path: str | Path, columns: Columns = USUAL) -> Iterator[Pair]:
    """Yield (source, target) of a file, each on one line. Raises UserError, naming the line, for what cannot be read or is empty."""
    path, found = Path(path), False
    for where, source, target in _READERS.get(path.suffix.lower(), _from_text)(path, columns):
        found = True
        for role, text in (("source", source), ("target", target)):
            if not text.strip():
                raise UserError(f"{where}: the {role} is empty; fill it in or drop the line")
            if END_OF_TEXT in text:
                raise UserError(f"{where}: the {role} has {END_OF_TEXT} in it, which ends a text; take it out")
        yield " ".join(source.split()), " ".join(target.split())
    if not found:
        raise UserError(f"{path} has no example, only blank lines")


def first_example(path: Path, columns: Columns = USUAL) -> Pair | None:
    """Return the example that a table's first line is read as; None if that names the columns, or the file is no table."""
    if not tables.is_table(str(path)):
        return None
    first = tables.cells_of(str(path))[0][1]
    known = {name for column in (columns.source, columns.target) for name in (*column.names, *column.if_none)}
    return None if known & set(map(tables.plain, first)) else next(read_raw(path, columns))


def check_input(text: str, where: str) -> None:
    """Raise UserError for what is no source: nothing."""
    if not text.strip():
        raise UserError(f"{where}: the input is empty; type a text")


def _from_text(path: Path, _: Columns) -> Iterator[tuple[str, str, str]]:
    for where, text in read_lines(path, skip_blank=True):
        source, *targets = text.split(SEPARATOR)
        if len(targets) != 1:
            raise UserError(
                f"{where}: expected source||target with || once, found it {len(targets)} times in {text[:60]!r}"
            )
        yield where, source, targets[0]


def _from_json(path: Path, columns: Columns) -> Iterator[tuple[str, str, str]]:
    for where, line in read_lines(path, skip_blank=True):
        fields = parse_json(line, where, keys_once=True)
        if not isinstance(fields, dict):
            raise UserError(f"{where}: expected a JSON object, found {line[:60]!r}")
        source, targets = _value(fields, columns.source, where), _value(fields, columns.target, where)
        targets = targets if isinstance(targets, list) else [targets]
        for role, text in [("source", source), *(("target", target) for target in targets or [None])]:
            if not isinstance(text, str) or HALF_PAIR.search(text):
                raise UserError(f"{where}: expected a text as {role}, found {json.dumps(text)[:60]}")
        for target in targets:
            yield where, source, target


def _value(fields: dict, column: Column, where: str):
    found = [key for key in fields if tables.plain(key) in column.names]
    found = found or [key for key in fields if tables.plain(key) in column.if_none]
    if column.said and not found:
        said = f"{column.said!r}{did_you_mean(column.said, fields)}"
        raise UserError(f"{where}: the object has no key {said}; its keys are {', '.join(fields) or 'none'}")
    if len(found) != 1:
        said = f"has more than one {column.role}: {', '.join(found)}" if found else f"has no {column.role}"
        raise UserError(
            f"{where}: the object {said}; name its key with --{column.role}, or call it {column.names[0]!r}"
        )
    return fields[found[0]]


def _from_table(path: Path, columns: Columns) -> Iterator[tuple[str, str, str]]:
    rows = tables.read(str(path), columns.target, columns.source)
    if rows[0].source is None:
        raise UserError(f"{path}: the header names no source column; call it {columns.source.names[0]!r}")
    for row in rows:
        yield f"{path}:{row.line}", row.source or "", row.text


_READERS = {".txt": _from_text, ".jsonl": _from_json, ".csv": _from_table, ".tsv": _from_table}


def split_off(pairs: list[Pair], missing: list[str]) -> dict[str, list[Pair]]:
    """Return train and the `missing` splits: a tenth of the sources each, drawn by SEED, with all of their targets.

    Pairs stay in their order. Raises UserError when there are too few sources.
    """
    sources = list(dict.fromkeys(source for source, _ in pairs))
    if len(sources) <= len(missing):
        raise UserError(
            f"{len(sources)} different sources are too few to split {' and '.join(missing)} off; add more, or these files"
        )
    random.Random(SEED).shuffle(sources)
    size = min(max(len(sources) // SHARE, 1), MOST)
    place = {source: split for i, split in enumerate(missing) for source in sources[i * size : (i + 1) * size]}
    splits: dict[str, list[Pair]] = {split: [] for split in ("train", *missing)}
    for pair in pairs:
        splits[place.get(pair[0], "train")].append(pair)
    return splits
