"""A sign of life on a terminal while something of unknown length runs elsewhere."""

import math
import sys
import time
from collections.abc import Callable

POLL_INTERVAL = 0.1  # seconds


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
