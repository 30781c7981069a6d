"""README.zh-CN.md says what README.md says: commands, steps, presets, figures, parameters and trouble shooting."""

import csv
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
SWITCH = {"False": "关", "": "—", "[]": "—"}  # how defaults of flags.tsv are shown, where not as they are


def section(text: str, heading: str) -> str:
    """Return what is under a heading, down to the next of its rank or above."""
    level = heading.split(" ")[0]
    _, _, rest = text.partition(f"\n{heading}\n")
    assert rest, f"there is no {heading}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Return each line of the shell's blocks, continued lines joined, as a command and the numbers of its comment."""
    joined = "\n".join(block.replace("\\\n", " ") for language, block in BLOCK.findall(text) if language == "bash")
    parts = [line.partition("  #") for line in joined.splitlines()]
    return [(" ".join(command.split()), numbers(comment)) for command, _, comment in parts]


def numbers(text: str) -> list[str]:
    """Return the numbers of a text: "16384" of "16 384"."""
    return re.findall(r"\d*\.?\d+", re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "", text))


def table(text: str) -> list[str]:
    """Return the rows of the first table of a text, without its head."""
    return re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()[2:]


def items(text: str) -> list[str]:
    """Return the items of a list, each on one line."""
    return re.sub(r"\n +", " ", text).strip().split("\n- ")


def test_the_two_commands_are_the_same():
    assert len(commands(CHINESE)) > 8
    assert commands(CHINESE)[:5] == commands(ENGLISH)[:5]
    first = BLOCK.findall(CHINESE)[0][1]
    assert [line.split("  ")[0] for line in first.splitlines()] == ["bash scripts/run_all.sh", "bash scripts/test.sh"]


def test_every_command_is_in_the_english_readme():
    known = {command for command, _ in commands(ENGLISH)}
    assert [command for command, _ in commands(CHINESE) if command not in known] == []


def test_what_programs_print_is_in_the_english_readme():
    printed = [block for language, block in BLOCK.findall(CHINESE) if language != "bash"]
    assert printed
    assert [block for block in printed if block not in ENGLISH] == []


def test_every_name_in_the_text_is_in_the_english_readme():
    """Files, programs, presets, flags and commands in backquotes; parameters are compared with the programs below."""
    text = BLOCK.sub("", CHINESE.replace(section(CHINESE, "## 参数说明"), ""))
    assert len(set(CODE.findall(text))) > 50
    assert sorted({name for name in CODE.findall(text) if name not in ENGLISH}) == []


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("## The seven steps", "## 七个步骤"),
        ("### Presets", "### 预设"),
        ("### What to expect on E2E", "## 能得到多少分"),
    ],
)
def test_tables_have_the_same_rows(english, chinese):
    """The names in backquotes and the numbers of each row, in order."""
    rows = [
        [(CODE.findall(row), numbers(CODE.sub("", row))) for row in table(section(text, heading))]
        for text, heading in ((ENGLISH, english), (CHINESE, chinese))
    ]
    assert rows[0] == rows[1]


def test_trouble_shooting_has_the_same_items():
    """As many, with the same names in backquotes; the numbers of the symptoms are the same."""
    english, chinese = items(section(ENGLISH, "## Trouble shooting")), items(section(CHINESE, "## 常见问题"))
    assert len(english) == len(chinese) > 8
    for one, other in zip(english, chinese, strict=True):
        assert CODE.findall(one) == CODE.findall(other)
        assert numbers(one.split("**")[1]) == numbers(other.split("**")[1])


def of_preset(name: str) -> dict[str, dict[str, str]]:
    """Return what a preset gives to training and decoding: values by flag, "开" of a switch."""
    script = f'source scripts/presets/{name}.sh; echo "${{LORA[*]}} ${{TRAIN[*]}}"; echo "${{DECODE[*]}}"'
    lines = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [dict(re.findall(r"(--\w+)(?: ([^-\s]\S*))?", line)) for line in lines.splitlines()]
    return {
        program: {flag: value or "开" for flag, value in values.items()}
        for program, values in zip(("gpt2_ft", "gpt2_beam"), found, strict=True)
    }


@pytest.mark.parametrize(
    ("program", "heading"),
    [("gpt2_ft", "### 训练：`src/gpt2_ft.py`"), ("gpt2_beam", "### 解码：`src/gpt2_beam.py`")],
)
def test_parameters_have_the_programs_defaults_and_the_presets_values(program, heading):
    with open(ROOT / "tests/flags.tsv", encoding="utf-8", newline="") as file:
        of_program = [row for row in csv.DictReader(file, delimiter="\t") if row["program"] == program]
    defaults = {row["flag"]: SWITCH.get(row["default"], row["default"]) for row in of_program}
    preset = of_preset("e2e_gpt2_md")[program]
    shown = {}
    for row in table(section(CHINESE, heading)):
        flag, default, value, meaning = row.strip("| ").split(" | ")
        shown[flag.strip("`")] = (default, value)
        assert meaning
    assert shown == {flag: (defaults.get(flag), preset.get(flag, "—")) for flag in shown}
    assert set(preset) <= set(shown)


def test_both_link_to_each_other_and_all_links_lead_somewhere():
    assert "](README.zh-CN.md)" in ENGLISH and "](README.md)" in CHINESE
    links = re.findall(r"\]\(([^)]+)\)", CHINESE + ENGLISH)
    local = [link for link in links if not link.startswith("https://")]
    assert len(local) > 5
    assert [link for link in local if not (ROOT / link).is_file()] == []
