"""METEOR's paraphrase table cut down to what can match: whole, its five million pairs take METEOR five seconds and a gigabyte.

A pair can match only if both phrases occur in the texts. Which these are is looked up in an index, made once when the project is
set up; without one METEOR reads its own table, and finds the same.
"""

import collections
import gzip
import itertools
import re
import zipfile
import zlib
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from metrics import files, java

INDEX = Path(__file__).with_name("phrases.npz")
PLAIN_WORD = re.compile(rb"[0-9a-z]+")
TOKEN = re.compile(rb"\S*[0-9a-z]\S*")
MOST_WORDS = 20_000  # that differ; with more of them hardly a pair is left out (E2E's test set has 900)


def make_index(source: Path, index: Path) -> int:
    """Write the phrases and pairs of METEOR's table `source` as numbers to `index`; return how many pairs it has.

    Takes half a minute. METEOR reads a pair's probability, and forgets it; so does the index.
    """
    from tqdm import tqdm

    size = source.stat().st_size
    numbers: dict[bytes, int] = collections.defaultdict(itertools.count().__next__)  # of words
    phrases: dict[bytes, int] = collections.defaultdict(itertools.count().__next__)
    pairs = array("I")
    with (
        open(source, "rb") as packed,
        tqdm.wrapattr(packed, "read", total=size, desc="paraphrases", disable=None, leave=False) as watched,
        gzip.open(watched) as file,
    ):
        for _, *pair in zip(file, file, file, strict=True):
            pairs.extend(map(phrases.__getitem__, pair))
    sizes, words = array("B"), array("H")
    for phrase in map(bytes.split, phrases):
        sizes.append(len(phrase))
        words.extend(map(numbers.__getitem__, phrase))
    with files.atomic_writer(index) as file:
        np.savez(
            file.buffer, table_bytes=size, vocabulary=np.array(list(numbers)), sizes=sizes, words=words,
            pairs=np.array(pairs).reshape(-1, 2),
        )  # fmt: skip
    return len(pairs) // 2


def possible_in(texts: Iterable[str], folder: str, index: Path | None = None) -> Path | None:
    """Write the pairs that can match between any of `texts` to a file in `folder`, in METEOR's form and order.

    Return the file, or None if METEOR shall read its own table: there are too many words, or no index of that table.
    """
    tokens: set[bytes] = set()
    following: set[tuple[bytes, bytes]] = set()
    for text in texts:
        found = TOKEN.findall(text.lower().encode())  # METEOR may drop what has no letter and no digit
        tokens.update(found)
        following.update(itertools.pairwise(found))
        if len(tokens) > MOST_WORDS:
            return None
    if not folder.isascii():  # Java may not find it: it decodes names by the user's locale
        return None
    try:
        with np.load(index or INDEX) as table:
            if table["table_bytes"] != java.data_file(java.PARAPHRASES).stat().st_size:
                return None
            return _select(table, *_words(tokens, following), Path(folder) / "paraphrases.gz")
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ):  # missing, or broken: nothing is lost but time
        return None


def _words(tokens: set[bytes], following: set[tuple[bytes, bytes]]) -> tuple[set[bytes], set[tuple[bytes, bytes]]]:
    """Return what METEOR may make of tokens, words and which may stand before which: some that it does not make, but all it does."""
    # Its -norm takes tokens apart around what is neither letter nor digit, but also makes us of u.s.
    parts = {token: {*PLAIN_WORD.findall(token), *PLAIN_WORD.findall(token.replace(b".", b""))} for token in tokens}
    neighbours = {pair for first, second in following for pair in itertools.product(parts[first], parts[second])}.union(
        *(itertools.product(inside, repeat=2) for token, inside in parts.items() if not token.isalnum())
    )
    return set().union(*parts.values()), neighbours


def _select(table, present: set[bytes], neighbours: set[tuple[bytes, bytes]], path: Path) -> Path:
    vocabulary, sizes, words = table["vocabulary"].tolist(), table["sizes"], table["words"]
    # What -norm makes of other characters is not followed: a word with any is let through.
    plain = np.array([word.isalnum() for word in vocabulary])
    known = np.array([word in present for word in vocabulary])
    ends = sizes.cumsum(dtype=np.int32)
    starts = ends - sizes
    possible = np.logical_and.reduceat((known | ~plain)[words], starts)  # (phrases,)
    number = {word: i for i, word in enumerate(vocabulary)}
    adjacent = [number[a] * len(number) + number[b] for a, b in neighbours if a in number and b in number]
    rest = np.flatnonzero(possible)
    for place in range(1, sizes.max()):  # phrases without a word there are through
        rest = rest[sizes[rest] > place]
        one, other = (words[starts[rest] + i].astype(np.int64) for i in (place - 1, place))
        fits = np.isin(one * len(number) + other, adjacent) | ~plain[one] | ~plain[other]
        possible[rest[~fits]] = False
    pairs = table["pairs"]
    with gzip.open(path, "wb", compresslevel=1) as file:
        for pair in pairs[possible[pairs[:, 0]] & possible[pairs[:, 1]]].tolist():
            spelt = (b" ".join(vocabulary[word] for word in words[starts[i] : ends[i]].tolist()) for i in pair)
            file.write(b"1\n%s\n%s\n" % tuple(spelt))
    return path
