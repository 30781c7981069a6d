"""What the documents say exists: the tests and the files that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def text(document: str) -> str:
    return (ROOT / "docs" / document).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", ["recipe.md", "reliability.md", "lora.md"])
def test_every_test_that_is_named_exists(document):
    """Fails when a test is renamed."""
    named = NAMED.findall(text(document))
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} has no {test}"


def test_every_quirk_has_a_test():
    rows = [line for line in text("recipe.md").splitlines() if line.startswith("| ")]
    quirks = [row for row in rows if not row.startswith("| The recipe |")]
    assert len(quirks) > 40
    assert all(NAMED.search(row) for row in quirks)


def table_of_files() -> list[str]:
    """Return the paths in the first column of README's table "What runs"."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What runs\n")[1].split("\n## ")[0]
    first_cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    return [path for cell in first_cells for path in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("folder", ["src", "eval", "scripts"])
def test_every_file_that_runs_is_in_the_readmes_table(folder):
    """Fails when a file is added without its line. Presets have a table of their own, and the numbered steps a common line."""
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    apart = re.compile(r"__pycache__|__init__\.py$|scripts/presets/|scripts/0\d_\w+\.sh$|paraphrases\.npz$")
    expected = {path for path in files if not apart.search(path)}
    assert expected and expected - set(table_of_files()) == set()


def test_every_file_in_the_readmes_table_exists_and_is_there_once():
    named = table_of_files()
    assert len(named) == len(set(named)) > 40
    assert [path for path in named if not list(ROOT.glob(path))] == []
