"""The protocols by which WebNLG and DART are scored: what becomes of a text, which references count, how edits become TER.

Sources: the WebNLG challenge's scripts (Gardent et al. 2017); those that DART's authors and the LoRA paper's first code share; the
evaluation that the LoRA paper's later README names. docs/triples.md says what each is for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to score."""

    normalise: Callable[[str], str]  # of outputs and references
    references: int  # the first so many of an input count
    # In place of a missing reference: reference 0 again; else an empty line that counts in BLEU and METEOR
    repeats_first: bool
    meteor_references: int  # METEOR is given empty lines up to so many
    tokenizer: str  # sacrebleu's, of BLEU
    lowercase: bool  # in BLEU
    mean_ter: bool  # TER is the mean of the inputs' least edits / words; else all edits / all mean numbers of words
    ter_case: bool  # TER tells cases apart


def split(text: str) -> str:
    """Put spaces around every sign that is no letter, digit or underscore."""
    return " ".join(re.sub(r"(\W)", r" \1 ", text).split())


def plain_ascii(text: str) -> str:
    """Replace every letter by what it looks like in ASCII, fold case and split."""
    from unidecode import unidecode

    return split(unidecode(text).lower())


PROTOCOLS = {
    "webnlg2017": Protocol(
        normalise=plain_ascii,
        references=3,
        repeats_first=False,
        meteor_references=3,
        tokenizer="none",
        lowercase=True,
        mean_ter=False,
        ter_case=False,
    ),
    "dart": Protocol(
        normalise=split,
        references=3,
        repeats_first=False,
        meteor_references=8,
        tokenizer="none",
        lowercase=False,
        mean_ter=False,
        ter_case=False,
    ),
    "generation_eval": Protocol(
        normalise=str.strip,
        references=6,
        repeats_first=True,
        meteor_references=6,
        tokenizer="13a",
        lowercase=False,
        mean_ter=True,
        ter_case=True,
    ),
}
