"""What every program shares at its edge: one-sentence errors, and exit codes."""

import contextlib
import errno
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import ModuleType

from lora_nlg import endings, mistakes

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports after Ctrl-C
OURS = ("lora_nlg",)  # whose absence no other Python mends
FIRST_RANK = 3.0  # seconds that the first process of a machine gets to say what the others would say as well
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, of a user's share of it, or of a file
NO_PLACE = "cannot make a temporary file anywhere; free some space, or set TMPDIR to a folder that can be written"
NO_WAY = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)  # to a file that somebody has named
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE: the work was cut short, and what follows in a script must not go on


# What a terminal obeys in place of showing it: control characters (C0, DEL, C1), line separators, changes of the writing
# direction; and halves of surrogate pairs, which no output can encode.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A mistake a person can mend. The text is one sentence: what, where (path, line), what was expected, what to do."""


class Stopped(Exception):
    """The work was stopped by signal `number` and saved; the text, which may be empty, says how to resume."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.number = number


def let_the_first_rank_speak() -> None:
    """Wait a moment in all processes that a launcher has started on this machine but the first.

    What is wrong with a command is wrong in each of them: once the first has said it, the launcher ends the others.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(FIRST_RANK)


def visible(text: str) -> str:
    """Return `text` on one line, with every character that would act on a terminal as its escape, such as \\x1b.

    Names, settings and texts out of a file are somebody else's: shown raw they could rewrite what is on the screen.
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_json(text: str) -> str:
    """Return JSON with those characters as the escapes of JSON, which is then the same value."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str) -> None:
    """Print a line at once, with what a terminal would obey as its escape: names of files are somebody else's, too."""
    print(visible(text), flush=True)


def run(main: Callable[[list[str] | None], int]) -> int:
    """Call `main(None)` and turn a person's mistakes into one line on stderr and an exit code."""
    program = mistakes.typed_name(os.path.basename(sys.argv[0]))
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as with >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # × and é, where a locale or PYTHONIOENCODING has no such letter
        sys.stdout.reconfigure(errors="backslashreplace")
    for kind in (Stopped, KeyboardInterrupt):
        endings.raise_again_if_lost(kind)
    for number in ending_signals():
        signal.signal(number, _terminate)
    try:
        os.getcwd()
    except FileNotFoundError:
        print(f"{program}: error: the current folder is not there any more; change to one that is", file=sys.stderr)
        return EXIT_USER_ERROR
    try:
        code = main(None)
        sys.stdout.flush()
        _hear_no_more()
        return code
    except UserError as error:
        let_the_first_rank_speak()
        print(f"{program}: error: {visible(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Stopped as stopped:
        if str(stopped):
            print(f"{program}: {visible(str(stopped))}", file=sys.stderr)
        return 128 + stopped.number
    except (ImportError, AttributeError) as error:
        if (said := _of_another_python(error)) is None:
            raise
        let_the_first_rank_speak()
        print(f"{program}: error: {said}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Warning as warning:
        print(
            f"{program}: error: PYTHONWARNINGS or -W makes an error of a warning ({warning}); leave it out",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a launcher passes on what has come already
        let_the_first_rank_speak()
        print(f"\n{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader went away (… | head): not an error, but stdout must not be flushed again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if "No usable temporary directory" in str(error):  # torch wants one when it is imported
            let_the_first_rank_speak()
            print(f"{program}: error: {NO_PLACE}", file=sys.stderr)
            return EXIT_USER_ERROR
        if error.errno in NO_WAY and isinstance(error.filename, str | bytes):
            let_the_first_rank_speak()
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


def _hear_no_more() -> None:
    """Let a signal end the process at once: the work is done, and what would be raised is raised in some callback of the exit."""
    for number in (*ending_signals(), signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def ending_signals() -> tuple[int, ...]:
    """Return the signals, beside Ctrl-C, that ask a process to end: a lost terminal is none to a process that nohup started."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return (signal.SIGTERM,)
    return signal.SIGTERM, signal.SIGHUP


def no_way(error: OSError) -> str:
    """Return what to say of a file or a folder that cannot even be looked for: no rights to its folder, too long a name."""
    return f"cannot reach {visible(os.fsdecode(error.filename))}: {error.strerror}; check the name, and the rights of its folders"


def _terminate(number: int, frame) -> None:
    """End as after an error, so that temporary files are removed. Training and decoding save in place of this."""
    for other in ending_signals():
        signal.signal(other, signal.SIG_IGN)  # a second one would end the cleaning up
    endings.raise_when_safe(Stopped(number, ""), frame)


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
