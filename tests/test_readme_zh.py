"""README.zh-CN.md says what README.md says, and what a few of the documents say: commands, steps, tables, figures, parameters."""

import re
from collections import Counter

import pytest

import documents
from documents import BLOCK, CODE, read, section

ENGLISH, CHINESE = read("README.md"), read("README.zh-CN.md")
IN_DOCS = ("adapters", "containers", "flags", "presets", "results", "runs", "sweeps", "troubleshooting")
ALL_ENGLISH = ENGLISH + "".join(read(f"docs/{name}.md") for name in IN_DOCS)
SWITCH = {documents.ON: "开", documents.OFF: "关"}
SECTIONS = [  # both READMEs' sections, in their order
    ("## Two commands", "## 两条命令"),
    ("## The seven steps", "## 七个步骤"),
    ("## Results", "## 结果"),
    ("### What to expect on E2E", "### E2E 上能得到多少分"),
    ("### Real E2E data without GPT-2's weights", "### 真实的 E2E 数据，不用 GPT-2 的权重"),
    ("## Your own data", "## 用自己的数据"),
    ("## As a library", "## 作为库使用"),
    ("## Flags", "## 参数"),
    ("## Where to read on", "## 延伸阅读（英文）"),
    ("## The rooms", "## 文件夹"),
    ("## Licence", "## 许可"),
]
APPENDIX = "## 附：docs/ 里几篇的中文"  # what the English README leaves to docs/, which is in English
PARAMETERS = [("gpt2_ft", "### 训练：`src/gpt2_ft.py`"), ("gpt2_beam", "### 解码：`src/gpt2_beam.py`")]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Return each line of the shell's blocks, continued lines joined, as a command and the numbers of its comment."""
    joined = "\n".join(block.replace("\\\n", " ") for language, block in BLOCK.findall(text) if language == "bash")
    parts = [line.partition("  #") for line in joined.splitlines()]
    return [(" ".join(command.split()), numbers(comment)) for command, _, comment in parts]


def numbers(text: str) -> list[str]:
    """Return the numbers of a text: "16384" of "16 384"."""
    return re.findall(r"\d*\.?\d+", re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "", text))


def headings(text: str) -> list[str]:
    return re.findall(r"^##+ .*$", BLOCK.sub("", text), re.MULTILINE)


def items(text: str) -> list[str]:
    """Return the items of a list, each on one line."""
    return re.sub(r"\n +", " ", text).strip().split("\n- ")


def test_the_sections_are_the_same_in_the_same_order():
    """Then the parameters, in the place of the English table, and what is in docs/ for a reader of English."""
    assert headings(ENGLISH) == [english for english, _ in SECTIONS]
    here, _, appendix = CHINESE.partition(f"\n{APPENDIX}\n")
    assert [heading for heading in headings(here) if heading not in dict(PARAMETERS).values()] == [
        chinese for _, chinese in SECTIONS
    ]
    assert len(headings(appendix)) > 3


def part(readme: str, heading: str) -> str:
    """Return what is under a heading; under none, what stands before the first one."""
    return section(readme, heading) if heading else readme.partition("\n## ")[0]


def targets(text: str) -> list[str]:
    """Return where the links lead, but for the one from each README to the other."""
    return sorted(set(documents.links(text)) - {"README.md", "README.zh-CN.md"})


def words(text: str) -> str:
    """Return a text without its blocks, where its links lead, and the names in backquotes."""
    return re.sub(r"\]\([^)]*\)", "]", CODE.sub("", BLOCK.sub("", text)))


@pytest.mark.parametrize(("english", "chinese"), [("", ""), *SECTIONS])
def test_a_section_says_as_much_as_the_other(english, chinese):
    """Fails when a command or link is in one alone, or a name or number in the English alone; the Chinese may say more."""
    one, other = part(ENGLISH, english), part(CHINESE, chinese)
    assert commands(one) == commands(other)
    assert targets(one) == targets(other)
    assert set(CODE.findall(BLOCK.sub("", one))) <= set(CODE.findall(BLOCK.sub("", other)))
    assert not Counter(numbers(words(one))) - Counter(numbers(words(other)))


def test_the_two_commands_are_the_first():
    assert len(commands(section(ENGLISH, "## Two commands"))) > 5
    first = BLOCK.findall(CHINESE)[0][1]
    assert [line.split("  ")[0] for line in first.splitlines()][1:] == [
        "bash scripts/run_all.sh",
        "bash scripts/test.sh",
    ]


def test_every_command_is_in_the_english_documents():
    known = {command for command, _ in commands(ALL_ENGLISH)}
    assert [command for command, _ in commands(CHINESE) if command not in known] == []


def test_what_programs_print_is_in_the_english_readme():
    tree = section(CHINESE, "## 文件夹")
    printed = [block for language, block in BLOCK.findall(CHINESE.replace(tree, "")) if language != "bash"]
    assert len(printed) > 1
    assert [block for block in printed if block not in ENGLISH] == []


def test_every_name_in_the_text_is_in_the_english_documents():
    """Files, programs, presets, flags and commands in backquotes; parameters are compared with the programs below."""
    text = BLOCK.sub("", CHINESE.replace(section(CHINESE, "## 参数"), ""))
    assert len(set(CODE.findall(text))) > 50
    assert sorted({name for name in CODE.findall(text) if name not in ALL_ENGLISH}) == []


@pytest.mark.parametrize(
    ("document", "english", "chinese"),
    [
        ("README.md", "## The seven steps", "## 七个步骤"),
        ("README.md", "### What to expect on E2E", "### E2E 上能得到多少分"),
        ("README.md", "### Real E2E data without GPT-2's weights", "### 真实的 E2E 数据，不用 GPT-2 的权重"),
        ("docs/presets.md", "# Presets", "### 预设"),
    ],
)
def test_tables_have_the_same_rows(document, english, chinese):
    """The names in backquotes and the numbers of each row, in order."""
    rows = [
        [
            (CODE.findall(row), numbers(CODE.sub("", row)))
            for row in map(" | ".join, documents.table(section(text, heading)))
        ]
        for text, heading in (("\n" + read(document), english), (CHINESE, chinese))
    ]
    assert rows[0] == rows[1]


def test_the_rooms_are_the_same():
    trees = [BLOCK.findall(section(*where))[0][1] for where in ((ENGLISH, "## The rooms"), (CHINESE, "## 文件夹"))]
    names = [[line.partition("/")[0] for line in tree.splitlines()] for tree in trees]
    assert len(names[0]) > 15
    assert names[0] == names[1]


def test_trouble_shooting_has_the_same_items():
    """As many, with the same names in backquotes; the numbers of the symptoms are the same."""
    _, _, english = read("docs/troubleshooting.md").partition("# Trouble shooting\n")
    chinese = section(CHINESE, "### 常见问题")
    assert len(items(english)) == len(items(chinese)) > 8
    for one, other in zip(items(english), items(chinese), strict=True):
        assert CODE.findall(one) == CODE.findall(other)
        assert numbers(one.split("**")[1]) == numbers(other.split("**")[1])


@pytest.mark.parametrize(("program", "heading"), PARAMETERS)
def test_parameters_have_the_programs_defaults_and_the_presets_values(program, heading):
    shown = documents.flag_rows(documents.table(section(CHINESE, heading)))
    in_fact = {
        flag.split()[0]: tuple(SWITCH.get(value, value) for value in values)
        for flag, values in documents.flags_in_fact(program).items()
    }
    assert shown == {flag: in_fact.get(flag) for flag in shown}
    by_scripts = {"--model_card", "--init_checkpoint", "--compare_curve"}
    assert set(documents.of_preset("e2e_gpt2_md")[program]) - by_scripts <= set(shown)


def test_the_english_readmes_flags_are_among_the_parameters():
    shown = set().union(*(documents.flag_rows(documents.table(section(CHINESE, heading))) for _, heading in PARAMETERS))
    assert set(documents.flag_rows(documents.table(section(ENGLISH, "## Flags")))) <= shown


def test_both_link_to_each_other():
    """Where links lead is checked for all documents in test_docs.py."""
    assert "](README.zh-CN.md)" in ENGLISH and "](README.md)" in CHINESE
    assert len(targets(ENGLISH)) > 15
