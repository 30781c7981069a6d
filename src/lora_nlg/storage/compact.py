"""The file of a small base: the embedding rows that it learnt, and the seed by which all others are drawn.

A row is 16-bit numbers, the whole model is a few megabytes. transformers does not know the form, so the file does not bear the
name by which it looks for one; `gpt2_export.py --to hf` writes what it loads.
"""

from pathlib import Path

import torch
from torch import Tensor

from lora_nlg.config import GPT2_VOCAB_SIZE
from lora_nlg.errors import UserError
from lora_nlg.model.drawn_rows import drawn_rows
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.storage import tensor_files

ROWS, IDS, SEED, ENTRY = "wte.stored_rows", "wte.stored_ids", "wte.drawn_seed", "wte.drawn_entry"


def save(model: GPT2, used_ids: Tensor, seed: int, entry: float, path: str | Path) -> None:
    """Write a base of `bundled.pretrain`, whose embedding has the rows of `used_ids` (U,) alone."""
    tensors = {name: tensor.detach().half() for name, tensor in model.named_parameters()}
    tensors[ROWS], tensors[IDS] = tensors.pop("wte.weight"), used_ids.int()
    tensors[SEED], tensors[ENTRY] = torch.tensor([seed]), torch.tensor([entry])
    tensor_files.save_safetensors(tensors, path)


def expanded(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors with the whole embedding `wte.weight` (V, C); a model's in another form as they are. Raises UserError."""
    if ROWS not in tensors:
        return tensors
    try:
        rows, ids, seed, entry = (tensors.pop(name) for name in (ROWS, IDS, SEED, ENTRY))
        if "wte.weight" in tensors:
            raise ValueError("it holds the whole wte.weight as well")
        if seed.is_floating_point():
            raise ValueError("its seed is no whole number")
        if ids.is_floating_point() or ids.shape != rows.shape[:1] or len(ids.unique()) < len(rows):
            raise ValueError("its ids are not one token's each")
        if not 0 <= int(ids.min()) <= int(ids.max()) < GPT2_VOCAB_SIZE:
            raise ValueError("its ids are not one token's each")
        wte = drawn_rows(GPT2_VOCAB_SIZE, rows.shape[1], int(seed), float(entry)).to(rows.dtype)
        wte[ids.long()] = rows
    except (KeyError, RuntimeError, IndexError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged (its stored rows do not fit together: {error}); make it again") from error
    return {**tensors, "wte.weight": wte}
