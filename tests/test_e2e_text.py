"""Lines and texts of the E2E data."""

import pytest

from lora_nlg.errors import UserError
from lora_nlg.tasks import e2e, formatted
from lora_nlg.tasks.formatted import Group

END = "<|endoftext|>"


class Letters:
    """An encoding in which id i is the i-th of a few texts."""

    texts = ("!", "a", " b", "\n", "\n\n", END)
    n_vocab = len(texts)

    def decode(self, ids):
        return "".join(self.texts[i] for i in ids)


@pytest.fixture
def write(tmp_path):
    def write_file(content: str | bytes) -> str:
        path = tmp_path / "file"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def test_raw_lines_with_byte_order_mark_and_windows_line_ends(write):
    path = write(b"\xef\xbb\xbfname : A||Caf\xc3\xa9 . \r\nname : B||b .\r\n")
    assert list(e2e.read_raw(path)) == [("name : A", "Café ."), ("name : B", "b .")]


def test_only_newlines_end_a_line(write):
    assert list(e2e.read_raw(write("name : A||x\u2028y\x0bz\x85w\n"))) == [("name : A", "x\u2028y\x0bz\x85w")]


def test_last_line_needs_no_newline(write):
    assert list(e2e.read_raw(write("name : A||a\nname : B||b")))[1] == ("name : B", "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"name : A||a\nno separator\n", ":2: expected MR||reference"),
        (b"name : A||a||b\n", ":1: .* found it 2 times"),
        (b"name : A||a\n||b\n", ":2: there is no MR before"),
        (b"name : A||\n", ":1: there is no reference after"),
        (b"name : A|| \t\n", ":1: there is no reference after"),
        (b"name : A||a\n\nname : B||b\n", ":2: the line is blank"),
        (b"name : A||a\nname : B||\xff\n", ":2: not UTF-8"),
    ],
)
def test_bad_raw_lines_are_named(write, content, message):
    with pytest.raises(UserError, match=message.replace("||", r"\|\|")):
        list(e2e.read_raw(write(content)))


def test_pairs_are_parsed_and_a_bad_mr_is_named(write):
    assert e2e.read_pairs(write("name : A | food : B||a\n")) == [({"name": "A", "food": "B"}, "a")]
    with pytest.raises(UserError, match="file:2: expected slot"):
        e2e.read_pairs(write("name : A||a\nname A||a\n"))


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=f"cannot read {path}"):
            list(e2e.read_raw(path))


def test_parse_mr():
    mr = "name : The Vaults | price : more than £ 30 | customer rating : 5 out of 5 | note : open : late"
    assert list(e2e.parse_mr(mr, "f:1").items()) == [
        ("name", "The Vaults"),
        ("price", "more than £ 30"),
        ("customer rating", "5 out of 5"),
        ("note", "open : late"),
    ]
    assert e2e.parse_mr("name : A", "f:1") == {"name": "A"}


@pytest.mark.parametrize("mr", ["", "name", "name : A | ", "name : A |food : B", "name : A | food", " | name : A"])
def test_parse_mr_rejects(mr):
    with pytest.raises(UserError, match="f:1: expected slot : value"):
        e2e.parse_mr(mr, "f:1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: not JSON"),
        ("[1]", ':2: expected a JSON object with a string under "context"'),
        ('{"completion": "x"}', 'a string under "context"'),
        ('{"context": "x"}', 'a string under "completion"'),
        ('{"context": "x", "completion": 3}', 'a string under "completion"'),
        ('{"context": " ", "completion": "x"}', ":2: the context is empty"),
    ],
)
def test_bad_formatted_lines_are_named(write, line, message):
    with pytest.raises(UserError, match=message):
        list(formatted.read_formatted(write('{"context": "c", "completion": "d"}\n' + line + "\n")))


def test_formatted_lines_keep_other_keys(write):
    line = '{"context": "c", "completion": "", "cate": true}'
    assert list(formatted.read_formatted(write(line))) == [{"context": "c", "completion": "", "cate": True}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f" a b {END} c", "a b"),
        ("a\n\nb", "a"),
        ("\n\na", ""),
        ("a\nb\r\nc\u2028d", "a b c d"),
        (END, ""),
        (f"a\n{END}\n\nb", "a"),
    ],
)
def test_clean_cuts_and_leaves_one_line(text, expected):
    assert formatted.clean(text) == expected


@pytest.mark.parametrize(
    ("tokenize", "lower", "expected"),
    [
        (False, False, "It's  A family-friendly café_1."),
        (True, False, "It ' s A family - friendly café_1 ."),
        (False, True, "it's  a family-friendly café_1."),
        (True, True, "it ' s a family - friendly café_1 ."),
    ],
)
def test_standardise(tokenize, lower, expected):
    assert formatted.standardise("It's  A family-friendly café_1.", tokenize, lower) == expected


def test_case_is_folded_before_signs_are_split_off():
    """Fails the other way round: İ is one letter, and in lower case a letter and a dot above, which is none."""
    assert formatted.standardise("İzmir", tokenize=True, lower=True) == "i \u0307 zmir"


def test_predictions_are_cut_at_end_of_text_and_at_a_blank_line(write):
    path = write(
        '{"id": 1, "predict": [1, 2, 5, 1, 0, 0]}\n{"id": 0, "predict": [2, 4, 1, 5]}\n{"id": 2, "predict": []}\n'
    )
    assert formatted.read_predictions(path, Letters(), 3) == [(1, "a b"), (0, "b"), (2, "")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 2, "predict": [1]}', ":2: id 2 is no line .* 0 to 1"),
        ('{"id": -1, "predict": [1]}', ":2: id -1 is no line"),
        ('{"id": 0, "predict": [1]}', ":2: id 0 is in line 1, too"),
        ('{"id": true, "predict": [1]}', ':2: expected a JSON object with a whole number under "id"'),
        ('{"id": 1, "predict": [1, 6]}', ":2: expected token ids from 0 to 5, found 6"),
        ('{"id": 1, "predict": [-1]}', "found -1"),
        ('{"id": 1, "predict": [1.0]}', "found 1.0"),
        ('{"id": 1, "predict": ["a"]}', "found 'a'"),
    ],
)
def test_bad_predictions_are_named(write, line, message):
    with pytest.raises(UserError, match=message):
        formatted.read_predictions(write('{"id": 0, "predict": [1]}\n' + line), Letters(), 2)


def lines(*completions: str) -> list[dict]:
    return [{"completion": completion} for completion in completions]


def test_groups_are_in_first_seen_order_with_the_last_prediction():
    groups = formatted.group_lines(
        lines(" r0 ", "r1", f"r2{END}x", "r3"), ["B", "A", "B", "C"], [(2, "late"), (1, "a"), (0, "last")], [True] * 4
    )
    assert groups == [Group(["r0", "r2"], "last"), Group(["r1"], "a"), Group(["r3"], None)]


def test_lines_that_are_not_kept_give_neither_reference_nor_prediction():
    groups = formatted.group_lines(lines("r0", "r1", "r2"), ["A", "A", "B"], [(0, "a"), (1, "b")], [True, False, False])
    assert groups == [Group(["r0"], "a")]


def test_seen_categories():
    inputs = [{"cate": True}, {"cate": "unseen"}, {"cate": False}, {"cate": "seen"}]
    assert formatted.is_seen(inputs, "f") == [True, False, False, True]
    for bad in ({}, {"cate": 1}, {"cate": "Airport"}, {"cate": None}, {"cate": []}):
        with pytest.raises(UserError, match='f:2: --filter needs "cate"'):
            formatted.is_seen([inputs[0], bad], "f")
