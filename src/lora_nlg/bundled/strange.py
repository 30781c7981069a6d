"""Names of words from the whole vocabulary: nobody has heard them, so a model that tells them has learnt to copy.

A value of a meaning representation that its reference tells word for word is replaced in both. Names are nearly always
replaced, other values now and then: own data need those copied, and the usual ones are to be learnt as well.
"""

import re
from collections.abc import Iterable, Iterator
from random import Random

from lora_nlg.bundled import invented

NAMES = ("name", "near")
SHARE_OF_NAMES, SHARE_OF_OTHERS = 0.85, 0.12
WORDS_A_NAME, WORD_WEIGHTS = (1, 2, 3, 4, 5, 6), (3, 6, 6, 4, 3, 1)
USUAL_WORDS = ("The", "&", "of", "and", "Café", "'s", "de", "House", "Bar", "Inn", "at", "No")
SHARE_OF_USUAL_WORDS, SHARE_OF_LONG_WORDS, SHARE_OF_NUMBERS = 0.12, 0.35, 0.06

Mr = dict[str, str]


class Words:
    """The vocabulary's words, which begin after a blank, and the pieces that go on with a word."""

    def __init__(self, encoding):
        texts = [token.decode("utf-8", "replace") for token in encoding.token_byte_values()]
        self.words = [text[1:] for text in texts if re.fullmatch(r" \w+", text)]
        self.pieces = [text for text in texts if re.fullmatch(r"[^\W\d_A-Z]{1,4}", text)]

    def name(self, rng: Random) -> str:
        """Return one to six words: "Reef Café", "ordain 47 Wilmetros The Ambush"."""
        count = rng.choices(WORDS_A_NAME, WORD_WEIGHTS)[0]
        return " ".join(self._word(rng) for _ in range(count))

    def _word(self, rng: Random) -> str:
        kind = rng.random()
        if kind < SHARE_OF_USUAL_WORDS:
            return rng.choice(USUAL_WORDS)
        if kind < SHARE_OF_USUAL_WORDS + SHARE_OF_NUMBERS:
            return invented.number(rng)
        word = rng.choice(self.words)
        if kind > 1 - SHARE_OF_LONG_WORDS:
            word += "".join(rng.choices(self.pieces, k=rng.randint(1, 3)))
        return word if rng.random() < 0.5 else word[0].upper() + word[1:]


def strange_pairs(pairs: Iterable[tuple[Mr, str]], words: Words, rng: Random) -> Iterator[tuple[Mr, str]]:
    """Yield the (MR, reference) `pairs` with strange values in the place of some."""
    for mr, reference in pairs:
        new = dict(mr)
        for slot, value in mr.items():
            share = SHARE_OF_NAMES if slot in NAMES else SHARE_OF_OTHERS
            told = rf"(?<!\w){re.escape(value)}(?!\w)"
            if list(mr.values()).count(value) == 1 and rng.random() < share and re.search(told, reference):
                new[slot] = words.name(rng)
                reference = new[slot].join(re.split(told, reference))
        yield new, reference
