"""What several test files share."""

from pathlib import Path

import pytest

EDGE = Path(__file__).parent / "golden" / "edge"


@pytest.fixture(scope="session")
def edge():
    """The edge corpus scored with three systems in one run: its own, perfect ones, and nothing at all."""
    from metrics import inputs, nist, scores

    groups = inputs.read_references(str(EDGE / "refs.txt")).groups
    own = inputs.read_outputs(str(EDGE / "sys.txt"), inputs.References(groups, None)).texts
    perfect = [group[0] for group in groups]
    return scores.score(groups, [own, perfect, [""] * len(groups)], nist.SEGMENT_MEANS)
