"""SIGTERM and Ctrl-C: work ends where it can be resumed."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator

from lora_nlg.errors import Stopped


class Request:
    """Which signal asked for an end; None as long as none did."""

    number: int | None = None

    def take(self, number: int, frame) -> None:
        """Note the signal. A second Ctrl-C ends the process at once."""
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        print(f"\n{signal.Signals(number).name}: saving after this step; Ctrl-C twice ends at once", file=sys.stderr)


@contextlib.contextmanager
def stopped_by_signals(how_to_resume: str) -> Iterator[None]:
    """Let SIGTERM and SIGINT raise Stopped within the block: for work that is kept as it comes."""

    def stop(number: int, frame) -> None:
        raise Stopped(number, how_to_resume)

    with _handlers(stop):
        yield


@contextlib.contextmanager
def requests() -> Iterator[Request]:
    """Take SIGTERM and SIGINT as requests within the block."""
    request = Request()
    with _handlers(request.take):
        yield request


@contextlib.contextmanager
def _handlers(handler: Callable) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
