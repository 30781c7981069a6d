"""SIGTERM, Ctrl-C and a lost terminal (SIGHUP): work ends where it can be resumed."""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

from lora_nlg import endings
from lora_nlg.errors import Stopped, ending_signals

# Seconds in which several Ctrl-C are one: the terminal sends it to all, and a launcher passes it on as well
ONE_PRESS = 1.0
READER_ENDS = 500  # milliseconds that a program that reads ours gets to end by the same lost terminal


class Request:
    """Which signal asked for an end; None as long as none did."""

    number: int | None = None
    interrupted: float | None = None  # when the first Ctrl-C came

    def take(self, number: int, frame) -> None:
        """Note the signal, and say so at the first. A second Ctrl-C ends the process at once."""
        if self.is_first(number) and os.environ.get("LOCAL_RANK", "0") == "0":  # one of a launcher's processes says it
            said = f"\n{signal.Signals(number).name}: saving after this step; Ctrl-C twice ends at once\n"
            with contextlib.suppress(OSError):
                os.write(2, said.encode())  # print may be what the signal interrupts

    def is_first(self, number: int) -> bool:
        """Note the signal, and return whether it is the first. Raises KeyboardInterrupt at a second Ctrl-C."""
        if number == signal.SIGINT:
            now = time.monotonic()
            if self.interrupted is not None and now - self.interrupted > ONE_PRESS:
                raise KeyboardInterrupt
            self.interrupted = self.interrupted or now
        if number == signal.SIGHUP:
            _let_go_of_readers_that_are_gone()
        is_first = self.number is None
        self.number = self.number or number
        return is_first


@contextlib.contextmanager
def stopped_by_signals(how_to_resume: str) -> Iterator[None]:
    """Let the first signal raise Stopped within the block: for work that is kept as it comes."""
    request = Request()

    def stop(number: int, frame) -> None:
        if request.is_first(number):
            endings.raise_when_safe(Stopped(number, how_to_resume), frame)

    with _handlers(stop):
        yield


@contextlib.contextmanager
def requests() -> Iterator[Request]:
    """Take signals as requests within the block."""
    request = Request()
    with _handlers(request.take):
        yield request


@contextlib.contextmanager
def _handlers(handler: Callable) -> Iterator[None]:
    """Have `handler` take signals within the block; outside of the main thread, which alone can set that, nothing does."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (*ending_signals(), signal.SIGINT) if is_main else ()
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _let_go_of_readers_that_are_gone() -> None:
    """Print to nowhere, from now on, what has no terminal or reader any more: to print there is an error, before the save."""
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if poll.poll(READER_ENDS):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
