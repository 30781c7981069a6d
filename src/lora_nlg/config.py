"""The settings that change a number, but for the methods' own: frozen dataclasses, with the checks that name the flag."""

import dataclasses
import json
import math
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from lora_nlg import kinds
from lora_nlg.errors import UserError
from lora_nlg.mistakes import did_you_mean

GPT2_VOCAB_SIZE = 50257
END_OF_TEXT_ID = 50256
BLANK_LINE_ID = 628  # two line ends, the end token that the E2E runs have beside it

MOST_BEAMS = 1000  # a slip of the finger, not a search
MOST_SEED = 2**63 - 1
MOST_IN_BATCH = 2**20  # examples; each has a kilobyte of ids at the least
MOST_RATE = 1e38  # float32 has no numbers for much more
PRECISIONS = ("fp32", "bf16", "fp16", "fp64")
SCHEDULERS = ("linear", "cosine", "constant", "cycle")
OBJECTIVES = ("clm", "jlm")
SELECTS = ("loss", "bleu")
TRACKERS = ("tensorboard", "wandb", "mlflow")
NEEDS_TEXTS = (
    "--select bleu goes by the BLEU that --eval_texts measures; give --eval_texts as well, e.g. --eval_texts 3"
)


def require(condition: bool, flag: str, rule: str, value) -> None:
    """Raise UserError, naming the flag, its rule and its value, unless `condition` holds."""
    if not condition:
        raise UserError(f"--{flag} must be {rule}, but is {value}")


MOST_LAYERS = 10_000
MOST_OF_A_SIZE = 2**31 - 1  # of a model's others; beyond is a mistake


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a GPT-2."""

    n_embd: int  # C, width
    n_layer: int  # transformer blocks
    n_head: int  # H, attention heads; D = C / H
    n_positions: int = 1024  # longest sequence, in tokens
    vocab_size: int = GPT2_VOCAB_SIZE  # V

    # OpenAI's own GPT-2, from which a `VariantConfig` differs. No fields: what is recorded of a GPT-2 is its five sizes.
    activation_function = "gelu_new"
    layer_norm_epsilon = 1e-5
    scale_attn_weights = True
    scale_attn_by_inverse_layer_idx = False

    @property
    def n_inner(self) -> int:
        """Width of the MLP."""
        return 4 * self.n_embd

    def __post_init__(self):
        for name in (*SIZES, "n_inner"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UserError(f"the model's {name} must be a whole number of at least 1, but is {value!r}")
            if value > (most := MOST_LAYERS if name == "n_layer" else MOST_OF_A_SIZE):
                raise UserError(f"the model's {name} must be at most {most:,}, but is {str(value)[:20]}")
        if self.n_embd % self.n_head:
            raise UserError(f"the model's n_embd {self.n_embd} must be a multiple of its n_head {self.n_head}")


@dataclass(frozen=True)
class VariantConfig(ModelConfig):
    """A GPT-2 that computes otherwise than OpenAI's, as a config.json can say. The names are those of config.json."""

    _: KW_ONLY
    n_inner: int = 0  # always given; the default only takes the place of the property above
    activation_function: str = "gelu_new"  # one of ACTIVATIONS' values
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True  # False: the products of queries and keys are not divided by √D
    scale_attn_by_inverse_layer_idx: bool = False  # True: but by the number of the layer, counted from 1


SIZES = tuple(field.name for field in dataclasses.fields(ModelConfig))
VARIANTS = tuple(field.name for field in dataclasses.fields(VariantConfig) if field.name not in SIZES)

CARDS = {
    "gpt2.mini": ModelConfig(n_embd=256, n_layer=4, n_head=4, n_positions=256),
    "gpt2.sm": ModelConfig(n_embd=768, n_layer=12, n_head=12),
    "gpt2.md": ModelConfig(n_embd=1024, n_layer=24, n_head=16),
    "gpt2.lg": ModelConfig(n_embd=1280, n_layer=36, n_head=20),
    "gpt2.xl": ModelConfig(n_embd=1600, n_layer=48, n_head=25),
}


# Other names that transformers takes for the sizes
SIZE_ALIASES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
# activation_function: the names of transformers for what the model computes. Those of the first kind differ in rounding alone.
ACTIVATIONS = {
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu_new"),
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("silu", "swish"), "silu"),
    "relu": "relu",
    "tanh": "tanh",
}
# Settings of a config.json that would make it another function, and the only value that does not.
MUST_BE = {
    "model_type": "gpt2",
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "pruned_heads": {},
    "auto_map": {},
    "quantization_config": {},
}


def model_config(card: str) -> ModelConfig:
    """Return the shape behind `--model_card`: a name in CARDS or the path of a Hugging Face style config.json."""
    if card in CARDS:
        return CARDS[card]
    path = Path(card)
    if not path.is_file():
        raise UserError(
            f"--model_card must be one of {', '.join(CARDS)} or the path of a config.json, but is {card!r}{did_you_mean(card, CARDS)}"
        )
    said = said_of_model(path)
    missing = next((name for name in SIZES if name not in said), None)
    if missing is not None:
        raise UserError(f"{path} does not say {missing}; expected {', '.join(SIZES)}")
    plain = ModelConfig(**{name: said[name] for name in SIZES})
    other = {name: said.get(name, getattr(plain, name)) for name in VARIANTS}
    if all(other[name] == getattr(plain, name) for name in VARIANTS):
        return plain
    return VariantConfig(**vars(plain), **other)


def said_of_model(path: Path) -> dict[str, Any]:
    """Return what a config.json says of the fields of VariantConfig; what is in none of the tables above changes no logits.

    Raises UserError, naming the setting, for what makes another function than this project's GPT-2 computes.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        said = {name: value for name, value in fields.items() if value is not None}  # null: the default
    except (ValueError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{path} is not a JSON object of model sizes: {error}") from error
    for alias, name in SIZE_ALIASES.items():
        if alias in said and said.setdefault(name, said[alias]) != said[alias]:
            raise UserError(f"{path} says {name} {said[name]!r} and {alias} {said[alias]!r}, which are one; drop one")
    for name, only in MUST_BE.items():
        if said.get(name, only) != only:
            raise _unknown(path, name, said[name], json.dumps(only))
    if (named := said.get("activation_function")) is not None:
        if not isinstance(named, str) or named not in ACTIVATIONS:
            raise _unknown(path, "activation_function", named, ", ".join(ACTIVATIONS))
        said["activation_function"] = ACTIVATIONS[named]
    epsilon = said.get("layer_norm_epsilon", 1e-5)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise _unknown(path, "layer_norm_epsilon", epsilon, "a number greater than 0 and less than 1")
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
        if type(said.get(name, True)) is not bool:
            raise _unknown(path, name, said[name], "true or false")
    return {name: said[name] for name in (*SIZES, *VARIANTS) if name in said}


def _unknown(path: Path, name: str, value: object, expected: str) -> UserError:
    shown = json.dumps(value)[:60]
    return UserError(f"{path} sets {name} to {shown}, which this project's GPT-2 cannot compute; expected {expected}")


def check_said(path: Path, model: ModelConfig) -> None:
    """Raise UserError when the config.json beside a base describes another function than `model`, most of which no shape tells."""
    plain = ModelConfig(model.n_embd, model.n_layer, model.n_head)
    theirs = {name: getattr(plain, name) for name in VARIANTS} | said_of_model(path)  # unsaid: as GPT-2 has it
    ours = {name: getattr(model, name) for name in theirs}
    shown = {
        name: str(value) if type(value) is type(ours[name]) else repr(value) for name, value in theirs.items()
    }  # "12" for 12
    other = [f"{name} {shown[name]} (--model_card: {ours[name]})" for name in theirs if theirs[name] != ours[name]]
    if other:
        raise UserError(
            f"{path} says {' and '.join(other)}; pass --model_card {path}, or the base that belongs to the card"
        )


@dataclass(frozen=True)
class OptimConfig:
    """AdamW as the recipe has it, and the schedule of its learning rate."""

    lr: float
    max_step: int  # micro-batches, as are all counts below
    _: KW_ONLY
    weight_decay: float = 0.01
    correct_bias: bool = False
    no_decay_bias: bool = False  # biases and layer norms are not decayed
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    scheduler: str = "linear"
    warmup_step: int = 0
    i_steps: tuple[int, ...] = (0,)  # cycle: corners of the piecewise linear rate
    i_lrs: tuple[float, ...] = (0.00025,)
    grad_acc: int = 1  # micro-batches an update
    clip: float = 0.0  # largest gradient norm; 0 = no clipping

    def __post_init__(self):
        kinds.check_fields(self)
        require(self.lr >= 0 and math.isfinite(self.lr), "lr", "0 or more", self.lr)
        require(self.lr <= MOST_RATE, "lr", f"no more than {MOST_RATE}", self.lr)
        require(self.max_step >= 1, "max_step", "at least 1", self.max_step)
        require(0 <= self.weight_decay < math.inf, "weight_decay", "0 or more, and finite", self.weight_decay)
        require(0 <= self.beta1 < 1, "adam_beta1", "at least 0 and less than 1", self.beta1)
        require(0 <= self.beta2 < 1, "adam_beta2", "at least 0 and less than 1", self.beta2)
        require(0 < self.epsilon < math.inf, "adam_epislon", "greater than 0 and finite", self.epsilon)
        require(self.scheduler in SCHEDULERS, "scheduler", f"one of {', '.join(SCHEDULERS)}", self.scheduler)
        require(self.warmup_step >= 0, "warmup_step", "0 or more", self.warmup_step)
        most = f"from 1 to the {self.max_step} micro-batches of the run, or it would learn nothing"
        require(1 <= self.grad_acc <= self.max_step, "grad_acc", most, self.grad_acc)
        require(0 <= self.clip < math.inf, "clip", "0 (no clipping) or more, and finite", self.clip)
        if self.scheduler in ("linear", "cosine"):
            require(
                self.warmup_step < self.max_step,
                "warmup_step",
                f"less than the {self.max_step} steps of the run",
                self.warmup_step,
            )
        if self.scheduler == "cycle":
            require(
                len(self.i_steps) == len(self.i_lrs),
                "i_lrs",
                f"as many values as --i_steps ({len(self.i_steps)})",
                self.i_lrs,
            )
            rates = all(kinds.is_of(lr, float) and 0 <= lr <= MOST_RATE for lr in self.i_lrs)
            require(rates, "i_lrs", f"rates of 0 or more, and no more than {MOST_RATE}", self.i_lrs)
            numbers = len(self.i_steps) > 1 and all(kinds.is_of(step, int) for step in self.i_steps)
            rising = numbers and all(a < b for a, b in zip(self.i_steps, self.i_steps[1:], strict=False))
            require(
                rising and self.i_steps[0] == 0,
                "i_steps",
                "two or more rising steps from 0",
                self.i_steps,
            )


@dataclass(frozen=True)
class FactorConfig:
    """How LoRA's two factors, A and B, are trained apart from each other."""

    lora_plus_ratio: float = 1.0  # B's learning rate over A's (LoRA+, Hayou et al. 2024)
    precondition: bool = False  # each one's gradient times the inverse Gram matrix of the other (Zhang & Pilanci 2024)

    def __post_init__(self):
        kinds.check_fields(self)
        require(
            0 < self.lora_plus_ratio < math.inf, "lora_plus_ratio", "greater than 0 and finite", self.lora_plus_ratio
        )

    def recorded(self) -> dict[str, "FactorConfig"]:
        """Return the section of run.json's settings; none where both are trained alike, as in earlier versions' runs."""
        return {} if self == FactorConfig() else {"factors": self}


@dataclass(frozen=True)
class TrainConfig:
    """What a training run does besides its model and its optimiser."""

    train_batch_size: int = 8  # examples a micro-batch and rank
    valid_batch_size: int = 4
    _: KW_ONLY
    seq_len: int = 512  # tokens; longer examples are cut on the right
    objective: str = "clm"  # clm: loss on the completion; jlm: on the context as well
    label_smooth: float = 0.0
    random_seed: int = 10
    precision: str = "fp32"
    max_epoch: int | None = None  # stop after so many, also when the schedule is longer
    log_interval: int = 100  # micro-batches, as are the two below
    eval_interval: int = 2000
    save_interval: int = 500
    keep_last: int = 3  # newest saves that are kept
    keep_epochs: bool = True  # and the weights of every epoch's end
    skip_nan: bool = False  # leave out batches whose loss or gradient is no number
    length_window: int = 0  # micro-batches whose examples are put into batches of like lengths; 0 = the recipe's order
    share_prompts: bool = False  # an item is an input with all its references, not a pair
    compile: bool = False  # by torch.compile, for few shapes that batches are filled up to
    early_stop: int = 0  # end after so many validations without a better one; 0: at the schedule's end
    select: str = "loss"  # which validation is the better one: of the lower loss, or of the higher bleu

    def __post_init__(self):
        kinds.check_fields(self)
        counts = "train_batch_size", "valid_batch_size", "log_interval", "eval_interval", "save_interval", "keep_last"
        for name in counts:
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("train_batch_size", "valid_batch_size"):
            require(getattr(self, name) <= MOST_IN_BATCH, name, f"at most {MOST_IN_BATCH}", getattr(self, name))
        require(self.max_epoch is None or self.max_epoch >= 1, "max_epoch", "at least 1", self.max_epoch)
        require(0 <= self.random_seed <= MOST_SEED, "random_seed", f"from 0 to {MOST_SEED}", self.random_seed)
        require(self.seq_len >= 2, "seq_len", "at least 2 tokens", self.seq_len)
        require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", self.precision)
        require(self.objective in OBJECTIVES, "obj", f"one of {', '.join(OBJECTIVES)}", self.objective)
        require(self.length_window >= 0, "length_window", "0 (off) or more", self.length_window)
        require(self.early_stop >= 0, "early_stop", "0 (off) or more", self.early_stop)
        require(self.select in SELECTS, "select", f"one of {', '.join(SELECTS)}", self.select)
        if self.share_prompts and self.objective == "jlm":
            raise UserError("--share_prompts learns completions only; leave out --obj jlm")
        if self.share_prompts and self.compile:
            raise UserError("--share_prompts makes rows of any length, --compile needs few; leave one of the two out")
        require(0 <= self.label_smooth < 1, "label_smooth", "at least 0 and less than 1", self.label_smooth)


@dataclass(frozen=True)
class BeamConfig:
    """The rules of beam search."""

    beam: int = 1  # K
    eval_len: int = 256  # most tokens generated
    _: KW_ONLY
    min_length: int = 0  # tokens before an end token may be chosen
    length_penalty: float = 1.0  # a finished score is divided by length ** this
    no_repeat_ngram_size: int = 4  # 0 = off
    repetition_penalty: float = 1.0  # 1 = off
    eos_token_ids: tuple[int, ...] = (END_OF_TEXT_ID,)

    def __post_init__(self):
        kinds.check_fields(self)
        require(1 <= self.beam <= MOST_BEAMS, "beam", f"from 1 to {MOST_BEAMS}", self.beam)
        require(self.eval_len >= 1, "eval_len", "at least 1 token", self.eval_len)
        require(
            0 <= self.min_length <= self.eval_len,
            "min_length",
            f"from 0 to --eval_len ({self.eval_len})",
            self.min_length,
        )
        require(-10 <= self.length_penalty <= 10, "length_penalty", "from -10 to 10", self.length_penalty)
        require(self.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", "0 (off) or more", self.no_repeat_ngram_size)
        finite = 1e-37 < self.repetition_penalty < 1e37  # also in float32, in which logits are divided by it
        require(finite, "repetition_penalty", "greater than 0 and finite", self.repetition_penalty)
        object.__setattr__(self, "eos_token_ids", tuple(self.eos_token_ids))  # a list will do


def flat(settings: dict, prefix: str = "") -> dict[str, object]:
    """Return nested settings as {"optim.lr": 0.002, …}."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
