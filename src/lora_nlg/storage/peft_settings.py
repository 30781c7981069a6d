"""PEFT's adapter_config.json: which settings are understood with which values, and what they say of a module. No torch.

A setting that is not in the table, or has another value, is refused by its name: PEFT gets settings with each release, and an
adapter that is read without one of them would compute something else in silence.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import regex

from lora_nlg.errors import UserError

FILE = "adapter_config.json"
# How PEFT leaves out what it does not do: an adapter without the setting computes the same.
OFF: tuple[object, ...] = (None, False, [], {}, "")
PLACES = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
READ = (  # by the class below
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "init_lora_weights", "use_dora",
    *PLACES,
)  # fmt: skip
NO_MATTER = (
    "task_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode",  # for people and for loading
    "fan_in_fan_out",  # PEFT sets it itself, by the kind of the module: true for GPT-2's
)  # fmt: skip
NO_MATTER_TO_LORA = (
    "megatron_core", "qalora_group_size",  # used with megatron_config and use_qalora alone
    "loftq_config", "eva_config", "corda_config", "lora_ga_config",  # how a start is found, see INITS
    "runtime_config",  # PEFT ignores it in a file
    "ensure_weight_tying",  # acts on adapters of the embedding and on modules_to_save, which are refused
)  # fmt: skip
# What is read of its other methods, and what is of no effect on what they compute once they are trained.
OTHERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "VERA": (
        ("r", "projection_prng_key", *PLACES),
        ("save_projection", "d_initial", "init_weights", "vera_dropout"),
    ),
    "IA3": (("target_modules", "exclude_modules", "feedforward_modules"), ("init_ia3_weights",)),
    "FOURIERFT": (("n_frequency", "scaling", "random_loc_seed", *PLACES), ("init_weights",)),
    "PREFIX_TUNING": (
        ("num_virtual_tokens", "num_layers", "token_dim", "num_transformer_submodules"),
        ("num_attention_heads", "encoder_hidden_size", "prefix_projection", "init_weights"),
    ),
    "PROMPT_TUNING": (
        ("num_virtual_tokens", "num_transformer_submodules"),
        (
            "num_attention_heads", "num_layers", "token_dim", "prompt_tuning_init", "prompt_tuning_init_text",
            "tokenizer_name_or_path", "tokenizer_kwargs",
        ),
    ),
}  # fmt: skip
ONLY: dict[str, tuple[object, ...]] = {  # the values with which PEFT computes what is computed here
    **dict.fromkeys(("use_qalora", "lora_bias"), (False, None)),
    **dict.fromkeys(
        ("modules_to_save", "layer_replication", "target_parameters", "trainable_token_indices"), (None, [], {})
    ),
    # An empty object would switch these on, with their defaults.
    **dict.fromkeys(
        (
            "megatron_config", "alora_invocation_tokens", "velora_config", "monteclora_config", "use_bdlora", "arrow_config",
            "kasa_config",
        ),
        (None,),
    ),
    "bias": ("none", None),
}  # fmt: skip
# Starts after which the base is what it was. Others (PiSSA by approximate vectors, OLoRA, CorDA, LoftQ, LoRA-GA, …) take out of its
# weights what they put into the adapters, so that their adapters belong to another base.
INITS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
# What PiSSA took is computed again from the base; of the others it is not known without the start's own settings and data.
PISSA = "pissa"
DEFAULT_TARGETS = ["c_attn"]  # PEFT's for GPT-2
# Of computing, for a pattern and a name: those that people write take microseconds, others would take years.
SECONDS = 0.5
# What means something to `regex`, which can be stopped, and is text to `re`, by which PEFT goes.
UNLIKE_RE = re.compile(r"\{(?!\d+(,\d*)?\}|,\d+\})|\[:")
# What is raised for a pattern that is no use
NO_PATTERN = (re.error, regex.error, TimeoutError, RecursionError, OverflowError)
MOST_ALPHA = 3.4028234e38  # in float32
ALPHA_RULE = "a finite number greater than 0, in float32"


def _is_plain(kind: str, name: str, value: object) -> bool:
    read, no_matter = OTHERS.get(kind, (READ, NO_MATTER_TO_LORA))
    if name == "peft_type" or name in read or name in no_matter or name in NO_MATTER:
        return True
    return any(
        type(value) is type(only) and value == only for only in ONLY.get(name, OFF)
    )  # 0 is not False: it may be a number


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_alpha(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 < value < MOST_ALPHA  # NaN is not


@dataclass(frozen=True)
class PeftSettings:
    """What adapter_config.json says, checked. Modules are called as in PEFT's model: transformer.h.0.attn.c_attn."""

    said: Mapping[str, Any]
    where: str  # the adapter's file, for errors

    def __post_init__(self):
        kind = self.said.get("peft_type")
        is_lora = kind == "LORA" and self.said.get("r") is not None and self.said.get("lora_alpha") is not None
        if not is_lora and (not isinstance(kind, str) or kind not in OTHERS):
            raise UserError(
                f"{self.where}: {FILE} does not describe a LoRA adapter; expected peft_type LORA, r, lora_alpha, or the peft_type "
                f"{', '.join(OTHERS)}"
            )
        other = [name for name, value in self.said.items() if not _is_plain(kind, name, value)]
        if other:
            raise UserError(
                f"{self.where}: {FILE} sets {', '.join(other)}, which plain {'LoRA' if is_lora else kind} adapters do not have or "
                "which is not known here; expected an adapter without"
            )
        if is_lora:
            self._check_init(self.said.get("init_lora_weights", True))
            self._check_numbers()
        else:
            self._check_others()
        for name in ("target_modules", "exclude_modules", "layers_pattern"):
            self._require(_names(self.said.get(name)) is not None, name, "a pattern or a list of names")
        layers = self.said.get("layers_to_transform")
        numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
        self._require(all(type(n) is int and n >= 0 for n in numbers), "layers_to_transform", "numbers of layers")
        for name in ("layers_to_transform", "layers_pattern"):  # as PEFT has it, which takes no such file
            of_pattern = isinstance(self.said.get("target_modules"), str) and self.said.get(name) not in (None, [], "")
            self._require(not of_pattern, name, "left out where target_modules is a pattern")

    def _require(self, condition: bool, name: str, rule: str) -> None:
        if not condition:
            raise UserError(f"{self.where}: {name} of {FILE} must be {rule}, but is {str(self.said.get(name))[:60]!r}")

    def _check_init(self, init: object) -> None:
        known = init == PISSA or init.lower() in INITS if isinstance(init, str) else init in INITS
        if not known:
            raise UserError(
                f"{self.where}: {FILE} says init_lora_weights {str(init)[:60]!r}, a start that is not known to leave the base's "
                "weights as they are; save the adapter again with PEFT's save_pretrained and its "
                "path_initial_model_for_weight_conversion, which makes it a plain one"
            )

    def _check_others(self) -> None:
        for name in ("r", "n_frequency", "num_virtual_tokens", "num_layers", "token_dim"):
            if name in OTHERS[self.said["peft_type"]][0]:
                self._require(_is_rank(self.said.get(name)), name, "a whole number of at least 1")
        for name in ("projection_prng_key", "random_loc_seed"):
            seed = self.said.get(name, 0)
            self._require(type(seed) is int and 0 <= seed < 1 << 63, name, "a whole number from 0 on")
        self._require(_is_alpha(self.said.get("scaling", 1)), "scaling", ALPHA_RULE)
        inputs_of = self.said.get("feedforward_modules")  # None: PEFT's for GPT-2
        self._require(inputs_of in (None, ["mlp.c_proj"]), "feedforward_modules", '["mlp.c_proj"]')
        parts = self.said.get("num_transformer_submodules", 1)
        self._require(parts in (1, None), "num_transformer_submodules", "1, for a model without an encoder")

    @property
    def is_pissa(self) -> bool:
        """Whether the adapter started as a part of the base's weights, which the base does not have any more."""
        return self.said.get("init_lora_weights") == PISSA

    def _check_numbers(self) -> None:
        dropout = self.said.get("lora_dropout", 0)
        self._require(type(dropout) in (int, float) and 0 <= dropout < 1, "lora_dropout", "at least 0 and less than 1")
        for name in ("use_rslora", "use_dora"):
            self._require(self.said.get(name) in (True, False, None), name, "true or false")
        self._require(_is_rank(self.said["r"]), "r", "a whole number of at least 1")
        self._require(_is_alpha(self.said["lora_alpha"]), "lora_alpha", ALPHA_RULE)
        self._check_pattern("rank_pattern", _is_rank, "whole numbers of at least 1")
        self._check_pattern("alpha_pattern", _is_alpha, "finite numbers greater than 0, in float32")

    def _check_pattern(self, name: str, is_value: Callable[[object], bool], rule: str) -> None:
        patterns = self.said.get(name) or {}
        try:
            values = list(patterns.values())
            for pattern in patterns:
                _ends(pattern, "")
        except (AttributeError, *NO_PATTERN) as error:
            raise UserError(f"{self.where}: the {name} of {FILE} cannot be understood: {error}") from error
        self._require(all(map(is_value, values)), name, rule)

    @property
    def alpha(self) -> float:
        """The common alpha."""
        return float(self.said["lora_alpha"])

    def rank_of(self, module: str) -> int:
        """Return R of `module`: that of the first pattern which is the end of its name, or the common one."""
        return self._by_pattern("rank_pattern", module, self.said["r"])

    def alpha_of(self, module: str) -> float:
        """Return alpha of `module`, in the same way."""
        return float(self._by_pattern("alpha_pattern", module, self.said["lora_alpha"]))

    def _by_pattern(self, name: str, module: str, common):
        patterns = self.said.get(name) or {}
        try:
            return next((value for pattern, value in patterns.items() if _ends(pattern, module)), common)
        except TimeoutError as error:
            raise UserError(f"{self.where}: the {name} of {FILE} cannot be understood: {error}") from error

    def is_adapted(self, module: str) -> bool:
        """Return whether PEFT puts an adapter on `module`. Raises UserError for patterns that cannot be understood."""
        try:
            return self._is_named(module)
        except NO_PATTERN as error:
            raise UserError(f"{self.where}: the patterns of {FILE} cannot be understood: {error}") from error

    def _is_named(self, module: str) -> bool:
        targets, excluded = self.said.get("target_modules"), self.said.get("exclude_modules") or []
        if _is(excluded, module) if isinstance(excluded, str) else _is_one_of(module, excluded):
            return False
        if isinstance(targets, str):
            if targets.lower() == "all-linear":  # but what turns states into logits
                return ".h." in f".{module}"
            return _is(targets, module)
        if targets is not None and module in targets:  # named in full it is adapted in whichever layer
            return True
        return _is_one_of(module, DEFAULT_TARGETS if targets is None else targets) and self._is_in_layer(module)

    def listed_layers(self) -> list[int]:
        """Return the layers that the settings list, rising; none where they go by names alone."""
        layers = self.said.get("layers_to_transform")
        return sorted(set(layers if isinstance(layers, list) else [] if layers is None else [layers]))

    def _is_in_layer(self, module: str) -> bool:
        layers, patterns = self.listed_layers(), _names(self.said.get("layers_pattern")) or []
        if not layers:
            return True
        ways = [rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
        found = next(filter(None, (_match(way, module) for way in ways)), None)
        return found is not None and int(found["idx"]) in layers


def _names(value: object) -> list[str] | None:
    """Return the names in a setting that is one, a list of them, or not set; None if it is something else."""
    names = [] if value in (None, "") else [value] if isinstance(value, str) else value
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _is_one_of(module: str, names: list[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _is(pattern: str, module: str) -> bool:
    return _match(rf"(?:{pattern})\Z", module) is not None


def _ends(pattern: str, module: str) -> bool:
    return _match(rf"(.*\.)?({pattern})$", module) is not None


def _match(pattern: str, module: str) -> "regex.Match[str] | None":
    """Match as `re` does, in SECONDS. Raises one of NO_PATTERN where that cannot be."""
    if unlike := UNLIKE_RE.search(pattern):
        raise re.error(f"{unlike[0]} is not expected in a pattern", pattern)
    re.compile(pattern)  # it refuses what `regex` alone knows by a backslash or a flag
    return regex.match(pattern, module, timeout=SECONDS)
