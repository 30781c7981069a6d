"""A run's folder, as the programs of eval/ read it: scores, records and log."""

import json
from dataclasses import dataclass
from pathlib import Path

from metrics import errors, files, scores

METRICS = scores.METRICS


@dataclass(frozen=True)
class Run:
    """What is known of a run. A record that is not there is empty."""

    work_dir: Path
    system: dict  # scores.json's entry of prediction.txt: "scores" and, with --bootstrap, "intervals"
    signature: dict  # scores.json's
    training: dict  # run.json
    decoding: dict  # beam_prediction.run.json
    log: list[dict]  # log.jsonl

    def setting(self, section: str, name: str):
        """Return one setting of the training or, of the section "search", of the decoding; None if it is not recorded."""
        record = self.decoding if section == "search" else self.training
        return record.get("settings", {}).get(section, {}).get(name)


def read_run(work_dir: Path) -> Run:
    """Read what is in `work_dir`. Raises UserError if there are no scores, or a file is not what it should be."""
    scores_file = work_dir / "scores.json"
    if not scores_file.is_file():
        raise errors.UserError(
            f"{scores_file} does not exist; run bash scripts/06_evaluate.sh --work_dir {work_dir} first"
        )
    scored = _record(scores_file)
    systems = [system for system in scored.get("systems", []) if Path(system["file"]).name == "prediction.txt"]
    if len(systems) != 1:
        raise errors.UserError(f"{scores_file} has no scores of one prediction.txt; run step 06 again")
    return Run(
        work_dir,
        systems[0],
        scored.get("signature", {}),
        _record(work_dir / "run.json"),
        _record(work_dir / "beam_prediction.run.json"),
        _json_lines(work_dir / "log.jsonl"),
    )


def distinct_inputs(formatted: Path) -> list[str]:
    """Return the meaning representations of a formatted file once each, in the order of prediction.txt."""
    try:
        return list(dict.fromkeys(line["context"] for line in _json_lines(formatted, required=True)))
    except (KeyError, TypeError):
        raise errors.UserError(f'{formatted} is not a formatted data set: not every line has a "context"') from None


def _record(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        record = json.loads(files.read(path))
    except json.JSONDecodeError as error:
        raise errors.UserError(f"{path}, line {error.lineno}: not JSON: {error.msg}; run its step again") from error
    if not isinstance(record, dict):
        raise errors.UserError(f"{path} is not a JSON object; run its step again")
    return record


def _json_lines(path: Path, required: bool = False) -> list[dict]:
    if not required and not path.is_file():
        return []
    lines = []
    for number, line in enumerate(files.read(path).removesuffix("\n").split("\n"), 1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise errors.UserError(f"{path}, line {number}: not JSON: {error.msg}") from error
    return lines
