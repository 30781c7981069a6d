"""run.json: what it takes to know, and to repeat, a run."""

import dataclasses
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import torch

import lora_nlg
from lora_nlg.files import atomic_writer


class Record:
    """Collects what a program did and writes it to WORK_DIR/NAME, at the start and, with times and results, at the end."""

    def __init__(self, path: Path, argv: list[str], **settings):
        self.path, self.started = path, time.monotonic()
        self.fields: dict[str, Any] = {
            # The name of a file may be no UTF-8.
            "argv": [argument.encode("utf-8", "backslashreplace").decode() for argument in argv],
            "settings": {name: _plain(value) for name, value in settings.items()},
            "versions": _versions(),
            "commit": _commit(),
        }

    def write(self, **results) -> None:
        """Write the record with seconds and peak memory so far, and `results`."""
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
        peak = {"host_mib": round(usage / (1024 if sys.platform != "darwin" else 1 << 20), 1)}
        if torch.cuda.is_available():
            peak["gpu_mib"] = round(torch.cuda.max_memory_allocated() / (1 << 20), 1)
        done = {"seconds": round(time.monotonic() - self.started, 3), "peak_memory": peak, **results}
        with atomic_writer(self.path) as file:
            json.dump({**self.fields, **done}, file, indent=1, default=str)
            file.write("\n")


def _plain(value):
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def _versions() -> dict[str, str]:
    return {
        "lora_nlg": lora_nlg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _commit() -> str | None:
    """The checkout's commit, or None where this is no checkout or git is not installed."""
    try:
        here = Path(__file__).parent
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None
