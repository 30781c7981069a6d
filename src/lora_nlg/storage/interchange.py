"""Adapters and models as other libraries store them: PEFT's tensors and settings, Hugging Face's config. No files here.

Alphabet: C width, R rank, ΣR the ranks of a module's targets together.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_nlg.config import END_OF_TEXT_ID, ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods.lora import wide_B
from lora_nlg.methods.placement import MODULES, LoraConfig
from lora_nlg.storage.peft_settings import PeftSettings

HUB_NAMES = {"gpt2.sm": "gpt2", "gpt2.md": "gpt2-medium", "gpt2.lg": "gpt2-large", "gpt2.xl": "gpt2-xl"}
IN_LAYERS = [name for name in MODULES if name != "wte"]
PEFT_KEY = "base_model.model.transformer.{module}.lora_{matrix}.weight"
PEFT_PATTERN = re.compile(
    r"base_model\.model\.((transformer\.)?h\.(0|[1-9][0-9]{0,3})\.(\w+\.\w+))\.lora_([AB])\.weight"
)


def to_peft(tensors: Mapping[str, Tensor], lora: LoraConfig, card: str | None) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors and the adapter_config.json with which PEFT computes the same as `lora` with `tensors`.

    PEFT has one A, one B and one scale for all of c_attn. Its targets' own pairs become one pair of rank ΣR whose B is zero
    wherever a target would meet another's A, and what scales them apart goes into B. PEFT scales by alpha / rank, so alpha is
    that of the rank ΣR. Raises UserError for adapters of the embedding.
    """
    if "wte" in lora.targets:
        raise UserError(
            "--to peft cannot express adapters of wte: PEFT's do not reach the output layer that is tied to it; use --to hf, merged"
        )
    packed, ranks, alphas = {}, {}, {}
    for name in IN_LAYERS:
        targets = tuple(target for target in MODULES[name] if target in lora.targets)
        if not targets:
            continue
        each = [lora.rank_of(target) for target in targets]
        scales = [lora.scale_of(target) for target in targets]
        ranks[name], alphas[name] = sum(each), scales[0] * sum(each)
        for module in (n.removesuffix(".lora_B") for n in tensors if n.endswith(f"{name}.lora_B")):
            B = wide_B(tensors[f"{module}.lora_B"], targets, each, [scale / scales[0] for scale in scales])
            packed[PEFT_KEY.format(module=module, matrix="A")] = tensors[f"{module}.lora_A"].contiguous()
            packed[PEFT_KEY.format(module=module, matrix="B")] = B
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    return packed, {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": HUB_NAMES.get(card, card) if card else None,  # None: not known
        "target_modules": list(ranks),
        "layers_to_transform": None if lora.layers is None else list(lora.layers),
        "layers_pattern": None if lora.layers is None else "h",
        "fan_in_fan_out": True,  # GPT-2's matrices are stored (in, out)
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: other for name, other in ranks.items() if other != rank},
        "alpha_pattern": {name: other for name, other in alphas.items() if other != alpha},
        "lora_dropout": lora.dropout,
        "bias": "none",
        "inference_mode": True,
    }


def from_peft(tensors: Mapping[str, Tensor], said: Mapping, where: str) -> tuple[dict[str, Tensor], LoraConfig]:
    """Return a PEFT adapter of GPT-2's layers as this project's tensors; query, key and value share PEFT's one A of c_attn.

    `said` is the content of adapter_config.json. Raises UserError, naming `where`, for adapters on other matrices, for settings
    that are not understood, and where the tensors are not what the settings say.
    """
    settings = PeftSettings(said, where)
    pairs = _pairs(tensors, where)
    layers = _adapted_layers(pairs, settings)
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
        packed[f"h.{layer}.{name}.lora_A"] = pair["A"].repeat(len(MODULES[name]), 1)  # (ΣR, in)
        packed[f"h.{layer}.{name}.lora_B"] = _times(
            pair["B"], settings.alpha_of(module) / settings.alpha
        )  # (all outputs, R)
    by_target = {target: ranks[name] for name in IN_LAYERS if name in ranks for target in MODULES[name]}
    return packed, LoraConfig(
        by_target if len(set(ranks.values())) > 1 else next(iter(ranks.values())),
        settings.alpha,
        dropout=float(said.get("lora_dropout", 0)),
        targets=tuple(by_target),
        layers=layers,
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


def _adapted_layers(pairs: Mapping[tuple[str, int, str], object], settings: PeftSettings) -> tuple[int, ...] | None:
    """Return the layers with adapters, None for all; raise UserError if they are not those that the settings name.

    PEFT leaves out tensors that the settings do not name, and starts anew, where they name others.
    """
    [prefix] = {prefix for prefix, _, _ in pairs}
    layers = sorted({layer for _, layer, _ in pairs})
    for layer in range(layers[-1] + 1):
        for name in IN_LAYERS:
            module = f"{prefix}h.{layer}.{name}"
            has, wanted = (prefix, layer, name) in pairs, settings.is_adapted(module)
            if has != wanted:
                holds, says = ("adapts", "leaves out") if has else ("holds no adapters of", "names")
                raise UserError(
                    f"{settings.where} {holds} {module}, which its adapter_config.json {says}; save it again"
                )
    goes_on = any(settings.is_adapted(f"{prefix}h.{layers[-1] + 1}.{name}") for name in IN_LAYERS)
    return None if goes_on and layers == list(range(len(layers))) else tuple(layers)


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
