"""Short names of several runs, each another: what tells their folders apart, and what tells their settings apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import run_dir
from report_page import figures
from run_dir import Run

CALLED = {"random_seed": "seed", "lr": "rate", "max_step": "steps", "train_data": "training data"}
IN_METHOD = ("rank", "alpha")  # which opening.method says
HASHED = 8  # digits that tell two sha256 apart


def short(folders: Sequence[Path]) -> list[str]:
    """Return each folder without the parts that all begin or end with: r1 of sweep/r1/lp0.8 beside sweep/r4/lp0.8."""
    parts = [folder.resolve().parts for folder in folders]
    least = min(map(len, parts))
    begin = next((i for i in range(least) if len({one[i] for one in parts}) > 1), least)
    end = next((i for i in range(least - begin) if len({one[-1 - i] for one in parts}) > 1), least - begin)
    return ["/".join(one[begin : len(one) - end]) or one[-1] for one in parts]


def differences(runs: Sequence[Run]) -> list[list[tuple[str, str]]]:
    """Return for each run the settings, as names and values, that not all runs share; its method is not among them."""
    one_method = len({run_dir.method_of(run) for run in runs}) == 1
    settings = [_settings(run, one_method) for run in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    told = [name for name in names if name not in IN_METHOD and len({repr(one.get(name)) for one in settings}) > 1]
    return [[(name, _said(one[name])) for name in told if one.get(name) is not None] for one in settings]


def _settings(run: Run, with_method: bool) -> dict[str, Any]:
    """Return the settings that decide what a run comes to, by a person's names; those of its method only where all have the same."""
    training = run.training.get("settings", {})
    sections: dict[str, Any] = {
        name: value
        for name, value in training.items()
        if name in ("model", "optim", "train") or (with_method and name == run_dir.method_of(run))
    }
    sections["search"] = run.decoding.get("settings", {}).get("search")
    found = {
        CALLED.get(name, name.replace("_", " ")): value
        for section in sections.values()
        if isinstance(section, dict)
        for name, value in section.items()
    }
    found["base"] = ((training.get("base") or {}).get("sha256") or "")[:HASHED] or None
    found["training data"] = (training.get("train_data") or "")[:HASHED] or None
    return found


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return figures.whole(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
