"""METEOR's paraphrases cut down to those that can match: nothing that METEOR would have found is lost."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from metrics import inputs, java, meteor, paraphrases, ptb

PAIRS = [
    ("a pub", "an inn"),
    ("pub", "bar"),
    ("pub", "an inn"),
    ("n't", "not"),
    ("near a pub", "near a café"),
    ("us", "america"),
]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An index of PAIRS, and a function that selects from it; METEOR's table is taken to be the file of PAIRS."""
    source, index = tmp_path / "table.gz", tmp_path / "index.npz"
    with gzip.open(source, "wt", encoding="utf-8") as file:
        file.write("".join(f"0.5\n{one}\n{other}\n" for one, other in PAIRS))
    assert paraphrases.make_index(source, index) == len(PAIRS)
    monkeypatch.setattr(java, "data_file", lambda name: source)
    return source, index, lambda *texts: paraphrases.possible_in(texts, str(tmp_path), index)


def pairs_in(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert all(float(probability) for probability in lines[::3])  # METEOR reads a line there
    return list(zip(lines[1::3], lines[2::3], strict=True))


def test_pairs_whose_phrases_all_occur_are_kept_as_they_are_and_in_order(small):
    """Fails when a pair is judged by one phrase alone, or by another pair's words."""
    select = small[2]
    assert pairs_in(select("a pub", "an inn")) == [PAIRS[0], PAIRS[2]]
    assert pairs_in(select("the pub is a bar , then a pub", "an inn")) == PAIRS[:3]
    assert pairs_in(select("nothing of it")) == []


def test_words_that_do_not_follow_each_other_are_no_phrase(small):
    """Fails when words count that occur somewhere: most pairs of frequent words are of phrases that do not."""
    select = small[2]
    assert pairs_in(select("a nice pub", "an old inn")) == []
    assert pairs_in(select("A Pub", "an", "inn")) == []
    assert pairs_in(select("A Pub", "an  inn")) == [PAIRS[0], PAIRS[2]]


def test_words_that_are_not_plain_are_let_through(small):
    """METEOR takes tokens apart at punctuation, so what it makes of them is not decided here."""
    assert pairs_in(small[2]("is not")) == [PAIRS[3]]
    for text in ("near-a pub", "near / a pub", "near-a-pub", "pub/near . a-pub"):  # it drops what stands between
        assert pairs_in(small[2](text)) == [PAIRS[4]], text


def test_what_meteor_joins_is_joined(small):
    """Its -norm makes us of u.s., and pm of p.m."""
    assert pairs_in(small[2]("america", "in the u.s.")) == [PAIRS[5]]


def test_without_a_fitting_index_meteor_reads_its_own_table(small, tmp_path, monkeypatch):
    _, index, select = small
    assert paraphrases.possible_in(["pub"], str(tmp_path), tmp_path / "none.npz") is None
    assert paraphrases.possible_in(["pub"], f"{tmp_path}/é", index) is None
    whole = index.read_bytes()
    for broken in (b"", b"PK", whole[: len(whole) // 2], whole[:-1], whole.replace(b"america", b"amerika")):
        index.write_bytes(broken)
        assert select("pub") is None, broken
    index.write_bytes(whole)
    assert select("pub") is not None
    monkeypatch.setattr(paraphrases, "MOST_WORDS", 2)
    assert select("one two", "three") is None
    monkeypatch.undo()
    assert paraphrases.possible_in(["pub"], str(tmp_path), index) is None  # an index of another table than METEOR's


@pytest.mark.slow
def test_meteor_counts_the_same_as_with_its_whole_table(tmp_path):
    """On texts with contractions, numbers, prices and hyphens; set-up has made the index."""
    assert paraphrases.INDEX.is_file(), "run bash scripts/00_setup.sh"
    references = inputs.read_references(str(Path(__file__).parent / "golden/edge/refs.txt")).groups
    groups = [
        *references,
        ["it 's cheap and family-friendly , isn't it ?", "prices start at £20 - 25"],
        ["you cannot go wrong"],
        ["in the U.S. from 5 p.m."],
    ]
    outputs = [group[-1].replace("restaurant", "eatery").replace("near", "close to") for group in references]
    outputs += [
        "it is inexpensive ; kids are welcome , are n't they",
        "you can not make a mistake",
        "in America in the afternoon",
    ]
    runtime = java.find_java()
    sets = [[text for group in groups for text in group], outputs]
    reference_tokens, output_tokens = ptb.tokenise(runtime, sets, str(tmp_path))
    tokens = ptb.Groups(reference_tokens, [len(group) for group in groups])
    table = paraphrases.possible_in([*reference_tokens, *output_tokens], str(tmp_path))
    assert table is not None and 100 < len(pairs_in(table)) < 1_000_000, "not cut down"
    counts = []
    for known in (table, None):
        with meteor.Meteor(runtime, table=known) as aligner:
            aligner.send(output_tokens, tokens)
            counts.append(aligner.receive(len(groups)))
    paraphrased = slice(4 + 4 * 3, 4 + 4 * 4)  # the last matcher's columns
    assert counts[1][:, paraphrased].sum() > 0, "no paraphrase was found at all"
    np.testing.assert_array_equal(*counts)
