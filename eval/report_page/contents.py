"""What the page is about: a run's files, read and checked against each other."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import recipe
import run_dir
from run_dir import errors, files

SYSTEM = "prediction.txt"  # what the run is about; base.txt stands beside it in the scores
GPT2_MEDIUM = (1024, 24)  # width and layers, of the model whose curve is published
VALIDATION_CURVE = "gpt2_md_seed110_valid.tsv"  # beside recipe.CURVE


@dataclass(frozen=True)
class Row:
    """One test input, and what became of it."""

    number: int  # from 1, the line of prediction.txt
    meaning: str  # "name : Blue Spice | Type : coffee shop"
    references: list[str]
    output: str
    scores: dict[str, float] | None  # by the columns of segments.tsv
    slots: dict | None  # {"missing", "wrong", "invented"} as in slots.json
    seconds: float | None  # of decoding, its share of its batch


@dataclass(frozen=True)
class Curve:
    """Losses in nats a token and learning rates over steps (micro-batches)."""

    steps: list[int]
    losses: list[float]  # mean over the interval that ends at the step
    rates: list[float]
    valid_steps: list[int]
    valid_losses: list[float]


@dataclass(frozen=True)
class Contents:
    """All that the page shows. None stands for a file that is not there (yet)."""

    record: run_dir.Run
    data: Path
    systems: list[dict]  # of scores.json
    comparison: dict | None
    slots: dict | None  # slots.json without its outputs, which are in the rows
    rows: list[Row] | None
    has_segments: bool
    published_curve: Curve | None
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
    record = run_dir.read_run(work_dir)
    for name, known in (("run.json", record.training), ("log.jsonl", record.log)):
        if not known:
            raise errors.UserError(f"{work_dir / name} does not exist or is empty; run step 03, the training, first")
    comparison = _if_there(work_dir / "comparison.json", _json)
    if comparison is not None and comparison["run"] != record.system["scores"]:
        raise errors.UserError(f"{work_dir / 'comparison.json'} is of other scores than scores.json; run step 07 again")
    outputs = _if_there(work_dir / SYSTEM, _lines)
    segments = _if_there(work_dir / "segments.tsv", _table)
    slots = _if_there(work_dir / "slots.json", _json)
    marks = None if slots is None else slots.pop("outputs")
    if outputs is not None:
        if segments is not None and [row["sys_out"] for row in segments] != [files.one_line(text) for text in outputs]:
            raise errors.UserError(f"{work_dir / 'segments.tsv'} is of other outputs than {SYSTEM}; run step 06 again")
        if marks is not None and len(marks) != len(outputs):
            raise errors.UserError(
                f"{work_dir / 'slots.json'} is of {len(marks)} outputs, but {SYSTEM} has {len(outputs)}; run step 07 again"
            )
    departures = _departures(record)
    hashed = [data, *(work_dir / name for name in ("beam_prediction.jsonl", SYSTEM, "reference.txt"))]
    return Contents(
        record=record,
        data=data,
        systems=_json(work_dir / "scores.json")["systems"],
        comparison=comparison,
        slots=slots,
        rows=_rows(data, outputs, segments, marks, record.decoding.get("input_seconds", [])),
        has_segments=segments is not None,
        published_curve=None if departures else _published_curve(),
        departures=departures,
        sha256={str(path): files.sha256(path) for path in hashed if path.exists()},
    )


def _rows(
    data: Path, outputs: list[str] | None, segments: list[dict] | None, marks: list[dict] | None, seconds: list[float]
) -> list[Row] | None:
    """Return a Row for each distinct input of `data`, or None if there are not as many outputs as inputs."""
    references: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(data), 1):
        example = _parsed(line, f"{data}:{number}")
        if not {"context", "completion"} <= example.keys():
            raise errors.UserError(
                f"{data}:{number}: expected a context and a completion; give the formatted test file"
            )
        references.setdefault(example["context"], []).append(example["completion"])
    if outputs is None or len(outputs) != len(references):
        return None
    return [
        Row(
            number=i + 1,
            meaning=meaning,
            references=texts,
            output=outputs[i],
            scores={name: float(segments[i][name]) for name in list(segments[i])[2:]} if segments is not None else None,
            slots=marks[i] if marks is not None else None,
            seconds=seconds[i] if len(seconds) == len(references) else None,
        )
        for i, (meaning, texts) in enumerate(references.items())
    ]


def _departures(record: run_dir.Run) -> list[str]:
    """Return why the run cannot have the published curve, which is of the recipe's LoRA on GPT-2 Medium; nothing if it can."""
    width, layers = record.setting("model", "n_embd"), record.setting("model", "n_layer")
    if (width, layers) != GPT2_MEDIUM:
        return [f"a model of {layers} layers of width {width} instead of GPT-2 Medium"]
    if not record.setting("lora", "rank"):
        return ["every parameter trained instead of LoRA"]
    return recipe.departures(record)


def _published_curve() -> Curve | None:
    """Return the first of the two published runs; the second agrees with it within 0.01 everywhere."""
    training = _if_there(recipe.CURVE, _table)
    validation = _if_there(recipe.CURVE.with_name(VALIDATION_CURVE), _table)
    if training is None or validation is None:
        return None
    return Curve(
        steps=[int(row["step"]) for row in training],
        losses=[float(row["avg_loss_a"]) for row in training],
        rates=[float(row["lr"]) for row in training],
        valid_steps=[int(row["step"]) for row in validation],
        valid_losses=[float(row["A_valid_loss"]) for row in validation],
    )


def _if_there(path: Path, read_it: Callable):
    return read_it(path) if path.exists() else None


def _json(path: Path) -> dict:
    return _parsed(files.read(path), str(path))


def _parsed(text: str, where: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise errors.UserError(f"{where}: not JSON ({error}); run the step that makes it again") from error
    if not isinstance(value, dict):
        raise errors.UserError(f"{where}: expected a JSON object; run the step that makes it again")
    return value


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in files.read(path).removesuffix("\n").split("\n")]


def _table(path: Path) -> list[dict[str, str]]:
    """Return a TSV's rows by its header; cells have no quotes."""
    header, *rows = (line.split("\t") for line in files.read(path).removesuffix("\n").split("\n"))
    for number, cells in enumerate(rows, 2):
        if len(cells) != len(header):
            raise errors.UserError(f"{path}:{number}: expected {len(header)} cells, found {len(cells)}")
    return [dict(zip(header, cells, strict=True)) for cells in rows]
