"""What the page is about: a run's files, read and checked against each other."""

import os
from dataclasses import dataclass
from pathlib import Path

import curve
import recipe
import run_dir
import task
from run_dir import SYSTEM, errors, files

BASE = "base.txt"  # in the work dir: the outputs of the base alone
GPT2_MEDIUM = (1024, 24)  # width and layers, of the model whose curve is published
VALIDATION_CURVE = "gpt2_md_seed110_valid.tsv"  # beside recipe.CURVE


@dataclass(frozen=True)
class Row:
    """One test input, and what became of it."""

    number: int  # from 1, the line of prediction.txt
    meaning: str  # "name : Blue Spice | Type : coffee shop"
    references: list[str]
    output: str
    of_base: str | None  # what the base alone made of it
    scores: dict[str, float] | None  # by the columns of segments.tsv
    slots: dict | None  # {"missing", "wrong", "invented"} as in slots.json
    seconds: float | None  # of decoding, its share of its batch


@dataclass(frozen=True)
class Published:
    """The published curve, with its validation losses in nats a token by step."""

    curve: curve.Curve
    valid_losses: dict[int, float]


@dataclass(frozen=True)
class Contents:
    """All that the page shows. None stands for a file that is not there (yet)."""

    record: run_dir.Run
    data: Path
    task: task.Task
    comparison: dict | None
    slots: dict | None  # slots.json without its outputs, which are in the rows
    rows: list[Row] | None
    has_segments: bool
    published_curve: Published | None
    departures: list[str]  # why the published curve is not this run's, in words
    sha256: dict[str, str]  # by file name

    @property
    def intervals(self) -> list[dict]:
        """Return the training lines of log.jsonl."""
        return [line for line in self.record.log if "avg_loss" in line]

    @property
    def validations(self) -> list[dict]:
        """Return the validation passes of log.jsonl."""
        return [line["eval"] for line in self.record.log if "eval" in line]

    @property
    def last_step(self) -> int | None:
        """Return the step that the training came to: a finished one ends with a validation. None if the log has no step."""
        return max((line["step"] for line in (*self.intervals, *self.validations)), default=None)


def read(work_dir: Path, data: Path) -> Contents:
    """Read the run in `work_dir` with its test inputs in `data`, the formatted file.

    Raises UserError if scores.json, run.json, log.jsonl or `data` cannot be read, if a file is not what its name promises, or if
    one was made from other outputs than those of prediction.txt.
    """
    of = task.read(data)
    record = run_dir.read_run(work_dir, of.scores)
    run_dir.check_trained(record)
    comparison = run_dir.read_comparison(work_dir, of.scores)
    if comparison is not None and comparison["run"] != run_dir.figures(record.system, of.scores):
        raise errors.UserError(f"{work_dir / 'comparison.json'} is of other scores than scores.json; run step 07 again")
    outputs = run_dir.scored_outputs(work_dir)
    run_dir.check_data(work_dir, of.references, data)
    segments = run_dir.read_segments(work_dir, of.scores)
    slots = run_dir.read_slots(work_dir) if of.slots else None
    marks = None if slots is None else slots.pop("outputs")
    if outputs is not None and marks is not None and len(marks) != len(outputs):
        raise errors.UserError(
            f"{work_dir / 'slots.json'} is of {len(marks)} outputs, but {SYSTEM} has {len(outputs)}; run step 07 again"
        )
    departures = _departures(record, of)
    references = work_dir / of.references
    hashed = [data, work_dir / "beam_prediction.jsonl", work_dir / SYSTEM]
    hashed += sorted(references.iterdir()) if references.is_dir() else [references]
    return Contents(
        record=record,
        data=data,
        task=of,
        comparison=comparison,
        slots=slots,
        rows=_rows(
            run_dir.references_by_input(data),
            outputs,
            _of_base(record),
            segments,
            marks,
            record.decoding.get("input_seconds", []),
        ),
        has_segments=segments is not None,
        published_curve=None if departures else _published_curve(),
        departures=departures,
        sha256={str(path): files.sha256(path) for path in hashed if os.path.exists(path)},
    )


def _of_base(record: run_dir.Run) -> list[str] | None:
    """Return the outputs of the base alone, if they are scored beside the run's."""
    if BASE not in map(run_dir.output_file, record.systems):
        return None
    return run_dir.scored_outputs(record.work_dir, BASE)


def _rows(
    references: dict[str, list[str]],
    outputs: list[str] | None,
    of_base: list[str] | None,
    segments: list[run_dir.Segment] | None,
    marks: list[dict] | None,
    seconds: list[float],
) -> list[Row] | None:
    """Return a Row for each input, or None if there are not as many outputs as inputs."""
    if outputs is None or len(outputs) != len(references):
        return None
    return [
        Row(
            number=i + 1,
            meaning=meaning,
            references=texts,
            output=outputs[i],
            of_base=of_base[i] if of_base is not None and len(of_base) == len(references) else None,
            scores=segments[i].scores if segments is not None else None,
            slots=marks[i] if marks is not None else None,
            seconds=seconds[i] if len(seconds) == len(references) else None,
        )
        for i, (meaning, texts) in enumerate(references.items())
    ]


def _departures(record: run_dir.Run, of: task.Task) -> list[str]:
    """Return why the run cannot have the published curve, which is of the recipe's LoRA on GPT-2 Medium; nothing if it can."""
    if of.published != "e2e":
        return [f"the task {of.name} instead of E2E"]
    width, layers = record.setting("model", "n_embd"), record.setting("model", "n_layer")
    if (width, layers) != GPT2_MEDIUM:
        return [f"a model of {layers} layers of width {width} instead of GPT-2 Medium"]
    if (method := run_dir.method_of(record)) != "lora":
        return [f"{'every parameter' if method == 'full' else run_dir.called(method)} trained instead of LoRA"]
    return recipe.departures(record)


def _published_curve() -> Published | None:
    training = curve.read(recipe.CURVE)
    validation = curve.read_validation(recipe.CURVE.with_name(VALIDATION_CURVE))
    return None if training is None or validation is None else Published(training, validation)
