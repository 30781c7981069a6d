"""Names that are nowhere in the bundled data, and how many of them a model tells exactly.

    python tests/copied_names.py trained_models/mini [--beam 10] [--base pretrained_checkpoints/gpt2.mini]

prints the texts whose name is wrong, and the count. The names are of two to five words: those of real places, and others with
accents, digits and signs.
"""

import argparse
import dataclasses
import random
import sys
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

REAL = """
    Blue Spice; Green Man; The Golden Palace; The Rice Boat; Loch Fyne; Taste of Cambridge; The Wrestlers; Café Rouge; Café Sicilia;
    Browns Cambridge; Burger King; Clare Hall; The Cambridge Blue; The Golden Curry; The Twenty Two; Travellers Rest Beefeater;
    Rainbow Vegetarian Café; The Portland Arms; Crowne Plaza Hotel; Express by Holiday Inn; The Fat Duck; The Ivy; The Ledbury;
    The French Laundry; Eleven Madison Park; Le Bernardin; Chez Panisse; Osteria Francescana; El Celler de Can Roca; Maison Pic;
    Quay West Brasserie; Peter Luger Steak House; Katz 's Delicatessen; Bistrot Paul Bert; Au Pied de Cochon; Hôtel du Nord;
    La Tour d'Argent; Brasserie Lipp; Les Deux Magots; Café de Flore; Le Grand Véfour; L'Arpège Paris; Hofbräuhaus am Platzl;
    Zum Weißen Bären; Gasthof Krone; Alte Mühle; Bar Tortoni; Don Julio Parrilla; La Cabrera Norte; Casa Lucio; Sobrino de Botín;
    Bodega Señor Peña; Cervejaria Ramiro; Casa do Alentejo; Trattoria da Enzo; Caffè Florian; Harry 's Bar Venezia;
    Pizzeria Brandi 1780; Sukiyabashi Jiro; Din Tai Fung; Tim Ho Wan; Nahm Bangkok; Bukhara Delhi; Dishoom Covent Garden;
    Veeraswamy Regent Street; Rules of Maiden Lane; The Eagle & Child; Turf Tavern; Lamb & Flag; Ye Olde Cheshire Cheese;
    The Hand & Flowers; Sketch Lecture Room; St John Bread & Wine; Quo Vadis Soho; Wiltons Jermyn Street; Bar Italia; Ronnie Scott 's;
    The Churchill Arms; The Prospect of Whitby; The Spaniards Inn; Noma Copenhagen; Fäviken Magasinet; Frantzén Stockholm;
    Restaurant Sjömagasinet; Operakällaren Bakficka; Kaffistofan Reykjavík; Perlan Öskjuhlíð; Smørrebrød & Øl; Schønnemann 1877;
    The Dead Rabbit; McSorley 's Old Ale House; Grand Central Oyster Bar; Russ & Daughters; Joe Beef Montréal; Schwartz 's Deli
"""
FIRST = """
    Zebra Quantum Meridian Tornado Saturn Pickle Walrus Bamboo Cobalt Turbine Lobster Paprika Nebula Pilgrim Tundra Magnolia Cactus
    Monsoon Oxford Nairobi Brooklyn Vienna Marzipan Buffalo Chimney Dragonfly Ember Flamingo Gazelle Hexagon Igloo Juniper Kraken
""".split()
SECOND = """
    Diner Tavern Grill Noodle Bakery Social Station Junction Factory Parlour Larder Saloon Chowder Brasserie Canteen Lounge Depot
    Emporium Hangar Cellar Terrace Arcade Refuge Pavilion Cottage
""".split()
FORMS = ("{a} {b}", "{a} {c} {b}", "The {a} {b}", "{a} {b} {n}", "Café {a} {b}", "{a} & {c} {b}", "Number {n} {a} {b}")
COUNT = 200


def names() -> list[str]:
    """Return the 200 names: the real ones, then others until there are enough."""
    rng = random.Random(0)
    found = dict.fromkeys(name.strip() for name in REAL.split(";"))
    while len(found) < COUNT:
        a, c = rng.sample(FIRST, 2)
        found[rng.choice(FORMS).format(a=a, b=rng.choice(SECOND), c=c, n=rng.randint(2, 1999))] = None
    return list(found)[:COUNT]


def inputs() -> list[tuple[str, str]]:
    """Return (name, MR) of each name, with slots and values as in the bundled data, each name near another's now and then."""
    from lora_nlg.bundled import venues

    rng, every = random.Random(1), names()
    pairs = []
    for name, near in zip(every, every[1:] + every[:1], strict=True):
        mr = venues.draw_mr(rng, rng.choice(venues.slot_sets()), name, near)
        pairs.append((name, " | ".join(f"{slot} : {value}" for slot, value in mr.items())))
    return pairs


def main() -> int:
    """Ask the run in a work dir for a text about each."""
    import lora_nlg
    from lora_nlg.api import E2E_RULES

    p = argparse.ArgumentParser()
    p.add_argument("work_dir", type=Path)
    p.add_argument("--beam", type=int, default=10)
    p.add_argument("--base", default=ROOT / "pretrained_checkpoints/gpt2.mini")
    args = p.parse_args()
    model = lora_nlg.load(args.base, args.work_dir / "model.final.pt", vocab=ROOT / "vocab")
    asked, rules = inputs(), dataclasses.replace(E2E_RULES, beam=args.beam, eval_len=100)
    texts = [model.generate(mr, rules=rules)[0].text for _, mr in tqdm(asked)]
    wrong = [(name, text) for (name, _), text in zip(asked, texts, strict=True) if f" {name} " not in f" {text} "]
    for name, text in wrong:
        print(f"{name}: {text}")
    print(f"{len(asked) - len(wrong)} of {len(asked)} names")
    return 0


if __name__ == "__main__":
    sys.exit(main())
