"""SIGTERM and Ctrl-C as requests: what runs is finished and saved before the process ends."""

import contextlib
import signal
import sys
from collections.abc import Iterator


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
def requests() -> Iterator[Request]:
    """Take SIGTERM and SIGINT as requests within the block."""
    request = Request()
    before = {number: signal.signal(number, request.take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
