"""The tasks: what is learnt. One table, and what a row says.

A new task is a module that reads its texts, a line in TASKS, its tests and a row in docs/ (CONTRIBUTING.md has an example). eval/,
which imports nothing from here, reads a row's names in the task.json that step 2 writes beside the formatted data. No torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_nlg.tasks import e2e, own


@dataclass(frozen=True)
class Task:
    """A row: how a task's texts are read, and by which names eval/ knows what its outputs are held against."""

    read_raw: Callable[[str | Path], Iterator[tuple[str, str]]]  # a raw file's (input, reference) pairs
    check_input: Callable[[str, str], object]  # raises UserError, naming "path:line", for what is no input of the task
    reference_files: bool  # references are numbered files in a folder; else one file, a blank line after each input's
    scorer: str  # the program of step 6
    scores: tuple[str, ...]
    slots: str | None = None  # the rules that count slots; None: its inputs have none
    published: str | None = None  # the figures to compare with
    copied: str | None = None  # the slot whose value every output should hold
    input_name: str = "input"  # what people call an input
    example: str = "any text"  # of an input

    def described(self, name: str) -> dict[str, object]:
        """Return what task.json says."""
        names = ("scorer", "scores", "slots", "published", "copied")
        return {"task": name, **{key: getattr(self, key) for key in names}}


TASKS = {
    "e2e": Task(
        e2e.read_raw,
        e2e.parse_mr,
        reference_files=False,
        scorer="eval/e2e/measure_scores.py",
        scores=("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"),
        slots="e2e",
        published="e2e",
        copied="name",
        input_name="MR",
        example="name : Blue Spice | Type : coffee shop | area : riverside",
    ),
    "own": Task(
        own.read_raw,
        own.check_input,
        reference_files=False,
        scorer="eval/e2e/measure_scores.py",
        scores=("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"),
    ),
}
