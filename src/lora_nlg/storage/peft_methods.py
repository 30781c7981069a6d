"""PEFT's methods beside LoRA, as it stores them: VeRA, FourierFT, IA3, prefix tuning, prompt tuning. No files here.

Alphabet: C width, I inner width, L layers, R rank, l prefix length, n coefficients.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lora_nlg import methods
from lora_nlg.errors import UserError
from lora_nlg.methods.fourier import FourierConfig
from lora_nlg.methods.ia3 import IA3Config, of_all_outputs
from lora_nlg.methods.placement import ATTENTION_TARGETS, MODULES
from lora_nlg.methods.places import columns_of
from lora_nlg.methods.prefix import PrefixConfig
from lora_nlg.methods.vera import Projections, VeraConfig
from lora_nlg.model.gpt2 import at_least_float32
from lora_nlg.storage import hub
from lora_nlg.storage.peft_settings import PeftSettings

IN_LAYERS = [name for name in MODULES if name != "wte"]
KEY = "base_model.model.transformer.{module}.{name}"
MOST_LAYERS = 10_000  # as names of tensors have them
PATTERN = re.compile(r"base_model\.model\.((transformer\.)?h\.(0|[1-9][0-9]{0,3})\.(\w+\.\w+))\.(\w+)")
IA3_MODULES = ("attn.c_attn", "mlp.c_proj")  # of the second the inputs are scaled
PROMPT = "prompt_embeddings"
PROJECTIONS = {"A": "base_model.vera_A", "B": "base_model.vera_B"}

Place = tuple[str, int, str]  # what is before the layer's name, layer, name in MODULES


def about(peft_type: str, card: str | None) -> dict[str, object]:
    """Return what every adapter_config.json says."""
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": hub.name_of(card),  # None: not known, or not published
        "inference_mode": True,
    }


def places(modules: list[str], layers: tuple[int, ...] | None) -> dict[str, object]:
    """Return what adapter_config.json says of the modules that are adapted."""
    return {
        "target_modules": modules,
        "layers_to_transform": None if layers is None else list(layers),
        "layers_pattern": None if layers is None else "h",
    }


def adapted_layers(adapted: Mapping[Place, object], settings: PeftSettings) -> tuple[int, ...] | None:
    """Return the layers with adapters, None for all; raise UserError if they are not those that the settings name.

    PEFT leaves out tensors that the settings do not name, and starts anew, where they name others.
    """
    [prefix] = {prefix for prefix, _, _ in adapted}
    for module in (f"{prefix}wte", f"{prefix}wpe", *(["lm_head"] if prefix else [])):
        if settings.is_adapted(module):
            raise UserError(
                f"{settings.where} holds no adapters of {module}, which its adapter_config.json names; save it again"
            )
    layers = sorted({layer for _, layer, _ in adapted})
    beyond = [layer for layer in settings.listed_layers() if layers[-1] < layer < MOST_LAYERS]
    for layer in range(layers[-1] + 1):
        for name in IN_LAYERS:
            module = f"{prefix}h.{layer}.{name}"
            has, wanted = (prefix, layer, name) in adapted, settings.is_adapted(module)
            if has != wanted:
                holds, says = ("adapts", "leaves out") if has else ("holds no adapters of", "names")
                raise UserError(
                    f"{settings.where} {holds} {module}, which its adapter_config.json {says}; save it again"
                )
    # Listed without tensors: whether the model has them is not known here.
    layers += [layer for layer in beyond if any(settings.is_adapted(f"{prefix}h.{layer}.{name}") for name in IN_LAYERS)]
    goes_on = any(settings.is_adapted(f"{prefix}h.{layers[-1] + 1}.{name}") for name in IN_LAYERS)
    return None if goes_on and layers == list(range(len(layers))) else tuple(layers)


def is_named(tensors: Mapping[str, Tensor], said: Mapping[str, Any], where: str) -> Callable[[str], bool] | None:
    """Return whether the settings name a module of GPT2, as a function; None for methods that are not put on modules."""
    settings = PeftSettings(said, where)
    if not any(".h." in name for name in tensors):
        return None
    prefix = "transformer." if any(".transformer.h." in name for name in tensors) else ""
    return lambda module: settings.is_adapted(prefix + module)


def to_peft(tensors: Mapping[str, Tensor], config: methods.Config, card: str | None) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors and the adapter_config.json with which PEFT computes the same. Raises UserError where it cannot."""
    writers: dict[str, Callable] = {
        "vera": _vera_to,
        "fourier": _fourier_to,
        "ia3": _ia3_to,
        "prefix_kv": _prefix_to,
        "prefix_embed": _prompt_to,
    }
    if config.method not in writers:
        raise UserError(
            f"--to peft cannot express {methods.called(config.method)}: PEFT has no such method; use --to safetensors"
            + (", or --to hf, merged" if config.method in ("bias", "top2") else "")
        )
    packed, said = writers[config.method](tensors, config)
    return packed, {**about(said.pop("peft_type"), card), **said}


def from_peft(tensors: Mapping[str, Tensor], settings: PeftSettings) -> tuple[dict[str, Tensor], methods.Config]:
    """Return what PEFT stored as this project's tensors. Raises UserError where they are not what the settings say."""
    read: dict[str, Callable] = {
        "VERA": _vera_from,
        "FOURIERFT": _fourier_from,
        "IA3": _ia3_from,
        "PREFIX_TUNING": _prefix_from,
        "PROMPT_TUNING": _prompt_from,
    }
    return read[settings.said["peft_type"]](tensors, settings)


def _by_place(tensors: Mapping[str, Tensor], names: tuple[str, ...], where: str) -> dict[Place, dict[str, Tensor]]:
    """Return the tensors `names` of every module. Raises UserError for others, and where one of them is missing."""
    found: dict[Place, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = PATTERN.fullmatch(name)
        if match is None or match[4] not in IN_LAYERS or match[5] not in names:
            raise UserError(f"{where} holds {name}; expected {' and '.join(names)} of {', '.join(IN_LAYERS)} only")
        found.setdefault((match[2] or "", int(match[3]), match[4]), {})[match[5]] = tensor
    if not found:
        raise UserError(f"{where} holds no {names[0]}; save it again")
    short = next((place for place, held in found.items() if len(held) < len(names)), None)
    if short is not None:
        raise UserError(f"{where} holds not all of {', '.join(names)} of h.{short[1]}.{short[2]}; save it again")
    if len({prefix for prefix, _, _ in found}) > 1:
        raise UserError(f"{where} calls some layers transformer.h and others h; save it again")
    return found


def _shaped(tensor: Tensor, shape: tuple[int, ...], what: str, where: str) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise UserError(f"{where}: {what} is {tuple(tensor.shape)}, not {shape} as its settings say; save it again")
    return tensor


def _targets(adapted: Mapping[Place, object]) -> tuple[str, ...]:
    names = {name for _, _, name in adapted}
    return tuple(target for name in IN_LAYERS if name in names for target in MODULES[name])


# VeRA


def _vera_from(tensors: Mapping[str, Tensor], settings: PeftSettings) -> tuple[dict[str, Tensor], VeraConfig]:
    """PEFT has one d for all of c_attn: its targets get the same."""
    where, R = settings.where, settings.said["r"]
    shared = {matrix: tensors[name] for matrix, name in PROJECTIONS.items() if name in tensors}
    own = {name: tensor for name, tensor in tensors.items() if name not in PROJECTIONS.values()}
    adapted = _by_place(own, ("vera_lambda_d", "vera_lambda_b"), where)
    config = VeraConfig(
        R,
        targets=_targets(adapted),
        layers=adapted_layers(adapted, settings),
        seed=settings.said.get("projection_prng_key", 0),
    )
    packed = {}
    for (_, layer, name), held in adapted.items():
        d = _shaped(held["vera_lambda_d"], (R,), f"vera_lambda_d of h.{layer}.{name}", where)
        packed[f"h.{layer}.{name}.vera_d"] = d.repeat(len(MODULES[name]), 1)
        packed[f"h.{layer}.{name}.vera_b"] = held["vera_lambda_b"]
    if shared:
        if len(shared) < len(PROJECTIONS) or any(tensor.dim() != 2 for tensor in shared.values()):
            raise UserError(f"{where} holds one of vera_A and vera_B alone, or not as matrices; save it again")
        A, B = shared["A"], shared["B"]
        if A.shape[0] != R or B.shape[1] != R:
            raise UserError(
                f"{where}: vera_A is {tuple(A.shape)} and vera_B {tuple(B.shape)}, not of rank {R}; save it again"
            )
        config = dataclasses.replace(config, n_in=A.shape[1], n_out=B.shape[0])
        drawn = Projections(A.shape[1], B.shape[0], config, A.float())
        if not (torch.equal(drawn.vera_A, A.float()) and torch.equal(drawn.vera_B, B.float())):
            config = dataclasses.replace(config, seed=None)
            first = min((layer, list(MODULES).index(name), name) for _, layer, name in adapted)
            packed |= {f"h.{first[0]}.{first[2]}.shared.vera_{matrix}": tensor for matrix, tensor in shared.items()}
    return packed, config


def _vera_to(tensors: Mapping[str, Tensor], config: VeraConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's one d of c_attn becomes the targets' side by side: A stands once for each, B is zero where one would meet another's.

    The other modules have a block of their own in front, with all of B.
    """
    modules = {name.removesuffix(".vera_d"): tensor for name, tensor in tensors.items() if name.endswith(".vera_d")}
    in_attention = [target for target in ATTENTION_TARGETS if target in config.targets]
    others = any(target not in ATTENTION_TARGETS for target in config.targets)
    A, B = _projections(tensors, config)
    n_blocks = len(in_attention) + others
    wide_A, wide_B, R = A.repeat(n_blocks, 1), B.new_zeros(len(B), n_blocks * config.dim), config.dim
    if others:
        wide_B[:, :R] = B
    # Of half-precision files only the vectors are in that.
    dtype = at_least_float32(tensors[next(iter(modules)) + ".vera_b"]).dtype
    packed: dict[str, Tensor] = {}
    for module, d in modules.items():
        b = tensors[f"{module}.vera_b"]
        wide_d = d.new_zeros(n_blocks * R)
        if module.endswith("c_attn"):
            width = len(b) // len(in_attention)
            wide_b = b.new_zeros(len(ATTENTION_TARGETS) * width)
            parts = zip(columns_of(tuple(in_attention), len(wide_b)), d, b.split(width), strict=True)
            for block, (rows, of_d, of_b) in enumerate(parts, int(others)):
                at = slice(block * R, (block + 1) * R)
                wide_d[at], wide_b[rows], wide_B[rows, at] = of_d, of_b, B[rows]
        else:
            wide_d[:R], wide_b = d[0], b
        packed[KEY.format(module=module, name="vera_lambda_d")] = wide_d
        packed[KEY.format(module=module, name="vera_lambda_b")] = wide_b
    packed |= {PROJECTIONS["A"]: wide_A.to(dtype), PROJECTIONS["B"]: wide_B.to(dtype)}
    names = [name for name in IN_LAYERS if any(target in config.targets for target in MODULES[name])]
    return packed, {
        "peft_type": "VERA",
        **places(names, config.layers),
        "fan_in_fan_out": True,
        "r": n_blocks * R,
        "projection_prng_key": config.seed or 0,
        "save_projection": True,  # they are no longer what the key gives
        "bias": "none",
    }


def _projections(tensors: Mapping[str, Tensor], config: VeraConfig) -> tuple[Tensor, Tensor]:
    """Return A and B: those of the file, or the seed's."""
    found = [
        next((t for name, t in tensors.items() if name.endswith(f".shared.vera_{matrix}")), None) for matrix in "AB"
    ]
    if found[0] is not None and found[1] is not None:
        return found[0], found[1]
    if not (config.n_in and config.n_out):
        raise UserError(
            "the adapter does not say how large its A and B are; export one that was trained here, or that holds both"
        )
    drawn = Projections(config.n_in, config.n_out, config, at_least_float32(next(iter(tensors.values()))))
    return drawn.vera_A.detach(), drawn.vera_B.detach()


# FourierFT


def _fourier_from(tensors: Mapping[str, Tensor], settings: PeftSettings) -> tuple[dict[str, Tensor], FourierConfig]:
    """PEFT takes all of c_attn for one matrix."""
    said, n = settings.said, settings.said["n_frequency"]
    adapted = _by_place(tensors, ("fourierft_spectrum",), settings.where)
    config = FourierConfig(
        n,
        scale=float(said.get("scaling", 150.0)),
        targets=_targets(adapted),
        layers=adapted_layers(adapted, settings),
        seed=said.get("random_loc_seed", 777),
        joined=True,
    )
    packed = {}
    for (_, layer, name), held in adapted.items():
        c = _shaped(held["fourierft_spectrum"], (n,), f"fourierft_spectrum of h.{layer}.{name}", settings.where)
        packed[f"h.{layer}.{name}.fourier_c"] = c.unsqueeze(0)
    return packed, config


def _fourier_to(tensors: Mapping[str, Tensor], config: FourierConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not config.joined and set(ATTENTION_TARGETS) & set(config.targets):
        raise UserError(
            "--to peft cannot express Fourier coefficients of q, k or v: PEFT has c_attn as one matrix; use --to hf, merged"
        )
    packed = {
        KEY.format(module=name.removesuffix(".fourier_c"), name="fourierft_spectrum"): tensor[0]
        for name, tensor in tensors.items()
    }
    names = [name for name in IN_LAYERS if MODULES[name][0] in config.targets]
    return packed, {
        "peft_type": "FOURIERFT",
        **places(names, config.layers),
        "fan_in_fan_out": True,
        "n_frequency": config.n,
        "scaling": config.scale,
        "random_loc_seed": config.seed,
        "bias": "none",
    }


# IA3


def _ia3_from(tensors: Mapping[str, Tensor], settings: PeftSettings) -> tuple[dict[str, Tensor], IA3Config]:
    """PEFT has factors of the queries as well: they are left out where all are 1."""
    adapted = _by_place(tensors, ("ia3_l",), settings.where)
    adapted_layers(adapted, settings)
    if {name for _, _, name in adapted} != set(IA3_MODULES):
        raise UserError(f"{settings.where} must scale what {' and '.join(IA3_MODULES)} give and take, and nothing else")
    packed = {}
    for (_, layer, name), held in adapted.items():
        n = held["ia3_l"].numel()
        shape = (1, n) if name == IA3_MODULES[1] else (n, 1)
        factors = _shaped(held["ia3_l"], shape, f"ia3_l of h.{layer}.{name}", settings.where)
        packed[f"h.{layer}.{name}.ia3_factors"] = factors.flatten()
    of_attention = {name: factors for name, factors in packed.items() if ".c_attn." in name}
    joined = any(bool((factors[: len(factors) // 3] != 1).any()) for factors in of_attention.values())
    if not joined:
        packed |= {name: factors[len(factors) // 3 :] for name, factors in of_attention.items()}
    return packed, IA3Config(joined)


def _ia3_to(tensors: Mapping[str, Tensor], config: IA3Config) -> tuple[dict[str, Tensor], dict[str, Any]]:
    packed = {}
    for name, factors in tensors.items():
        module = name.removesuffix(".ia3_factors")
        if module.endswith("c_attn"):
            factors = of_all_outputs(factors, len(factors) * 3 // (2 + config.joined))[:, None]  # (3C, 1)
        else:
            factors = factors[None]  # (1, I)
        packed[KEY.format(module=module, name="ia3_l")] = factors
    return packed, {
        "peft_type": "IA3",
        "target_modules": list(IA3_MODULES),
        "feedforward_modules": [IA3_MODULES[-1]],
        "fan_in_fan_out": True,
    }


# Prefixes


def _prefix_from(tensors: Mapping[str, Tensor], settings: PeftSettings) -> tuple[dict[str, Tensor], PrefixConfig]:
    """PEFT's row holds a position's keys and values of all layers, in the order of the layers."""
    said = settings.said
    length, L, C = said["num_virtual_tokens"], said["num_layers"], said["token_dim"]
    rows = _prompt(tensors, (length, 2 * L * C), settings.where)
    return {"prefix.kv": rows.view(length, L, 2, C).permute(1, 2, 0, 3).contiguous()}, PrefixConfig("prefix_kv", length)


def _prefix_to(tensors: Mapping[str, Tensor], config: PrefixConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    kv = tensors["prefix.kv"]  # (L, 2, l, C)
    L, _, length, C = kv.shape
    return {PROMPT: kv.permute(2, 0, 1, 3).reshape(length, -1)}, {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": length,
        "num_layers": L,
        "token_dim": C,
        "num_attention_heads": None,  # PEFT takes it from the model
        "num_transformer_submodules": 1,
        "encoder_hidden_size": C,
        "prefix_projection": False,
    }


def _prompt_from(tensors: Mapping[str, Tensor], settings: PeftSettings) -> tuple[dict[str, Tensor], PrefixConfig]:
    length = settings.said["num_virtual_tokens"]
    width = [tensor.shape[1:] for tensor in tensors.values()][
        :1
    ]  # whatever it is; without a tensor the next line says so
    embed = _prompt(tensors, (length, *(width[0] if width else ())), settings.where)
    return {"prefix.embed": embed}, PrefixConfig("prefix_embed", length)


def _prompt_to(tensors: Mapping[str, Tensor], config: PrefixConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    embed = tensors["prefix.embed"]  # (l, C)
    return {PROMPT: embed.contiguous()}, {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": len(embed),
        "token_dim": embed.shape[1],
        "num_transformer_submodules": 1,
    }


def _prompt(tensors: Mapping[str, Tensor], shape: tuple[int, ...], where: str) -> Tensor:
    if set(tensors) != {PROMPT}:
        raise UserError(f"{where} holds {', '.join(sorted(tensors))[:80] or 'nothing'}; expected {PROMPT} alone")
    return _shaped(tensors[PROMPT], shape, PROMPT, where)
