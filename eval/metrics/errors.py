"""One-sentence errors and exit codes: the evaluation's twin of what the training programs do, as neither imports the other."""

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import NoReturn

from metrics import endings, mistakes

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports after Ctrl-C
OURS = ("metrics",)  # whose absence no other Python mends
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, of a user's share of it, or of a file
NO_WAY = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)  # to a file that somebody has named
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
ENDING = (signal.SIGTERM, signal.SIGHUP)  # what asks a program to end, beside Ctrl-C

# What a terminal obeys in place of showing it, as lora_nlg.errors has it; a test holds the two equal.
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A mistake a person can mend. The text is one sentence: what, where (path, line), what was expected, what to do."""


def visible(text: str) -> str:
    """Return `text` on one line, with every character that would act on a terminal as its escape, such as \\x1b."""
    return OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_lines(text: str) -> str:
    """Return the same of a page or a table, which keeps its line ends and its tabs."""
    return OBEYED.sub(lambda found: found[0] if found[0] in "\n\t" else visible(found[0]), text)


class Ended(SystemExit):
    """A signal ends the program."""


class Parser(mistakes.MendingParser):
    """A parser whose errors are one sentence, in place of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        name = mistakes.typed_name(self.prog)
        self.exit(EXIT_USER_ERROR, f"{name}: error: {visible(message)}; --help lists all flags\n")


def run(main: Callable[[list[str] | None], int]) -> int:
    """Call `main(None)` and turn a person's mistakes into one line on stderr and an exit code."""
    program = mistakes.typed_name(os.path.basename(sys.argv[0]))
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as with >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # × and é, where a locale or PYTHONIOENCODING has no such letter
        sys.stdout.reconfigure(errors="backslashreplace")
    endings.raise_again_if_lost(Ended)
    for ending in ENDING:  # so that temporary files are removed
        if signal.getsignal(ending) != signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, _end)
    try:
        os.getcwd()
    except FileNotFoundError:
        print(f"{program}: error: the current folder is not there any more; change to one that is", file=sys.stderr)
        return EXIT_USER_ERROR
    try:
        code = main(None)
        sys.stdout.flush()
        for ending in (*ENDING, signal.SIGINT):  # the work is done: no callback of the exit is to raise anything
            if signal.getsignal(ending) != signal.SIG_IGN:
                signal.signal(ending, signal.SIG_DFL)
        return code
    except UserError as error:
        print(f"{program}: error: {visible(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except (ImportError, AttributeError) as error:
        if (said := _of_another_python(error)) is None:
            raise
        print(f"{program}: error: {said}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Warning as warning:
        print(
            f"{program}: error: PYTHONWARNINGS or -W makes an error of a warning ({warning}); leave it out",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader went away (… | head): stdout must not be flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno in NO_WAY and isinstance(error.filename, str | bytes):
            print(f"{program}: error: {no_way(error)}", file=sys.stderr)
            return EXIT_USER_ERROR
        if error.errno not in NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # which the exit would write to again
        with contextlib.suppress(OSError):  # of which the same may be true
            what = visible(str(error.filename or "its output"))
            print(f"{program}: error: cannot write {what}: {error.strerror}", file=sys.stderr)
        return EXIT_USER_ERROR
    finally:
        endings.cancel()


def no_way(error: OSError) -> str:
    """Return what to say of a file or a folder that cannot even be looked for: no rights to its folder, too long a name."""
    return f"cannot reach {visible(os.fsdecode(error.filename))}: {error.strerror}; check the name, and the rights of its folders"


def _end(number: int, frame: FrameType | None) -> None:
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)  # a second one would end the cleaning up
    endings.raise_when_safe(Ended(128 + number), frame)


def _of_another_python(error: ImportError | AttributeError) -> str | None:
    """Return what to say of a package that is missing, or not the one that is meant; None where the fault is ours."""
    module = error.obj if isinstance(error, AttributeError) else sys.modules.get((error.name or "").partition(".")[0])
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    of_module = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        for path in (of_module, frame.f_code.co_filename):
            if path and path.startswith(os.path.abspath(folder) + os.sep):
                return f"{path}, which PYTHONPATH names, is not the package that is needed; unset PYTHONPATH"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in OURS:
        return (
            f"{sys.executable} has no package {error.name}; use .venv/bin/python, which bash scripts/00_setup.sh makes"
        )
    return None
