"""GPT-2's byte-pair encoding from the local vocabulary files."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_nlg.data import bpe
from lora_nlg.errors import UserError

VOCAB = Path(__file__).resolve().parents[1] / "vocab"
pytestmark = pytest.mark.skipif(
    not (VOCAB / "encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh"
)


@pytest.fixture(scope="module")
def encoding():
    return bpe.load_encoding(VOCAB)


def test_published_ids(encoding):
    """Seen to fail without the space that a word begins with."""
    assert encoding.encode_ordinary("Hello world") == [15496, 995]
    assert encoding.encode_ordinary("\n\n") == [628]
    assert encoding.decode([50256]) == "<|endoftext|>"
    assert encoding.n_vocab == 50257


def test_end_of_text_in_a_text_is_plain_characters(encoding):
    ids = encoding.encode_ordinary("a<|endoftext|>b")
    assert 50256 not in ids
    assert encoding.decode(ids) == "a<|endoftext|>b"


@pytest.mark.parametrize(
    "text", ["", " ", "   three", "tab\tand\n\nlines  \n", "Café £ 20 – 25", "👩‍🍳", "it's we'll THEY'LL", "\x00\x7f"]
)
def test_corner_cases_come_back(encoding, text):
    assert encoding.decode(encoding.encode_ordinary(text)) == text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_every_text_comes_back(encoding, text):
    assert encoding.decode(encoding.encode_ordinary(text)) == text


@pytest.mark.parametrize("blank", [" ", "\n", "\u3000"])
def test_more_blanks_in_a_row_than_the_engine_splits_are_one_sentence(encoding, blank):
    """At a million it panics: a backtrace of Rust, and an exception that no `except Exception` has."""
    most = f"a text{blank * bpe.MOST_BLANKS}"
    assert encoding.decode(encoding.encode_ordinary(most * 3)) == most * 3
    with pytest.raises(UserError, match=r"has 100,001 blanks in a row, too many .* begins with 'a text b'"):
        bpe.encode_pair(encoding, "source", f"{most}{blank}b")


def reference_ids(text: str) -> list[int]:
    """Merge in the order of vocab.bpe, the slow and plain way; `text` is one word of ASCII letters."""
    merges = (VOCAB / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    order = {tuple(merge.split()): rank for rank, merge in enumerate(merges)}
    ids = json.loads((VOCAB / "encoder.json").read_text(encoding="utf-8"))
    parts = list(text)
    while pairs := [pair for pair in itertools.pairwise(parts) if pair in order]:
        first, second = min(pairs, key=order.get)
        place = next(i for i in range(len(parts)) if parts[i : i + 2] == [first, second])
        parts[place : place + 2] = [first + second]
    return [ids[part] for part in parts]


@pytest.mark.parametrize("word", ["restaurant", "Wildwood", "xylophonists", "qqqq", "unfamiliarity"])
def test_merges_follow_their_order_in_vocab_bpe(encoding, word):
    """Seen to fail with the ranks of neighbours exchanged."""
    assert encoding.encode_ordinary(word) == reference_ids(word)


def test_every_byte_has_a_character_of_its_own():
    characters = bpe.byte_characters()
    assert len(set(characters)) == 256
    assert characters[ord("A")] == "A"
    assert characters[ord(" ")] == "Ġ"
    assert characters[ord("\n")] == "Ċ"


@pytest.mark.parametrize("name", sorted(bpe.VOCAB_FILES))
def test_a_missing_or_changed_file_is_named(tmp_path, name):
    shutil.copytree(VOCAB, tmp_path, dirs_exist_ok=True)
    with open(tmp_path / name, "a", encoding="utf-8") as file:
        file.write(" ")
    with pytest.raises(UserError, match=rf"{name} is not GPT-2's file.*00_setup"):
        bpe.load_encoding(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name} does not exist.*00_setup"):
        bpe.load_encoding(tmp_path)


def test_no_cache_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bpe.load_encoding(VOCAB)
    assert not list(tmp_path.iterdir())
