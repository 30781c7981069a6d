"""Files of tensors, read without unpickling code and written whole or not at all."""

import hashlib
import io
import json
import mmap
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from lora_nlg.errors import Stopped, UserError
from lora_nlg.files import atomic_writer


def load(path: Path) -> tuple[dict, dict[str, str]]:
    """Return what a .safetensors file, or one of torch.save, holds, and the metadata of the former.

    Raises UserError when the file cannot be read, is damaged or holds anything but numbers, strings and tensors.
    """
    try:
        with open(path, "rb"):  # of which safetensors says that there is none
            pass
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on forms that are going out of use
            if path.suffix == ".safetensors" or _is_safetensors(path):
                with safe_open(path, "pt") as file:
                    return load_file(path), file.metadata() or {}
            return _load_torch(path), {}
    except (UserError, Stopped):
        raise
    except Exception as error:  # a damaged file can raise anything out of torch, pickle, zipfile and safetensors
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is damaged or not a checkpoint of tensors ({reason}); download or save it again"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Return whether a file of another name begins as safetensors do: the length of a JSON object, and that object."""
    with open(path, "rb") as file:
        begin = file.read(9)
    return begin[8:] == b"{" and int.from_bytes(begin[:8], "little") <= path.stat().st_size


def _load_torch(path: Path) -> dict:
    """Return the dictionary in a file of torch.save."""
    source: Path | IO[bytes] = path
    is_zip = zipfile.is_zipfile(path)  # files from before torch 1.6 are none
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            _verify(archive)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                source = _stored(archive)
    content = torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip and source is path)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    if is_zip and source is path:
        _check_records(path, content)
    return content


def _check_records(path: Path, content: dict) -> None:
    """Raise ValueError when a mapped tensor is longer than its record: what comes after it in the file would be read as weights."""
    sizes = dict(_records(path))  # by where they begin
    mapped = {storage.data_ptr(): storage.nbytes() for storage in _storages(content) if storage.nbytes()}
    # The file begins at a page of memory, which is not known: it is the one from where each storage is where a record is.
    begins = (begin for offset in sizes if (begin := min(mapped, default=0) - offset) % mmap.PAGESIZE == 0)
    if mapped and not any(all(n <= sizes.get(at - begin, -1) for at, n in mapped.items()) for begin in begins):
        raise ValueError("a record is shorter than its tensor")


def _records(path: Path) -> Iterator[tuple[int, int]]:
    """Yield where each entry's bytes begin in a zip archive, and how many they are."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset + 26)  # lengths of what stands between the header and the bytes
            n_name, n_extra = struct.unpack("<HH", file.read(4))
            yield entry.header_offset + 30 + n_name + n_extra, entry.file_size


def _storages(value: object) -> Iterator[torch.UntypedStorage]:
    """Yield the storages of all tensors in what torch.load returned."""
    if isinstance(value, Tensor):
        if value.layout == torch.strided and not value.is_nested and not value.is_meta:
            yield value.untyped_storage()
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _storages(one)
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _storages(one)


def _verify(archive: zipfile.ZipFile) -> None:
    """Raise ValueError when an entry is there twice or has another checksum than it says: torch looks at neither."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise ValueError("it holds an entry twice")
    if broken := archive.testzip():
        raise ValueError(f"the checksum of its {broken} differs")


def _stored(archive: zipfile.ZipFile) -> IO[bytes]:
    """Return an archive that was zipped again as torch.save writes it: compressed bytes would be mapped into memory as weights."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as stored:
        for name in archive.namelist():
            stored.writestr(name, archive.read(name))
    content.seek(0)
    return content


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]):
        self.file, self.digest, self.flush = file, hashlib.sha256(), file.flush

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self.file.write(data)


def save_torch(content: dict, path: str | Path) -> str:
    """Write `content` as torch.save does and return the sha256 of what was written."""
    with atomic_writer(path, "wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save(content, cast(IO[bytes], hashed))
        except RuntimeError as error:  # what torch makes of the OSError of a full disk
            raise OSError("not all of it could be written") from error
    return hashed.digest.hexdigest()


def save_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> str:
    """Write tensors and metadata as safetensors and return the sha256 of what was written."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with atomic_writer(path, "wb") as file:
        hashed = _Hashed(file)
        for part in _with_sorted_metadata(content):
            hashed.write(part)
    return hashed.digest.hexdigest()


def _with_sorted_metadata(content: bytes) -> tuple[bytes, memoryview]:
    """Return header and numbers of safetensors with the metadata by name: its writer has another order in each process."""
    n = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n])
    said = header.pop("__metadata__", None)
    ordered = ({} if said is None else {"__metadata__": dict(sorted(said.items()))}) | header
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # where numbers begin, a mapped file wants them aligned
    return len(text).to_bytes(8, "little") + text, memoryview(content)[8 + n :]
