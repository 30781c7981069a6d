"""What came out of several runs, in words, and the means of those that differ in nothing but the seed."""

import json
import statistics
from dataclasses import dataclass

from report_page.figures import score
from report_page.several import Beside, Several
from report_page.words import called

BELOW = 0.05  # a p that is said to be more than the choice of inputs explains


@dataclass(frozen=True)
class Seeds:
    """Runs that differ in nothing but the seed."""

    runs: list[Beside]
    means: dict[str, tuple[float, float]]  # by metric, with the sample standard deviations


def verdict(several: Several) -> list[str]:
    """Return the sentences: which run is the best, and how many can be told from the first one."""
    best, metric = several.best, several.metric
    values = [one.score(metric) for one in several.runs]
    if len(values) == 1:
        return [f"{called(metric)} {score(values[0])}; no other run is there to stand beside it."]
    said = [
        f"{called(metric)} {score(min(values))} to {score(max(values))} over {len(values)} runs; "
        f"the highest is that of run {best.number}, {best.name}."
    ]
    tests = [one.test[metric] for one in several.runs if one.test]
    if tests:
        clear = [test.value for test in tests if test.p < BELOW]
        above, below = sum(value > 0 for value in clear), sum(value < 0 for value in clear)
        said.append(
            f"Held against run 1, {several.runs[0].name} ({score(values[0])}), on the same inputs: {_some(above)} above it and "
            f"{_some(below)} below it (p < .05), {_some(len(tests) - above - below)} not to be told from it."
        )
    return said


def _some(n: int) -> str:
    return f"{n or 'none'} {'is' if n < 2 else 'are'}"


def over_seeds(several: Several) -> list[Seeds]:
    """Return the groups of two runs and more that differ in nothing but the seed, with mean and deviation of each score."""
    groups: dict[str, list[Beside]] = {}
    for one in several.runs:
        record = one.run.record
        training = record.training.get("settings", {})
        train = {name: value for name, value in (training.get("train") or {}).items() if name != "random_seed"}
        search = record.decoding.get("settings", {}).get("search")
        key = json.dumps([{**training, "train": train}, search], sort_keys=True, default=str)
        groups.setdefault(key, []).append(one)
    return [Seeds(runs, _means(runs)) for runs in groups.values() if len({_seed(one) for one in runs}) == len(runs) > 1]


def _seed(one: Beside) -> int | None:
    return one.run.record.setting("train", "random_seed")


def _means(runs: list[Beside]) -> dict[str, tuple[float, float]]:
    values = {metric: [one.score(metric) for one in runs] for metric in runs[0].run.task.scores}
    return {metric: (statistics.mean(of_runs), statistics.stdev(of_runs)) for metric, of_runs in values.items()}
