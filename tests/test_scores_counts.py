"""Tokens, BLEU, NIST and METEOR's formula, on cases small enough to work out by hand. No Java."""

import math
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from metrics import bleu, coco, meteor, nist
from metrics.ngrams import References, lengths
from metrics.tokenise import tokenise

EXACT = 1e-12  # float64, a handful of operations


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ""),
        (" \t\n", ""),
        ("The END.", "the end ."),
        ("4.5 1,200 3.", "4.5 1,200 3 ."),
        (".5 5. a.5 5.a", ". 5 5 . a . 5 5 . a"),
        ("a..5", "a . .5"),  # a match uses up its neighbour
        ("...", ". . ."),
        ("7-11 beer-garden 5-star -5", "7 - 11 beer-garden 5 - star -5"),
        ("Ann's don't", "ann's don't"),
        ("£20–25 café", "£20–25 café"),
        ("Tom &amp; &quot;Jo&quot; &lt;b&gt;", 'tom & " jo " < b >'),
        ("&amp;lt;", "<"),  # entities are undone one after the other
        ("<skipped>a <SKIPPED>", "a < skipped >"),
        ("well-\nknown line\nend", "wellknown line end"),
        ("no\u00a0break", "no break"),
        ("٣.٤", "٣ . ٤"),  # only ASCII digits hold a number together
    ],
)
def test_tokens(text, tokens):
    assert tokenise(text) == tokens.split()


def test_every_ascii_sign_but_four_stands_alone():
    alone = {sign for sign in string.punctuation if tokenise(f"a{sign}b") == ["a", sign, "b"]}
    assert alone == set(string.punctuation) - set("'-")
    assert {sign for sign in string.punctuation if tokenise(f"1{sign}2") == [f"1{sign}2"]} == set("'.,")


def counts(output, *references):
    """Return (output tokens, References) of texts."""
    return output.split(), References([reference.split() for reference in references])


def bleu_of(*pairs, smoothing=0.0):
    return float(bleu.score(np.sum([bleu.statistics(*pair) for pair in pairs], axis=0), smoothing))


def test_bleu_statistics_clip_by_one_reference_and_take_the_closest_length():
    # "the" is twice in one reference and once in the other: two of the three count, not three.
    statistics = bleu.statistics(*counts("the the the", "the cat the mat sat", "the"))
    assert statistics.tolist() == [2, 0, 0, 0, 3, 2, 1, 0, 1]  # lengths 5 and 1 are as close: the shorter


def test_bleu_by_hand():
    # hits 4/5, 3/4, 2/3, 1/2; the reference is one word longer
    got = bleu_of(counts("a b c d x", "a b c d e f"))
    assert got == pytest.approx(math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, abs=EXACT)
    # two segments: the sums are divided, the scores are not averaged
    both = bleu_of(counts("a b c d x", "a b c d e f"), counts("u v w y z", "u v w y z"))
    assert both == pytest.approx(math.exp(1 - 11 / 10) * (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25, abs=EXACT)
    # smoothing: (2 + 1) / (2 + 1), (1 + 1) / (1 + 1), then 1 / 1 twice
    assert bleu_of(counts("a b", "a b"), smoothing=1) == pytest.approx(1, abs=EXACT)
    assert bleu_of(counts("y", "x"), smoothing=1) == pytest.approx(0.5**0.25, abs=EXACT)


def test_short_and_empty_outputs_have_no_negative_counts():
    assert lengths([], 4) == [0, 0, 0, 0]
    assert lengths(["a"], 4) == [1, 0, 0, 0]
    assert bleu.statistics(*counts("", "a b")).tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 2]


def test_an_empty_output_never_raises_bleu():
    perfect = counts("a b c d e f", "a b c d e f")
    assert bleu_of(perfect) == pytest.approx(1, abs=EXACT)
    with_empty = bleu_of(counts("", "a b"), perfect)
    assert with_empty == pytest.approx(math.exp(1 - 8 / 6), abs=EXACT)
    assert bleu_of(counts("", "a b")) == 0
    assert bleu_of(counts("", "")) <= 1


WORDS = st.lists(st.sampled_from("a b c".split()), max_size=7)
PAIRS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=5)


@given(PAIRS)
def test_scores_are_finite_in_range_and_independent_of_the_order_of_segments(pairs):
    pairs = [(output, References(references)) for output, references in pairs]
    bits = nist.Information(group for _, group in pairs)
    for statistics, score, top in (
        (np.stack([bleu.statistics(*pair) for pair in pairs]), bleu.score, 1),
        (np.stack([nist.statistics(*pair, bits) for pair in pairs]), nist.score, math.inf),
    ):
        corpus = score(statistics.sum(axis=0))
        assert 0 <= corpus <= top + EXACT and np.isfinite(corpus)
        assert np.isfinite(score(statistics)).all()
        assert score(statistics[::-1].sum(axis=0)) == pytest.approx(corpus, abs=1e-9)


def nist_of(*pairs, definition=nist.MTEVAL):
    bits = nist.Information(group for _, group in pairs)
    return float(nist.score(np.sum([nist.statistics(*pair, bits) for pair in pairs], axis=0), definition))


def test_nist_information_by_hand():
    _, group = counts("", "a b a c")
    bits = nist.Information([group])
    assert bits[("a",)] == pytest.approx(1)  # 2 of 4 words
    assert bits[("b",)] == pytest.approx(2)  # 1 of 4
    assert bits[("a", "b")] == pytest.approx(1)  # follows one "a" of two
    assert bits[("b", "a")] == pytest.approx(0)  # nothing else follows "b"


def test_nist_by_hand():
    # words 1 + 2 bits over 2 words, "a b" 1 bit over 1 pair; 2 words for 4 is a penalty of exp(-beta ln(1/2)^2)
    penalty = math.exp(-nist.BETA * math.log(1 / 2) ** 2)
    assert nist_of(counts("a b", "a b a c")) == pytest.approx(penalty * ((1 + 2) / 2 + 1 / 1), abs=EXACT)
    assert math.exp(-nist.BETA * math.log(2 / 3) ** 2) == pytest.approx(0.5, abs=EXACT)
    assert nist_of(counts("", "a b")) == 0
    assert nist_of(counts("x", "a b")) == 0


def test_the_two_nist_definitions_differ_in_the_reference_length_only():
    pairs = counts("a", "a b c d"), counts("e", "e f", "e g", "e h")
    statistics = np.sum([nist.statistics(*pair, {("a",): 1.0, ("e",): 1.0}) for pair in pairs], axis=0)
    means = 4 + 2  # of each segment, summed
    mteval = (4 + 2 + 2 + 2) / (4 / 2)  # total over references a segment
    for definition, length in ((nist.SEGMENT_MEANS, means), (nist.MTEVAL, mteval)):
        expected = math.exp(-nist.BETA * math.log(2 / length) ** 2) * (2 / 2)
        assert float(nist.score(statistics, definition)) == pytest.approx(expected, abs=EXACT)
    # an output that is long enough pays nothing, so the two agree
    long = counts("a b c d", "a b c d"), counts("e f", "e f", "e g", "e h")
    assert nist_of(*long) == nist_of(*long, definition=nist.SEGMENT_MEANS)


def test_cider_is_pycocoevalcaps():
    """Seen to fail with the rarity of all n-grams taken as 1, uncut weights, and without the length's share."""
    random = np.random.default_rng(1)

    def text():
        return " ".join(random.choice(list("aaaabbcdef"), random.integers(0, 9)))

    for segments in (1, 2, 30):
        references = [[text() for _ in range(random.integers(1, 4))] for _ in range(segments - 1)] + [["a b"]]
        outputs = [group[0] if random.random() < 0.3 else text() for group in references]
        _, expected = Cider().compute_score(
            dict(enumerate(references)), {i: [output] for i, output in enumerate(outputs)}
        )
        assert coco.cider(outputs, references, coco.Rarity(references)) == pytest.approx(expected, abs=EXACT * 10)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_rouge_l_is_pycocoevalcaps(segments):
    """To the bit, of empty and of repeated words too. Seen to fail with a row that is not cut to the output's words."""
    outputs, references = [" ".join(o) for o, _ in segments], [[" ".join(r) for r in group] for _, group in segments]
    expected = [Rouge().calc_score([output], group) for output, group in zip(outputs, references, strict=True)]
    assert coco.rouge_l(outputs, references).tolist() == expected


def test_meteor_formula_by_hand():
    # output of 3 words, reference of 4, one function word each; exact: 1 content and 1 function word; stem: 1 content word
    exact, stem = [1, 1, 1, 1], [1, 1, 0, 0]
    statistics = np.array([3, 4, 1, 1, *exact, *stem, *[0] * 8, 2, 3, 3], dtype=float)
    weighted = 1.0 * (0.75 + 0.25) + 0.6 * 0.75
    precision, recall = weighted / (0.75 * 2 + 0.25), weighted / (0.75 * 3 + 0.25)
    mean = 1 / (0.15 / precision + 0.85 / recall)
    assert float(meteor.score(statistics)) == pytest.approx(mean * (1 - 0.60 * (2 / 3) ** 0.20), abs=EXACT)
    assert meteor.score(np.zeros((2, meteor.COLUMNS))).tolist() == [0, 0]
