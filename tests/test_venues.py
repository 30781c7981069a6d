"""The invented venues, and the data set that is made from them and committed."""

import math
import re
from collections import Counter
from itertools import groupby
from pathlib import Path
from random import Random

import pytest

import make_mini_data
import real_data
from lora_nlg.bundled import venues

ROOT = Path(__file__).resolve().parents[1]
FILES = ("train.txt", "valid.txt", "test.txt")
USUAL_BLEU, BLEU_WITH_WRONG_NAMES = 0.91, 0.73  # as the data set's README says
BLEU_TOLERANCE = 0.02  # white-space tokens here, the evaluation's tokens there


def read(name: str) -> list[tuple[dict[str, str], str]]:
    pairs = []
    for line in (ROOT / "data" / "mini" / name).read_text(encoding="utf-8").splitlines():
        mr, reference = line.split("||")
        pairs.append((dict(field.split(" : ") for field in mr.split(" | ")), reference))
    return pairs


def test_the_committed_files_are_what_the_program_writes(tmp_path):
    assert make_mini_data.main([str(tmp_path)]) == 0
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (ROOT / "data" / "mini" / name).read_bytes(), name


def test_another_seed_makes_another_data_set(tmp_path):
    assert make_mini_data.main([str(tmp_path), "--seed", "2"]) == 0
    assert (tmp_path / "test.txt").read_bytes() != (ROOT / "data" / "mini" / "test.txt").read_bytes()


def test_sizes_are_those_of_the_readme():
    readme = (ROOT / "data" / "mini" / "README.md").read_text(encoding="utf-8")
    for name in FILES:
        pairs = read(name)
        inputs = len({tuple(mr.items()) for mr, _ in pairs})
        assert f"| `{name}` | {len(pairs)} | {inputs} |" in readme
    assert sum((ROOT / "data" / "mini" / name).stat().st_size for name in FILES) < 700_000  # bytes


def test_slots_are_in_order_and_values_are_known():
    for mr, _ in read("train.txt") + read("valid.txt") + read("test.txt"):
        assert list(mr) == [slot for slot in venues.SLOTS if slot in mr]
        assert "name" in mr and venues.FEWEST_SLOTS <= len(mr) <= len(venues.SLOTS)
        for slot, value in mr.items():
            assert slot in ("name", "near") or value in venues.VALUES[slot]


def test_slot_combinations_of_the_test_set_occur_nowhere_else():
    tested = {tuple(mr) for mr, _ in read("test.txt")}
    others = {tuple(mr) for mr, _ in read("train.txt") + read("valid.txt")}
    assert {len(slots) for slots in tested} == {3, 4, 5, 6, 7, 8}
    assert not tested & others
    assert tested | others == set(venues.slot_sets())


def test_names_of_the_test_set_occur_nowhere_else():
    tested = {mr[slot] for mr, _ in read("test.txt") for slot in ("name", "near") if slot in mr}
    others = {mr[slot] for mr, _ in read("train.txt") + read("valid.txt") for slot in ("name", "near") if slot in mr}
    assert not tested & others


def test_names_are_of_one_to_five_words_and_half_of_them_invented():
    rng = Random(0)
    names = [venues.draw_name(rng, held_back=False) for _ in range(1000)]
    words = [len(re.sub(r" [&,] | 's | of | de | and ", " ", name.removeprefix("The ")).split()) for name in names]
    assert set(words) == {1, 2, 3, 4, 5}
    assert 0.4 < sum(name in venues.names(False) for name in names) / 1000 < 0.6
    assert any(re.search(r"\d", name) for name in names) and any(not name.isascii() for name in names)


def test_names_of_the_test_set_are_never_pretrained_on():
    held_back = set(venues.names(True))
    pairs = venues.venue_pairs(Random(0))
    for mr, reference in (next(pairs) for _ in range(2000)):
        assert mr["name"] not in held_back and mr.get("near") not in held_back
        assert mr["name"] in reference


def test_references_of_one_input_stand_together_and_four_are_tested():
    for name in FILES:
        inputs = [tuple(mr.items()) for mr, _ in read(name)]
        assert len(list(groupby(inputs))) == len(set(inputs)), name
    for _, group in groupby(read("test.txt"), key=lambda pair: pair[0]):
        assert len({reference for _, reference in group}) == 4


@pytest.mark.parametrize("slots", venues.slot_sets(), ids=len)
def test_a_reference_tells_every_slot(slots):
    rng = Random(0)
    wordings = set()
    for _ in range(60):
        mr = venues.draw_mr(rng, slots, "Harrow Kitchen", "Tharn , Onnel & Bo")
        reference = venues.describe(mr, rng)
        assert 1 <= len(re.findall(r" \.(?: |$)", reference)) <= 3
        for slot, value in mr.items():
            if slot == "family friendly":
                said_no = "not family" in reference or "n't family" in reference or "adults" in reference
                assert re.search("famil|children|adults", reference) and said_no == (value == "no")
            else:
                assert value in reference, (slot, reference)
        for slot in ("food", "Type"):
            if slot not in mr:
                assert not any(value in reference for value in venues.VALUES[slot]), reference
        wordings.add(re.sub(r"\d", "", reference.replace(mr["name"], "X").replace(mr.get("near", "X"), "Y")))
    assert len(wordings) >= 4


@pytest.mark.parametrize("slots", venues.slot_sets()[:21], ids=" ".join)
def test_even_the_shortest_input_has_enough_references_for_the_test_set(slots):
    rng = Random(0)
    mr = venues.draw_mr(rng, slots, "Harrow Kitchen", "The Quiet Hawk")
    assert len({venues.describe(mr, rng) for _ in range(500)}) >= make_mini_data.TEST_REFERENCES


def test_references_are_tokenised_as_e2e_references_are():
    for _, reference in read("train.txt"):
        assert reference.endswith(" . ") and "  " not in reference
        for mark in (".", ",", "£", "-", "&"):
            assert f" {mark} " in reference or mark not in reference
        assert "n't" not in reference or " n't " in reference


def test_the_usual_wording_scores_well_and_names_matter():
    groups = [(mr, [text for _, text in group]) for mr, group in groupby(read("test.txt"), key=lambda pair: pair[0])]
    usual = [venues.describe(mr, AlwaysFirst()) for mr, _ in groups]
    wrong = [text.replace(mr["name"], "Some Wrong Name") for text, (mr, _) in zip(usual, groups, strict=True)]
    wrong = [
        text.replace(mr.get("near", "\n"), "Another Wrong Name") for text, (mr, _) in zip(wrong, groups, strict=True)
    ]
    references = [group for _, group in groups]
    assert bleu(usual, references) == pytest.approx(USUAL_BLEU, abs=BLEU_TOLERANCE)
    assert bleu(wrong, references) == pytest.approx(BLEU_WITH_WRONG_NAMES, abs=BLEU_TOLERANCE)


class AlwaysFirst(Random):
    """Takes the first plan and the first wording of everything, which are the likeliest."""

    def choices(self, population, *_args, **_kwargs):
        return [population[0]]


def bleu(outputs: list[str], references: list[list[str]]) -> float:
    """Corpus BLEU-4 on white-space tokens; enough to see that the data can be learned."""
    hits, totals, length, closest = [0] * 4, [0] * 4, 0, 0
    for output, group in zip(outputs, references, strict=True):
        words = output.split()
        length += len(words)
        closest += min((abs(len(text.split()) - len(words)), len(text.split())) for text in group)[1]
        for order in range(4):
            most = Counter()
            for text in group:
                most |= ngrams(text.split(), order + 1)
            found = ngrams(words, order + 1)
            hits[order] += sum((found & most).values())
            totals[order] += sum(found.values())
    precision = math.exp(sum(math.log(hit / total) for hit, total in zip(hits, totals, strict=True)) / 4)
    return precision * min(1.0, math.exp(1 - closest / length))


def ngrams(words: list[str], order: int) -> Counter:
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


@real_data.needs("e2e")
def test_no_invented_name_is_a_name_of_e2e():
    real = set()
    for name in FILES:
        for line in (real_data.folder("e2e") / name).read_text(encoding="utf-8").splitlines():
            fields = dict(field.split(" : ", 1) for field in line.split("||")[0].split(" | "))
            real.update(fields[slot].lower() for slot in ("name", "near") if slot in fields)
    assert len(real) > 50
    rng = Random(0)
    drawn = {venues.draw_name(rng, held_back) for held_back in (True, False) for _ in range(5000)}
    assert not real & {name.lower() for name in drawn.union(venues.names(True), venues.names(False))}
