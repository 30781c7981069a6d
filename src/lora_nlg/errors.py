"""What every program shares at its edge: one-sentence errors, and exit codes."""

import os
import signal
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports after Ctrl-C
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE: the work was cut short, and what follows in a script must not go on


class UserError(Exception):
    """A mistake a person can mend. The text is one sentence: what, where (path, line), what was expected, what to do."""


class Stopped(Exception):
    """The work was stopped by signal `number` and saved; the text, which may be empty, says how to resume."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.number = number


def run(main: Callable[[list[str] | None], int]) -> int:
    """Call `main(None)` and turn a person's mistakes into one line on stderr and an exit code."""
    program = os.path.basename(sys.argv[0])
    for number in ending_signals():
        signal.signal(number, _terminate)
    try:
        return main(None)
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Stopped as stopped:
        if str(stopped):
            print(f"{program}: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader went away (… | head): not an error, but stdout must not be flushed again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def ending_signals() -> tuple[int, ...]:
    """Return the signals, beside Ctrl-C, that ask a process to end: a lost terminal is none to a process that nohup started."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return (signal.SIGTERM,)
    return signal.SIGTERM, signal.SIGHUP


def _terminate(number: int, frame) -> None:
    """End as after an error, so that temporary files are removed. Training and decoding save in place of this."""
    for other in ending_signals():
        signal.signal(other, signal.SIG_IGN)  # a second one would end the cleaning up
    raise Stopped(number, "")
