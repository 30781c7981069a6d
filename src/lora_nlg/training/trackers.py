"""Where a run's curves go besides log.jsonl: TensorBoard's files, Weights & Biases or MLflow, each by its own client.

None of them is needed: a client is imported when --tracker asks for it. What it says of its own (a server, a project, to stay
offline) is in its own environment variables, which docs/runs.md names.
"""

import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from lora_nlg.errors import UserError

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
PROJECT = "lora_nlg"


class Tracker(Protocol):
    """One of them, at work. `id` is what it calls the run, None where that needs no name to be gone on with."""

    id: str | None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Take a point of each curve."""

    def close(self) -> None:
        """End the run there."""


def client(name: str) -> ModuleType:
    """Return the library of a tracker. Raises UserError if it is not installed."""
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise UserError(
            f"--tracker {name} needs the package {name}; install it with: .venv/bin/pip install {name}"
        ) from error


def check(names: Iterable[str]) -> None:
    """Raise UserError if a tracker is not installed."""
    for name in names:
        client(name)


def start(name: str, work_dir: Path, step: int, settings: dict[str, Any], earlier: str | None) -> Tracker:
    """Return a tracker of the run in `work_dir`, which has come to `step`; `earlier` is the id of the run that is resumed.

    `settings` are by their whole names, such as optim.lr. Raises UserError if it does not start.
    """
    kinds: dict[str, Callable[..., Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}
    library = client(name)
    try:
        return kinds[name](library, work_dir, step, settings, earlier)
    except Exception as error:  # a client can raise anything: no login, no network, no room
        raise UserError(
            f"--tracker {name} does not start ({said(error)}); log in, let it work offline (docs/runs.md says how), or leave it out"
        ) from error


def said(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class TensorBoard:
    """Files in WORK_DIR/tensorboard, in which an earlier run's points after `step` no longer count."""

    id: str | None = None

    def __init__(self, library: Any, work_dir: Path, step: int, settings: dict[str, Any], earlier: str | None):
        self.writer = library.SummaryWriter(work_dir / "tensorboard", purge_step=step + 1)

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, named after the work dir. It takes no step twice: a resumed run's repeated points are left out."""

    def __init__(self, library: Any, work_dir: Path, step: int, settings: dict[str, Any], earlier: str | None):
        named = {"project": PROJECT, "name": work_dir.name, "dir": str(work_dir)}
        ours = {key: value for key, value in named.items() if f"WANDB_{key.upper()}" not in os.environ}
        resumed = {"id": earlier, "resume": "allow"} if earlier else {}
        self.run = library.init(config=settings, **ours, **resumed)
        self.id = self.run.id

    def add(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """A run of MLflow, named after the work dir; without a server in MLFLOW_TRACKING_URI it is in WORK_DIR/mlflow.db."""

    def __init__(self, library: Any, work_dir: Path, step: int, settings: dict[str, Any], earlier: str | None):
        self.library = library
        if "MLFLOW_TRACKING_URI" not in os.environ:
            library.set_tracking_uri(f"sqlite:///{work_dir.absolute() / 'mlflow.db'}")
        run = library.start_run(run_id=earlier) if earlier else library.start_run(run_name=work_dir.name)
        self.id = run.info.run_id
        if not earlier:  # they never change
            library.log_params(settings)

    def add(self, step: int, values: dict[str, float]) -> None:
        self.library.log_metrics(values, step=step)

    def close(self) -> None:
        self.library.end_run()
