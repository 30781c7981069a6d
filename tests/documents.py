"""How the tests of documents read them: sections, tables, code, links; and what the programs and presets say about flags."""

import argparse
import importlib
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
NONE, ON, OFF = "—", "on", "off"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def all_documents() -> list[str]:
    """Return every Markdown file of the project, as a path from its root; what is made by runs and set-up is none."""
    made = {".venv", ".git", "build", "node_modules"}
    found = [path.relative_to(ROOT) for path in ROOT.rglob("*.md")]
    results = [path for path in found if path.parts[0] == "trained_models" and path.name != "README.md"]
    return sorted(path.as_posix() for path in found if not made & set(path.parts) and path not in results)


def section(text: str, heading: str) -> str:
    """Return what is under a heading, down to the next of its rank or above."""
    level = heading.split(" ")[0]
    _, _, rest = text.partition(f"\n{heading}\n")
    assert rest, f"there is no {heading}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def table(text: str) -> list[list[str]]:
    """Return the cells of the rows of the first table of a text, without its head."""
    rows = re.search(r"(?:^\|.*\n?)+", text, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip()[1:-1])] for row in rows]


def shown(value: object) -> str:
    """Return how a default is written in a table."""
    if isinstance(value, bool):
        return ON if value else OFF
    return NONE if value in (None, []) else str(value)


def defaults(program: str) -> dict[str, str]:
    """Return a program's defaults as tables show them, by the flag's spellings with a space between them."""
    actions = importlib.import_module(program).parser()._actions
    flags = [action for action in actions if not isinstance(action, argparse._HelpAction)]
    return {" ".join(flag.option_strings): "required" if flag.required else shown(flag.default) for flag in flags}


def of_preset(name: str) -> dict[str, dict[str, str]]:
    """Return what a preset gives to training and decoding: values by flag, ON for a switch."""
    script = f"""source scripts/presets/{name}.sh
        echo "--model_card $CARD --init_checkpoint $BASE ${{CURVE:+--compare_curve $CURVE}} ${{LORA[*]}} ${{TRAIN[*]}}"
        echo "--model_card $CARD --init_checkpoint $BASE ${{DECODE[*]}}" """
    lines = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [dict(re.findall(r"(--\w+)(?: ([^-\s]\S*))?", line)) for line in lines.splitlines()]
    return {
        program: {flag: value or ON for flag, value in values.items()}
        for program, values in zip(("gpt2_ft", "gpt2_beam"), found, strict=True)
    }


def flag_rows(rows: list[list[str]]) -> dict[str, tuple[str, str]]:
    """Return the default and the preset's value that a table of flags shows, by the flag's spellings with a space between them."""
    assert all(len(row) == 4 and row[3] for row in rows)
    return {" ".join(CODE.findall(row[0])): (row[1], row[2]) for row in rows}


def flags_in_fact(program: str, preset: str = "e2e_gpt2_md") -> dict[str, tuple[str, str]]:
    """Return what flag_rows should find for every flag of a program."""
    given = of_preset(preset)[program]
    return {flag: (default, given.get(flag.split()[0], NONE)) for flag, default in defaults(program).items()}


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+?) *$", BLOCK.sub("", text), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).lower()).replace(" ", "-")
        found.add(next(name for name in (anchor, *(f"{anchor}-{i}" for i in range(1, 99))) if name not in found))
    return found


def links(text: str) -> list[str]:
    """Return where a document's links and pictures lead."""
    return re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text))
