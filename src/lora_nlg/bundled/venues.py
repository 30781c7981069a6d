"""Invented venues and sentences about them, in the style of E2E: the text of the bundled data set and of the mini base.

A meaning representation (MR) is a dict from slot to value, in the order of `SLOTS`; only the name is always there.
A reference is one to three sentences that tell every slot, tokenised like E2E's ("family - friendly", "is n't").
All randomness comes from the `random.Random` that the caller passes.
"""

import functools
import itertools
import zlib
from collections.abc import Iterator, Sequence
from random import Random

from lora_nlg.bundled import invented

SLOTS = ("name", "Type", "food", "price", "customer rating", "area", "family friendly", "near")
FEWEST_SLOTS = 3

VALUES = {
    "Type": ("pub", "restaurant", "coffee shop", "bistro", "tea room", "wine bar", "diner", "bakery"),
    "food": (
        "Thai",
        "Greek",
        "Korean",
        "Turkish",
        "Spanish",
        "Lebanese",
        "Moroccan",
        "Mexican",
        "Portuguese",
        "Vietnamese",
        "Polish",
        "vegan",
    ),
    "price": ("cheap", "moderate", "high", "less than £ 20", "£ 20 - 25", "more than £ 30"),
    "customer rating": ("low", "average", "high", "1 out of 5", "3 out of 5", "5 out of 5"),
    "area": ("riverside", "city centre", "old town", "harbour", "market quarter", "garden district"),
    "family friendly": ("yes", "no"),
}

# Names are put together from these words: "The Amber Lantern", "Harrow & Thyme", "Café Merrin", "Harrow Kitchen".
ADJECTIVES = """
    Amber Ancient Bold Brave Bronze Bright Broken Calm Clever Copper Crimson Crystal Curious Dancing Dusty Emerald
    Faithful Gentle Glass Grand Happy Hidden Hollow Humble Iron Ivory Jolly Laughing Little Lonely Lost Lucky Marble
    Merry Midnight Noble Painted Patient Proud Purple Quiet Restless Rusty Scarlet Secret Silent Silver Singing
    Sleeping Smiling Snowy Stone Sunny Tall Velvet Violet Wandering White Wild Wooden
"""
NOUNS = """
    Anchor Angel Apple Arrow Badger Barrel Basket Beacon Bear Boot Bottle Bridge Candle Carriage Castle Chestnut
    Clock Cloud Compass Crane Crow Crown Drum Falcon Feather Fiddle Fountain Fox Gate Goose Hammer Hare Harp
    Harvest Hawk Jar Kettle Key Ladder Lantern Lion Maple Mirror Moon Orchard Otter Owl Parrot Pearl Piano Raven
    River Rose Sail Swan Table Tiger Tower Whale Wheel
"""
SURNAMES = """
    Abbott Archer Barlow Bishop Carver Chandler Dalton Ellis Fletcher Foster Gardner Harrow Hudson Keller Lawson
    Marlow Merrin Mercer Norris Osborn Palmer Porter Quinn Ramsey Sawyer Sutton Tanner Tucker Walton Weaver
"""
FLAVOURS = """
    Barley Basil Berry Butter Cherry Cinnamon Clover Cream Fig Garlic Ginger Honey Lemon Lime Malt Mint Mustard
    Oat Olive Pepper Plum Rosemary Saffron Salt Smoke Spice Sugar Thyme Vanilla Walnut
"""
PREMISES = "Kitchen Corner Court Pantry Yard"

HELD_BACK_ONE_IN = 8  # names kept for the test set: one in eight
WORDING_WEIGHTS = (4, 3, 2)  # the first wording is the usual one: references agree often, so a good output scores well
PLANS = ("place last", "place first", "there is")
PLAN_WEIGHTS = (4, 3, 3)


@functools.cache
def names(held_back: bool) -> tuple[str, ...]:
    """Return every venue name of the words here of one kind: those of the test set (`held_back`), or those of everything else.

    The name's own checksum decides, so the two kinds stay apart without a list that both sides would have to share.
    """
    surnames = SURNAMES.split()
    every = [f"The {adjective} {noun}" for adjective, noun in itertools.product(ADJECTIVES.split(), NOUNS.split())]
    every += [f"{surname} & {flavour}" for surname, flavour in itertools.product(surnames, FLAVOURS.split())]
    every += [f"{surname} {premises}" for surname, premises in itertools.product(surnames, PREMISES.split())]
    every += [f"Café {surname}" for surname in surnames]
    return tuple(name for name in every if _is_held_back(name) == held_back)


def _is_held_back(name: str) -> bool:
    return zlib.crc32(name.encode()) % HELD_BACK_ONE_IN == 0


@functools.cache
def slot_sets() -> tuple[tuple[str, ...], ...]:
    """Return all 120 combinations of three to eight slots that hold a name, small ones first, each in MR order."""
    sizes = range(FEWEST_SLOTS - 1, len(SLOTS))
    return tuple(("name", *others) for size in sizes for others in itertools.combinations(SLOTS[1:], size))


def draw_name(rng: Random, held_back: bool) -> str:
    """Return a name of one kind (see `names`), as often an invented one as one of the words here."""
    if rng.random() < 0.5:
        return rng.choice(names(held_back))
    while True:
        name = invented.name(rng)
        if _is_held_back(name) == held_back:
            return name


def draw_mr(rng: Random, slots: Sequence[str], name: str, near: str) -> dict[str, str]:
    """Return an MR with a random value for each of `slots`, but the names."""
    given = {"name": name, "near": near}
    return {slot: given[slot] if slot in given else rng.choice(VALUES[slot]) for slot in slots}


def venue_pairs(rng: Random) -> Iterator[tuple[dict[str, str], str]]:
    """Yield (MR, reference) without end, over all slot combinations but without any name of the test set."""
    while True:
        mr = draw_mr(rng, rng.choice(slot_sets()), *rng.sample(names(held_back=False), 2))
        yield mr, describe(mr, rng)


def describe(mr: dict[str, str], rng: Random) -> str:
    """Return one to three sentences that tell all slots of `mr`, two or more, in about the MR's order.

    A plan says which facts share a sentence. The first sentence names the venue, the others say "It"; a sentence left
    without facts is left out.
    """
    plan = rng.choices(PLANS, PLAN_WEIGHTS)[0]
    offer, rating, place, family = _offer(mr, rng), _rating(mr, rng), _place(mr, rng), _family(mr, rng)
    venue = f"a {mr.get('Type', 'place')}"  # no type begins with a vowel
    told = []
    if plan == "there is":
        called = f"{venue} called {mr['name']}{offer}"
        opening = f"There is {called}{place} ."
        if place:
            opening = _pick(rng, opening, f"{place[1].upper()}{place[2:]} there is {called} .")
        told.append(opening)
        sentences = [[rating, family]]
    else:
        identity = f"is {venue}{offer}" if offer or "Type" in mr else ""
        located = _pick(rng, "is located", "can be found") + place if place else ""
        if plan == "place last":
            sentences = [[identity], [rating, located], [family]]
        else:
            sentences = [[identity + place if identity else located], [rating, family]]
    for facts in sentences:
        if predicate := " and ".join(filter(None, facts)):
            subject = "It" if told else mr["name"]
            told.append(f"{subject} {predicate} .")
    return " ".join(told)


def _pick(rng: Random, *wordings: str) -> str:
    return rng.choices(wordings, WORDING_WEIGHTS[: len(wordings)])[0]


def _offer(mr: dict[str, str], rng: Random) -> str:
    """Food and price, to follow a noun: " serving Thai food in the cheap price range"."""
    text = ""
    if food := mr.get("food"):
        text += _pick(rng, f" serving {food} food", f" that serves {food} food", f" with {food} food on the menu")
    if price := mr.get("price"):
        if "£" in price:
            text += _pick(rng, f" with prices of {price}", f" with a price range of {price}", f" priced at {price}")
        else:
            text += _pick(rng, f" in the {price} price range", f" with {price} prices", f" at {price} prices")
    return text


def _rating(mr: dict[str, str], rng: Random) -> str:
    rating = mr.get("customer rating")
    if rating is None:
        return ""
    rated = f"is rated {rating} by customers"
    if "out of" in rating:
        return _pick(rng, f"has a customer rating of {rating}", rated, f"gets {rating} from its customers")
    article = "an" if rating == "average" else "a"
    return _pick(rng, f"has {article} {rating} customer rating", rated, f"gets {rating} marks from its customers")


def _place(mr: dict[str, str], rng: Random) -> str:
    """Area and neighbour: " in the riverside area near The Amber Lantern"."""
    text = ""
    if area := mr.get("area"):
        text += _pick(rng, f" in the {area} area", f" in the {area}")
    if near := mr.get("near"):
        text += _pick(rng, f" near {near}", f" close to {near}", f" not far from {near}")
    return text


def _family(mr: dict[str, str], rng: Random) -> str:
    match mr.get("family friendly"):
        case "yes":
            return _pick(rng, "is family - friendly", "welcomes families", "is a good place for children")
        case "no":
            return _pick(rng, "is not family - friendly", "is n't family - friendly", "is for adults only")
    return ""
