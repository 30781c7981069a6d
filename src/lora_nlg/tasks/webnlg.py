"""WebNLG 2017: triples of DBpedia, and texts that say them. Some categories of the test set do not occur in training."""

from collections.abc import Iterator
from pathlib import Path

from lora_nlg.errors import UserError
from lora_nlg.tasks import triples

SEEN = frozenset(
    "Airport Astronaut Building City ComicsCharacter Food Monument SportsTeam University WrittenWork".split()
)  # the categories of the training set
TRIPLE = {"subject": str, "property": str, "object": str}
ENTRY = {"category": str, "modifiedtripleset": [TRIPLE], "lexicalisations": [{"comment": str, "lex": str}]}


def read_raw(path: str | Path) -> Iterator[tuple[str, str, dict]]:
    """Yield (triples, text, {"cate": whether its category is a seen one}) of every text of a challenge file that is marked good.

    The file is {"entries": [{"1": entry}, …]}. Raises UserError that names the entry which is none.
    """
    whole = triples.load(path)
    if not isinstance(whole, dict) or not isinstance(whole.get("entries"), list) or not whole["entries"]:
        raise UserError(
            f'{path}: expected the challenge\'s JSON, {{"entries": [{{"1": …}}, …]}}, with at least one entry'
        )
    for number, numbered in enumerate(whole["entries"], 1):
        where = f"{path}, entry {number}"
        if not isinstance(numbered, dict) or len(numbered) != 1:
            raise UserError(f"{where}: expected an object with one key, the entry's number")
        (entry,) = numbered.values()
        triples.check(entry, ENTRY, where)
        source = triples.joined(([one[key] for key in TRIPLE] for one in entry["modifiedtripleset"]), where)
        for text in entry["lexicalisations"]:
            if text["comment"] == "good":
                yield source, text["lex"], {"cate": entry["category"] in SEEN}
