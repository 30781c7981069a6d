"""Slot errors: the wordings one by one, how the rules agree with a reader on 200 outputs, and the program."""

import csv
import json
from pathlib import Path

import pytest

import slots
from metrics.errors import UserError
from slot_rules import differences, normalise, parse_mr, vocabulary

CHECKED = Path(__file__).with_name("slots_checked.tsv")
KINDS = ("missing", "wrong", "invented")


def found(mr: str, text: str, *others: str) -> dict[str, list]:
    """Return {kind: slots} of one output; `others` are further inputs of the data."""
    asked = parse_mr(mr)
    result = differences(asked, text, vocabulary([asked, *map(parse_mr, others)]))
    return {kind: [slots.slot_of(fault) for fault in faults] for kind, faults in result.items() if faults}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("It IS n't family - friendly", "it is not family friendly"),
        ("isn't family-friendly", "is not family friendly"),
        ("isn 't", "is not"),
        ("isn’t", "is not"),
        ("Café", "cafe"),
        ("£20-25 .", "£ 20 25 ."),
        ("five-star, 3/5", "5 star , 3 / 5"),
        ("£20.00", "£ 20"),
        ("city center", "city centre"),
        ("", ""),
    ],
)
def test_normalised_text(text, plain):
    assert normalise(text) == plain


def one(slot: str, value: str | None, said: str) -> str:
    """Return what is found about `slot` in a sentence that ends with `said`: "", missing, wrong or invented."""
    mr = "name : Cotto" + (f" | {slot} : {value}" if value else "")
    faults = found(mr, f"Cotto {said} .")
    assert all(slots == [slot] for slots in faults.values()), faults
    return next(iter(faults), "")


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("is family - friendly", "yes"),
        ("is a kid friendly place", "yes"),
        ("welcomes families", "yes"),
        ("where children are welcome", "yes"),
        ("is for all ages", "yes"),
        ("is not expensive and kid friendly", "yes"),  # the negation is about something else
        ("is not far from it , and child friendly", "yes"),
        ("is not family - friendly", "no"),
        ("is n't family friendly", "no"),
        ("isn 't a very family friendly place", "no"),
        ("is a non - family - friendly place", "no"),
        ("is not suitable for families and children", "no"),
        ("is not the best place for families with young children", "no"),
        ("does not allow kids", "no"),
        ("where children are not allowed", "no"),
        ("is for adults only", "no"),
        ("offers a child free atmosphere", "no"),
        ("is family owned", None),
        ("is friendly", None),
    ],
)
def test_families(said, value):
    for asked in ("yes", "no"):
        expected = "missing" if value is None else "" if asked == value else "wrong"
        assert one("family friendly", asked, said) == expected
    assert one("family friendly", None, said) == ("invented" if value else "")


def test_welcome_and_not_welcome_is_wrong_for_both():
    for asked in ("yes", "no"):
        assert one("family friendly", asked, "is family friendly . It is not family friendly") == "wrong"


PRICES = {
    "low": ("cheap", "less than £ 20"),
    "mid": ("moderate", "£ 20 - 25"),
    "high": ("high", "more than £ 30"),
}
RATINGS = {"low": ("low", "1 out of 5"), "mid": ("average", "3 out of 5"), "high": ("high", "5 out of 5")}


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("is cheap", "low"),
        ("is inexpensive", "low"),
        ("has low prices", "low"),
        ("is low - priced", "low"),
        ("costs less than £ 20", "low"),
        ("is under 20 pounds", "low"),
        ("costs £20 or less", "low"),
        ("is moderately priced", "mid"),
        ("is mid - range", "mid"),
        ("has a moderate price range", "mid"),
        ("has an average price range of less than £ 20", "low"),  # the figures count
        ("costs £ 20 - 25", "mid"),
        ("costs between £ 20 and £ 25", "mid"),
        ("has prices from 20 to 25 pounds", "mid"),
        ("is expensive", "high"),
        ("is high - priced", "high"),
        ("is in the higher price range", "high"),
        ("has prices that cost more than £ 30", "high"),
        ("charges over £30", "high"),
        ("is not cheap", None),
        ("does not have high prices", None),
        ("is a high place", None),
        ("has a high customer rating", None),
        ("is cheap , its price high customer rating", "low"),  # high is the rating's
    ],
)
def test_prices(said, level):
    for name, values in PRICES.items():
        for value in values:
            faults = found(f"name : Cotto | price : {value}", f"Cotto {said} .")
            expected = ["missing"] if level is None else [] if name == level else ["wrong"]
            assert [kind for kind, slots in faults.items() if "price" in slots] == expected


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("has a low customer rating", "low"),
        ("is rated 1 out of 5", "low"),
        ("is poorly rated", "low"),
        ("has a one - star rating", "low"),
        ("has an average rating", "mid"),
        ("has a customer rating of 3 out of 5 stars", "mid"),
        ("is rated average by customers", "mid"),
        ("is rated below average", "low"),
        ("is highly rated", "high"),
        ("has a customer rating of five out of five", "high"),
        ("has 5/5 reviews", "high"),
        ("has a high customer rating", "high"),
        ("gets high marks from its customers", "high"),
        ("has a high customer rating of 1 out of 5", "low"),  # the figures count
        ("is not highly rated", None),
        ("has a high price range", None),
        ("is rated and has low prices", None),
    ],
)
def test_ratings(said, level):
    for name, values in RATINGS.items():
        for value in values:
            faults = found(f"name : Cotto | customer rating : {value}", f"Cotto {said} .")
            expected = ["missing"] if level is None else [] if name == level else ["wrong"]
            assert [kind for kind, slots in faults.items() if "customer rating" in slots] == expected


def test_a_rating_between_e2es_is_wrong_for_every_value():
    for value in sum(RATINGS.values(), ()):
        assert one("customer rating", value, "is rated 4 out of 5") == "wrong"


@pytest.mark.parametrize(
    ("said", "area"),
    [
        ("is by the river", "riverside"),
        ("is in the riverside area of the city", "riverside"),
        ("is at the city center", "city centre"),
        ("is in the centre of town", "city centre"),
        ("is by the river , north of the city centre", "riverside"),
        ("is far from the city centre", None),
    ],
)
def test_areas(said, area):
    for asked in ("riverside", "city centre"):
        assert one("area", asked, said) == ("missing" if area is None else "" if asked == area else "wrong")
    assert one("area", None, said) == ("invented" if area else "")


@pytest.mark.parametrize(
    ("asked", "said", "expected"),
    [
        ("pub", "is a pub", ""),
        ("pub", "is a Japanese pub restaurant", ""),  # a restaurant is what every venue is
        ("pub", "is a restaurant", "missing"),
        ("pub", "is a coffee shop", "wrong"),
        ("coffee shop", "is a Café", ""),
        ("restaurant", "is a restaurant", ""),
        ("restaurant", "is a place", "missing"),
        ("restaurant", "is a pub", "wrong"),
        ("tea room", "is a tea room", ""),  # a value of other data
        ("tea room", "is a pub", "wrong"),
        (None, "is a restaurant", ""),
        (None, "is a pub", "invented"),
    ],
)
def test_types(asked, said, expected):
    mr = "name : Cotto | food : Japanese" + (f" | Type : {asked}" if asked else "")
    faults = found(mr, f"Cotto {said} .")
    assert [kind for kind, slots in faults.items() if "Type" in slots] == ([expected] if expected else [])


def test_food_and_words_of_names():
    mr = "name : Cotto | food : French | near : Raja Indian Cuisine"
    assert found(mr, "Cotto serves French food near Raja Indian Cuisine .") == {}  # its Indian is no food
    assert found(mr, "Cotto serves sushi near Raja Indian Cuisine .") == {"wrong": ["food"]}
    assert found(mr, "Cotto is near Raja Indian Cuisine .") == {"missing": ["food"]}
    assert found("name : Cotto", "Cotto serves fast food .") == {"invented": ["food"]}
    assert found("name : Cotto | food : Thai", "Cotto serves Thai food .") == {}
    assert found("name : Cotto | near : Café Rouge", "Cotto is near Café Rouge .") == {}  # Café is no type


NEIGHBOURS = "name : Blue Spice | near : The Bakers"  # another input of the data: its names are known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Mill is near Avalon .", {}),
        ("the mill is near avalon .", {}),
        ("Near Avalon , there is The Mill .", {}),
        ("Mill is close to the Avalon .", {}),
        ("Blue Spice is near Avalon .", {"wrong": ["name"]}),
        ("It is near Avalon .", {"missing": ["name"]}),
        ("The Mill is near The Bakers .", {"wrong": ["near"]}),
        ("The Mill is near Avalon and The Bakers .", {"wrong": ["near"]}),
        ("The Mill is by the river near Avalon .", {"invented": ["area"]}),
        ("The Mill is nice .", {"missing": ["near"]}),
        ("The Windmill is near Avalon .", {"wrong": ["name"]}),  # a name that no input has
        ("There is a place called The Golden Goose near Avalon .", {"wrong": ["name"]}),
        ("The Mill is near Café Brazil .", {"wrong": ["near"]}),
        ("The Mill is near The Mill .", {"wrong": ["near"]}),
        ("Customers rate The Mill , near Avalon .", {}),
    ],
)
def test_names_and_neighbours(text, expected):
    assert found("name : The Mill | near : Avalon", text, NEIGHBOURS) == expected


def test_nothing_at_all_misses_everything():
    mr = "name : The Mill | Type : pub | food : French | price : cheap"
    assert found(mr, "") == {"missing": ["name", "Type", "food", "price"]}


@pytest.mark.parametrize(
    "mr",
    [
        "",
        "The Mill",
        "name : The Mill | ",
        "name : The Mill | name : Cotto",
        "Type : pub",
        "name : The Mill | eatType : pub",
        "name : ★",
    ],
)
def test_inputs_that_are_not_e2es(mr):
    with pytest.raises(ValueError, match="expected slot : value"):
        parse_mr(mr)


def checked() -> list[dict[str, str]]:
    """Return the hand-checked rows: system, mr, output, and the slots at fault as read, with commas between them."""
    with open(CHECKED, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_agreement_with_a_reader_on_200_outputs():
    """A mark is a slot with its kind. docs/slots.md has the figures, and how the outputs were drawn and read."""
    rows = checked()
    systems = [row["system"].split("/")[0].split("_")[0] for row in rows]  # e2e or mini, whose values differ
    words = {
        data: vocabulary([parse_mr(row["mr"]) for row, system in zip(rows, systems, strict=True) if system == data])
        for data in ("e2e", "mini")
    }
    by_rules = by_hand = agreed = outputs_agreed = 0
    for row, system in zip(rows, systems, strict=True):
        faults = differences(parse_mr(row["mr"]), row["output"], words[system])
        rules = {(kind, slots.slot_of(fault)) for kind in KINDS for fault in faults[kind]}
        hand = {(kind, slot) for kind in KINDS for slot in row[kind].split(", ") if slot}
        by_rules, by_hand, agreed = by_rules + len(rules), by_hand + len(hand), agreed + len(rules & hand)
        assert bool(rules) == bool(hand), row  # per output, precision and recall are 1
        outputs_agreed += rules == hand
    assert (len(rows), by_hand) == (200, 277)
    assert agreed >= 274
    assert agreed / by_rules >= 274 / 277  # precision
    assert outputs_agreed >= 197


@pytest.fixture
def run(tmp_path):
    """A run's folder with three outputs: a good one, one with a fault of each kind, and an empty one."""
    mrs = [
        "name : The Mill | Type : pub",
        "name : Cotto | area : riverside | price : cheap",
        "name : Zizzi | food : Thai",
    ]
    lines = [{"context": mr, "completion": "x"} for mr in (mrs[0], mrs[0], mrs[1], mrs[2], mrs[0])]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "prediction.txt").write_text("The Mill is a pub .\nCotto is a pub in the city centre .\n\n")
    return tmp_path


def run_slots(run, *flags):
    return slots.main([str(run), "--data", str(run / "data.jsonl"), *flags])


def test_slots_json_and_the_slot_error_rate(run, capsys):
    assert run_slots(run) == 0
    assert json.loads((run / "slots.json").read_text(encoding="utf-8")) == {
        "inputs": 3,
        "slots": 7,
        "missing": 3,
        "wrong": 1,
        "invented": 1,
        "slot_error_rate": 5 / 7,
        "outputs": [
            {"missing": [], "wrong": [], "invented": []},
            {
                "missing": ["price"],
                "wrong": [{"slot": "area", "expected": "riverside", "found": "city centre"}],
                "invented": [{"slot": "Type", "found": "pub"}],
            },
            {"missing": ["name", "food"], "wrong": [], "invented": []},
        ],
    }
    out = capsys.readouterr().out
    assert "slot error rate 0.7143: 5 errors in 7 slots asked for" in out
    assert "1 of 3 outputs tell every slot" in out
    table = {line[:16].strip(): line[16:].split() for line in out.splitlines() if line.startswith("  ")}
    assert table["area"] == ["1", "0", "1", "0"]
    assert table["Type"] == ["1", "0", "0", "1"]
    assert table["all"] == ["7", "3", "1", "1"]
    worst = out.split("\n\n")[2]  # the worst comes first
    assert worst.splitlines()[1:] == [
        "output   Cotto is a pub in the city centre .",
        "missing  price",
        "wrong    area (city centre, not riverside)",
        "invented Type (pub)",
    ]
    assert "The Mill" not in out  # no fault, no example


def test_a_file_gets_json_only_where_asked(run, tmp_path):
    data = ["--data", str(run / "data.jsonl")]
    assert slots.main([str(run / "prediction.txt"), *data]) == 0
    assert not (run / "slots.json").exists()
    assert slots.main([str(run / "prediction.txt"), *data, "--json", str(run / "a/b.json")]) == 0
    assert json.loads((run / "a/b.json").read_text(encoding="utf-8"))["slots"] == 7


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("prediction.txt", "a\nb\n", "has 2 lines, but .* has 3 distinct inputs"),
        ("prediction.txt", None, "cannot read .*prediction.txt"),
        (
            "data.jsonl",
            '{"context": "name : A", "completion": "x"}\n{"context": "Blue Spice"}\n',
            "input 2 is no input of E2E",
        ),
        ("data.jsonl", None, "cannot read .*data.jsonl"),
    ],
)
def test_mistakes_leave_no_file(run, name, content, words):
    (run / name).unlink() if content is None else (run / name).write_text(content)
    with pytest.raises(UserError, match=words):
        run_slots(run)
    assert not (run / "slots.json").exists()
