"""Pretraining documents: many layouts, never the recipe's."""

import itertools
import json
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
            found.append("rr")
    return found


def test_no_document_shows_the_layout_of_the_recipe():
    for document in drawn(3000):
        assert " | " not in document and " : " not in document and "||" not in document


def test_no_document_holds_the_end_of_text():
    assert not any(END_OF_TEXT in document for document in drawn(1000))


def test_one_document_for_each_pair():
    assert len(list(layouts.documents([(MR, REFERENCE)] * 7, Random(0)))) == 7
    assert list(layouts.documents([], Random(0))) == []


def test_the_same_seed_gives_the_same_documents():
    assert drawn(50) == drawn(50)


def test_record_then_prose_is_the_most_frequent_kind_and_few_begin_with_prose():
    found = kinds(4000)
    assert set(found) == {"rp", "rr", "p", "pr"}
    assert found.count("rp") / 4000 > 0.45
    assert 0.05 < sum(kind[0] == "p" for kind in found) / 4000 < 0.2


@pytest.mark.parametrize(("share_prose", "expected"), [(0.0, {"rp", "rr"}), (1.0, {"p", "pr"})])
def test_share_of_documents_that_begin_with_prose(share_prose, expected):
    assert set(kinds(300, share_prose=share_prose)) == expected


def test_prose_after_a_record_begins_on_its_own_line_mostly_with_a_space():
    documents = layouts.documents([(MR, REFERENCE)] * 2000, Random(5), share_prose=0.0)
    told = [document for document in documents if REFERENCE in document]
    spaced = [document for document in told if document.endswith("\n " + REFERENCE)]
    tight = [document for document in told if document.endswith("\n" + REFERENCE)]
    assert len(spaced) + len(tight) == len(told)
    assert len(spaced) > len(told) / 2 and tight


def test_layouts_are_what_their_names_say():
    items = [("name", "Harrow & Thyme"), ("price", "£ 20 - 25")]
    assert [layout(items) for layout in layouts.LAYOUTS] == [
        '{"name": "Harrow & Thyme", "price": "£ 20 - 25"}',
        "name = Harrow & Thyme; price = £ 20 - 25",
        "name=Harrow & Thyme;price=£ 20 - 25",
        "name: Harrow & Thyme\nprice: £ 20 - 25",
        "name\tprice\nHarrow & Thyme\t£ 20 - 25",
        "name, price\nHarrow & Thyme, £ 20 - 25",
        "name[Harrow & Thyme], price[£ 20 - 25]",
        "<name> Harrow & Thyme </name><price> £ 20 - 25 </price>",
    ]


def test_all_layouts_key_styles_and_slot_orders_occur():
    documents = list(layouts.documents([(MR, REFERENCE)] * 3000, Random(5)))
    for key in ("family friendly", "Family Friendly", "family_friendly"):
        assert any(key in document for document in documents)
    records = [json.loads(document.split("\n")[0]) for document in documents if document.startswith("{")]
    orders = {tuple(key.lower().replace("_", " ") for key in record) for record in records}
    assert len(orders) == 24  # 4 slots in any order
    for opening in (r"\{", r"[\w ]+ = ", r"[\w ]+=", r"[\w ]+: ", r"\w[\w ]*\t", r"\w[\w ]*, ", r"[\w ]+\[", "<"):
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
    for (_, reference), document in zip(pairs, layouts.documents(pairs, Random(5)), strict=True):
        assert " | " not in document
        assert " : " not in document.replace(reference, "")
