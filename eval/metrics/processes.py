"""Programs that a thread runs: they end where the block that the main thread waits in does. And how many may run at once."""

import os
import subprocess
import threading
from collections.abc import Sequence


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes:
    """What runs for the block. After it nothing is left, and nothing starts any more."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._running: list[subprocess.Popen] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception) -> None:
        self._starting.acquire()  # for good
        for process in self._running:
            process.kill()
            process.wait()

    def run(self, command: Sequence[str], timeout: float, **options) -> int:
        """Run a program and return its exit code. Raises subprocess.TimeoutExpired, after which it is ended, and OSError."""
        with self._starting:
            process = subprocess.Popen(command, **options)
            self._running.append(process)
        try:
            return process.wait(timeout)
        finally:
            process.kill()  # of no effect on one that has ended
            process.wait()
