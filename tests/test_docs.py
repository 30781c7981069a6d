"""What the documents say exists and is so: tests, files, rooms, links, flags, dependencies; and each figure in one place."""

import re
import struct
from collections import Counter

import pytest

import documents
from documents import BLOCK, CODE, ROOT, read, section, table
from lora_nlg import methods

NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
README_LINES = 200
FLAG_TABLES = [("gpt2_ft", "## Training: `src/gpt2_ft.py`"), ("gpt2_beam", "## Decoding: `src/gpt2_beam.py`")]


def text(document: str) -> str:
    return read(f"docs/{document}")


@pytest.mark.parametrize("document", ["recipe.md", "reliability.md", "lora.md"])
def test_every_test_that_is_named_exists(document):
    """Fails when a test is renamed."""
    named = NAMED.findall(text(document))
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in read(f"tests/{file}"), f"{file} has no {test}"


def test_every_quirk_has_a_test():
    rows = [line for line in text("recipe.md").splitlines() if line.startswith("| ")]
    quirks = [row for row in rows if not row.startswith("| The recipe |")]
    assert len(quirks) > 40
    assert all(NAMED.search(row) for row in quirks)


# The README and its rooms


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= README_LINES


def rooms_of_the_tree(readme: str, heading: str) -> list[str]:
    """Return the folders of the README's tree as paths, from their names and indentation."""
    [(_, tree)] = BLOCK.findall(section(readme, heading))
    found: list[str] = []
    above: list[str] = []
    for line in tree.splitlines():
        indentation, name, meaning = re.fullmatch(r"( *)(\S+)/ {2,}(\S.*)", line).groups()
        assert meaning
        above[len(indentation) // 2 :] = [name]
        found.append("/".join(above))
    return found


def rooms_with_code() -> set[str]:
    """Return every folder that holds code, as a path; what is hidden or made by tools is none."""
    suffixes = {".py", ".sh", ".js"}
    files = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.suffix in suffixes]
    ours = {"src", "eval", "scripts", "tests", "benchmarks", "docs"}
    return {path.parent.as_posix() for path in files if path.parts[0] in ours and "__pycache__" not in path.parts}


@pytest.mark.parametrize(("readme", "heading"), [("README.md", "## The rooms"), ("README.zh-CN.md", "## 文件夹")])
def test_every_room_has_one_line_in_the_readmes_tree(readme, heading):
    """Fails when a folder with code is added without its line, or when a line's folder is gone."""
    rooms = rooms_of_the_tree(read(readme), heading)
    assert [room for room, times in Counter(rooms).items() if times > 1] == []
    assert [room for room in rooms if not (ROOT / room).is_dir()] == []
    assert len(rooms_with_code()) > 15
    assert sorted(rooms_with_code() - set(rooms)) == []


def test_the_picture_is_there_wide_and_light():
    """Its width is in its first bytes; GitHub shows it at the width of a page, and every clone has it."""
    picture = (ROOT / "docs/report.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) <= 200_000
    assert struct.unpack(">I", picture[16:20]) == (1400,)
    assert "](docs/report.png)" in read("README.md")


# Links


@pytest.mark.parametrize("document", documents.all_documents())
def test_every_link_leads_somewhere(document):
    """Files and folders of the project, and the headings in them."""
    for link in documents.links(read(document)):
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / document).parent / name).resolve() if name else ROOT / document
        assert target.exists() and target.is_relative_to(ROOT), f"{document}: {link}"
        if anchor:
            assert anchor in documents.anchors(target.read_text(encoding="utf-8")), f"{document}: {link}"


def test_every_document_is_reached_from_the_readme():
    """Fails when a document is added that no other names."""
    reached, todo = set(), ["README.md"]
    while todo:
        document = todo.pop()
        if document in reached:
            continue
        reached.add(document)
        for link in documents.links(read(document)):
            target = ((ROOT / document).parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_relative_to(ROOT):
                todo.append(target.relative_to(ROOT).as_posix())
    assert {name for name in documents.all_documents() if name.startswith("docs/")} <= reached


# Figures


def published() -> set[float]:
    """Return the figures that others have published: they are facts, which several documents may need."""
    tables = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "eval").glob("published*.tsv"))
    return {round(float(number) * scale, 6) for number in re.findall(r"\d*\.\d+", tables) for scale in (1, 100)}


def figures(document: str) -> set[str]:
    """Return the measured figures of a document's text and tables: times, and decimals of three digits and more, zeros aside.

    What programs print or write between their marks, flags with their values, names in backquotes and addresses are left out: among
    the seventy scores of a table of methods some are those of another table by chance.
    """
    marked = re.compile(r"^<!-- (methods on \w+): begin.*?^<!-- \1: end -->$", re.MULTILINE | re.DOTALL)
    without_output = BLOCK.sub(lambda block: block[2] if block[1] == "bash" else "", marked.sub("", read(document)))
    without_output = re.sub(r"^\| `--.*", "", without_output, flags=re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)|https?://\S+", "", CODE.sub("", without_output))
    times = re.findall(r"\b\d+\.\d+ (?:minutes|hours|ms|s)\b", prose)
    decimals = [
        number for number in re.findall(r"(?<![\d.])\d*\.\d+", prose) if len(re.sub(r"^[0.]+|\.", "", number)) > 2
    ]
    others = published()
    return {*times, *(number.lstrip("0") for number in decimals if float(number) not in others)}


WITH_FIGURES = [
    "README.md",
    *(name for name in documents.all_documents() if name.startswith(("docs/", "benchmarks/", "data/"))),
]


def test_every_figure_stands_in_one_place():
    """The other places link to it, so that a new measurement changes one document. README.zh-CN.md is held to README.md."""
    places: dict[str, list[str]] = {}
    for document in WITH_FIGURES:
        for figure in figures(document):
            places.setdefault(figure, []).append(document)
    assert {"2.5 minutes", "11.5 minutes", "25.8 minutes", ".6647", "30.2", "3.26"} <= set(places)
    assert {figure: where for figure, where in places.items() if len(where) > 1} == {}


def test_speed_stands_in_the_benchmarks_alone():
    """Seconds, MiB and ratios of the speed tables are in no other document, not even rounded to whole numbers."""
    speed = read("benchmarks/README.md")
    assert "| ours |" in speed
    for document in ("README.md", "README.zh-CN.md"):
        shown = BLOCK.sub("", read(document))
        assert not re.search(r"× as long|tokens/s|MiB|transformers \d", shown), document


def test_times_of_the_commands_stand_in_the_readmes_alone():
    whole = re.findall(r": (\d+\.\d+ minutes)", BLOCK.findall(section(read("README.md"), "## Two commands"))[0][1])
    assert len(whole) == 2
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "scripts").glob("run_*.sh"))
    assert not re.search(r"\d minutes", scripts)


def test_times_in_the_scripts_help_are_the_readmes():
    """Fails when a step is measured again, or its help has a time of its own."""
    steps = [row for row in table(section(read("README.md"), "## The seven steps")) if row[0] != "1"]
    assert len(steps) == 7
    for number, command, time, _ in steps:
        script = re.search(r"scripts/\S+\.sh", command)[0]
        header = read(script).partition("\nset -")[0]
        assert f" on 2 CPU cores: {time}" in header, script
        rest = header.replace(f"cores: {time}", "")
        assert not re.search(r"\b(seconds|minutes?|hours?|\d+ s)\b", rest), f"{script}: {number}"
    others = [path for path in (ROOT / "scripts").glob("*.sh") if not path.name.startswith(("0", "common"))]
    headers = {path.name: read(f"scripts/{path.name}").partition("\nset -")[0] for path in others}
    assert [name for name, header in headers.items() if re.search(r"\d+ (s|minutes?|hours?)\b", header)] == []


# Flags, dependencies, presets


@pytest.mark.parametrize(("program", "heading"), FLAG_TABLES)
def test_the_flags_are_the_programs_and_the_presets(program, heading):
    """Every flag in the programs' order, with the default of its parser and the value that the preset gives it."""
    shown = documents.flag_rows(table(section(text("flags.md"), heading)))
    assert list(shown.items()) == list(documents.flags_in_fact(program).items())


def test_the_readmes_flags_are_among_them():
    shown = documents.flag_rows(table(section(read("README.md"), "## Flags")))
    known = {**documents.flags_in_fact("gpt2_beam"), **documents.flags_in_fact("gpt2_ft")}
    assert len(shown) > 8
    assert shown == {flag: known.get(flag) for flag in shown}


def test_every_method_has_a_row():
    assert sorted(row[0].strip("`") for row in table(text("methods.md"))) == sorted(methods.CHOICES)


def test_every_requirement_has_its_reason():
    """Fails when a package is added without a row, or twice."""
    rows = [CODE.findall(row[0])[0] for row in table(text("dependencies.md"))]
    assert len(rows) == len(set(rows))
    folders = ("", "tests/", "benchmarks/")
    files = [f"{folder}{path.name}" for folder in folders for path in (ROOT / folder).glob("requirements*.txt")]
    assert len(files) == 4
    required = {name for file in files for name in re.findall(r"^([\w.-]+)==", read(file), re.MULTILINE)}
    assert len(required) > 20
    assert sorted(required - set(rows)) == []


def test_every_preset_has_its_row():
    presets = {path.stem for path in (ROOT / "scripts/presets").glob("*.sh")}
    assert {CODE.findall(row[0])[0] for row in table(text("presets.md"))} == presets


def test_the_documents_name_no_file_that_is_gone():
    """Paths in backquotes that begin with a folder of the project. What runs make lies in other folders."""
    folders = r"(?:src|eval|scripts|tests|benchmarks|docs)"
    for document in documents.all_documents():
        for path in re.findall(rf"`({folders}/[\w./-]+\.\w+)`", read(document)):
            assert (ROOT / path).is_file(), f"{document}: {path}"
