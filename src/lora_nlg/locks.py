"""One run at a time in a place: locks that the system takes back when the process that holds them ends, however it ends."""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_nlg.errors import UserError
from lora_nlg.files import beside, cannot_write

LOOKS, PAUSE = 10, 0.05  # how often, and seconds between, before a lock that nobody calls his own counts as held
NO_LOCKS = "warning: the file system of {} has no locks, so nothing keeps a second run out; start no other one there"


@dataclass(frozen=True)
class Lock:
    """A lock file, held by one process alone or by several together."""

    path: Path
    alone: bool

    def take(self, descriptor: int) -> bool:
        """Lock the open file; return False if another process keeps us from it. Raises OSError where there are no locks."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if self.alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def of_folder(folder: Path) -> list[Lock]:
    """Return what a training needs: the folder alone, as it moves, cuts and deletes files there, those of decodings as well."""
    return [Lock(folder / "run.lock", alone=True)]


def of_outputs(paths: Iterable[Path]) -> list[Lock]:
    """Return what a decoding needs: its outputs alone, and no training in their folders."""
    paths = list(paths)
    folders = {Lock(path.parent / "run.lock", alone=False): None for path in paths}
    return [*folders, *(Lock(beside(path, ".lock"), alone=True) for path in paths)]


def check(locks: Iterable[Lock]) -> None:
    """Raise UserError if one of `locks` cannot be had now. Touches nothing: for the start of a program, before hours of work."""
    for lock in locks:
        with contextlib.suppress(OSError), open(lock.path) as file:
            if not lock.take(file.fileno()):
                _refuse(lock, file.fileno())


@contextlib.contextmanager
def held(locks: Iterable[Lock]) -> Iterator[None]:
    """Hold `locks` for the block. Raises UserError, with nothing touched, if another process has one of them.

    The files stay when it ends: if they were deleted, two later processes could lock two files of one name.
    """
    with contextlib.ExitStack() as kept:
        for lock in locks:
            try:
                lock.path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(lock.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise cannot_write(lock.path, error) from error
            kept.callback(os.close, descriptor)
            try:
                if not lock.take(descriptor):
                    _refuse(lock, descriptor)
            except OSError:
                _warn_once(lock.path.parent)
            if lock.alone:
                kept.enter_context(_signed(descriptor))
        yield


@contextlib.contextmanager
def _signed(descriptor: int) -> Iterator[None]:
    """Let the open file say whose lock it is. Afterwards it is as before, so that a run that is refused changes no file."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    name = f"{os.path.basename(sys.argv[0])}, process {os.getpid()} on {os.uname().nodename} since {since}\n"
    before, times = os.pread(descriptor, 1 << 12, 0), os.fstat(descriptor)
    _write(descriptor, name.encode("utf-8", "replace"))
    try:
        yield
    finally:
        _write(descriptor, before)
        with contextlib.suppress(OSError):
            os.utime(descriptor, ns=(times.st_atime_ns, times.st_mtime_ns))


def _write(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(OSError):  # on a full disk nobody is told whose lock it is, and it holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)


def _refuse(lock: Lock, descriptor: int) -> None:
    """Raise UserError that says who has the lock, unless it is free after all: others look at it, too, and then let go."""
    for _ in range(LOOKS):
        # The shared lock of a folder is nobody's: there may be several, and the locks of their outputs name them.
        of_others = (path for path in sorted(lock.path.parent.glob("*.lock")) if path != lock.path)
        if holder := next(filter(None, map(_holder, (lock.path, *of_others))), None):
            break
        if lock.take(descriptor):
            return
        time.sleep(PAUSE)
    raise UserError(
        f"{lock.path.parent} is in use by {holder or 'another process'}, and both would write the same files; wait for it or end "
        "it, or choose another --work_dir"
    )


def _holder(path: Path) -> str | None:
    """Return what the process that has a lock alone says of itself; None if there is none."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        if not Lock(path, alone=False).take(file.fileno()):
            return file.readline().strip()
    return None


_warned: set[Path] = set()


def _warn_once(folder: Path) -> None:
    if folder not in _warned:
        _warned.add(folder)
        print(NO_LOCKS.format(folder), file=sys.stderr)
