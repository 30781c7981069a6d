"""DART 1.1.1: triples from tables, WebNLG and E2E, and texts that say them."""

from collections.abc import Iterator
from pathlib import Path

from lora_nlg.errors import UserError
from lora_nlg.tasks import triples

ENTRY = {"tripleset": [(str, str, str)], "annotations": [{"text": str}]}


def read_raw(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (triples, text) of every annotation of a file [entry, …]; properties, which are in capitals there, in lower case.

    Raises UserError that names the entry which is none.
    """
    whole = triples.load(path)
    if not isinstance(whole, list) or not whole:
        raise UserError(
            f'{path}: expected DART\'s JSON, [{{"tripleset": …, "annotations": …}}, …], with at least one entry'
        )
    for number, entry in enumerate(whole, 1):
        where = f"{path}, entry {number}"
        triples.check(entry, ENTRY, where)
        source = triples.joined(((s, name.lower(), o) for s, name, o in entry["tripleset"]), where)
        for annotation in entry["annotations"]:
            yield source, annotation["text"]
