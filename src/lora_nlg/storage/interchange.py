"""Adapters and models as other libraries store them: PEFT's tensors and settings, Hugging Face's config. No files here.

LoRA, with DoRA and PiSSA, is here; PEFT's other methods are in peft_methods.py.
Alphabet: C width, R rank, ΣR the ranks of a module's targets together.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_nlg import methods
from lora_nlg.config import END_OF_TEXT_ID, ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods.lora import packed, unpacked, wide_B
from lora_nlg.methods.placement import MODULES, DoraConfig, LoraConfig
from lora_nlg.methods.places import columns_of
from lora_nlg.model.gpt2 import at_least_float32
from lora_nlg.storage import peft_methods
from lora_nlg.storage.peft_methods import IN_LAYERS
from lora_nlg.storage.peft_settings import PISSA, PeftSettings

PEFT_KEY = "base_model.model.transformer.{module}.lora_{matrix}.weight"
PEFT_LENGTHS = "base_model.model.transformer.{module}.lora_magnitude_vector"
PEFT_PATTERN = re.compile(
    r"base_model\.model\.((transformer\.)?h\.(0|[1-9][0-9]{0,3})\.(\w+\.\w+))\.lora_([AB])\.weight"
)


def to_peft(
    tensors: Mapping[str, Tensor], lora: LoraConfig, card: str | None, base: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors and the adapter_config.json with which PEFT computes the same as `lora` with `tensors`.

    PEFT has one A, one B and one scale for all of c_attn. Its targets' own pairs become one pair of rank ΣR whose B is zero
    wherever a target would meet another's A, and what scales them apart goes into B. PEFT scales by alpha / rank, so alpha is
    that of the rank ΣR. `base` are the tensors that DoRA
    was trained on, of which it needs the outputs of c_attn that it leaves alone. Raises UserError for adapters of the embedding.
    """
    if "wte" in lora.targets:
        raise UserError(
            "--to peft cannot express adapters of wte: PEFT's do not reach the output layer that is tied to it; use --to hf, merged"
        )
    tensors, lora = plain_lora(tensors, lora)
    packed, ranks, alphas = {}, {}, {}
    for name in IN_LAYERS:
        targets = tuple(target for target in MODULES[name] if target in lora.targets)
        if not targets:
            continue
        each = [lora.rank_of(target) for target in targets]
        scales = [lora.scale_of(target) for target in targets]
        apart = [scale / scales[0] for scale in scales]
        ranks[name], alphas[name] = sum(each), scales[0] * sum(each)
        for module in (n.removesuffix(".lora_B") for n in tensors if n.endswith(f"{name}.lora_B")):
            A, B = tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"]
            if set(apart) != {1.0}:
                B = at_least_float32(B)  # no second rounding of half-precision files
            B = wide_B(B, targets, each, apart)
            packed[PEFT_KEY.format(module=module, matrix="A")] = A.contiguous()
            packed[PEFT_KEY.format(module=module, matrix="B")] = B
            if isinstance(lora, DoraConfig):
                m = _all_lengths(tensors[f"{module}.lora_m"], module, targets, (A.shape[1], len(B)), base)
                packed[PEFT_LENGTHS.format(module=module)] = m
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    return packed, {
        **peft_methods.about("LORA", card),
        **peft_methods.places(list(ranks), lora.layers),
        "fan_in_fan_out": True,  # GPT-2's matrices are stored (in, out)
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: other for name, other in ranks.items() if other != rank},
        "alpha_pattern": {name: other for name, other in alphas.items() if other != alpha},
        "lora_dropout": lora.dropout,
        "use_dora": isinstance(lora, DoraConfig),
        "bias": "none",
    }


def plain_lora(tensors: Mapping[str, Tensor], lora: LoraConfig) -> tuple[dict[str, Tensor], LoraConfig]:
    """Return PiSSA's adapters as LoRA's of twice the rank: each pair, and beside it the one that it started as, taken off."""
    if not lora.is_pissa:
        return dict(tensors), lora
    doubled: dict[str, Tensor] = {}
    for module in (name.removesuffix(".lora_B") for name in tensors if name.endswith(".lora_B")):
        ranks = _ranks_in(module, lora)
        now, start = (
            unpacked(tensors[f"{module}.lora_A{end}"], tensors[f"{module}.lora_B{end}"], ranks) for end in ("", "0")
        )
        each = zip(now, start, strict=True)
        A, B = packed([(torch.cat((A, A0)), torch.cat((B, -B0), 1)) for (A, B), (A0, B0) in each])
        doubled |= {f"{module}.lora_A": A, f"{module}.lora_B": B}
    rank = {t: 2 * R for t, R in lora.rank.items()} if isinstance(lora.rank, dict) else 2 * lora.rank
    alpha = lora.alpha * (2 if lora.scaling == "alpha/r" else math.sqrt(2))  # the same scale
    return doubled, dataclasses.replace(lora, rank=rank, alpha=alpha, init="kaiming")


def recipe_lora(tensors: Mapping[str, Tensor], lora: LoraConfig) -> tuple[dict[str, Tensor], LoraConfig]:
    """Return adapters as the recipe's code reads them: LoRA's own pairs, scaled by alpha / rank, whatever scaled them before."""
    tensors, lora = plain_lora(tensors, lora)
    if lora.scaling == "alpha/r":
        return tensors, lora
    scaled = dict(tensors)
    for module in (name.removesuffix(".lora_B") for name in tensors if name.endswith(".lora_B")):
        ranks = _ranks_in(module, lora)
        pairs = unpacked(tensors[f"{module}.lora_A"], at_least_float32(tensors[f"{module}.lora_B"]), ranks)
        _, scaled[f"{module}.lora_B"] = packed([(A, B * math.sqrt(R)) for (A, B), R in zip(pairs, ranks, strict=True)])
    return scaled, dataclasses.replace(lora, scaling="alpha/r")


def _ranks_in(module: str, lora: LoraConfig) -> list[int]:
    """Return the ranks of the targets that a module, such as h.0.attn.c_attn, holds."""
    held = MODULES["wte" if module == "wte" else module.split(".", 2)[2]]
    return [lora.rank_of(target) for target in held if target in lora.targets]


def fits_the_recipe(lora: LoraConfig) -> bool:
    """Return whether the recipe's own layer, of query and value in every layer at one rank, has a place for such adapters."""
    one_rank = len({lora.rank_of(target) for target in lora.targets}) == 1
    return lora.targets == ("q", "v") and lora.layers is None and one_rank


def needs_base(tensors: Mapping[str, Tensor], config: methods.Config) -> bool:
    """Return whether `to_peft` wants the base: for DoRA with outputs that it leaves alone."""
    some = any(name.endswith("c_attn.lora_m") for name in tensors)
    return some and not set(MODULES["attn.c_attn"]) <= set(config.targets)


def _all_lengths(
    m: Tensor, module: str, targets: tuple[str, ...], shape: tuple[int, int], base: Mapping[str, Tensor] | None
) -> Tensor:
    """Return the lengths of all outputs of a module of `shape` (in, out): DoRA's own `m`, and the base's where it has none."""
    n_out = shape[1]
    if len(m) == n_out:
        return m.contiguous()
    if base is None:
        raise UserError(
            "--to peft has a length for every output of c_attn, and DoRA leaves some of them to the base; pass it as --init_checkpoint"
        )
    weight = base.get(f"{module}.weight")
    if weight is None or tuple(weight.shape) != shape or not weight.is_floating_point():
        raise UserError(
            f"the base given has no {module}.weight of {shape[0]} inputs and {n_out} outputs; pass the one that the adapters were "
            "trained on"
        )
    if not torch.isfinite(weight).all():
        raise UserError(f"the base given has values in {module}.weight that are no numbers; download or save it again")
    lengths = weight.to(m.dtype).square().sum(0).sqrt()
    parts = zip(columns_of(targets, n_out), m.chunk(len(targets)), strict=True)
    for columns, own in parts:
        lengths[columns] = own
    return lengths


def from_peft(tensors: Mapping[str, Tensor], said: Mapping, where: str) -> tuple[dict[str, Tensor], methods.Config]:
    """Return a PEFT adapter of GPT-2's layers as this project's tensors; query, key and value share PEFT's one A of c_attn.

    `said` is the content of adapter_config.json. Raises UserError, naming `where`, for adapters on other matrices, for settings
    that are not understood, and where the tensors are not what the settings say.
    """
    settings = PeftSettings(said, where)
    if said["peft_type"] != "LORA":
        return peft_methods.from_peft(tensors, settings)
    lengths = {name: tensor for name, tensor in tensors.items() if name.endswith(PEFT_LENGTHS.rpartition("}")[2])}
    is_dora = bool(said.get("use_dora"))
    if bool(lengths) != is_dora or (is_dora and settings.is_pissa):
        raise UserError(
            f"{where}: adapter_config.json sets use_dora to {json.dumps(said.get('use_dora'))}, which is not what its tensors or its "
            "start are; save it again"
        )
    pairs = _pairs({name: tensor for name, tensor in tensors.items() if name not in lengths}, where)
    layers = peft_methods.adapted_layers(pairs, settings)
    packed = {}
    ranks: dict[str, int] = {}  # by name in MODULES
    for (prefix, layer, name), pair in pairs.items():
        module = f"{prefix}h.{layer}.{name}"
        R = settings.rank_of(module)
        for matrix, tensor, of_rank in (("A", pair["A"], 0), ("B", pair["B"], 1)):
            if tensor.dim() != 2 or tensor.shape[of_rank] != R:
                raise UserError(
                    f"{where}: lora_{matrix} of {module} is {tuple(tensor.shape)}, not of rank {R}; save it again"
                )
        if (others := ranks.setdefault(name, R)) != R:
            raise UserError(
                f"{where}: {module} is of rank {R} and others of rank {others}; expected one rank in all layers"
            )
        own = f"h.{layer}.{name}"
        packed[f"{own}.lora_A"] = pair["A"].repeat(len(MODULES[name]), 1)  # (ΣR, in)
        packed[f"{own}.lora_B"] = _times(pair["B"], settings.alpha_of(module) / settings.alpha)  # (all outputs, R)
        if is_dora:
            m = lengths.get(PEFT_LENGTHS.format(module=own).replace("transformer.", prefix, 1))
            if m is None:
                raise UserError(f"{where} holds no lora_magnitude_vector of {module}; save it again")
            packed[f"{own}.lora_m"] = m
    if is_dora and len(lengths) != len(pairs):
        raise UserError(f"{where} holds lora_magnitude_vectors of modules without adapters; save it again")
    by_target = {target: ranks[name] for name in IN_LAYERS if name in ranks for target in MODULES[name]}
    kind = DoraConfig if is_dora else LoraConfig
    return packed, kind(
        by_target if len(set(ranks.values())) > 1 else next(iter(ranks.values())),
        settings.alpha,
        dropout=float(said.get("lora_dropout", 0)),
        targets=tuple(by_target),
        layers=layers,
        init=PISSA if settings.is_pissa else "kaiming",
        scaling="rslora" if said.get("use_rslora") else "alpha/r",
    )


def _pairs(tensors: Mapping[str, Tensor], where: str) -> dict[tuple[str, int, str], dict[str, Tensor]]:
    """Return A and B by (what is before the layer's name, layer, name in MODULES)."""
    pairs: dict[tuple[str, int, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = PEFT_PATTERN.fullmatch(name)
        if found is None or found[4] not in IN_LAYERS:
            raise UserError(f"{where} adapts {name}; expected adapters of {', '.join(IN_LAYERS)} only")
        pairs.setdefault((found[2] or "", int(found[3]), found[4]), {})[found[5]] = tensor
    if not pairs:
        raise UserError(f"{where} holds no LoRA adapters; save them again")
    alone = next((key for key, pair in pairs.items() if len(pair) < 2), None)
    if alone is not None:
        raise UserError(f"{where} holds one of lora_A and lora_B of h.{alone[1]}.{alone[2]} alone; save it again")
    if len({prefix for prefix, _, _ in pairs}) > 1:
        raise UserError(f"{where} calls some layers transformer.h and others h; save it again")
    return pairs


def _times(B: Tensor, factor: float) -> Tensor:
    """Return B times a number, in float32 at least; B itself for 1."""
    return B if factor == 1 else B.to(torch.promote_types(B.dtype, torch.float32)) * factor


def hugging_face_config(config: ModelConfig) -> dict:
    """Return the config.json with which transformers builds this model."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": config.activation_function,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        **vars(config),
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "tie_word_embeddings": True,
    }


def hugging_face_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a plain GPT-2's tensors under transformers' names; the head is tied and not stored."""
    return {f"transformer.{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}
