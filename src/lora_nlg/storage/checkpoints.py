"""Weights in and out: Hugging Face base files, the recipe's checkpoints, this project's and PEFT's adapters. Nothing is unpickled.

A tensor that is missing, left over or of another shape is an error that names it: no model is ever filled up silently. Left out
are only causal masks, which hold no weights, and the head, which GPT-2 ties to the embedding.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import lora_nlg
from lora_nlg.config import GPT2_VOCAB_SIZE, LoraConfig, ModelConfig, rank_text
from lora_nlg.errors import UserError
from lora_nlg.files import atomic_writer
from lora_nlg.methods import placement
from lora_nlg.methods.lora import adapter_config, adapter_tensors
from lora_nlg.model.gpt2 import GPT2, empty_model, init_weights
from lora_nlg.storage import interchange, tensor_files

RECIPE_PREFIX = "module.transformer."  # keys in the recipe's files: DDP's wrapper, then the language model's
BASE_FILES = ("model.safetensors", "pytorch_model.bin")  # in a Hub folder, in order of preference
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PEFT_SETTINGS = "adapter_config.json"  # beside them

# The bundled base stores only the embedding rows of tokens that its texts use, and one row that all other tokens share.
COMPACT_ROWS, COMPACT_IDS, COMPACT_OTHER = "wte.stored_rows", "wte.stored_ids", "wte.other_row"


@dataclass(frozen=True)
class Base:
    """The model that adapters were trained on: they are of no use on another."""

    card: str
    sha256: str  # of its weights, see `fingerprint`


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file, under GPT2's names, and what it says of its adapters."""

    path: Path
    tensors: dict[str, Tensor]
    lora: LoraConfig | None = None
    base: Base | None = None
    step: int = 0  # micro-batches they were trained for, as far as the file says

    def adapters(self) -> dict[str, Tensor]:
        """Return the adapters' tensors; raise UserError if there are none."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if ".lora_" in name}
        if not any(name.endswith("lora_B") for name in tensors):
            raise UserError(
                f"{self.path} holds no LoRA adapters; a base or a fully fine-tuned model goes into --init_checkpoint"
            )
        return tensors

    def base_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that belong to no adapter: none in a file of adapters only."""
        return {name: tensor for name, tensor in self.tensors.items() if ".lora_" not in name}

    def lora_config(self, rank: int | dict[str, int], alpha: float | None) -> LoraConfig:
        """Return the configuration of the adapters, checked against the flags: `rank` 0 and `alpha` None agree with any file.

        A file that does not say it holds what the recipe trains: adapters of query and value, of one rank, in every layer.
        """
        recipe_rank = next(tensor.shape[-1] for name, tensor in self.adapters().items() if name.endswith("lora_B"))
        found = self.lora or LoraConfig(recipe_rank)
        wanted = rank if isinstance(rank, dict) else dict.fromkeys(found.targets, rank)
        if rank != 0 and wanted != {target: found.rank_of(target) for target in found.targets}:
            theirs = rank_text(found.rank)
            raise UserError(
                f"{self.path} holds adapters of rank {theirs}, not {rank_text(rank)}; pass --lora_dim {theirs} or leave it out"
            )
        largest = max(size for tensor in self.adapters().values() for size in tensor.shape)
        if any(found.rank_of(target) > largest for target in found.targets):
            raise UserError(
                f"{self.path} says that its rank is {rank_text(found.rank)}, but it has no such tensors; save it again"
            )
        if self.lora is None and alpha is None:
            raise UserError(
                f"{self.path} does not say its alpha; pass what it was trained with, in the recipe --lora_alpha 32"
            )
        if self.lora is None:
            return LoraConfig(recipe_rank, alpha)
        if alpha not in (None, found.alpha):
            raise UserError(
                f"{self.path} was trained with alpha {found.alpha:g}, not {alpha:g}; pass --lora_alpha {found.alpha:g}"
            )
        return found


def read(path: str | Path) -> Checkpoint:
    """Read a .safetensors, .bin or .pt file, or a folder with a Hub base or a PEFT adapter.

    Prefixes (`module.`, `transformer.`) are taken off the names; causal-mask buffers and the tied head, which hold nothing
    of their own, are dropped. Raises UserError when there is no such file or it is not a checkpoint.
    """
    path = _file_in(Path(path))
    content, said = tensor_files.load(path)
    tensors = content.get("model_state_dict", content)
    if not isinstance(tensors, dict) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in tensors.items()
    ):
        raise UserError(f"{path} is damaged or not a checkpoint of tensors (it holds something else); save it again")
    settings = path.with_name(PEFT_SETTINGS)
    if path.name in PEFT_FILES and settings.is_file():
        tensors, lora = interchange.from_peft(tensors, _read_json(settings), str(path))
        return Checkpoint(path, tensors, lora)
    try:
        about = _described(said or content.get("lora", {}))
    except (ValueError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{path} says of its adapters what cannot be understood ({error}); save it again") from error
    return Checkpoint(path, _expand_compact(_plain_names(tensors), path), *about)


def _file_in(path: Path) -> Path:
    """Return the checkpoint's file: `path` itself, or what the folder `path` holds."""
    if path.is_dir():
        names = (*BASE_FILES, *PEFT_FILES)
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise UserError(
                f"{path} has none of {', '.join(names)}; expected a folder with GPT-2's weights or a PEFT adapter"
            )
        return found
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; check the path, or download or train it first")
    return path


def _description(lora: LoraConfig, base: Base | None, step: int) -> dict[str, str]:
    """Return what a file of adapters says of itself, as the strings that safetensors can hold."""
    fields = placement.described(lora) | {"step": step}
    if base is not None:
        fields |= {"base_card": base.card, "base_sha256": base.sha256}
    return {name: str(value) for name, value in fields.items()} | {"version": lora_nlg.__version__}


def _described(said: Mapping[str, str]) -> tuple[LoraConfig | None, Base | None, int]:
    """Undo `_description`; (None, None, 0) for what others saved."""
    base = None
    if "base_sha256" in said:
        base = Base(said.get("base_card", ""), said["base_sha256"])
    return placement.from_description(said), base, int(said.get("step", 0))


def _plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.").removeprefix("transformer.")
        is_buffer = name.endswith((".attn.bias", ".attn.masked_bias"))
        if not is_buffer and name not in ("lm_head.weight", "lm_head.decoder.weight"):
            plain[name] = tensor
    return plain


def _expand_compact(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if COMPACT_ROWS not in tensors:
        return tensors
    try:
        rows, ids, other = (tensors.pop(name) for name in (COMPACT_ROWS, COMPACT_IDS, COMPACT_OTHER))
        wte = other.repeat(GPT2_VOCAB_SIZE, 1)  # (V, C)
        wte[ids.long()] = rows
    except (KeyError, RuntimeError, IndexError) as error:
        raise UserError(f"{path} is damaged (its stored rows do not fit together: {error}); make it again") from error
    return {**tensors, "wte.weight": wte}


def base_model(
    config: ModelConfig,
    source: str | None,
    generator: torch.Generator,
    precision: str = "fp32",
    adapters: Checkpoint | None = None,
) -> GPT2:
    """Return a GPT-2 without adapters, filled from `source`: a file, a folder, or the word random for a random start.

    Without a `source` the base comes out of `adapters`, if that is a whole checkpoint.
    """
    whole = adapters if adapters is not None and adapters.base_tensors() else None
    if source is None and whole is None:
        needs = (
            f"{adapters.path} holds adapters only; pass the base they were trained on"
            if adapters
            else "pass GPT-2's weights"
        )
        raise UserError(f"--init_checkpoint is missing: {needs}, or the word random for a random start")
    model = empty_model(config, torch.float64 if precision == "fp64" else torch.float32)
    if source == "random":
        init_weights(model, generator)
        return model
    base = whole if source is None else read(source)
    if base is not whole and any(".lora_" in name for name in base.tensors):
        rest = "leave --init_checkpoint out" if base.base_tensors() else "pass the base as --init_checkpoint"
        raise UserError(f"{base.path} holds LoRA adapters; pass it as --lora_checkpoint, and {rest}")
    _fill(model, base.base_tensors(), base.path, wanted=dict(model.named_parameters()))
    return model


def fingerprint(model: GPT2) -> str:
    """Return the sha256 of the base's weights, adapters left out: the same whatever file they came from. On the CPU."""
    return digest({name: tensor for name, tensor in model.named_parameters() if ".lora_" not in name})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors on the CPU, as float32."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.detach().float().contiguous().numpy())
    return sha256.hexdigest()


def load_adapters(model: GPT2, adapters: Checkpoint, weights: str | None = None) -> None:
    """Fill the adapters of `model`, on the CPU, from an adapter file or a whole checkpoint; raise UserError on another base's.

    `weights` is the model's fingerprint, for a caller that has it: of GPT-2 Medium it takes seconds.
    """
    _fill(model, adapters.adapters(), adapters.path, wanted=adapter_tensors(model))
    if adapters.base and (given := weights or fingerprint(model)) != adapters.base.sha256:
        raise UserError(
            f"{adapters.path} was trained on another base ({adapters.base.card}, weights {adapters.base.sha256[:12]}…) than the one "
            f"given (weights {given[:12]}…); pass that base as --init_checkpoint"
        )
    parameters = dict(model.named_parameters())
    other = [
        name for name, t in adapters.base_tensors().items() if not torch.equal(parameters[name], t.to(parameters[name]))
    ]
    if other:
        raise UserError(
            f"{adapters.path} is a whole checkpoint with another base than the one given ({other[0]} differs); leave "
            "--init_checkpoint out"
        )


@torch.no_grad()
def _fill(model: GPT2, tensors: dict[str, Tensor], path: str | Path, wanted: dict[str, Tensor]) -> None:
    complaints = [f"{name} is missing" for name in wanted if name not in tensors]
    complaints += [f"{name} is not a part of this model" for name in tensors if name not in wanted]
    complaints += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if name in tensors and tensors[name].shape != parameter.shape
    ]
    fitting = [name for name in wanted if name in tensors and tensors[name].shape == wanted[name].shape]
    complaints += [
        f"{name} is {tensors[name].dtype}, not floating point"
        for name in fitting
        if not tensors[name].is_floating_point()
    ]
    complaints += [
        f"{name} has values that are no numbers" for name in fitting if not torch.isfinite(tensors[name]).all()
    ]
    if complaints:
        more = f"; and {len(complaints) - 8} more" if len(complaints) > 8 else ""
        raise UserError(
            f"{path} does not fit the model (check --model_card and --lora_dim): {'; '.join(complaints[:8])}{more}"
        )
    parameters = dict(model.named_parameters())
    for name in wanted:
        parameters[name].copy_(tensors[name])


def save_recipe(model: GPT2, path: str | Path, base: Base | None = None, step: int = 0) -> str:
    """Write a checkpoint in the recipe's form: the adapters only, with their settings, or a fully fine-tuned model whole.

    This and the functions below return the sha256 of the tensors' file.
    """
    lora = adapter_config(model)
    return save_recipe_tensors(adapter_tensors(model) or dict(model.named_parameters()), path, lora, base, step)


def save_recipe_tensors(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    lora: LoraConfig | None = None,
    base: Base | None = None,
    step: int = 0,
) -> str:
    """Write `tensors` under the recipe's names to `path`, with what `lora` and `base` say."""
    content = {"model_state_dict": {RECIPE_PREFIX + name: tensor.detach().cpu() for name, tensor in tensors.items()}}
    if lora is not None:
        content["lora"] = _description(lora, base, step)
    return tensor_files.save_torch(content, path)


def save_adapters(
    tensors: Mapping[str, Tensor], path: str | Path, lora: LoraConfig, base: Base | None = None, step: int = 0
) -> str:
    """Write adapters alone, in this project's form: safetensors, with what it takes to use them as its metadata."""
    return tensor_files.save_safetensors(tensors, path, _description(lora, base, step))


def save_peft(tensors: Mapping[str, Tensor], folder: str | Path, lora: LoraConfig, card: str | None) -> None:
    """Write adapters as a folder that PEFT loads."""
    packed, settings = interchange.to_peft(tensors, lora, card)
    tensor_files.save_safetensors(packed, Path(folder) / PEFT_FILES[0], {"format": "pt"})
    _save_json(settings, Path(folder) / PEFT_SETTINGS)


def save_hugging_face(model: GPT2, folder: str | Path) -> None:
    """Write a model without adapters, or with merged ones, as a folder that transformers loads."""
    tensors = interchange.hugging_face_tensors(dict(model.named_parameters()))
    tensor_files.save_safetensors(tensors, Path(folder) / BASE_FILES[0], {"format": "pt"})
    _save_json(interchange.hugging_face_config(model.config), Path(folder) / "config.json")


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise UserError(f"{path} is not a JSON object of settings: {error}") from error
    return content


def _save_json(content: dict, path: Path) -> None:
    with atomic_writer(path) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def save_compact(model: GPT2, used_ids: Tensor, path: str | Path) -> None:
    """Write a base of `pretrain` in float16: the embedding rows of `used_ids` and, its last row, the one of all other tokens."""
    tensors = {name: tensor.detach().half() for name, tensor in model.named_parameters()}
    tensors[COMPACT_ROWS], tensors[COMPACT_OTHER] = tensors.pop("wte.weight").split([len(used_ids), 1])
    tensors[COMPACT_IDS] = used_ids.int()
    tensor_files.save_safetensors(tensors, path)
