"""Where a signal may end a program: raised wherever the program happens to be, an exception can be lost, or lose something."""

import signal
import subprocess
import sys
import time
from types import FrameType

PAUSE = 0.05  # seconds until it is tried again
PATIENCE = 10.0  # seconds after which it is raised anywhere
NAMES = ("__enter__", "__exit__")


def raise_when_safe(error: BaseException, frame: FrameType | None, until: float | None = None) -> None:
    """Raise `error` from a signal's handler that interrupts `frame`: at once, or as soon as the program is elsewhere."""
    until = until or time.monotonic() + PATIENCE
    if not would_be_lost(frame) or time.monotonic() > until:
        raise error
    _try_again(error, until)


def would_be_lost(frame: FrameType | None) -> bool:
    """Return whether an exception raised in `frame` might be caught, or leave something behind.

    Libraries try imports with a bare `except:`; a process that has just been started is unknown to all, as is what a with block
    is about to hold; and its end must not be cut short.
    """
    while frame is not None:
        code = frame.f_code
        of_process = code.co_filename == subprocess.__file__
        if code.co_filename.startswith("<frozen importlib") or (
            code.co_name == "__init__" if of_process else code.co_name in NAMES
        ):
            return True
        frame = frame.f_back
    return False


def raise_again_if_lost(kind: type[BaseException]) -> None:
    """Raise an exception of this kind again if Python drops it, as in `__del__` and in the callbacks of weak references."""
    earlier = sys.unraisablehook

    def hook(dropped) -> None:
        if isinstance(dropped.exc_value, kind):
            _try_again(dropped.exc_value, time.monotonic() + PATIENCE)
        else:
            earlier(dropped)

    sys.unraisablehook = hook


def cancel() -> None:
    """Let the program end as it does, where an exception still waits."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _try_again(error: BaseException, until: float) -> None:
    signal.signal(signal.SIGALRM, lambda _, frame: raise_when_safe(error, frame, until))
    signal.setitimer(signal.ITIMER_REAL, PAUSE)
