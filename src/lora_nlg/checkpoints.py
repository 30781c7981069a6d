"""Weights in and out: Hugging Face base files, the recipe's checkpoints, and the bundled base. Nothing is ever unpickled.

A tensor that is missing, left over or of another shape is an error that names it: no model is ever filled up silently. Left out
are only causal masks, which hold no weights, and the head, which GPT-2 ties to the embedding.
"""

import dataclasses
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lora_nlg.cli import UserError
from lora_nlg.config import GPT2_VOCAB_SIZE, LoraConfig, ModelConfig
from lora_nlg.files import atomic_writer
from lora_nlg.gpt2 import GPT2, empty_model, init_weights
from lora_nlg.lora import adapter_tensors

RECIPE_PREFIX = "module.transformer."  # keys in the recipe's files: DDP's wrapper, then the language model's
BASE_FILES = ("model.safetensors", "pytorch_model.bin")  # in a Hub folder, in order of preference

# The bundled base stores only the embedding rows of tokens that its texts use, and one row that all other tokens share.
COMPACT_ROWS, COMPACT_IDS, COMPACT_OTHER = "wte.stored_rows", "wte.stored_ids", "wte.other_row"


# What safetensors and torch.load raise on files that are cut, of another kind, or hold more than tensors.
UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, AttributeError, OSError)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file, under GPT2's names, and what it says of its adapters."""

    path: Path
    tensors: dict[str, Tensor]
    rank: int | None = None
    alpha: float | None = None

    def adapters(self) -> dict[str, Tensor]:
        """Return the adapters' tensors; raise UserError if there are none."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if ".lora_" in name}
        if not any(name.endswith("lora_B") for name in tensors):
            raise UserError(
                f"{self.path} holds no LoRA adapters; a base or a fully fine-tuned model goes into --init_checkpoint"
            )
        return tensors

    def lora_config(self, rank: int, alpha: float | None) -> LoraConfig:
        """Return the configuration of the adapters, checked against the flags: `rank` 0 and `alpha` None agree with any file."""
        found = next(tensor.shape[1] for name, tensor in self.adapters().items() if name.endswith("lora_B"))
        if rank not in (0, found):
            raise UserError(
                f"{self.path} holds adapters of rank {found}, not {rank}; pass --lora_dim {found} or leave it out"
            )
        if self.alpha is None and alpha is None:
            raise UserError(
                f"{self.path} does not say its alpha; pass what it was trained with, in the recipe --lora_alpha 32"
            )
        if None not in (alpha, self.alpha) and alpha != self.alpha:
            raise UserError(f"{self.path} was trained with alpha {self.alpha:g}, not {alpha:g}; leave --lora_alpha out")
        return LoraConfig(found, self.alpha if alpha is None else alpha)


def read(path: str | Path) -> Checkpoint:
    """Read a .safetensors, .bin or .pt file, or a folder with a Hub base.

    Prefixes (`module.`, `transformer.`) are taken off the names; causal-mask buffers and the tied head, which hold nothing
    of their own, are dropped. Raises UserError when there is no such file or it is not a checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        found = next((path / name for name in BASE_FILES if (path / name).is_file()), None)
        if found is None:
            raise UserError(f"{path} has neither {' nor '.join(BASE_FILES)}; expected a folder with GPT-2's weights")
        path = found
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; check the path, or download or train it first")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            # Files from before torch 1.6 are no zip archives and cannot be mapped into memory.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        tensors, lora = content.get("model_state_dict", content), content.get("lora", {})
        if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise ValueError("it holds something other than tensors")
        rank, alpha = lora.get("rank"), lora.get("alpha")
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is damaged or not a checkpoint of tensors ({reason}); download or save it again"
        ) from error
    return Checkpoint(path, _expand_compact(_plain_names(tensors)), rank, alpha)


def _plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.").removeprefix("transformer.")
        is_buffer = name.endswith((".attn.bias", ".attn.masked_bias"))
        if not is_buffer and name not in ("lm_head.weight", "lm_head.decoder.weight"):
            plain[name] = tensor
    return plain


def _expand_compact(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if COMPACT_ROWS not in tensors:
        return tensors
    rows, ids, other = (tensors.pop(name) for name in (COMPACT_ROWS, COMPACT_IDS, COMPACT_OTHER))
    wte = other.repeat(GPT2_VOCAB_SIZE, 1)  # (V, C)
    wte[ids.long()] = rows
    return {**tensors, "wte.weight": wte}


def base_model(config: ModelConfig, source: str | None, generator: torch.Generator, precision: str = "fp32") -> GPT2:
    """Return a GPT-2 without adapters, filled from `source`: a file, a folder, or the word random for a random start."""
    if source is None:
        raise UserError("--init_checkpoint is missing; pass GPT-2's weights, or the word random for a random start")
    model = empty_model(config, torch.float64 if precision == "fp64" else torch.float32)
    if source == "random":
        init_weights(model, generator)
        return model
    base = read(source)
    if any(".lora_" in name for name in base.tensors):
        raise UserError(
            f"{base.path} holds LoRA adapters; pass it as --lora_checkpoint, and the base as --init_checkpoint"
        )
    _fill(model, base.tensors, base.path, wanted=dict(model.named_parameters()))
    return model


def load_adapters(model: GPT2, adapters: Checkpoint) -> None:
    """Fill the adapters of `model` from an adapter file or a whole checkpoint of the recipe's."""
    _fill(model, adapters.adapters(), adapters.path, wanted=adapter_tensors(model))


@torch.no_grad()
def _fill(model: GPT2, tensors: dict[str, Tensor], path: str | Path, wanted: dict[str, Tensor]) -> None:
    complaints = [f"{name} is missing" for name in wanted if name not in tensors]
    complaints += [f"{name} is not a part of this model" for name in tensors if name not in wanted]
    complaints += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if name in tensors and tensors[name].shape != parameter.shape
    ]
    if complaints:
        more = f"; and {len(complaints) - 8} more" if len(complaints) > 8 else ""
        raise UserError(
            f"{path} does not fit the model (check --model_card and --lora_dim): {'; '.join(complaints[:8])}{more}"
        )
    parameters = dict(model.named_parameters())
    for name in wanted:
        parameters[name].copy_(tensors[name])


def save_recipe(model: GPT2, path: str | Path) -> None:
    """Write a checkpoint in the recipe's form: the adapters only, with their settings, or a fully fine-tuned model whole."""
    tensors = adapter_tensors(model) or dict(model.named_parameters())
    lora = getattr(model.h[0].attn.c_attn, "config", None)
    content = {"model_state_dict": {RECIPE_PREFIX + name: tensor.detach().cpu() for name, tensor in tensors.items()}}
    if lora is not None:
        content["lora"] = dataclasses.asdict(lora)
    with atomic_writer(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch makes of the OSError of a full disk
            raise OSError("not all of it could be written") from error


def save_compact(model: GPT2, used_ids: Tensor, path: str | Path) -> None:
    """Write a base of `pretrain` in float16: the embedding rows of `used_ids` and, its last row, the one of all other tokens."""
    tensors = {name: tensor.detach().half() for name, tensor in model.named_parameters()}
    tensors[COMPACT_ROWS], tensors[COMPACT_OTHER] = tensors.pop("wte.weight").split([len(used_ids), 1])
    tensors[COMPACT_IDS] = used_ids.int()
    with atomic_writer(path, "wb") as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
