"""Files that are either whole or not there."""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from lora_nlg.errors import UserError

FORMS = (".jsonl", ".json", ".txt")  # of outputs; what else stands behind a dot is a part of the name, as in lp0.8


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends well; on any error `path` is as before.

    Text is UTF-8 with "\\n" line ends. Raises UserError, naming the file, when it cannot be written (no folder rights, full disk).
    """
    path = Path(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other_kinds(path)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with open(descriptor, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files; a result is as readable as any other
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a new folder beside `path`, and put it in the place of `path`, with whatever was there, when the block ends well.

    On any error `path` is as before. Raises UserError, naming the folder, when it cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            yield new
            _sync_folder(new)
            if path.exists():  # a folder that is not empty can only be renamed away
                os.rename(path, old)
            try:
                os.rename(new, path)
            except BaseException:
                if old.exists():
                    os.rename(old, path)
                raise
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def atomic_files(folder: str | os.PathLike, last: str) -> Iterator[Path]:
    """Yield a new folder, and move its files into `folder`, beside what is there, when the block ends well; `last` comes last.

    On any error the files are as before. A kill between two moves leaves no file `last`, so that old and new ones are never read
    together. Raises UserError when something cannot be written.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            old.mkdir()
            try:
                yield new
            except UserError as error:
                raise UserError(str(error).replace(str(new), str(folder))) from error
            names = sorted(path.name for path in new.iterdir())
            for name in names:
                _refuse_other_kinds(folder / name)
            placed: list[str] = []
            try:
                for name in sorted(names, key=last.__ne__):
                    if (folder / name).exists():
                        os.replace(folder / name, old / name)
                for name in sorted(names, key=last.__eq__):
                    os.replace(new / name, folder / name)
                    placed.append(name)
            except BaseException:
                for name in placed:
                    (folder / name).unlink(missing_ok=True)
                for name in sorted((path.name for path in old.iterdir()), key=last.__eq__):
                    os.replace(old / name, folder / name)
                raise
        _sync_folder(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows cannot, and network file systems may refuse."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def beside(output: Path, ending: str) -> Path:
    """Return the file that goes with an output: by its name, without what tells its form, and with `ending`."""
    form = next((form for form in FORMS if output.name.endswith(form)), "")
    return output.parent / (output.name.removesuffix(form) + ending)  # which a folder has as well


def check_outputs(outputs: Iterable[str | os.PathLike], inputs: Iterable[str | os.PathLike] = ()) -> None:
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
            raise cannot_write(path, error) from error


def check_inputs(inputs: Iterable[str | os.PathLike]) -> None:
    """Raise UserError for a pipe or a device among inputs that are read more than once."""
    for path in map(Path, inputs):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path} is a pipe or a device, which can be read once; save it to a file and name that")


def _refuse_other_kinds(path: Path) -> None:
    if path.is_dir():  # else it would be found out by the renaming, when all is written
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if path.parent == Path("/dev") or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "it is a device or a pipe, whose place a file would take")


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the error that says which file it is, why, and what to do."""
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
