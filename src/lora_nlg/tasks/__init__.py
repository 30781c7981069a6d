"""The tasks: what is learnt. One table, and what a row says.

A new task is a module that reads its texts, a line in TASKS, its tests and a row in docs/ (CONTRIBUTING.md has an example). eval/,
which imports nothing from here, reads a row's names in the task.json that step 2 writes beside the formatted data. No torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_nlg.tasks import dart, e2e, own, triples, webnlg

# A raw file's (input, reference) pairs; a third, where there is one, has further keys of the formatted line.
Raw = Callable[[str | Path], Iterator[tuple[str, str] | tuple[str, str, dict]]]


@dataclass(frozen=True)
class Task:
    """A row: how a task's texts are read, and by which names eval/ knows what its outputs are held against."""

    read_raw: Raw
    check_input: Callable[[str, str], object]  # raises UserError, naming "path:line", for what is no input of the task
    reference_files: bool  # references are numbered files in a folder; else one file, a blank line after each input's
    scorer: str  # the program of step 6
    scores: tuple[str, ...]
    protocols: tuple[str, ...] = ()  # which of the scorer's step 6 asks for; (): it has but one
    decode_flags: tuple[str, ...] = ()  # of gpt2_decode.py in step 5, for what is scored so
    slots: str | None = None  # the rules that count slots; None: its inputs have none
    published: str | None = None  # the figures to compare with
    copied: str | None = None  # the slot whose value every output should hold
    told: Callable[[str, str], dict[str, bool]] | None = None  # of an input and a text: which slots that tells
    input_name: str = "input"  # what people call an input
    example: str = "any text"  # of an input

    @property
    def references(self) -> str:
        """What step 5 calls the references in a work dir: a file, or a folder."""
        return "references" if self.reference_files else "reference.txt"

    def described(self, name: str) -> dict[str, object]:
        """Return what task.json says."""
        names = ("scorer", "scores", "protocols", "references", "decode_flags", "slots", "published", "copied")
        return {"task": name, **{key: getattr(self, key) for key in names}}


def _of_triples(read_raw: Raw, published: str) -> Task:
    """Return the row of WebNLG or DART, which are scored alike: as the recipe's README does today."""
    return Task(
        read_raw,
        triples.check_input,
        reference_files=True,
        scorer="eval/triples/measure_scores.py",
        scores=("BLEU", "METEOR", "TER"),
        protocols=("generation_eval",),
        decode_flags=("--ref_num", "6", "--tokenize", "--lower"),
        published=published,
    )


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
        told=e2e.told,
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
    "webnlg": _of_triples(webnlg.read_raw, "webnlg"),
    "dart": _of_triples(dart.read_raw, "dart"),
}
