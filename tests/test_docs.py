"""What the documents say exists: the tests that they name."""

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
