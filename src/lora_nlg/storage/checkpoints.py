"""Files of weights: Hugging Face base files, the recipe's checkpoints, this project's and PEFT's adapters. Nothing is unpickled.

Left out are only causal masks, which hold no weights, and the head, which GPT-2 ties to the embedding.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import lora_nlg
from lora_nlg import methods
from lora_nlg.config import GPT2_VOCAB_SIZE
from lora_nlg.errors import UserError
from lora_nlg.files import atomic_writer
from lora_nlg.methods.placement import Given, LoraConfig
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.storage import interchange, peft_settings, tensor_files

RECIPE_PREFIX = "module.transformer."  # keys in the recipe's files: DDP's wrapper, then the language model's
BASE_FILES = ("model.safetensors", "pytorch_model.bin")  # in a Hub folder, in order of preference
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")

AS_THE_FILE_SAYS = Given()

# The bundled base stores only the embedding rows of tokens that its texts use, and one row that all other tokens share.
COMPACT_ROWS, COMPACT_IDS, COMPACT_OTHER = "wte.stored_rows", "wte.stored_ids", "wte.other_row"


@dataclass(frozen=True)
class Base:
    """The model that adapters were trained on: they are of no use on another."""

    card: str
    sha256: str  # of its weights, see `models.fingerprint`


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file, under GPT2's names, and what it says of its adapters."""

    path: Path
    tensors: dict[str, Tensor]
    config: methods.Config | None = None  # what it says of its adapters
    base: Base | None = None
    step: int = 0  # micro-batches they were trained for, as far as the file says

    @property
    def method(self) -> str:
        """The method whose tensors it holds; "full" for a plain model's."""
        return methods.of_tensors(self.tensors)

    def adapters(self) -> dict[str, Tensor]:
        """Return the adapters' tensors; raise UserError if there are none."""
        is_own = methods.method(self.method).is_own
        tensors = {name: tensor for name, tensor in self.tensors.items() if is_own(name)}
        if not tensors:
            raise UserError(
                f"{self.path} holds no LoRA adapters; a base or a fully fine-tuned model goes into --init_checkpoint"
            )
        return tensors

    def base_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that belong to no adapter: none in a file of adapters only."""
        return methods.of_base(self.tensors)

    def adapter_config(self, given: Given = AS_THE_FILE_SAYS) -> methods.Config:
        """Return the configuration of the adapters, checked against the flags. Raises UserError."""
        return methods.method(self.method).from_file(self.config, self.adapters(), self.path, given)

    def check_start(self, config: methods.Config) -> None:
        """Raise UserError when these adapters are no start for training with `config`."""
        methods.method(config.method).check_start(self.config, self.adapters(), self.path, config)


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
    settings = path.with_name(peft_settings.FILE)
    if path.name in PEFT_FILES and settings.is_file():
        tensors, config = interchange.from_peft(tensors, _read_json(settings), str(path))
        return Checkpoint(path, tensors, config)
    try:
        about = _described(said or content.get("lora", {}), methods.of_tensors(tensors))
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


def _description(config: methods.Config, base: Base | None, step: int) -> dict[str, str]:
    """Return what a file says of itself, as the strings that safetensors can hold; nothing of a whole model."""
    fields = methods.method(config.method).described(config) if config is not None else {}
    if not fields:
        return {}
    fields |= {"step": step}
    if base is not None:
        fields |= {"base_card": base.card, "base_sha256": base.sha256}
    return {name: str(value) for name, value in fields.items()} | {"version": lora_nlg.__version__}


def _described(said: Mapping[str, str], method: str) -> tuple[methods.Config | None, Base | None, int]:
    """Undo `_description`; (None, None, 0) for what others saved."""
    base = None
    if "base_sha256" in said:
        base = Base(said.get("base_card", ""), said["base_sha256"])
    return methods.method(method).from_description(said), base, int(said.get("step", 0))


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


def save_recipe(model: GPT2, path: str | Path, base: Base | None = None, step: int = 0) -> str:
    """Write a checkpoint in the recipe's form: the adapters only, with their settings, or a fully fine-tuned model whole.

    This and the functions below return the sha256 of the tensors' file.
    """
    tensors = methods.adapter_tensors(model) or dict(model.named_parameters())
    return save_recipe_tensors(tensors, path, methods.adapter_config(model), base, step)


def save_recipe_tensors(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    config: methods.Config | None = None,
    base: Base | None = None,
    step: int = 0,
) -> str:
    """Write `tensors` under the recipe's names to `path`, with what `config` and `base` say."""
    content: dict[str, object] = {
        "model_state_dict": {RECIPE_PREFIX + name: tensor.detach().cpu() for name, tensor in tensors.items()}
    }
    if description := _description(config, base, step):
        content["lora"] = description
    return tensor_files.save_torch(content, path)


def save_adapters(
    tensors: Mapping[str, Tensor], path: str | Path, config: methods.Config, base: Base | None = None, step: int = 0
) -> str:
    """Write adapters alone, in this project's form: safetensors, with what it takes to use them as its metadata."""
    return tensor_files.save_safetensors(tensors, path, _description(config, base, step))


def save_peft(tensors: Mapping[str, Tensor], folder: str | Path, lora: LoraConfig, card: str | None) -> None:
    """Write adapters as a folder that PEFT loads."""
    packed, settings = interchange.to_peft(tensors, lora, card)
    tensor_files.save_safetensors(packed, Path(folder) / PEFT_FILES[0], {"format": "pt"})
    _save_json(settings, Path(folder) / peft_settings.FILE)


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
