"""Strange names: in the record and in the text alike, of all the vocabulary's words, and nowhere in the bundled data."""

from pathlib import Path
from random import Random

import pytest

import copied_names
from lora_nlg.bundled import invented, strange, venues

ROOT = Path(__file__).resolve().parents[1]
MR = {"name": "Harrow & Thyme", "Type": "pub", "price": "high", "customer rating": "high", "near": "Café Merrin"}
REFERENCE = (
    "Harrow & Thyme is a pub near Café Merrin , not a public house . Harrow & Thyme has high prices and a high rating ."
)


class Letters:
    """An encoding of a few tokens."""

    def token_byte_values(self):
        return [b" word", b" Zebra", b" 47", b" !", b"er", b"lost", b"Xx", b"\xff", "é".encode()]


def words() -> strange.Words:
    return strange.Words(Letters())


def test_words_begin_after_a_blank_and_pieces_go_on():
    assert words().words == ["word", "Zebra", "47"]
    assert words().pieces == ["er", "lost", "é"]


def test_names_are_of_one_to_six_words():
    rng = Random(0)
    assert {len(words().name(rng).split()) for _ in range(500)} == {1, 2, 3, 4, 5, 6}


def test_what_is_told_is_replaced_in_record_and_text_alike():
    """A value that two slots have, and one that is part of another word, stay. Fails without the look around a value."""
    replaced = {slot: 0 for slot in MR}
    for new, text in strange.strange_pairs([(MR, REFERENCE)] * 300, words(), Random(0)):
        assert list(new) == list(MR) and "public house" in text
        assert text.count(new["name"]) >= 2 and f"near {new['near']} ," in text and f"is a {new['Type']} near" in text
        for slot in MR:
            replaced[slot] += new[slot] != MR[slot]
    assert replaced["price"] == replaced["customer rating"] == 0
    assert replaced["name"] > 200 and replaced["near"] > 200 and 10 < replaced["Type"] < 100


def test_invented_names_are_of_one_to_five_words():
    rng = Random(0)
    lengths = set()
    for _ in range(500):
        name = invented.name(rng)
        lengths.add(
            len([word for word in name.split() if word not in ("The", "&", ",", "'s", "of", "de", "and", "Café")])
        )
        assert " | " not in name and " : " not in name
    assert lengths == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("name", ["train.txt", "valid.txt", "test.txt"])
def test_the_names_that_are_counted_are_nowhere_in_the_bundled_data(name):
    text = (ROOT / "data/mini" / name).read_text(encoding="utf-8")
    asked = copied_names.names()
    assert len(set(asked)) == copied_names.COUNT == len(copied_names.inputs())
    assert {len(each.split()) for each in asked} >= {2, 3, 4, 5}
    assert not [each for each in asked if each in text]
    assert not set(asked) & set(venues.names(True) + venues.names(False))
