"""Adapters and models as other libraries store them: PEFT's tensors and settings, Hugging Face's config. No files here.

Alphabet: C width, R rank, ΣR the ranks of a module's targets together.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from lora_nlg.config import END_OF_TEXT_ID, ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods.lora import wide_B
from lora_nlg.methods.placement import MODULES, TARGETS, LoraConfig

HUB_NAMES = {"gpt2.sm": "gpt2", "gpt2.md": "gpt2-medium", "gpt2.lg": "gpt2-large", "gpt2.xl": "gpt2-xl"}
IN_LAYERS = [name for name in MODULES if name != "wte"]
PEFT_KEY = "base_model.model.transformer.{module}.lora_{matrix}.weight"
PEFT_PATTERN = re.compile(r"base_model\.model\.((?:transformer\.)?h\.(\d+)\.(\w+\.\w+))\.lora_([AB])\.weight")
# Settings of PEFT that change the function and that plain adapters do not have: name, and the value that is none of it.
PEFT_EXTRAS = {"use_dora": False, "lora_bias": False, "bias": "none", "modules_to_save": None}


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


def from_peft(tensors: Mapping[str, Tensor], settings: Mapping, where: str) -> tuple[dict[str, Tensor], LoraConfig]:
    """Return a PEFT adapter of GPT-2's layers as this project's tensors; query, key and value share PEFT's one A of c_attn.

    Raises UserError, naming `where`, for adapters on other matrices and for settings that change the function.
    """
    if settings.get("peft_type") != "LORA" or not all(
        isinstance(settings.get(k), int | float) for k in ("r", "lora_alpha")
    ):
        raise UserError(
            f"{where}: adapter_config.json does not describe a LoRA adapter; expected peft_type LORA, r, lora_alpha"
        )
    extra = [name for name, none in PEFT_EXTRAS.items() if settings.get(name, none) not in (none, None)]
    if extra:
        raise UserError(f"{where}: adapter_config.json sets {', '.join(extra)}, which plain LoRA adapters do not have")
    packed, layers = {}, set()
    ranks: dict[str, int] = {}  # by target
    for name, tensor in tensors.items():
        found = PEFT_PATTERN.fullmatch(name)
        if found is None or found[3] not in IN_LAYERS:
            raise UserError(f"{where} adapts {name}; expected adapters of {', '.join(IN_LAYERS)} only")
        module, layer, targets, matrix = found[1], int(found[2]), MODULES[found[3]], found[4]
        layers.add(layer)
        if matrix == "A":
            ranks |= {target: ranks.get(target, len(tensor)) for target in targets}
            if len(tensor) != ranks[targets[0]]:
                raise UserError(
                    f"{where}: {name} is of rank {len(tensor)} and others of rank {ranks[targets[0]]}; expected one"
                )
            tensor = tensor.repeat(len(targets), 1)  # (ΣR, in)
        else:
            tensor = tensor * (_alpha(module, settings, where) / settings["lora_alpha"])  # (all outputs, R)
        packed[f"h.{layer}.{found[3]}.lora_{matrix}"] = tensor
    ranks = {target: ranks[target] for target in TARGETS if target in ranks}
    if not ranks:
        raise UserError(f"{where} holds no LoRA adapters; save them again")
    return packed, LoraConfig(
        ranks if len(set(ranks.values())) > 1 else next(iter(ranks.values())),
        float(settings["lora_alpha"]),
        dropout=float(settings.get("lora_dropout", 0)),
        targets=tuple(ranks),
        layers=None if settings.get("layers_to_transform") is None else tuple(sorted(layers)),
        scaling="rslora" if settings.get("use_rslora") else "alpha/r",
    )


def _alpha(module: str, settings: Mapping, where: str) -> float:
    """Return PEFT's alpha of `module`: that of the first pattern which is the end of its name, or the common one."""
    try:
        for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                return float(alpha)
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise UserError(f"{where}: the alpha_pattern of adapter_config.json cannot be understood: {error}") from error
    return float(settings["lora_alpha"])


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
