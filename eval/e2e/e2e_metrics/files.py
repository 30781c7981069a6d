"""Text files: read with one clear sentence for what is wrong, written whole or not at all."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import regex

from e2e_metrics.errors import UserError

_BREAKS = regex.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]")


def one_line(text: str) -> str:
    """Replace tabs, and all that some program takes for the end of a line, by spaces."""
    return _BREAKS.sub(" ", text)


def read(path: str | os.PathLike) -> str:
    """Return a UTF-8 file's text, with "\\n" line ends and without a byte order mark. Raises UserError, also if it is empty."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the name and its rights") from error
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file"
        ) from error
    if not text:
        raise UserError(f"{path} is empty")
    return text


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike) -> Iterator[TextIO]:
    """Open a temporary file and rename it to `path` when the block ends well; on any error `path` is as before.

    Text is UTF-8 with "\\n" line ends. Raises UserError, naming the file, when it cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files; a result may be read by others
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; check its folder's rights and free space") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def sha256(path: str | os.PathLike) -> str:
    """Return the file's sha256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
