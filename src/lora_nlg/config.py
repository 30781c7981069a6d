"""The settings that change a number, but for the methods' own: frozen dataclasses, with the checks that name the flag."""

import json
import math
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from lora_nlg.errors import UserError

GPT2_VOCAB_SIZE = 50257
END_OF_TEXT_ID = 50256
BLANK_LINE_ID = 628  # two line ends, the end token that the E2E runs have beside it

MOST_BEAMS = 1000  # a slip of the finger, not a search
MOST_SEED = 2**63 - 1
SCHEDULERS = ("linear", "cosine", "constant", "cycle")
OBJECTIVES = ("clm", "jlm")


def require(condition: bool, flag: str, rule: str, value) -> None:
    """Raise UserError, naming the flag, its rule and its value, unless `condition` holds."""
    if not condition:
        raise UserError(f"--{flag} must be {rule}, but is {value}")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a GPT-2."""

    n_embd: int  # C, width
    n_layer: int  # transformer blocks
    n_head: int  # H, attention heads; D = C / H
    n_positions: int = 1024  # longest sequence, in tokens
    vocab_size: int = GPT2_VOCAB_SIZE  # V

    def __post_init__(self):
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise UserError(f"the model's {name} must be a whole number of at least 1, but is {value!r}")
        if self.n_embd % self.n_head:
            raise UserError(f"the model's n_embd {self.n_embd} must be a multiple of its n_head {self.n_head}")


CARDS = {
    "gpt2.mini": ModelConfig(n_embd=256, n_layer=4, n_head=4, n_positions=256),
    "gpt2.sm": ModelConfig(n_embd=768, n_layer=12, n_head=12),
    "gpt2.md": ModelConfig(n_embd=1024, n_layer=24, n_head=16),
    "gpt2.lg": ModelConfig(n_embd=1280, n_layer=36, n_head=20),
    "gpt2.xl": ModelConfig(n_embd=1600, n_layer=48, n_head=25),
}


def model_config(card: str) -> ModelConfig:
    """Return the shape behind `--model_card`: a name in CARDS or the path of a Hugging Face style config.json."""
    if card in CARDS:
        return CARDS[card]
    path = Path(card)
    if not path.is_file():
        raise UserError(f"--model_card must be one of {', '.join(CARDS)} or the path of a config.json, but is {card!r}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return ModelConfig(**{name: fields[name] for name in ModelConfig.__dataclass_fields__})
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON object of model sizes: {error}") from error
    except KeyError as error:
        raise UserError(
            f"{path} does not say {error.args[0]}; expected {', '.join(ModelConfig.__dataclass_fields__)}"
        ) from error


def check_seq_len(seq_len: int, model: ModelConfig, card: str) -> None:
    """Raise UserError when sequences of `seq_len` tokens do not fit the model."""
    if seq_len > model.n_positions:
        raise UserError(f"--seq_len {seq_len} is longer than the {model.n_positions} positions of {card}")


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
        require(self.lr >= 0 and math.isfinite(self.lr), "lr", "0 or more", self.lr)
        require(self.max_step >= 1, "max_step", "at least 1", self.max_step)
        require(self.weight_decay >= 0, "weight_decay", "0 or more", self.weight_decay)
        require(0 <= self.beta1 < 1, "adam_beta1", "at least 0 and less than 1", self.beta1)
        require(0 <= self.beta2 < 1, "adam_beta2", "at least 0 and less than 1", self.beta2)
        require(0 < self.epsilon < math.inf, "adam_epislon", "greater than 0 and finite", self.epsilon)
        require(self.scheduler in SCHEDULERS, "scheduler", f"one of {', '.join(SCHEDULERS)}", self.scheduler)
        require(self.warmup_step >= 0, "warmup_step", "0 or more", self.warmup_step)
        require(self.grad_acc >= 1, "grad_acc", "at least 1", self.grad_acc)
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
            rising = all(a < b for a, b in zip(self.i_steps, self.i_steps[1:], strict=False))
            require(
                self.i_steps[0] == 0 and len(self.i_steps) > 1 and rising,
                "i_steps",
                "two or more rising steps from 0",
                self.i_steps,
            )


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
    skip_nan: bool = False  # leave out batches whose loss or gradient is no number
    length_window: int = 0  # micro-batches whose examples are put into batches of like lengths; 0 = the recipe's order
    share_prompts: bool = False  # an item is an input with all its references, not a pair
    compile: bool = False  # by torch.compile, for few shapes that batches are filled up to

    def __post_init__(self):
        counts = "train_batch_size", "valid_batch_size", "log_interval", "eval_interval", "save_interval", "keep_last"
        for name in counts:
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.max_epoch is None or self.max_epoch >= 1, "max_epoch", "at least 1", self.max_epoch)
        require(0 <= self.random_seed <= MOST_SEED, "random_seed", f"from 0 to {MOST_SEED}", self.random_seed)
        require(self.seq_len >= 2, "seq_len", "at least 2 tokens", self.seq_len)
        require(self.objective in OBJECTIVES, "obj", f"one of {', '.join(OBJECTIVES)}", self.objective)
        require(self.length_window >= 0, "length_window", "0 (off) or more", self.length_window)
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
        finite = 0 < self.repetition_penalty < math.inf
        require(finite, "repetition_penalty", "greater than 0 and finite", self.repetition_penalty)
