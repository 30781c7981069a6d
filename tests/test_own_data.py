"""Own data: the forms that people have, what is split off, and one sentence for what cannot be read."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import format_own_data
import make_weather_data
from lora_nlg.bundled import weather
from lora_nlg.data import tables
from lora_nlg.errors import UserError
from lora_nlg.tasks import own

ROOT = Path(__file__).resolve().parents[1]
PAIRS = [("Oslo, rain", 'It is "wet" in Oslo.'), ("Łódź | 5", "Fog."), ("Oslo, rain", "Rain in Oslo.")]
FORMS = {
    "plain.txt": 'Oslo, rain||It is "wet" in Oslo.\n\n Łódź | 5 || Fog. \r\nOslo, rain||Rain in Oslo.',
    "keys.jsonl": (
        '{"context": "Oslo, rain", "completion": "It is \\"wet\\" in Oslo."}\n{"context": "Łódź | 5", "completion": "Fog.", "id": 1}\n'
        '{"context": "Oslo, rain", "completion": "Rain  in\\nOslo."}\n'
    ),
    "table.csv": 'id,Source,Target\n1,"Oslo, rain","It is ""wet"" in Oslo."\n2,Łódź | 5,Fog.\n3,"Oslo, rain","Rain in\nOslo."\n',
    "table.tsv": '\ufeffTarget\tSource\n"It is ""wet"" in Oslo."\tOslo, rain\nFog.\tŁódź | 5\nRain in Oslo.\tOslo, rain\n',
    "no_header.csv": '"Oslo, rain","It is ""wet"" in Oslo."\nŁódź | 5,Fog.\n"Oslo, rain",Rain in Oslo.\n',
}


def write(folder, name, content):
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def formatted(folder):
    """Return the (source, target) pairs of each formatted file."""
    return {
        split: [
            tuple(json.loads(line).values()) for line in (folder / f"{split}_formatted.jsonl").read_text().splitlines()
        ]
        for split in own.SPLITS
    }


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_pairs(name, tmp_path):
    assert list(own.read_raw(write(tmp_path, name, FORMS[name]))) == PAIRS


def test_keys_and_columns_that_are_named(tmp_path):
    columns = own.Columns.named("Question Text", "ans")
    table = write(tmp_path, "t.csv", "question-text,ans,target\na,A,no\n")
    lines = write(tmp_path, "t.jsonl", '{"question text": "a", "ans": ["A", "AA"], "source": 1}\n')
    assert list(own.read_raw(table, columns)) == [("a", "A")]
    assert list(own.read_raw(lines, columns)) == [("a", "A"), ("a", "AA")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.txt", "a||b||c\n", "t.txt:1: expected source||target with || once, found it 2 times"),
        ("t.txt", "a||b\n\nc\n", "t.txt:3: expected source||target"),
        ("t.txt", "a|| \n", "t.txt:1: the target is empty"),
        ("t.txt", "a||b<|endoftext|>c\n", "the target has <|endoftext|> in it"),
        ("t.txt", "\n\n", "has no example, only blank lines"),
        (
            "t.jsonl",
            '{"context": "a"}\n',
            "t.jsonl:1: the object has no target; name its key with --target, or call it",
        ),
        ("t.jsonl", '{"context": "a", "source": "b", "target": "c"}\n', "has more than one source: context, source"),
        ("t.jsonl", '{"context": "a", "completion": 5}\n', "expected a text as target, found 5"),
        ("t.jsonl", '{"context": "a", "completion": []}\n', "expected a text as target, found null"),
        ("t.jsonl", "[1]\n", "t.jsonl:1: expected a JSON object"),
        ("t.jsonl", "{\n", "t.jsonl:1: not JSON"),
        ("t.csv", "target,n\nb,1\n", "names no source column"),
        ("t.csv", "source,target\na\n", "t.csv, line 2: 1 cells, but the header names 2 columns"),
        ("t.csv", 'source,target\n"a,b\n', "not a CSV table"),
        ("t.csv", "source,target\ra,b\r", r"its lines end with \r alone; save it with \n or \r\n"),
        ("t.csv", 'source,target\n"a\rx,b\n', "not a CSV table: unexpected end of data"),
        ("t.csv", "instruction,input,output\na,b,c\n", "names more than one source column: instruction, input"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(name, content, says, tmp_path):
    with pytest.raises(UserError) as error:
        list(own.read_raw(write(tmp_path, name, content)))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_folder_with_all_three_is_taken_as_it_is(tmp_path, capsys):
    write(tmp_path, "train.txt", "a||A\nb||B\n")
    write(tmp_path, "dev.csv", "source,target\nc,C\n")
    write(tmp_path, "test.jsonl", '{"context": "a", "completion": "AA"}\n')
    assert format_own_data.main([str(tmp_path), str(tmp_path / "made")]) == 0
    assert formatted(tmp_path / "made") == {
        "train": [("a", "A"), ("b", "B")],
        "valid": [("c", "C")],
        "test": [("a", "AA")],
    }
    assert "warning: 1 sources of the test file are in the training file" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["train"], ["train", "test"], ["train", "valid"]])
def test_what_is_missing_is_split_off_by_source(given, tmp_path, capsys):
    """Every pair is somewhere once, no source is in two splits, and it is the same split every time."""
    pairs = [(f"source {i % 40}", f"target {i}") for i in range(100)]
    write(tmp_path, "train.txt", "".join(f"{source}||{target}\n" for source, target in pairs))
    for split in given[1:]:
        write(tmp_path, f"{split}.txt", "x||y\n")
    for folder in ("one", "two"):
        assert format_own_data.main([str(tmp_path), str(tmp_path / folder)]) == 0
    splits = formatted(tmp_path / "one")
    assert splits == formatted(tmp_path / "two")
    off = [split for split in own.SPLITS if split not in given]
    assert Counter(pair for split in ("train", *off) for pair in splits[split]) == Counter(pairs)
    for split in off:
        assert len({source for source, _ in splits[split]}) == 4  # a tenth of 40
        assert splits[split] == [pair for pair in pairs if pair in splits[split]]
    sources = [{source for source, _ in splits[split]} for split in ("train", *off)]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 40
    assert f"has no {' and no '.join(off)}: split off" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"TRAIN.txt": "a||b\n", "train.txt": "a||b\n"}, "has TRAIN.txt and train.txt for train; leave one of them"),
        ({}, "has no train file"),
        ({"test.txt": "a||b\n"}, "has no train file"),
        ({"train.txt": "a||b\n", "train.csv": "a,b\n"}, "has train.txt and train.csv for train"),
        ({"train.txt": "a||b\n", "dev.txt": "a||b\n", "valid.txt": "a||b\n"}, "has valid.txt and dev.txt for valid"),
        ({"train.txt": "a||b\na||c\nd||e\n"}, "2 different sources are too few to split valid and test off"),
    ],
)
def test_a_folder_that_is_no_data_set_is_one_sentence(files, says, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in files.items():
        write(folder, name, content)
    with pytest.raises(UserError, match=says):
        format_own_data.main([str(folder), str(tmp_path / "made")])
    assert not (tmp_path / "made").exists()


def test_other_files_and_no_file(tmp_path):
    with pytest.raises(UserError, match=r"x\.xlsx must end in one of \.txt, \.jsonl, \.csv, \.tsv"):
        own.find(write(tmp_path, "x.xlsx", "x"))
    with pytest.raises(UserError, match="none does not exist; expected a folder with a train file, or a file"):
        own.find(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "content", "example"),
    [
        ("t.csv", "Question,Answer\na,b\n", None),
        ("t.csv", "prompt;response\na, b;c; d\n".replace("c; d", '"c; d"'), None),
        ("t.csv", "Frage,Antwort\na,b\n", ("Frage", "Antwort")),
        ("t.csv", '"say ""a""",b\n', ('say "a"', "b")),
        ("t.csv", "source,target\nso,get\n", None),  # which are in its letters
        ("t.csv", '"two\nlines; one text",b\n', ("two lines; one text", "b")),
        ("t.tsv", "Frage\tAntwort\na\tb\n", ("Frage", "Antwort")),
        ("t.txt", "Frage||Antwort\n", None),  # which never names columns
    ],
)
def test_a_first_line_that_may_be_names_is_said_when_it_is_read_as_an_example(name, content, example, tmp_path):
    path = write(tmp_path, name, content)
    assert own.first_example(path) == example
    if example == ("Frage", "Antwort"):
        assert own.first_example(path, own.Columns.named("frage", "antwort")) is None
        assert list(own.read_raw(path, own.Columns.named("frage", "antwort"))) == [("a", "b")]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", "description,mr,ref\nd,a,b\n"), ("t.jsonl", '{"source": "a", "target": "b", "description": "d"}\n'),
     ("t.csv", "id,question,answer\n1,a,b\n"), ("t.jsonl", '{"id": 1, "Question": "a", "Response": "b"}\n')],
)  # fmt: skip
def test_less_usual_names_count_where_the_usual_ones_are_not_there(name, content, tmp_path):
    assert list(own.read_raw(write(tmp_path, name, content))) == [("a", "b")]


def test_a_spreadsheets_semicolons_and_capitals(tmp_path, capsys):
    write(tmp_path, "TRAIN.CSV", "Source;Target\n1,5;one and a half\n2,5;two and a half\n")
    write(tmp_path, "Valid.csv", "a;b\n")
    write(tmp_path, "test.txt", "a;b||c\n")
    assert format_own_data.main([str(tmp_path), str(tmp_path / "made")]) == 0
    assert formatted(tmp_path / "made") == {
        "train": [("1,5", "one and a half"), ("2,5", "two and a half")], "valid": [("a", "b")], "test": [("a;b", "c")]
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "Valid.csv: the first line is read as an example, 'a' and 'b'; if it names the columns" in said
    assert said.count("is read as an example") == 1


def test_the_reader_of_tables_is_the_scorers():
    """Word for word but for the imports and the twin's name."""
    scorers = (ROOT / "eval" / "metrics" / "tables.py").read_text()
    twins = Path(tables.__file__).read_text()
    code = "# £ and é whose"
    assert scorers[scorers.index(code) :] == twins[twins.index(code) :]


def test_the_weather_is_as_it_was_made(tmp_path):
    assert make_weather_data.main([str(tmp_path / "weather.csv")]) == 0
    bundled = ROOT / "data" / "weather" / "weather.csv"
    assert (tmp_path / "weather.csv").read_bytes() == bundled.read_bytes()
    assert list(own.read_raw(bundled)) == weather.pairs(300, 1)


def script(*arguments, cwd=ROOT):
    return subprocess.run(["bash", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def chosen(*arguments, cwd=ROOT):
    """Return what take_preset makes of arguments, as scripts run by a script get them."""
    shown = (
        f'source {ROOT}/scripts/common.sh; take_preset "$@"; printf "%s\\n" "$TASK" "$DATA" "$data" "${{chosen[@]}}"'
    )
    return subprocess.run(["bash", "-euc", shown, "x", *arguments], cwd=cwd, capture_output=True, text=True)


def test_data_are_seen_from_where_the_script_is_called(tmp_path):
    write(tmp_path, "my data.csv", "a,b\n")
    done = chosen("--preset", "mine", "--data", "my data.csv", "--source=s", cwd=tmp_path)
    task, data, made, *again = done.stdout.splitlines()
    assert (task, data) == ("own", str(tmp_path / "my data.csv")) and made.startswith("data/own/my_data-")
    assert again == ["--preset", "mine", "--data", data, "--source=s"]
    assert chosen(*again).stdout == done.stdout  # a script that is run by a script
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", "my data.csv", "a,b\n")
    assert (
        chosen(*again[:2], "--data", "my data.csv", "--source=s", cwd=tmp_path / "other").stdout.splitlines()[2] != made
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "mine"], "preset mine is for data of your own; give --data FOLDER or --data FILE"),
        (
            ["--preset", "mine", "--data", "nowhere"],
            "no data set, folder or file nowhere; expected e2e, webnlg, dart, mini",
        ),
        (["--source", "x"], "--source=x would have no effect; it is for data of your own, mini is known"),
        (["--data"], "--data needs a value"),
    ],
)
def test_what_is_wrong_with_the_flags_is_one_sentence(arguments, says):
    done = chosen(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_known_set_takes_the_place_of_a_presets_data():
    assert chosen("--preset", "e2e_gpt2_md", "--data", "mini").stdout.splitlines() == [
        *("e2e", "mini", "data/mini", "--preset", "e2e_gpt2_md", "--data", "mini"),
    ]
