"""What torch's launchers (torch.distributed.launch, torchrun) say when a rank has ended with a sentence of its own: nothing.

They would put a page of traceback below it. Set-up puts scripts/launcher.pth into .venv, by which Python runs this file at the start
of a launcher, and of no other program; so it imports nothing of ours, and no torch.
"""

import logging
import sys
import warnings
from types import TracebackType

SAID = (2, 129, 130, 141, 143)  # exit codes of ranks that have said why: errors.py has them
SIGNALLED = 128
LOGS = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")
FAILED = "failed (exitcode"  # begins the line of a rank that failed; its first argument is the exit code
PASSED_ON = ("Sending process", "Closing process", "Received %s death signal", "Got termination signal")


def leaves_out(record: logging.LogRecord) -> bool:
    """Return whether a line of the launcher's log adds nothing: signals that it passes on, and ranks that have said why they end."""
    said = str(record.msg)
    if said.startswith(FAILED):
        return isinstance(record.args, tuple) and bool(record.args) and record.args[0] in SAID
    return said.startswith(PASSED_ON)


def exit_code(error: BaseException) -> int | None:
    """Return with what the launcher is to end after the exception `error`; None if that says something new."""
    if type(error).__name__ == "SignalException":
        return SIGNALLED + int(vars(error)["sigval"])
    if type(error).__name__ == "ChildFailedError":
        failures = vars(error)["failures"].values()
        code = min(failures, key=lambda failure: failure.timestamp).exitcode
        return code if code in SAID else None
    return None


def install() -> None:
    """Be quiet in this process."""
    warnings.filterwarnings("ignore", r"(?s).*torch\.distributed\.launch is deprecated", FutureWarning)
    for name in LOGS:
        logging.getLogger(name).addFilter(lambda record: not leaves_out(record))

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if (code := exit_code(error)) is None:
            sys.__excepthook__(kind, error, trace)
        else:
            raise SystemExit(code)

    sys.excepthook = hook


if __name__ == "__main__":
    install()
