"""What the page of several runs is about: the runs, read and checked to be of the same test inputs, and what tells them apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import comparable
import paired
import run_dir
from metrics.bootstrap import Difference
from report_page import contents, names
from report_page.contents import Contents
from run_dir import SYSTEM, errors

MADE_BY = {
    "run.json": "03",
    "log.jsonl": "03",
    "scores.json": "06",
    SYSTEM: "05",
}  # without these a run has no place in the table


@dataclass(frozen=True)
class Beside:
    """One run of several."""

    number: int  # from 1, in the order given; stands for it in charts and rows
    name: str
    run: Contents
    differs: list[tuple[str, str]]  # settings that not all runs share
    test: dict[str, Difference] | None  # of its scores above the first run's

    def score(self, metric: str) -> float:
        """Return a score of its outputs."""
        return self.run.record.system["scores"][metric]


@dataclass(frozen=True)
class Several:
    """Runs of the same test inputs."""

    runs: list[Beside]
    lacking: list[str]  # sentences about those that are not finished
    tested: bool  # whether the task's scorer has paired tests

    @property
    def metric(self) -> str:
        """The score that is talked about."""
        return self.runs[0].run.task.scores[0]

    @property
    def best(self) -> Beside:
        """The run with the highest score; the first of several."""
        return max(self.runs, key=lambda one: one.score(self.metric))


def read(work_dirs: Sequence[Path], data: Path) -> Several:
    """Read runs of the test inputs in `data`; those that are not finished are left out, with a sentence.

    Raises UserError for a folder that is given twice or is none, for runs that are not of the same inputs, and if none is finished.
    """
    check_folders(work_dirs)
    reasons = {folder: unfinished(folder) for folder in work_dirs}
    lacking = [f"{folder} {why}" for folder, why in reasons.items() if why]
    runs = [contents.read(folder, data) for folder, why in reasons.items() if why is None]
    if not runs:
        raise errors.UserError(f"none of the {len(work_dirs)} runs is finished: {lacking[0]}")
    check_inputs(runs)
    tests = paired.against_first([run.record for run in runs], runs[0].task)
    folders, records = [run.record.work_dir for run in runs], [run.record for run in runs]
    return Several(
        [
            Beside(number, *of_one)
            for number, of_one in enumerate(
                zip(names.short(folders), runs, names.differences(records), tests or [None] * len(runs), strict=True), 1
            )
        ],
        lacking,
        tests is not None,
    )


def check_folders(work_dirs: Sequence[Path]) -> None:
    """Raise UserError for what is no folder, and for one that is given twice."""
    seen: dict[Path, Path] = {}
    for folder in work_dirs:
        if not folder.is_dir():
            raise errors.UserError(f"{folder} is no folder; give the folders of finished runs")
        if other := seen.get(folder.resolve()):
            raise errors.UserError(f"{other} and {folder} are the same run; give each once")
        seen[folder.resolve()] = folder


def unfinished(folder: Path) -> str | None:
    """Return what a run lacks to stand beside others, and which step makes it; None if it is finished."""
    for name, step in MADE_BY.items():
        if not (folder / name).is_file():
            return f"has no {name} yet; step {step} makes it"
    if "valid_loss" not in run_dir.read_object(folder / "run.json", run_dir.TRAINING, "03"):
        return "has a training that did not come to its end; step 03 goes on with it"
    return None


def check_inputs(runs: Sequence[Contents]) -> None:
    """Raise UserError for runs whose outputs are not of all inputs, or whose scores are not on one scale."""
    for run in runs:
        if run.rows is None:
            raise errors.UserError(
                f"{run.record.work_dir / SYSTEM} does not have an output for each input of {run.data}; give the formatted test "
                "file that it is of"
            )
        if other := comparable.why_not_beside(runs[0].record, run.record):
            raise errors.UserError(
                f"{runs[0].record.work_dir} and {run.record.work_dir} are scored with {other}, so that they cannot stand side "
                "by side; give runs of the same test inputs"
            )
