"""Names of words that no dictionary has, of one to five words: "Café Onnel", "Thrá & Velmer 12", "The Dorn Nock of Quemil".

Who tells such a name has read it: a model that is trained on them learns to copy a name to its end, however long it is.
"""

from random import Random

ONSETS = "b bl br c ch cr d dr f fl fr g gl gr h j k l m n p pr qu r s sc sh sk sp st t th tr v w z".split()
VOWELS = "a a a a a e e e e e i i i o o o o u u ai ea ou á é ö".split()
CODAS = "b ck d g l ll m n n nd ng nt p r r rd rn s sk st t th x".split()
SYLLABLES, SYLLABLE_WEIGHTS = (1, 2, 3), (4, 5, 1)
# W is a word, N a number. What stands alone gives short names, the last ones long names.
FORMS = (
    "W",
    "W W",
    "The W",
    "Café W",
    "W & W",
    "W N",
    "W W W",
    "The W W",
    "W 's W",
    "W and W",
    "N W W",
    "W W W W",
    "The W W W",
    "The W of W",
    "W & W N",
    "W W N W",
    "W W W W W",
    "The W W of W",
    "W , W & W",
    "W de W W",
)


def name(rng: Random) -> str:
    """Return a name of one to five words, written as E2E writes: signs stand apart."""
    parts = {"W": _word, "N": number}
    return " ".join(parts[part](rng) if part in parts else part for part in rng.choice(FORMS).split())


def number(rng: Random) -> str:
    """Return a number of one to four digits, short ones as often as long ones."""
    return str(rng.randrange(1, 10 ** rng.randint(1, 4)))


def _word(rng: Random) -> str:
    count = rng.choices(SYLLABLES, SYLLABLE_WEIGHTS)[0]
    syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(count)]
    return ("".join(syllables) + rng.choice(CODAS)).capitalize()
