"""METEOR's paraphrase table cut down to what can match: whole, its five million pairs take METEOR five seconds and a gigabyte.

A pair can match only if the words of both phrases occur in the texts. Which pairs these are is looked up in an index, made once
when the project is set up; without one METEOR reads its own table, and finds the same.
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

INDEX = Path(__file__).with_name("paraphrases.npz")
PLAIN_WORD = re.compile(rb"[0-9a-z]+")
MOST_WORDS = 20_000  # that differ; with more of them hardly a pair is left out (E2E's test set has 900)


def make_index(source: Path, index: Path) -> int:
    """Write METEOR's table `source` as numbers to `index`; return how many pairs it has. Takes half a minute."""
    from tqdm import tqdm

    size = source.stat().st_size
    numbers: dict[bytes, int] = collections.defaultdict(itertools.count().__next__)  # of words
    probabilities, sizes, words = array("d"), array("B"), array("H")
    with (
        open(source, "rb") as packed,
        tqdm.wrapattr(packed, "read", total=size, desc="paraphrases", disable=None, leave=False) as watched,
        gzip.open(watched) as file,
    ):
        for probability, *pair in zip(file, file, file, strict=True):
            probabilities.append(float(probability))
            for phrase in map(bytes.split, pair):
                sizes.append(len(phrase))
                words.extend(map(numbers.__getitem__, phrase))
    with files.atomic_writer(index) as file:
        np.savez(
            file.buffer, table_bytes=size, vocabulary=np.array(list(numbers)), probabilities=probabilities,
            sizes=np.array(sizes).reshape(-1, 2), words=words,
        )  # fmt: skip
    return len(probabilities)


def possible_in(texts: Iterable[str], folder: str, index: Path | None = None) -> Path | None:
    """Write the pairs that can match between any of `texts` (PTB tokens) to a file in `folder`, in METEOR's form and order.

    Return the file, or None if METEOR shall read its own table: there are too many words, or no index of that table.
    """
    words: set[bytes] = set()
    for text in texts:
        # METEOR's -norm takes tokens apart around what is neither letter nor digit, but also makes us of u.s.
        words.update(PLAIN_WORD.findall(text.encode()), PLAIN_WORD.findall(text.replace(".", "").encode()))
        if len(words) > MOST_WORDS:
            return None
    if not folder.isascii():  # Java may not find it: it decodes names by the user's locale
        return None
    try:
        with np.load(index or INDEX) as table:
            if table["table_bytes"] != java.data_file(java.PARAPHRASES).stat().st_size:
                return None
            return _select(table, words, Path(folder) / "paraphrases.gz")
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


def _select(table, present: set[bytes], path: Path) -> Path:
    vocabulary, words, sizes = table["vocabulary"].tolist(), table["words"], table["sizes"]
    # What -norm makes of other characters is not followed: a word with any is let through.
    possible = np.array([word in present or not word.isalnum() for word in vocabulary])
    lengths = sizes.sum(axis=1, dtype=np.int32)
    ends = lengths.cumsum(dtype=np.int32)
    starts = ends - lengths
    kept = np.flatnonzero(np.logical_and.reduceat(possible[words], starts))
    columns = starts[kept], ends[kept], sizes[kept, 0], table["probabilities"][kept]
    with gzip.open(path, "wb", compresslevel=1) as file:
        for start, end, first, probability in zip(*(column.tolist() for column in columns), strict=True):
            pair = [vocabulary[word] for word in words[start:end].tolist()]
            file.write(b"%r\n%s\n%s\n" % (probability, b" ".join(pair[:first]), b" ".join(pair[first:])))
    return path
