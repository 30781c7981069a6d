"""Files of weights: Hugging Face base files, the recipe's checkpoints, this project's and PEFT's adapters. Nothing is unpickled.

Left out are only causal masks, which hold no weights, and a head that is the embedding, to which GPT-2 ties it.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import lora_nlg
from lora_nlg import methods
from lora_nlg.config import CARDS
from lora_nlg.errors import UserError
from lora_nlg.files import atomic_writer
from lora_nlg.methods.placement import Given, LoraConfig, no_adapters
from lora_nlg.model.gpt2 import GPT2
from lora_nlg.storage import compact, hub, interchange, peft_methods, peft_settings, tensor_files
from lora_nlg.storage.hub import BASE_FILES, INDEX, PEFT_FILES

RECIPE_PREFIX = "module.transformer."  # keys in the recipe's files: DDP's wrapper, then the language model's
# What other programs wrap a model in: their names stand before, or between, its own.
WRAPPERS = ("module", "model", "base_model", "transformer", "_forward_module")
INNER_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
HEADS = ("lm_head.weight", "lm_head.decoder.weight")
OWN_NAME = re.compile(r"(?:^|\.)(?:wte|wpe|h\.\d+|ln_f|lm_head)\.")  # where a name of GPT-2's begins
# PEFT's names go on where this project's end, or are its own
PEFT_MATRICES = (
    ".lora_A.", ".lora_B.", ".vera_lambda_", ".fourierft_", ".ia3_l", "prompt_embeddings", ".lora_magnitude_vector",
)  # fmt: skip
MOST_REPEATED = 1 << 32  # bytes of a tensor that a file holds fewer numbers of, said to be there again and again
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)

AS_THE_FILE_SAYS = Given()
# What any file may say of itself, beside its method's settings
OF_FILES = {"format", "method", "step", "version", "base_card", "base_sha256", "base_name"}


@dataclass(frozen=True)
class Base:
    """The model that adapters were trained on: they are of no use on another."""

    card: str
    sha256: str  # of its weights, see `models.fingerprint`
    name: str | None = None  # on the Hub, "" if it is not published; None where a file does not say

    @property
    def published_as(self) -> str | None:
        """The base's name on the Hub, or what may stand for it, its card; None of weights that are not published."""
        return self.card if self.name is None else self.name or None


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file, under GPT2's names, and what it says of its adapters."""

    path: Path
    tensors: dict[str, Tensor]
    config: methods.Config | None = None  # what it says of its adapters
    base: Base | None = None
    step: int = 0  # micro-batches they were trained for, as far as the file says
    is_peft: bool = False
    is_named: Callable[[str], bool] | None = None  # of PEFT's adapters: whether their settings name a module of GPT2

    @property
    def method(self) -> str:
        """The method whose tensors it holds; `methods.PLAIN` for a plain model's."""
        return methods.of_tensors(self.tensors) if self.config is None else self.config.method

    @property
    def card(self) -> str | None:
        """The card of the model that the adapters belong to, if the file says one that is here."""
        named = self.base.card if self.base else ""
        return named if named in CARDS or os.path.isfile(named) else None

    def adapters(self) -> dict[str, Tensor]:
        """Return the adapters' tensors; raise UserError if there are none."""
        is_own = methods.method(self.method).is_own
        tensors = {name: tensor for name, tensor in self.tensors.items() if is_own(name)}
        if not tensors:
            raise no_adapters(self.path)
        other = next((n for n in self.tensors if n not in tensors and methods.of_tensors([n]) != methods.PLAIN), None)
        if other is not None:
            raise UserError(
                f"{self.path} holds {other} beside {methods.called(self.method)}; save it again with what it is"
            )
        check_finite(tensors, self.path)
        return tensors

    def base_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that belong to no adapter: none in a file of adapters only."""
        return methods.of_base(self.tensors)

    def adapter_config(self, given: Given = AS_THE_FILE_SAYS) -> methods.Config:
        """Return the configuration of the adapters, checked against the flags. Raises UserError."""
        return methods.method(self.method).from_file(self.config, self.adapters(), self.path, given)

    def check_start(self, config: methods.Config) -> None:
        """Raise UserError when these adapters are no start for training with `config`."""
        theirs, ours = methods.called(self.method), methods.called(config.method)
        if theirs != ours and methods.PLAIN not in (self.method, config.method):
            raise UserError(f"{self.path} holds {theirs}, not {ours}; train with --method {self.method}")
        methods.method(config.method).check_start(self.config, self.adapters(), self.path, config)


def read(path: str | Path) -> Checkpoint:
    """Read a .safetensors, .bin or .pt file, or a folder with a Hub base or a PEFT adapter, or what a Hub id names.

    The names of wrappers are taken off the tensors' names; causal masks and a head that is the embedding, which hold nothing of
    their own, are dropped. Raises UserError when there is no such file or it is not a checkpoint.
    """
    path = file_of(Path(path))
    loaded: tuple[dict, dict] = (_shards(path), {}) if path.name.endswith(INDEX) else tensor_files.load(path)
    content, said = loaded
    tensors = content.get("model_state_dict", content)
    if not isinstance(tensors, dict) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in tensors.items()
    ):
        raise UserError(f"{path} is damaged or not a checkpoint of tensors (it holds something else); save it again")
    _check(tensors, path, _fault)
    tensors = {name: tensor.resolve_neg() for name, tensor in tensors.items()}  # numpy, and so writing, knows no other
    settings = path.with_name(peft_settings.FILE)
    is_peft = any(matrix in name for name in tensors for matrix in PEFT_MATRICES)
    if settings.is_file() and (is_peft or path.name in PEFT_FILES):
        _check(tensors, path, _fault_of_weights)
        said = _read_json(settings)
        is_named = peft_methods.is_named(tensors, said, str(path))
        tensors, config = interchange.from_peft(tensors, said, str(path))
        return Checkpoint(path, tensors, config, is_peft=True, is_named=is_named)
    if is_peft:
        raise UserError(
            f"{path} holds PEFT's adapters without {settings.name} beside it; pass the folder that PEFT saved"
        )
    tensors = _without_masks(_plain_names(tensors, path))
    _check(tensors, path, _fault_of_weights)
    tensors = _without_head(compact.expanded(tensors, path), path)
    try:
        about = _described(said or content.get("lora", {}), tensors)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError, UserError) as error:
        raise UserError(f"{path} says of its adapters what cannot be understood ({error}); save it again") from error
    return Checkpoint(path, tensors, *about)


def file_of(path: Path) -> Path:
    """Return the checkpoint's file: `path` itself, or what the folder or the Hub's repository `path` holds."""
    path = hub.local(path)
    if path.is_dir():
        names = (*BASE_FILES, *PEFT_FILES, hub.OWN_FILE)
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            whole = ", ".join(name for name in names if not name.endswith(INDEX))
            raise UserError(f"{path} has none of {whole}; expected a folder with GPT-2's weights or a PEFT adapter")
        return found
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; check the path, or download or train it first")
    return path


def _shards(index: Path) -> dict[str, Tensor]:
    """Return the tensors of the files that `index` lists, checked against it."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index} has no weight_map that says which file holds which tensor; download it again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if not name or Path(name).name != name or "\\" in name or "\0" in name:
            raise UserError(f"{index} names the file {name!r}; expected files beside it alone")
        shard = index.with_name(name)
        if not shard.is_file():
            raise UserError(f"{index} names {name}, which is not there; download it again")
        content, _ = tensor_files.load(shard)
        listed = {tensor for tensor, file in weight_map.items() if file == name}
        if odd := sorted(map(str, content.keys() ^ listed)):
            raise UserError(
                f"{shard} does not hold the tensors that {index.name} lists ({odd[0]}); download both again"
            )
        tensors |= content
    return tensors


def _check(tensors: Mapping[str, Tensor], path: Path, fault_of: Callable[[Tensor], str | None]) -> None:
    """Raise UserError, naming the first tensor that has a fault."""
    for name, tensor in tensors.items():
        if fault := fault_of(tensor):
            raise UserError(
                f"{path} holds {name or 'a tensor without a name'}, which is {fault}; save it again as plain numbers"
            )


def _fault(tensor: Tensor) -> str | None:
    """Return what makes of `tensor` no plain array of numbers in memory, None if it is one."""
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return f"a {type(tensor).__name__}"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else f"{tensor.layout}"
    if tensor.is_quantized:
        return "quantised"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() + MOST_REPEATED:
        return f"of the shape {tuple(tensor.shape)}, of which the file has {tensor.untyped_storage().nbytes():,} bytes"
    return None if tensor.device.type == "cpu" else f"on the device {tensor.device.type}"


def _fault_of_weights(tensor: Tensor) -> str | None:
    """Return what makes of `tensor` no weights, None if it is some; whole numbers are found when a model is filled."""
    if tensor.dtype not in WEIGHT_DTYPES:
        return f"{tensor.dtype}"
    return None if tensor.dim() and tensor.numel() else f"of the shape {tuple(tensor.shape)}"


def check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError, naming a tensor that holds what is no number."""
    bad = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
    if bad is not None:
        raise UserError(f"{path}: {bad} has values that are no numbers; save it again")


def _description(config: methods.Config, base: Base | None, step: int) -> dict[str, str]:
    """Return what a file says of itself, as the strings that safetensors can hold; nothing of a whole model."""
    fields = methods.method(config.method).described(config) if config is not None else {}
    if not fields:
        return {}
    fields |= {"step": step}
    if base is not None:
        fields |= {"base_card": base.card, "base_sha256": base.sha256}
        if base.name or (base.name is not None and hub.name_of(base.card)):  # else nobody takes the card for a name
            fields["base_name"] = base.name
    return {name: str(value) for name, value in fields.items()} | {"version": lora_nlg.__version__}


def _described(
    said: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> tuple[methods.Config | None, Base | None, int]:
    """Undo `_description`, of a file that holds `tensors`; (None, None, 0) for what others saved."""
    if odd := next((name for name, value in said.items() if not isinstance(value, str)), None):
        raise UserError(f"its {odd} is no text")
    base, method = None, said.get("method") or methods.of_tensors(tensors)
    if method not in methods.METHODS:
        raise UserError(f"the method {str(method)[:40]!r} is not known here")
    if "base_sha256" in said:
        base = Base(said.get("base_card", ""), said["base_sha256"], said.get("base_name"))
    config = methods.method(method).from_description(said)
    if config is None and "method" in said:
        raise UserError(f"it has the method {method} without its settings")
    known = _description(config, base, 0).keys() | OF_FILES
    if "version" in said and (unknown := next((name for name in said if name not in known), None)):
        raise UserError(f"its {unknown[:40]} is not known here")  # a later version's setting may change the function
    return config, base, int(said.get("step", 0))


def _plain_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors under GPT2's names, without those of wrappers. Raises UserError where two become one."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = [part for part in name.split(".") if part not in INNER_WRAPPERS]
        while len(parts) > 1 and parts[0] in WRAPPERS:
            del parts[0]
        short = ".".join(parts)
        own = OWN_NAME.search(short)
        if own is not None and own.start() > 0:
            known = ", ".join((*WRAPPERS, *INNER_WRAPPERS))
            raise UserError(f"{path} calls a tensor {name}; expected GPT-2's names, after any of {known}: rename them")
        if short in plain:
            raise UserError(f"{path} holds {short} twice, under two wrappers' names; save one of them alone")
        plain[short] = tensor
    return plain


def _without_masks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors but the causal masks that transformers once saved: (1, 1, T, T) of 1 and 0, and what stands for 0."""

    def is_mask(name: str, tensor: Tensor) -> bool:
        if name.endswith(".attn.masked_bias"):
            return tensor.numel() == 1
        is_square = name.endswith(".attn.bias") and tensor.dim() == 4 and tensor.shape[:2] == (1, 1)
        known = tensor.dtype in (*WEIGHT_DTYPES, torch.bool, torch.uint8)  # of others torch makes no triangle
        return is_square and known and torch.equal(tensor[0, 0], torch.ones_like(tensor[0, 0]).tril())

    return {name: tensor for name, tensor in tensors.items() if not is_mask(name, tensor)}


def _without_head(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors but the head, which must be the embedding. Raises UserError if it is not.

    Of two tensors that are one, safetensors' save_model keeps the first by name: the head in the embedding's place.
    """
    if "wte.weight" not in tensors and HEADS[0] in tensors and methods.of_tensors(tensors) == methods.PLAIN:
        tensors["wte.weight"] = tensors.pop(HEADS[0])
    wte = tensors.get("wte.weight")
    for name in HEADS:
        head = tensors.get(name)
        if head is None or wte is None:
            continue  # without an embedding nothing is tied: the head is then named as no part of the model
        dtype = torch.promote_types(head.dtype, wte.dtype)
        if head.shape != wte.shape or not torch.equal(head.to(dtype), wte.to(dtype)):
            raise UserError(f"{path}: {name} is not wte.weight; expected a model whose head is tied to its embedding")
        del tensors[name]
    return tensors


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


def save_peft(
    tensors: Mapping[str, Tensor],
    folder: str | Path,
    config: methods.Config,
    card: str | None,
    base: Mapping[str, Tensor] | None = None,
) -> None:
    """Write adapters as a folder that PEFT loads; `base` are the weights that some methods need for that."""
    if isinstance(config, LoraConfig):
        packed, settings = interchange.to_peft(tensors, config, card, base)
    else:
        packed, settings = peft_methods.to_peft(tensors, config, card)
    check_finite(packed, folder)
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
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is not a JSON object of settings: {error}") from error
    return content


def _save_json(content: dict, path: Path) -> None:
    with atomic_writer(path) as file:
        json.dump(content, file, indent=1)
        file.write("\n")
