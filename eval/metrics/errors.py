"""One-sentence errors and exit codes: the evaluation's twin of what the training programs do, as neither imports the other."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports after Ctrl-C
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


class UserError(Exception):
    """A mistake a person can mend. The text is one sentence: what, where (path, line), what was expected, what to do."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, in place of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {message}; --help lists all flags\n")


def run(main: Callable[[list[str] | None], int]) -> int:
    """Call `main(None)` and turn a person's mistakes into one line on stderr and an exit code."""
    program = os.path.basename(sys.argv[0])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that temporary files are removed
    try:
        return main(None)
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader went away (… | head): stdout must not be flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
