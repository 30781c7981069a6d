"""What the documents say exists: tests named in tables."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_every_test_named_in_the_quirk_table_exists():
    """Fails when a test is renamed or a row has none."""
    rows = [
        line for line in (ROOT / "docs/recipe.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    quirks = [row for row in rows if not row.startswith("| The recipe |")]
    assert len(quirks) > 40
    for row in quirks:
        file, test = NAMED.search(row).groups()
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} has no {test}"
