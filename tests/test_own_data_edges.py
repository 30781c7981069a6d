"""Own data whose columns are named: mistyped, twice, or others than before; and what many runs of them are made with."""

import shutil
import subprocess
from pathlib import Path

import pytest

import format_own_data
from lora_nlg.data.lines import parse_json
from lora_nlg.errors import UserError
from lora_nlg.tasks import own
from test_own_data import ROOT, formatted, write
from test_sweep import Checkout

TWO = "letter,notes\n" + "".join(f"Letter {i}.,note {i}\n" for i in range(9))


def read(path, source=None, target=None):
    return list(own.read_raw(path, own.Columns.named(source, target)))


@pytest.mark.parametrize("third", ["", ",id"])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ("Note", "letter"),
            "t.csv: the header has no column 'Note' (did you mean notes?); its columns are letter, notes",
        ),
        (("Note", "Letters"), "no column 'Letters' (did you mean letter?); its columns are letter, notes"),
        (("notes", "xyz"), "no column 'xyz'; its columns are letter, notes"),
        (("Note", None), "no column 'Note'"),
        ((None, "Letters"), "no column 'Letters'"),
    ],
)
def test_a_column_that_is_not_there_is_named(names, says, third, tmp_path):
    """Two columns were taken by their places: every pair was the wrong way round, and the header among them."""
    path = write(tmp_path, "t.csv", TWO.replace("\n", f"{third}\n"))
    with pytest.raises(UserError) as error:
        read(path, *names)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_table_without_a_header_has_no_column_of_a_name(tmp_path):
    with pytest.raises(UserError, match="no column 'target'; its columns are a, b"):
        read(write(tmp_path, "t.csv", "a,b\nc,d\n"), "source", "target")


@pytest.mark.parametrize(
    "names", [("Notes", "Letter"), ("notes", None), (None, "letter")], ids=["both", "source", "target"]
)
def test_of_two_columns_the_one_that_is_not_named_is_the_other(names, tmp_path):
    assert read(write(tmp_path, "t.csv", TWO), *names)[:2] == [("note 0", "Letter 0."), ("note 1", "Letter 1.")]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize(
    ("columns", "names"),
    [("text summary", ("text", None)), ("source document", (None, "source")), ("id text summary", ("Text", None))],
)
def test_what_is_named_for_one_is_not_taken_for_the_other(columns, names, name, tmp_path):
    """The usual names of targets have "text", and those of sources "source"."""
    cells = {"text": "a", "summary": "A", "source": "A", "document": "a", "id": "1"}
    keys = columns.split()
    table = f"{','.join(keys)}\n{','.join(cells[key] for key in keys)}\n"
    lines = "{" + ", ".join(f'"{key}": "{cells[key]}"' for key in keys) + "}\n"
    assert read(write(tmp_path, name, table if name == "t.csv" else lines), *names) == [("a", "A")]


@pytest.mark.parametrize("names", [("notes", "notes"), ("My notes", "my-Notes ")])
def test_one_column_for_both_is_refused(names, tmp_path):
    """A model learnt to copy."""
    path = write(tmp_path, "t.csv", TWO)
    with pytest.raises(UserError, match="are the same key or column, and a text would be learnt from itself"):
        format_own_data.main([str(path), str(tmp_path / "made"), "--source", names[0], "--target", names[1]])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("flag", ["--source", "--target"])
def test_a_name_that_is_empty_is_refused(flag, tmp_path):
    """It was that of a cell without text in the header."""
    path = write(tmp_path, "t.csv", ",notes\nA,a\n")
    with pytest.raises(UserError, match=f"{flag} is empty"):
        format_own_data.main([str(path), str(tmp_path / "made"), flag, " "])


def test_names_of_columns_are_refused_where_there_are_none(tmp_path):
    path = write(tmp_path, "t.txt", "a||A\nb||B\nc||C\n")
    with pytest.raises(UserError, match=r"would have no effect on .*t\.txt: a \.txt has \|\| and no columns"):
        format_own_data.main([str(path), str(tmp_path / "made"), "--source", "notes"])
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, "train.txt", "a||A\nb||B\n")
    write(folder, "valid.csv", TWO)
    write(folder, "test.txt", "c||C\n")
    assert format_own_data.main([str(folder), str(tmp_path / "made"), "--source", "notes"]) == 0
    assert formatted(tmp_path / "made")["valid"][0] == ("note 0", "Letter 0.")


def test_a_key_that_is_not_there_is_named(tmp_path):
    path = write(tmp_path, "t.jsonl", '{"notes": "a", "letter": "A"}\n')
    with pytest.raises(UserError, match=r"t\.jsonl:1: the object has no key 'Note' \(did you mean notes\?\); its keys"):
        read(path, "Note", "letter")


def test_a_key_twice_is_refused(tmp_path):
    """The last one counted."""
    path = write(
        tmp_path,
        "t.jsonl",
        '{"context": "a", "completion": "A"}\n{"context": "b", "completion": "B", "context": "c"}\n',
    )
    with pytest.raises(UserError, match=r"t\.jsonl:2: the object has the key 'context' twice; leave one of them"):
        read(path)
    assert parse_json('{"a": 1, "a": 2}', "x") == {"a": 2}  # of other files
    within = '{"context": "a", "completion": "A", "meta": {"x": 1, "x": 2}}\n'  # which nobody reads
    assert read(write(tmp_path, "within.jsonl", within)) == [("a", "A")]


# The folder of what step 2 makes, and the runs that are made of it


def in_bash(commands: str, *arguments: str, folder: Path = ROOT, **options) -> str:
    command = ["bash", "-euc", f"source scripts/common.sh; {commands}", "x", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, **options).stdout


def made(*arguments: str, **options) -> str:
    return in_bash('columns=("${@:2}"); own_data_made "$1"', *arguments, **options)


def test_each_choice_of_columns_has_a_folder():
    sum_of_path = subprocess.run(["cksum"], input=b"/x/y.csv", capture_output=True, check=True).stdout.split()[0]
    assert made("/x/y.csv") == f"data/own/y-{sum_of_path.decode()}"  # as in earlier versions
    choices = ((), ("--source=a",), ("--target=a",), ("--source=a", "--target=b"), ("--source=b", "--target=a"))
    assert len({made("/x/y.csv", *columns) for columns in choices}) == len(choices)


def test_the_same_columns_have_one_folder_however_they_are_given():
    ways = (("--source=ö", "--target=b"), ("--target=b", "--source=ö"), ("--source=a", "--target=b", "--source=ö"))
    locales = ({"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"})
    assert len({made("/x/y.csv", *columns, env=locale) for columns in ways for locale in locales}) == 1


@pytest.fixture
def checkout(tmp_path):
    checkout = Checkout(tmp_path)
    write(tmp_path, "cols.csv", "notes,short,long\na,A,AA\n")
    return checkout


def sweep(checkout, *columns: str, **environment: str) -> list[str]:
    """Sweep over one run of the user's file; return the names of the training's and the search's step that were run."""
    data = str(checkout.folder.parent / "cols.csv")
    done = checkout.run("--preset", "mine", "--data", data, *columns, **environment)
    assert done.returncode == 0, done.stderr
    return [call.split()[0] for call in checkout.calls if call.startswith(("03_train.sh", "04_beam.sh"))]


def test_other_columns_are_other_runs(checkout):
    """The scores of the first were shown for the second."""
    both = ["03_train.sh", "04_beam.sh"]
    assert sweep(checkout, "--source", "notes", "--target", "short") == both
    assert sweep(checkout, "--target=short", "--source", "notes") == []
    assert sweep(checkout, "--source", "notes", "--target", "long") == both
    assert sweep(checkout) == both


def test_other_texts_in_the_users_file_are_other_runs(checkout):
    """In what step 2 made of it: here it is not run."""
    folder = checkout.folder / made(str(checkout.folder.parent / "cols.csv"), folder=checkout.folder)
    folder.mkdir(parents=True)
    for name in ("train", "valid", "test", "test_formatted"):
        for text, steps in (("one", 2), ("one", 0), ("two", 2)):
            write(folder, f"{name}.jsonl", text)
            assert len(sweep(checkout)) == steps, (name, text)


def test_other_numbers_of_processes_are_other_runs(checkout):
    """Each takes a batch, so that they train with another one in all."""
    assert len(sweep(checkout)) == 2
    assert sweep(checkout, NPROC="1", NNODES="1") == []
    for environment in ({"NPROC": "2"}, {"NPROC": "3"}, {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "a"}):
        assert len(sweep(checkout, **environment)) == 2
        assert sweep(checkout, **environment) == []


def test_a_plain_run_of_an_earlier_version_is_found(checkout):
    assert checkout.run().returncode == 0
    lists = '"${LORA[@]}" "${TRAIN[@]}" "${DECODE[@]}"'
    lines = in_bash(f'source scripts/presets/mini.sh; printf "%s\\n" "$DATA" "$CARD" "$BASE" {lists}')
    assert (checkout.folder / "trained_models/mini/r4_q,v_seed110/made_with.txt").read_text() == lines


def test_every_step_has_the_folder_that_step_2_makes(checkout):
    """Also where a preset names the data, and the command the columns."""
    shutil.copy(ROOT / "scripts/02_create_datasets.sh", checkout.folder / "scripts")
    preset = (checkout.folder / "scripts/presets/mine.sh").read_text()
    data = checkout.folder.parent / "cols.csv"
    write(checkout.folder / "scripts/presets", "its_own.sh", preset.replace('DATA=""', f"DATA={data}"))
    columns = ("--target", "long", "--source=notes")
    for given in (("--preset", "its_own"), ("--preset", "mine", "--data", str(data))):
        assert checkout.run(*given, *columns).returncode == 0
        (formats,) = [call for call in checkout.calls if "src/format_own_data.py" in call]
        step_2s = formats.split()[3]
        (steps,) = {call for call in checkout.calls if call.startswith("03_train.sh")}
        again = in_bash('take_preset "$@"; echo "$data"', *steps.split()[1:], folder=checkout.folder)
        assert again.strip() == step_2s == made(str(data), "--source=notes", "--target=long")


def test_what_is_to_be_done_first_is_said_with_the_columns(checkout):
    data = str(checkout.folder.parent / "cols.csv")
    commands = 'take_preset "$@"; (from_step nowhere 02 "$DATA") 2>&1 || true'
    said = in_bash(commands, "--data", data, "--source", "my notes", folder=checkout.folder)
    assert said.endswith(f"run step 02 first: bash scripts/02_create_datasets.sh {data} --source=my\\ notes\n")


def test_columns_of_what_was_made_by_hand_are_refused(checkout):
    """It has none any more, and they were passed over."""
    shutil.copy(ROOT / "scripts/02_create_datasets.sh", checkout.folder / "scripts")
    (checkout.folder / "data/notes").mkdir(parents=True)
    write(checkout.folder / "data/notes", "test_formatted.jsonl", "")
    says = "--source=x would have no effect; data/notes is taken as it was made by hand\n"
    for script, *given in (("02_create_datasets.sh", "notes"), ("sweep.sh", "--preset", "mine", "--data", "notes")):
        done = checkout.run(*given, "--source", "x", script=script)
        assert (done.returncode, done.stderr) == (2, f"{script}: error: {says}")
        assert checkout.calls == []
