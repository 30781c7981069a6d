"""Work in the background, and a sign of life on a terminal while it runs."""

import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

POLL_INTERVAL = 0.1  # seconds


def start(function: Callable, *arguments) -> Future:
    """Call `function` in a thread that does not keep the program from ending, as those of an executor do: Ctrl-C works at once."""
    future: Future = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def spin_until(ready: Callable[[], bool], message: str, timeout: float = math.inf) -> bool:
    """Turn a spinner on stderr (only if it is a terminal) until `ready()`; return False if `timeout` seconds were not enough."""
    from progress.spinner import Spinner

    deadline = time.monotonic() + timeout
    if ready():
        return True
    with Spinner(f"{message} ", file=sys.stderr) as spinner:
        while not ready():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL)
            spinner.next()
    return True
