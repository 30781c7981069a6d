"""Pretraining documents: many layouts, never the recipe's."""

import itertools
import re
from random import Random

import pytest

import real_data
from lora_nlg.bundled import layouts, venues

END_OF_TEXT = "<|endoftext|>"
MR = {"name": "Harrow & Thyme", "Type": "tea room", "family friendly": "no", "near": "Café Merrin"}
REFERENCE = "Harrow & Thyme is a tea room near Café Merrin . It is n't family - friendly ."


def drawn(count: int) -> list[str]:
    rng = Random(5)
    return list(itertools.islice(layouts.documents(venues.venue_pairs(rng), rng), count))


def kinds(count: int, **share: float) -> list[str]:
    """One letter a part: "rp" is a record, then prose. The reference is always the same, so it can be told apart."""
    found = []
    for document in layouts.documents([(MR, REFERENCE)] * count, Random(5), **share):
        before, reference, after = document.partition(REFERENCE)
        if reference:
            found.append("r" * bool(before.strip()) + "p" + "r" * bool(after.strip()))
        else:
            found.append("r" * document.count(MR["name"]))
    return found


def test_no_document_shows_the_layout_of_the_recipe():
    for document in drawn(3000):
        assert " | " not in document and " : " not in document and "||" not in document


def test_no_document_holds_the_end_of_text():
    assert not any(END_OF_TEXT in document for document in drawn(1000))


def test_the_same_record_follows_in_other_documents_once_for_each_pair_on_average():
    found = kinds(4000)
    alone = found.count("r")
    assert len(found) - alone == 4000 and 0.9 < alone / 4000 < 1.1
    assert found[0] != "r" and any(a == b == "r" for a, b in itertools.pairwise(found))
    assert list(layouts.documents([], Random(0))) == []


def test_the_same_seed_gives_the_same_documents():
    assert drawn(50) == drawn(50)


def test_record_then_prose_is_the_most_frequent_kind_and_few_begin_with_prose():
    found = kinds(4000)
    found = [kind for kind in found if kind != "r"]
    assert set(found) == {"rp", "rr", "p", "pr"}
    assert 0.6 < found.count("rp") / 4000 < 0.75
    assert 0.05 < sum(kind[0] == "p" for kind in found) / 4000 < 0.2


@pytest.mark.parametrize(("share_prose", "expected"), [(0.0, {"rp", "rr"}), (1.0, {"p", "pr"})])
def test_share_of_documents_that_begin_with_prose(share_prose, expected):
    assert set(kinds(300, share_prose=share_prose)) - {"r"} == expected


def test_a_blank_stands_before_every_value_and_before_prose():
    """Else its first token would be another one there."""
    for document in layouts.documents([(MR, REFERENCE)] * 2000, Random(5)):
        for told in (REFERENCE, MR["near"]):
            assert all(before == " " for before in re.findall(f"(?s)(.|^){re.escape(told)}", document))


def test_layouts_are_what_their_names_say():
    items = [("name", "Harrow & Thyme"), ("price", "£ 20 - 25")]
    assert [layout(items) for layout in layouts.LAYOUTS] == [
        '{"name": Harrow & Thyme, "price": £ 20 - 25}',
        "name = Harrow & Thyme; price = £ 20 - 25",
        "name -> Harrow & Thyme, price -> £ 20 - 25",
        "name: Harrow & Thyme\nprice: £ 20 - 25",
        "name\tprice\n Harrow & Thyme\t £ 20 - 25",
        "name, price\n Harrow & Thyme, £ 20 - 25",
        "name[ Harrow & Thyme ], price[ £ 20 - 25 ]",
        "<name> Harrow & Thyme </name><price> £ 20 - 25 </price>",
    ]


def test_all_layouts_key_styles_and_slot_orders_occur():
    documents = list(layouts.documents([(MR, REFERENCE)] * 3000, Random(5)))
    for key in ("family friendly", "Family Friendly", "family_friendly"):
        assert any(key in document for document in documents)
    records = [
        re.findall(r'"([^"]*)": ', document.split("\n")[0]) for document in documents if document.startswith("{")
    ]
    orders = {tuple(key.lower().replace("_", " ") for key in record) for record in records}
    assert len(orders) == 24  # 4 slots in any order
    for opening in (r"\{", r"[\w ]+ = ", r"[\w ]+ -> ", r"[\w ]+: ", r"\w[\w ]*\t", r"\w[\w ]*, ", r"[\w ]+\[", "<"):
        assert any(re.match(opening, document) for document in documents), opening


def test_the_second_record_is_in_another_layout():
    for document in layouts.documents([(MR, REFERENCE)] * 1000, Random(5), share_prose=0.0):
        assert document.count("{") <= 1 and document.count("</name>") + document.count("</Name>") <= 1


@real_data.needs("e2e")
def test_real_pairs_never_show_the_layout_of_the_recipe():
    pairs = []
    for line in (real_data.folder("e2e") / "train.txt").read_text(encoding="utf-8").splitlines()[::20]:
        mr, reference = line.split("||")
        pairs.append((dict(field.split(" : ", 1) for field in mr.split(" | ")), reference.strip()))
    assert len(pairs) > 2000
    references = {reference for _, reference in pairs}
    for document in layouts.documents(pairs, Random(5)):
        assert " | " not in document
        assert " : " not in document or any(reference in document for reference in references)
