"""Which task a data set is of, and what of eval/ applies to it: task.json beside the formatted data, which step 02 writes."""

import os
from dataclasses import dataclass
from pathlib import Path

import run_dir

FILE = "task.json"
SHAPE = {
    "task": str,
    "scorer": str,
    "scores": [str],
    "protocols?": [str],
    "references?": str,
    "decode_flags?": [str],
    "slots": (str, None),
    "published": (str, None),
    "copied": (str, None),
}


@dataclass(frozen=True)
class Task:
    """One task. The defaults are E2E's, which data without a task.json is of."""

    name: str = "e2e"
    scorer: str = "eval/e2e/measure_scores.py"  # the program that scores it
    scores: tuple[str, ...] = run_dir.METRICS  # in scores.json; the first is the one that is talked about
    slots: str | None = "e2e"  # the rules that find slots, see slots.RULES; None: it has no slots to count
    published: str | None = "e2e"  # the scores to hold a run against, see published.TABLES; None: there are none
    copied: str | None = "name"  # the slot whose value an output should hold word for word; None: there is none
    protocols: tuple[str, ...] = ()  # which of the scorer's are asked for; (): it has but one
    references: str = "reference.txt"  # in a work dir: a file, or a folder of files
    decode_flags: tuple[str, ...] = ()  # with which its outputs were made texts


def read(formatted: Path) -> Task:
    """Return the task of a formatted file. Raises UserError if the task.json beside it is damaged."""
    path = formatted.parent / FILE
    if not os.path.exists(path):
        return Task()
    fields = run_dir.read_object(path, SHAPE, "02")
    if not fields["scores"]:
        raise run_dir.damaged(f"{path}: it names no scores", "02")
    return Task(
        name=fields["task"],
        scorer=fields["scorer"],
        scores=tuple(fields["scores"]),
        slots=fields["slots"],
        published=fields["published"],
        copied=fields["copied"],
        protocols=tuple(fields.get("protocols", ())),
        references=fields.get("references", Task.references),
        decode_flags=tuple(fields.get("decode_flags", ())),
    )
