"""Files of tensors, read without unpickling code and written whole or not at all."""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from lora_nlg.errors import UserError
from lora_nlg.files import atomic_writer

# What safetensors and torch.load raise on files that are cut, of another kind, or hold more than tensors.
UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, AttributeError, OSError)


def load(path: Path) -> tuple[dict, dict[str, str]]:
    """Return what a .safetensors file, or one of torch.save, holds, and the metadata of the former.

    Raises UserError when the file is damaged or holds anything but numbers, strings and tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return load_file(path), file.metadata() or {}
        # Files from before torch 1.6 are no zip archives and cannot be mapped into memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content, {}
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is damaged or not a checkpoint of tensors ({reason}); download or save it again"
        ) from error


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]):
        self.file, self.digest, self.flush = file, hashlib.sha256(), file.flush

    def write(self, data: bytes) -> int:
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
        file.write(content)
    return hashlib.sha256(content).hexdigest()
