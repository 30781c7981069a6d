"""What an output says about E2E's eight slots, and how that differs from what its input asks for."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import slot_words

TASK = "E2E"
SLOTS = slot_words.SLOTS
DIGITS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}


@dataclass(frozen=True)
class Mention:
    """One place in an output that speaks about a slot."""

    slot: str
    values: frozenset[str]  # the values of the slot that these words can stand for, normalised
    words: str  # as found


@dataclass(frozen=True)
class Vocabulary:
    """What to look for in open slots: the values of the inputs, and the tables' own."""

    names: dict[str, str]  # normalised → as written
    patterns: dict[str, list[tuple[str, re.Pattern]]]  # Type, food and area → (value, pattern)
    common: frozenset[str]  # words that no unknown name holds


def parse_mr(mr: str) -> dict[str, str]:
    """Return {slot: value} of "name : Blue Spice | Type : pub". Raises ValueError for anything but E2E's slots, each once."""
    parts = [part.partition(" : ") for part in mr.split("|")]
    slots = {slot.strip(): value.strip() for slot, _, value in parts}
    known = {"name"} <= set(slots) <= set(slot_words.SLOTS)
    if not known or len(slots) != len(parts) or not all(map(normalise, slots.values())):
        raise ValueError(
            f"expected slot : value, with | between them, a name and each of {', '.join(slot_words.SLOTS)} once at most, "
            f"found {mr[:60]!r}"
        )
    return slots


def normalise(text: str) -> str:
    """Return the text's words, figures and sentence marks, one space between them."""
    text = unicodedata.normalize("NFKD", text.lower()).replace("’", "'")
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = re.sub(r"n ?'t\b", " not", text.replace("cannot", "can not"))
    text = re.sub(r"\bcenter\b", "centre", re.sub(r"(\d)[.,]00\b", r"\1", text))
    words = re.findall(r"[^\W\d_]+|\d+|[£.,;:!?/+&@]", text)
    return " ".join(DIGITS.get(word, word) for word in words)


def vocabulary(mrs: Iterable[dict[str, str]]) -> Vocabulary:
    """Return what to look for in outputs for these inputs."""
    mrs = list(mrs)
    values = {
        slot: {mr[slot] for mr in mrs if slot in mr} | set(slot_words.VALUES.get(slot, ())) for slot in slot_words.SLOTS
    }
    patterns = {}
    for slot, known in slot_words.VALUES.items():
        wordings = {value: known.get(value, re.escape(normalise(value))) for value in sorted(values[slot])}
        patterns[slot] = [(value, re.compile(rf"\b(?:{wording})\b")) for value, wording in wordings.items()]
    return Vocabulary(
        {normalise(name): name for name in values["name"] | values["near"]},
        patterns,
        slot_words.NOT_IN_NAMES | {word for food in values["food"] for word in normalise(food).split()},
    )


def differences(mr: dict[str, str], text: str, words: Vocabulary) -> dict[str, list]:
    """Return the slots of `mr` that `text` misses, those it gets wrong, and those it invents.

    {"missing": [slot, …], "wrong": [{"slot", "expected", "found"}, …], "invented": [{"slot", "found"}, …]}. A slot is missing
    if nothing is said about it, wrong if another value is told instead of the asked one or beside it, invented if it was not
    asked for. Each slot is in one list at most.
    """
    found = mentions(text, mr, words)
    result: dict[str, list] = {"missing": [], "wrong": [], "invented": []}
    for slot in slot_words.SLOTS:
        asked = normalise(mr.get(slot, ""))
        told = [m for m in found if m.slot == slot and (asked in m.values or not slot_words.VAGUE.fullmatch(m.words))]
        if slot in mr:
            others = [mention.words for mention in told if asked not in mention.values]
            if others:
                result["wrong"].append({"slot": slot, "expected": mr[slot], "found": " / ".join(dict.fromkeys(others))})
            elif not told:
                result["missing"].append(slot)
        elif told:
            result["invented"].append({"slot": slot, "found": " / ".join(dict.fromkeys(m.words for m in told))})
    return result


def mentions(text: str, mr: dict[str, str], words: Vocabulary) -> list[Mention]:
    """Return all that `text` says about any slot. `mr` settles which venue a name without a preposition is."""
    plain, found = take_names(text, mr, words)
    for slot, patterns in words.patterns.items():
        found += find_values(slot, plain, patterns)
    for slot in slot_words.LEVELS:
        # Figures count where there are both: in "an average price range of £ 20 - 25" average is no level.
        found += find_figures(slot, plain) or find_words(slot, plain)
    return found + find_family(plain)


def take_names(text: str, mr: dict[str, str], words: Vocabulary) -> tuple[str, list[Mention]]:
    """Return the normalised text with "@" for every venue's name, and the mentions of name and near."""
    plain = normalise(text.replace("@", " "))
    name, near = (normalise(mr.get(slot, "")) for slot in ("name", "near"))
    names = dict(words.names)
    cues = [slot_words.NEIGHBOUR]
    if not re.search(
        rf"\b{re.escape(name.removeprefix('the '))}\b", plain
    ):  # else another subject is hardly ever a venue: "Customer Ratings are …"
        cues += [slot_words.NAMED, slot_words.SUBJECT]
    for hit in unknown_names(text, cues, names, words.common):
        names[normalise(hit)] = hit
    keys = {key.removeprefix("the "): key for key in names}
    pattern = re.compile(rf"\b(?:the )?({'|'.join(map(re.escape, sorted(keys, key=len, reverse=True)))})\b")
    found, role, end = [], "name", 0
    for match in pattern.finditer(plain):
        key = keys[match[1]]
        listed = role == "near" and plain[end : match.start()].strip() in ("and", "or", "&")
        role = "near" if listed or slot_words.NEAR.search(plain[: match.start()].rstrip()) else "name"
        found.append(Mention("near" if key == near != name else role, frozenset([key]), names[key]))
        end = match.end()
    return pattern.sub("@", plain), found


def unknown_names(text: str, cues: Iterable[re.Pattern], names: Iterable[str], common: frozenset[str]) -> list[str]:
    """Return names that are not among `names`, given away by capital letters and the words around them."""
    known = re.compile("|".join(rf"\b{re.escape(name.removeprefix('the '))}\b" for name in names))
    hits = [match[1] for cue in cues for match in cue.finditer(text)]
    return [
        hit
        for hit in hits
        if not common & set(normalise(hit).removeprefix("the ").split()) and not known.search(normalise(hit))
    ]


def longest(slot: str, candidates: Sequence[tuple[re.Match, Iterable[str]]]) -> list[Mention]:
    """Return the mentions of candidates (match, values), in the text's order; of overlapping ones only the longest."""
    found: list[tuple[int, Mention]] = []
    taken: set[int] = set()
    for match, values in sorted(candidates, key=lambda candidate: candidate[0].start() - candidate[0].end()):
        if taken.isdisjoint(range(*match.span())):
            taken.update(range(*match.span()))
            found.append((match.start(), Mention(slot, frozenset(map(normalise, values)), match[0])))
    return [mention for _, mention in sorted(found, key=lambda pair: pair[0])]


def find_values(slot: str, plain: str, patterns: list[tuple[str, re.Pattern]]) -> list[Mention]:
    """Return the mentions of a Type, food or area."""
    candidates = [(match, [value]) for value, pattern in patterns for match in pattern.finditer(plain)]
    if slot == "area":
        candidates = [
            (match, area) for match, area in candidates if not slot_words.ELSEWHERE.search(plain[: match.start()])
        ]
    return longest(slot, candidates)


def find_figures(slot: str, plain: str) -> list[Mention]:
    """Return the mentions of a price or rating in figures. A value that E2E does not have stands for itself."""
    candidates = []
    for pattern, form in slot_words.FIGURES[slot].items():
        for match in re.finditer(pattern, plain):
            value = form.format(*match.groups())
            candidates.append(
                (match, next((level for level in slot_words.LEVELS[slot].values() if value in level), [value]))
            )
    return longest(slot, candidates)


def find_words(slot: str, plain: str) -> list[Mention]:
    """Return the mentions of a price or rating in words: alone, before its noun, or after it."""
    before, noun, after = slot_words.NOUNS[slot]
    # Words before the other slot's noun belong to that: "its rating is low priced" tells no rating.
    [other] = ("".join(slot_words.NOUNS[name][:2]) for name in slot_words.NOUNS if name != slot)
    patterns = [(levels, rf"\b(?:{words})\b") for levels, words in slot_words.ALONE[slot].items()]
    for levels, words in slot_words.BESIDE[slot].items():
        patterns.append((levels, rf"\b(?:{words}) {before}{noun}\b"))
        patterns.append((levels, rf"\b{noun} {after}(?:{words})\b(?! {other})"))
    candidates = []
    for levels, pattern in patterns:
        values = [value for level in levels.split() for value in slot_words.LEVELS[slot][level]]
        candidates += [
            (m, values) for m in re.finditer(pattern, plain) if not slot_words.NEGATED.search(plain[: m.start()])
        ]
    return longest(slot, candidates)


def find_family(plain: str) -> list[Mention]:
    """Return whether families are said to be welcome, not to be, or both."""
    no = [Mention("family friendly", frozenset(["no"]), match[0]) for match in slot_words.FAMILY_NO.finditer(plain)]
    rest = slot_words.FAMILY_NO.sub(" ", plain)
    return no + [
        Mention("family friendly", frozenset(["yes"]), match[0]) for match in slot_words.FAMILY_YES.finditer(rest)
    ]
