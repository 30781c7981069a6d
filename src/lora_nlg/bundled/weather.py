"""Weather reports: an example of own data in another domain than restaurants, put together from parts by a seed."""

import random

PLACES = ("Oslo", "Lima", "Cairo", "Quito", "Hanoi", "Turin", "Porto", "Kyiv", "Perth", "Nairobi", "Bergen", "Sofia")
SKIES = {
    "sunny": ("plenty of sunshine", "clear skies all day"),
    "cloudy": ("thick clouds", "a grey sky"),
    "rain": ("steady rain", "rain from morning to night"),
    "snow": ("heavy snow", "snow on every roof"),
    "fog": ("dense fog", "fog that hardly lifts"),
    "storms": ("thunderstorms", "thunder and lightning"),
}
WINDS = {"calm": "hardly any wind", "breezy": "a fresh breeze", "windy": "a strong wind", "gale": "a gale"}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def pairs(n: int, seed: int) -> list[tuple[str, str]]:
    """Return `n` different (report, sentence) pairs: "Oslo | Friday | snow | gale | -4" and what a newspaper says of it."""
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < n:
        place, day, sky, wind = (rng.choice(list(words)) for words in (PLACES, DAYS, SKIES, WINDS))
        degrees = rng.randint(-9, 2) if sky == "snow" else rng.randint(3, 34)
        found[f"{place} | {day} | {sky} | {wind} | {degrees}"] = rng.choice(_SENTENCES).format(
            place=place, day=day, sky=rng.choice(SKIES[sky]), wind=WINDS[wind], degrees=degrees
        )
    return list(found.items())


_SENTENCES = (
    "{day} brings {sky} and {wind} to {place}, with a high of {degrees} degrees.",
    "Expect {sky} in {place} on {day}, {wind} and {degrees} degrees.",
    "{place} has {sky} on {day}; there is {wind}, and it is {degrees} degrees at noon.",
)
