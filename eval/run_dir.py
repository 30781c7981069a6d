"""A run's folder, as all programs of eval/ read it: records, log, scores, texts and the formatted data they are of.

Each file is what its name promises, or a UserError names it, its line, what is wrong with it and the step that makes it again.
"""

import json
import math
import os
import re
import statistics
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrics import METRICS, errors, files
from shape import Loss, fault

SYSTEM = "prediction.txt"  # the run's own outputs; base.txt stands beside it in the scores
SEGMENTS = {SYSTEM: "segments.tsv", "base.txt": "base_segments.tsv"}  # step 6's scores of each output
SPLITS = {"Unseen": "_U", "Seen": "_S"}  # WebNLG's halves in scores.json, and how the columns of their scores end
METHODS = {  # what published tables call a method; another is called by its own name. All but full are sections of settings
    "lora": "LoRA",
    "full": "fine-tuning",
    "dora": "DoRA",
    "vera": "VeRA",
    "fourier": "FourierFT",
    "ia3": "IA3",
    "bias": "BitFit",
    "top2": "FT-Top2",
    "prefix_embed": "PreEmbed",
    "prefix_layer": "PreLayer",
    "prefix_kv": "prefix of keys and values",
    "adapter_h": "Adapter-H",
    "adapter_l": "Adapter-L",
    "lora+prefix_embed": "LoRA and PreEmbed",
    "lora+prefix_layer": "LoRA and PreLayer",
    "lora+prefix_kv": "LoRA and a prefix of keys and values",
}
RANK = (int, {str: int}, None)
# What the steps leave in a work dir, as patterns: no program of eval/ writes over a file that another one has made.
WRITTEN = (
    *("*.pt", "*.safetensors", "run.json", "log.jsonl", "saves.json", "beam_*", "prediction.txt*", "base.txt*"),
    *("reference.txt", "references/*", "scores.json", "*segments.tsv", "comparison.json", "slots.json"),
)  # fmt: skip

# What the programs use of each file; all else in it is free. Sections of settings are null where there is nothing to set.
SIGNATURE = {
    "segments?": int,  # how many are scored; the scorer of triples says it of a part alone
    "inputs?": int,  # how many there are
    "references?": int,
    "protocol?": str,
    "references_sha256?": (str, None),
    "nist_reference_length?": str,
    "sha256?": {str: str},
}
TIMES = {"argv?": [str], "seconds?": float, "peak_memory?": {str: float, "host_mib": float}}
TRAINING = {
    **TIMES,
    "settings?": {
        "model?": ({"n_embd": int, "n_layer": int}, None),
        **{f"{name}?": ({"rank?": RANK}, None) for name in METHODS},
        "lora?": ({"rank?": RANK, "alpha?": float, "targets?": ([str], None)}, None),
        "optim?": ({"max_step?": (int, None), "grad_acc?": int}, None),
        "train?": (
            {"train_batch_size?": int, "random_seed?": int, "log_interval?": int, "label_smooth?": float},
            None,
        ),
        "base?": ({"sha256?": (str, None)}, None),
        "train_data?": (str, None),
        "world_size?": int,
        "device?": str,
    },
    "versions?": dict,
    "commit?": (str, None),
    "method?": str,  # left out by earlier trainings
    "trained_parameters?": int,
    "valid_loss?": Loss,
}
DECODING = {
    **TIMES,
    "settings?": {
        "search?": ({"beam?": int, "length_penalty?": float}, None),
        "weights?": (str, None),
        "data?": (str, None),
        "world_size?": int,
    },
    "input_seconds?": [float],
}
LOG_LINE = {
    "step?": int,
    "ms_per_batch?": float,
    "eval?": {"step": int, "valid_loss": Loss, "seconds?": float},
    "early_stop?": {"step": int},
}
INTERVAL = {"step": int, "lr": float, "avg_loss": Loss, "ms_per_batch": float, "tokens_per_s": float}
COMPARISON_ROW: dict[str, Any] = {
    **dict.fromkeys(("system", "kind", "source", "method?", "protocol?"), str),
    "is_judge?": bool,
    "deviations?": {str: float},
}
COMPARISON = {
    "comparable": bool,
    "why_not": (str, None),
    "verdict": str,
    "notes?": [str],
    "columns?": [str],
    "band": ([float, float], None),
    "run": {str: float},
}
SLOTS = {
    **dict.fromkeys(("inputs", "slots", "missing", "wrong", "invented"), int),
    "slot_error_rate": float,
    "outputs": [
        {
            "missing": [str],
            "wrong": [{"slot": str, "expected": str, "found": str}],
            "invented": [{"slot": str, "found": str}],
        }
    ],
}


@dataclass(frozen=True)
class Run:
    """What is known of a run. A record that is not there is empty."""

    work_dir: Path
    system: dict  # scores.json's entry of prediction.txt: "scores" and, with --bootstrap, "intervals"
    signature: dict  # scores.json's
    training: dict  # run.json
    decoding: dict  # beam_prediction.run.json
    log: list[dict]  # log.jsonl
    systems: Sequence[dict] = ()  # all entries of scores.json

    def setting(self, section: str, name: str) -> Any:
        """Return one setting of the training or, of the section "search", of the decoding; None if it is not recorded."""
        record = self.decoding if section == "search" else self.training
        return (record.get("settings", {}).get(section) or {}).get(name)


@dataclass(frozen=True)
class Segment:
    """One line of segments.tsv."""

    output: str
    scores: dict[str, float]  # by its columns


def read_run(work_dir: Path, metrics: Sequence[str] = METRICS) -> Run:
    """Read what is in `work_dir`, with `metrics` for its scores. Raises UserError if there are none, or a file is damaged."""
    path = work_dir / "scores.json"
    if not os.path.exists(path):
        raise errors.UserError(f"{path} does not exist; run bash scripts/06_evaluate.sh --work_dir {work_dir} first")
    entry = {
        "file": str,
        "empty_outputs?": int,
        "scores": dict.fromkeys(metrics, float),
        "splits?": {str: {"scores": dict.fromkeys(metrics, float)}},
        "intervals?": {metric: [float, float] for metric in metrics},
    }
    scored = _record(path, {"systems": [entry], "signature?": SIGNATURE}, "06")
    own = [system for system in scored["systems"] if output_file(system) == SYSTEM]
    if len(own) != 1:
        raise errors.UserError(f"{path} has no scores of one {SYSTEM}; run step 06 again")
    if len(set(map(output_file, scored["systems"]))) < len(scored["systems"]):
        raise errors.UserError(f"{path} has scores of two files of one name; run step 06 again")
    return Run(
        work_dir,
        own[0],
        scored.get("signature", {}),
        _record(work_dir / "run.json", TRAINING, "03"),
        _record(work_dir / "beam_prediction.run.json", DECODING, "04"),
        _log(work_dir / "log.jsonl"),
        scored["systems"],
    )


def check_outputs(
    outputs: Iterable[Path | str | None], work_dirs: Iterable[Path], inputs: Iterable[Path | None] = (), made: str = ""
) -> None:
    """Raise UserError, before any work is done, for an output that cannot be written or would take the place of something.

    That is one of `inputs`, or a file of a work dir but the one that this program has `made` there. None is no file.
    """
    found = [path for folder in work_dirs for pattern in WRITTEN for path in folder.glob(pattern) if path.name != made]
    files.check_outputs([path for path in outputs if path is not None], [*found, *filter(None, inputs)])


def output_file(system: dict) -> str:
    """Return the name, in the work dir, of the outputs that an entry of scores.json is of: the folder may have been copied."""
    return Path(system["file"]).name


def figures(system: dict, metrics: Sequence[str]) -> dict[str, float]:
    """Return the scores of an entry of scores.json by column: BLEU and, where there are halves, BLEU_U and BLEU_S."""
    parts = [("", system), *((end, system.get("splits", {}).get(name)) for name, end in SPLITS.items())]
    return {metric + end: part["scores"][metric] for metric in metrics for end, part in parts if part}


def columns(metrics: Sequence[str], known: Container[str]) -> list[str]:
    """Return the columns of a table of scores: BLEU_U, BLEU_S, BLEU where halves are among the `known` ones, else BLEU alone."""
    ends = [*SPLITS.values(), ""] if any(f"{metrics[0]}{end}" in known for end in SPLITS.values()) else [""]
    return [metric + end for metric in metrics for end in ends]


def method_of(run: Run) -> str:
    """Return what the run trained, as --method has it. Earlier records say it by their sections: full is LoRA of rank 0."""
    if "method" in run.training:
        return run.training["method"]
    settings = run.training.get("settings", {})
    others = [name for name in METHODS if name not in ("lora", "full") and settings.get(name) is not None]
    return others[0] if others else "lora" if run.setting("lora", "rank") else "full"


def called(method: str) -> str:
    """Return a method's name in the published tables, or its own where they have none."""
    return METHODS.get(method, method)


def rank_of(run: Run) -> Any:
    """Return the rank of what the run trained, by target if there are several; 0 if it has none."""
    return run.setting(method_of(run), "rank") or 0


def deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation; NaN where a value is no number, as a loss that went astray is."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def check_trained(run: Run) -> None:
    """Raise UserError if a run has no record of its training, or no log."""
    for name, known in (("run.json", run.training), ("log.jsonl", run.log)):
        if not known:
            raise errors.UserError(
                f"{run.work_dir / name} does not exist or is empty; run step 03, the training, first"
            )


def read_comparison(work_dir: Path, metrics: Sequence[str] = METRICS) -> dict | None:
    """Return comparison.json, None if it is not there."""
    row = COMPARISON_ROW | {f"{metric}{end}?": (float, None) for metric in metrics for end in ("", *SPLITS.values())}
    return _record(work_dir / "comparison.json", COMPARISON | {"rows": [row]}, "07") or None


def read_slots(work_dir: Path) -> dict | None:
    """Return slots.json, None if it is not there."""
    return _record(work_dir / "slots.json", SLOTS, "07") or None


def read_segments(work_dir: Path, metrics: Sequence[str] = METRICS, name: str = SYSTEM) -> list[Segment] | None:
    """Return the lines of segments.tsv, or of that of other outputs: at least the columns of `metrics`. None if it is not there."""
    path = work_dir / SEGMENTS[name]
    if not os.path.exists(path):
        return None
    text = _text(path, "06")
    if not text.endswith("\n"):
        raise damaged(f"{path}: its last line is cut off", "06")
    header, *rows = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    other_columns = damaged(f"{path}:1: expected the columns src, sys_out and {', '.join(metrics)}, each once", "06")
    if header[:2] != ["src", "sys_out"]:  # of which every row has both
        raise other_columns
    segments = []
    for number, cells in enumerate(rows, 2):
        if len(cells) != len(header):
            raise damaged(f"{path}:{number}: expected {len(header)} cells, found {len(cells)}", "06")
        values = {name: _number(cell) for name, cell in zip(header[2:], cells[2:], strict=True)}
        if bad := next((name for name, value in values.items() if value is None), None):
            raise damaged(f"{path}:{number}: expected a number under {bad}", "06")
        segments.append(Segment(cells[1], {name: value for name, value in values.items() if value is not None}))
    if not {*metrics} <= {*header[2:]} or len({*header}) < len(header):
        raise other_columns
    return segments


def read_outputs(work_dir: Path, name: str = SYSTEM) -> list[str] | None:
    """Return the texts of prediction.txt, or of another file of the work dir, one a line; None if it is not there."""
    path = work_dir / name
    return read_texts(path, "05") if os.path.exists(path) else None


def scored_outputs(work_dir: Path, name: str = SYSTEM) -> list[str] | None:
    """Return the texts of outputs without the white space around them. Raises UserError if their segments are of other texts."""
    outputs = read_outputs(work_dir, name)
    if outputs is None:
        return None
    segments = read_segments(work_dir, (), name) if name in SEGMENTS else None
    outputs = [text.strip() for text in outputs]
    if segments is not None and [row.output for row in segments] != [files.one_line(text) for text in outputs]:
        raise errors.UserError(f"{work_dir / SEGMENTS[name]} is of other outputs than {name}; run step 06 again")
    return outputs


def check_data(work_dir: Path, references: str, formatted: Path) -> None:
    """Raise UserError if the references in `work_dir` show that the inputs of `formatted` are in another order than the outputs.

    Where they are several files the programs before have left some out, and there is nothing to hold them against.
    """
    path = work_dir / references
    if not path.is_file():
        return
    scored = [group.split("\n") for group in re.split(r"\n\n+", _text(path, "05").strip("\n"))]
    ours = references_by_input(formatted)
    if len(scored) != len(ours):  # outputs of a part of the inputs
        return
    inputs = {_letters(texts): mr for mr, texts in ours.items()}
    for number, (group, texts) in enumerate(zip(scored, ours.values(), strict=True), 1):
        if _letters(group) != _letters(texts) and (other := inputs.get(_letters(group))):
            raise errors.UserError(
                f"{path} has as input {number} what in {formatted} is another one, {other[:60]!r}; run step 05 again"
            )


def _letters(texts: Sequence[str]) -> tuple[str, ...]:
    """Return what is left of texts however the decode step has standardised them."""
    return tuple(sorted(re.sub(r"[\W_]", "", text).lower() for text in texts))


def read_texts(path: Path, step: str | None = None) -> list[str]:
    """Return the texts of a file with one a line, which `step` makes, if it is of a work dir."""
    text = files.read(path) if step is None else _text(path, step)
    return text.removesuffix("\n").split("\n")


def distinct_inputs(formatted: Path) -> list[str]:
    """Return the meaning representations of a formatted file once each, in the order of prediction.txt."""
    inputs = {}
    for number, line in _json_lines(formatted, "02"):
        if fault(line, {"context": str}):
            where = f"line {number} for one"
            raise damaged(
                f'{formatted} is not a formatted data set: not every line has a "context", {where}', "02"
            ) from None
        inputs[line["context"]] = True
    return list(inputs)


def references_by_input(formatted: Path) -> dict[str, list[str]]:
    """Return the references of each meaning representation of a formatted file, in the order of prediction.txt."""
    references: dict[str, list[str]] = {}
    for number, line in _json_lines(formatted, "02"):
        if fault(line, {"context": str, "completion": str}):
            raise errors.UserError(
                f"{formatted}:{number}: expected a context and a completion; give the formatted test file"
            )
        references.setdefault(line["context"], []).append(line["completion"])
    return references


def read_object(path: Path, shape: dict, step: str) -> dict:
    """Return the JSON object in a file that `step` makes. Raises UserError if it is none of that shape."""
    value = _parsed(_text(path, step), str(path), step)
    if not isinstance(value, dict):
        raise errors.UserError(f"{path} is not a JSON object; run step {step} again")
    if wrong := fault(value, shape):
        raise damaged(f"{path}: {wrong}", step)
    return value


def _record(path: Path, shape: dict, step: str) -> dict:
    return read_object(path, shape, step) if os.path.exists(path) else {}


def _log(path: Path) -> list[dict]:
    lines = []
    for number, line in _json_lines(path, "03") if os.path.exists(path) else ():
        if not isinstance(line, dict):
            raise damaged(f"{path}, line {number} is not a JSON object", "03")
        if wrong := fault(line, LOG_LINE) or ("avg_loss" in line and fault(line, INTERVAL)):
            raise damaged(f"{path}, line {number}: {wrong}", "03")
        lines.append(line)
    return lines


def _json_lines(path: Path, step: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text(path, step).removesuffix("\n").split("\n"), 1):
        yield number, _parsed(line, f"{path}, line {number}", step)


def _text(path: Path, step: str) -> str:
    try:
        return files.read(path)
    except errors.UserError as error:
        raise errors.UserError(f"{error}; step {step} makes it") from error


class Twice(ValueError):
    """An object has this key twice: the first one's value would be lost."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Twice(repr(max(keys, key=keys.count)))
    return dict(pairs)


def _parsed(text: str, where: str, step: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_once)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except Twice as error:
        raise damaged(f"{where}: it has {error} twice", step) from error
    except json.JSONDecodeError as error:
        where = where if ", line " in where else f"{where}, line {error.lineno}"
        raise damaged(f"{where}: not JSON: {error.msg}", step) from error
    except UnicodeEncodeError as error:
        raise damaged(f"{where}: half of a character, such as \\ud800, is no text", step) from error
    except (ValueError, RecursionError) as error:
        raise damaged(f"{where}: a number or a list in it is too long or too deep to read", step) from error
    return value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def damaged(what: str, step: str) -> errors.UserError:
    """Return the error that says what is wrong with a file, and that `step` makes it again."""
    return errors.UserError(f"{what}; run step {step} again")
