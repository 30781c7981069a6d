"""Text files: read with one clear sentence for what is wrong, written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from metrics.errors import OBEYED, UserError, visible_lines

_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]")


def one_line(text: str) -> str:
    """Replace tabs, and all that some program takes for the end of a line, by spaces."""
    return _BREAKS.sub(" ", text)


def lines(path: str | os.PathLike) -> Iterator[str]:
    """Yield a UTF-8 file's lines with "\\n" at their ends and without a byte order mark. Raises UserError, also if it is empty."""
    number, text = 0, ""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                text = line.decode("utf-8" if number else "utf-8-sig").replace("\r\n", "\n")
                if number == 0 and _is_utf_16(line):
                    raise UserError(f"{path}: UTF-16 without its mark, by its NUL bytes; save it as UTF-8")
                if number == 0 and not text.endswith("\n") and "\r" in text.rstrip("\r"):
                    raise UserError(f"{path}: its lines end with \\r alone; save it with \\n or \\r\\n")
                if text:
                    yield text
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the name and its rights") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"{path}, line {number + 1}: byte 0x{byte:02x} is not UTF-8; convert the file") from error
    if not text:  # a file that holds a byte order mark alone is empty, too
        raise UserError(f"{path} is empty")


def _is_utf_16(line: bytes) -> bool:
    """Return whether a line is UTF-16, mostly ASCII: its NULs are in one byte of each letter. A text may have others."""
    of_either = line[::2].count(0), line[1::2].count(0)
    return len(line) > 3 and min(of_either) == 0 and 3 * max(of_either) > len(line)


def read(path: str | os.PathLike) -> str:
    """Return all `lines` of a file as one text."""
    return "".join(lines(path))


def write_or_print(path: str | os.PathLike | None, text: str) -> None:
    """Write a file, whole or not at all; without a path print `text`, with what a terminal would obey as its escape."""
    if path is None:
        print(visible_lines(text), end="")
    else:
        write(path, text)


def json_text(value) -> str:
    """Return a value as the JSON of a file, in which no character is raw that a terminal would obey."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return OBEYED.sub(lambda found: "\n" if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text) + "\n"


def write(path: str | os.PathLike, text: str) -> None:
    """Write a file, whole or not at all."""
    with atomic_writer(path) as file:
        file.write(text)


def put_between(document: str, begin: str, end: str, text: str) -> None:
    """Replace what stands between the lines `begin` and `end` of a document by `text`. Raises UserError if it lacks them."""
    before, opened, rest = read(document).partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise UserError(f"{document} lacks the lines {begin.strip()} and {end.strip()}; put them where the tables go")
    write(document, before + begin + text + end + after)


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike) -> Iterator[TextIO]:
    """Open a temporary file and rename it to `path` when the block ends well; on any error `path` is as before.

    Text is UTF-8 with "\\n" line ends. Raises UserError, naming the file, when it cannot be written (no folder rights, full disk).
    The training's twin is lora_nlg.files: the scorer runs without torch, and neither side imports the other. A test holds them equal.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other_kinds(path)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files; a result is as readable as any other
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows cannot, and network file systems may refuse."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Make a private folder for the block. Raises UserError when there is no place for one."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="metrics.")
    except OSError as error:
        raise UserError(
            f"cannot make a temporary folder: {error.strerror}; free some space, or set TMPDIR to another folder"
        ) from error
    with folder as path:
        yield path


def check_outputs(outputs: Iterable[str | os.PathLike], inputs: Iterable[str | os.PathLike]) -> None:
    """Raise UserError, before any work is done, for an output that cannot be written, is an input, or is named twice."""
    taken = {os.path.realpath(path): "is an input, too" for path in inputs}
    for path in map(Path, outputs):
        if use := taken.get(os.path.realpath(path)):
            raise UserError(f"cannot write {path}: it {use}, and would be lost; give the output a name of its own")
        taken[os.path.realpath(path)] = "is named for two outputs"
        try:
            _refuse_other_kinds(path)
            with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
                pass
        except OSError as error:
            raise _cannot_write(path, error) from error


def _refuse_other_kinds(path: Path) -> None:
    if path.is_dir():  # else it would be found out by the renaming, when all is written
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if path.parent == Path("/dev") or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "it is a device or a pipe, whose place a file would take")


def _cannot_write(path: Path, error: OSError) -> UserError:
    is_file = isinstance(error, FileExistsError | NotADirectoryError)
    reason = "a part of its path is a file, not a folder" if is_file else error.strerror or error
    if is_file and any(part.is_symlink() and not part.exists() for part in (path, *path.parents)):
        reason = "a part of its path is a link to nothing"
    return UserError(f"cannot write {path}: {reason}; check the path, its folder's rights and free space")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: str | os.PathLike) -> str:
    """Return the file's sha256 as 64 hexadecimal digits. Raises UserError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check its rights") from error
    return digest.hexdigest()
