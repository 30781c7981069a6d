"""Whether a run's scores are on the scale of the published ones: its base, its test set, its references."""

from dataclasses import dataclass

from run_dir import Run

MODELS = {(768, 12): "GPT-2 S", (1024, 24): "GPT-2 M", (1280, 36): "GPT-2 L"}  # by width and layers
REFERENCES = (
    "cda3fdb4ce7f50ed7926e9e5c98e311b83b221f5b6cdb93ef97cc3c664334cc4"  # sha256 of E2E's, as step 5 writes them
)


@dataclass(frozen=True)
class TestSet:
    """What published scores are of."""

    name: str
    inputs: int
    references: tuple[str, ...]  # sha256, see metrics.results.references_sha256
    ours: str  # what they are, in words


# Of triples: six references as step 5 writes them, and all of the formatted file
TRIPLES = "those of step 5 or the formatted test file"
TEST_SETS = {
    "e2e": TestSet("E2E", 630, (REFERENCES,), "the recipe's tokenised ones, the official ones for example"),
    "webnlg": TestSet(
        "WebNLG",
        1862,
        (
            "216ce839e7f4423f9c44c867c21065a7b9ec8cc3f518c52b0f2003cf08c3f67b",
            "c500d8fdc511dd8e74e69cb9c995560b48b4ce7cd2b0e247560adda4f31c9cb0",
        ),
        TRIPLES,
    ),
    "dart": TestSet(
        "DART",
        4159,
        (
            "aaeaf9f8a51866d00e4806244bbda30822449a0117824ece4536009775faec4d",
            "50d8243ac92cf13df6ed7cdaa084cb8ab34fc7b3e37acc0a171be9cc46ee0a0f",
        ),
        TRIPLES,
    ),
}


def model(run: Run) -> str | None:
    """Return which GPT-2 the run's model has the shape of, None if none that anything is published for."""
    return MODELS.get((run.setting("model", "n_embd"), run.setting("model", "n_layer")))


def why_not(run: Run, inputs: int | None = None, of: str = "e2e") -> str | None:
    """Return, in words, why the run's scores are not on the scale of the published ones of a task; None if they are."""
    reasons = [_of_base(run), _of_test_set(run, inputs, TEST_SETS[of])]
    return ", and ".join(filter(None, reasons)) or None


def _of_base(run: Run) -> str | None:
    width, layers = run.setting("model", "n_embd"), run.setting("model", "n_layer")
    if width is None:
        return "there is no run.json that says how it was trained"
    if model(run) is None:
        return f"its base, {layers} layers of width {width}, is not one of {', '.join(MODELS.values())}"
    if "--init_checkpoint random" in " ".join(run.training.get("argv", [])).replace("=", " "):
        return "its base has random weights"
    return None


def _of_test_set(run: Run, inputs: int | None, tests: TestSet) -> str | None:
    scored = run.signature.get("segments", run.signature.get("inputs"))  # those of a part have both
    known = run.signature.get("references_sha256")
    if scored != tests.inputs and inputs == tests.inputs:
        return f"only {scored} of the test set's {tests.inputs} inputs are scored"
    if scored != tests.inputs:
        return f"it is scored on {scored} inputs that are not {tests.name}'s {tests.inputs}"
    if known is None:
        return "scores.json does not say which references it is of; run step 06 again"
    if known not in tests.references:
        return f"it is scored with other references than {tests.ours}"
    return None


SCALE = {  # choices of the scorer that all runs of one table must share, as scores.json calls them
    "segments": "numbers of inputs",
    "inputs": "numbers of inputs",
    "references_sha256": "references",
    "protocol": "protocols",
    "nist_reference_length": "lengths of NIST's references",
}


def why_not_beside(first: Run, other: Run) -> str | None:
    """Return, in words, why the scores of two runs are not on one scale, as "other references"; None if they are."""
    for name, words in SCALE.items():
        if first.signature.get(name) != other.signature.get(name):
            return f"other {words}"
    return None
