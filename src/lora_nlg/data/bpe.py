"""GPT-2's byte-pair encoding: the local vocabulary files in tiktoken's engine."""

import json
import re
from pathlib import Path

from lora_nlg.config import END_OF_TEXT_ID
from lora_nlg.errors import UserError
from lora_nlg.files import sha256

END_OF_TEXT = "<|endoftext|>"

# sha256 of the files that OpenAI published with GPT-2. The ids of every token follow from them.
VOCAB_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

# How GPT-2 cuts text before merging: contractions, words, numbers, other signs, spaces; "++" only saves backtracking.
PATTERN = r"'(?:ll|ve|re|[stmd])| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"

MOST_BLANKS = 100_000  # in a row; at a million, tiktoken's engine panics


def load_encoding(folder: str | Path = "vocab"):
    """Return GPT-2's `tiktoken.Encoding` from `folder`, which holds encoder.json and vocab.bpe.

    Encode with `encode_ordinary`, which takes END_OF_TEXT inside a text as plain characters, as the recipe does. It raises
    UserError for what the engine cannot split. Raises UserError when a file is missing or is not GPT-2's own.
    """
    import tiktoken

    class Encoding(tiktoken.Encoding):
        def encode_ordinary(self, text: str) -> list[int]:
            check_blanks(text)
            return super().encode_ordinary(text)

    folder = Path(folder)
    check_files(folder)
    return Encoding(
        "gpt2",
        pat_str=PATTERN,
        mergeable_ranks=token_ranks(folder),
        special_tokens={END_OF_TEXT: END_OF_TEXT_ID},
        explicit_n_vocab=END_OF_TEXT_ID + 1,
    )


def encode_pair(
    encoding, source: str, reference: str, bos: bool = True, eos: bool = True
) -> tuple[list[int], list[int]]:
    """Return the token ids of an input and of its reference, closed by END_OF_TEXT_ID: the input if `bos`, the reference if `eos`."""
    # A word inside a text begins with its space, and a reference follows the input like one.
    context, completion = encoding.encode_ordinary(source), encoding.encode_ordinary(" " + reference)
    return context + [END_OF_TEXT_ID] * bos, completion + [END_OF_TEXT_ID] * eos


def check_blanks(text: str) -> None:
    """Raise UserError when `text` has more than MOST_BLANKS characters of white space in a row."""
    if len(text) > MOST_BLANKS and (most := max(map(len, re.findall(r"\s+", text)), default=0)) > MOST_BLANKS:
        start = " ".join(text.split())[:60]
        raise UserError(
            f"a text of {len(text):,} characters has {most:,} blanks in a row, too many to be split into tokens; take them out of the "
            f"one that begins with {start!r}"
        )


def check_files(folder: Path) -> None:
    """Raise UserError when a vocabulary file is missing from `folder` or is not GPT-2's own."""
    for name, expected in VOCAB_FILES.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} does not exist; put GPT-2's vocabulary there with: bash scripts/00_setup.sh")
        if sha256(path) != expected:
            raise UserError(
                f"{path} is not GPT-2's file (its sha256 differs); replace it with: bash scripts/00_setup.sh"
            )


def token_ranks(folder: Path) -> dict[bytes, int]:
    """Return each token's bytes and its rank, from 0.

    GPT-2 numbers the 256 bytes first and then its merges in their order, so an id is a rank and encoder.json says all.
    (tiktoken's own reader would read both files through a cache in the temporary folder.)
    """
    byte_of = {char: byte for byte, char in enumerate(byte_characters())}
    ids = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    return {bytes(byte_of[char] for char in token): id for token, id in ids.items() if id != END_OF_TEXT_ID}


def byte_characters() -> list[str]:
    """Return the character that stands for each byte in the files: itself if it shows, else one from U+0100 on."""
    shows = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    stand_in = iter(range(0x100, 0x200))
    return [chr(byte if byte in shows else next(stand_in)) for byte in range(256)]
