"""Adapters and models as other libraries store them: PEFT's tensors and settings, Hugging Face's config. No files here.

Alphabet: C width, R rank, n adapted thirds of c_attn.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from lora_nlg.cli import UserError
from lora_nlg.config import ATTENTION_TARGETS, END_OF_TEXT_ID, LoraConfig, ModelConfig

HUB_NAMES = {"gpt2.sm": "gpt2", "gpt2.md": "gpt2-medium", "gpt2.lg": "gpt2-large", "gpt2.xl": "gpt2-xl"}
PEFT_KEY = "base_model.model.transformer.{block}.attn.c_attn.lora_{matrix}.weight"
PEFT_PATTERN = re.compile(r"base_model\.model\.(?:transformer\.)?(h\.\d+)\.attn\.c_attn\.lora_([AB])\.weight")
# Settings of PEFT that change the function and that c_attn's plain adapters do not have: name, and the value that is none of it.
PEFT_EXTRAS = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}


def to_peft(tensors: Mapping[str, Tensor], lora: LoraConfig, card: str | None) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors and the adapter_config.json with which PEFT computes the same as `lora` with `tensors`.

    PEFT has one A and one B for all of c_attn. The n thirds' own pairs become one pair of rank nR whose B is zero wherever
    a third would meet another's A: B (3C, nR). PEFT scales by alpha / rank, so alpha is taken n times as well.
    """
    n = len(lora.targets)
    packed = {}
    for name, B in tensors.items():
        if not name.endswith("lora_B"):
            continue
        block, C = name.removesuffix(".attn.c_attn.lora_B"), len(B) // n
        wide = B.new_zeros(3 * C, n * lora.rank)
        for place, (third, B_third) in enumerate(zip(lora.thirds, B.chunk(n), strict=True)):
            wide[third * C : (third + 1) * C, place * lora.rank : (place + 1) * lora.rank] = B_third
        packed[PEFT_KEY.format(block=block, matrix="A")] = tensors[f"{block}.attn.c_attn.lora_A"].contiguous()
        packed[PEFT_KEY.format(block=block, matrix="B")] = wide
    return packed, {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": HUB_NAMES.get(card, card),  # None: not known
        "target_modules": ["c_attn"],
        "fan_in_fan_out": True,  # c_attn stores (in, out)
        "r": n * lora.rank,
        "lora_alpha": n * lora.alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "inference_mode": True,
    }


def from_peft(tensors: Mapping[str, Tensor], settings: Mapping, where: str) -> tuple[dict[str, Tensor], LoraConfig]:
    """Return a PEFT adapter of c_attn as this project's tensors, on query, key and value, which share PEFT's one A.

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
    packed = {}
    for name, tensor in tensors.items():
        found = PEFT_PATTERN.fullmatch(name)
        if found is None:
            raise UserError(f"{where} adapts {name}; expected adapters of attn.c_attn only")
        block, matrix = found.groups()
        shared = tensor.repeat(len(ATTENTION_TARGETS), 1) if matrix == "A" else tensor  # (3R, C), (3C, R)
        packed[f"{block}.attn.c_attn.lora_{matrix}"] = shared
    rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
    if settings.get("use_rslora"):
        alpha *= rank**0.5  # rank-stabilised LoRA scales by alpha / √R
    return packed, LoraConfig(rank, alpha, float(settings.get("lora_dropout", 0)), ATTENTION_TARGETS)


def hugging_face_config(config: ModelConfig) -> dict:
    """Return the config.json with which transformers builds this model."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **vars(config),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "tie_word_embeddings": True,
    }


def hugging_face_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a plain GPT-2's tensors under transformers' names; the head is tied and not stored."""
    return {f"transformer.{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}
