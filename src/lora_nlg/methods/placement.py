"""LoRA's settings: where adapters go and of what kind, as flags, as text in files, and as numbers. No torch.

Of the flags, --lora_dim, --lora_alpha and --lora_checkpoint are every program's (see flags.py); the rest is training's alone.
"""

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_nlg import kinds
from lora_nlg.config import ModelConfig, require
from lora_nlg.errors import UserError
from lora_nlg.methods.sizes import largest
from lora_nlg.methods.sizes import parse_budget as parse_budget

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION_TARGETS = ("q", "k", "v")  # the thirds of c_attn's outputs, in their order
# What can be adapted, by the module that holds it. wte is the token embedding, which is the output layer as well.
MODULES = {
    "attn.c_attn": ATTENTION_TARGETS,
    "attn.c_proj": ("o",),
    "mlp.c_fc": ("fc",),
    "mlp.c_proj": ("proj",),
    "wte": ("wte",),
}
TARGETS = tuple(target for targets in MODULES.values() for target in targets)
LORA_SCALINGS = ("alpha/r", "rslora")
MOST_SCALE = 3.4028234663852886e38  # float32 has no larger number
PLACES = ("lora_targets", "lora_layers")  # flags of every method that is put on matrices
FLAGS = (
    "lora_dim", "lora_alpha", "lora_budget", "trained_budget", "lora_dropout", "lora_checkpoint", *PLACES, "lora_init", "lora_scaling",
    "lora_plus_ratio", "precondition",
)  # fmt: skip
BUDGETS = ("lora_budget", "trained_budget")


def target_sizes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of every target's matrix; the embedding counts as the output layer that it is as well."""
    C, inner = model.n_embd, model.n_inner
    to_width = dict.fromkeys(("q", "k", "v", "o"), (C, C))
    return {**to_width, "fc": (C, inner), "proj": (inner, C), "wte": (C, model.vocab_size)}


def of_lora_alone(what: str, method: str) -> UserError:
    """Return the error for what no method but LoRA has."""
    instead = "; give --lora_targets q,k,v,o,fc,proj for all others" if what.endswith("wte") else ""
    return UserError(f"{what} is LoRA's alone, so leave it out with --method {method}{instead}")


def without_rank(method: str) -> UserError:
    """Return the error for LoRA's adapters, or what holds some, that have no rank."""
    return UserError(f"--method {method} needs a rank; give --lora_dim or --trained_budget")


def rank_text(rank: int | dict[str, int]) -> str:
    """Return a rank as `--lora_dim` takes it: "4" or "q=8,v=4"."""
    return ",".join(f"{target}={R}" for target, R in rank.items()) if isinstance(rank, dict) else str(rank)


@dataclass(frozen=True)
class LoraConfig:
    """Where adapters are and of what kind: in the paper on the query and the value of every layer (section 4.2)."""

    rank: int | dict[str, int]  # R, of every target or of each; 0 = no adapters, every parameter is trained
    alpha: float = 128.0  # ΔW is scaled by alpha / R
    _: KW_ONLY
    dropout: float = 0.0  # on the adapters' input, while training
    targets: tuple[str, ...] = ("q", "v")  # in the order of TARGETS
    layers: tuple[int, ...] | None = None  # counted from 0, rising; None = all
    init: str = "kaiming"  # how A and B start, see `init_std`
    scaling: str = "alpha/r"  # rslora: by alpha / √R instead

    def __post_init__(self):
        kinds.check_fields(self)
        in_order = tuple(target for target in TARGETS if target in self.targets)
        rule = f"a tuple of some of {', '.join(TARGETS)}, in this order"
        require(bool(in_order) and self.targets == in_order, "lora_targets", rule, self.targets)
        if isinstance(self.rank, dict):
            rule = f"one rank, or a rank for each of --lora_targets ({','.join(self.targets)})"
            require(tuple(self.rank) == self.targets, "lora_dim", rule, rank_text(self.rank))
        ranks = self.rank.values() if isinstance(self.rank, dict) else (self.rank,)
        lowest, rule = (
            (1, "1 or more for every target") if isinstance(self.rank, dict) else (0, "0 (full fine-tuning) or more")
        )
        require(all(type(R) is int for R in ranks), "lora_dim", "whole numbers", rank_text(self.rank))
        require(min(ranks) >= lowest, "lora_dim", rule, rank_text(self.rank))
        require(0 < self.alpha < math.inf, "lora_alpha", "greater than 0 and finite", self.alpha)
        require(self.alpha <= MOST_SCALE, "lora_alpha", f"no more than {MOST_SCALE:g}", self.alpha)
        require(0 <= self.dropout < 1, "lora_dropout", "at least 0 and less than 1", self.dropout)
        require(self.scaling in LORA_SCALINGS, "lora_scaling", f"one of {', '.join(LORA_SCALINGS)}", self.scaling)
        self.init_std  # noqa: B018 (raises)

    @property
    def init_std(self) -> tuple[float | None, float]:
        """Standard deviations with which A and B are drawn; None: A is Kaiming-uniform with a = √5; 0: B is zero. PiSSA draws none."""
        kind, _, text = self.init.partition(":")
        if self.init in ("kaiming", "pissa"):
            return None, 0.0
        try:
            std = float(text)
        except ValueError:
            std = math.nan
        known = kind in ("gaussian", "gaussian_b") and 0 < std < math.inf
        rule = "kaiming, gaussian:STD or gaussian_b:STD with STD greater than 0, or pissa"
        require(known, "lora_init", rule, repr(self.init))
        return std, std if kind == "gaussian_b" else 0.0

    @property
    def is_pissa(self) -> bool:
        """Whether A and B start as the first R singular vectors of W, which keeps the rest."""
        return self.init == "pissa"

    @property
    def method(self) -> str:
        """The row of the table of methods."""
        return "full" if not self.rank else "pissa" if self.is_pissa else "lora"

    def rank_of(self, target: str) -> int:
        """Return R of `target`, one of the targets."""
        return self.rank[target] if isinstance(self.rank, dict) else self.rank

    def scale_of(self, target: str) -> float:
        """Return what B A of `target` is multiplied by."""
        R = self.rank_of(target)
        return self.alpha / (R if self.scaling == "alpha/r" else math.sqrt(R))

    def n_parameters(self, model: ModelConfig) -> int:
        """Return how many numbers the adapters on `model` have: R · (inputs + outputs) a matrix."""
        sizes, n_layers = target_sizes(model), model.n_layer if self.layers is None else len(self.layers)
        copies = {target: 1 if target == "wte" else n_layers for target in self.targets}
        return sum(copies[target] * self.rank_of(target) * sum(sizes[target]) for target in self.targets)


@dataclass(frozen=True)
class DoraConfig(LoraConfig):
    """LoRA's settings, of DoRA: LoRA, and the length of each output's weights (Liu et al. 2024)."""

    def __post_init__(self):
        super().__post_init__()
        if self.is_pissa or "wte" in self.targets:
            raise of_lora_alone("--lora_init pissa" if self.is_pissa else "--lora_targets wte", "dora")
        if not self.rank:
            raise without_rank("dora")

    @property
    def method(self) -> str:
        """The row of the table of methods."""
        return "dora"

    def n_parameters(self, model: ModelConfig) -> int:
        """Return LoRA's numbers, and one for each output of a matrix."""
        sizes, n_layers = target_sizes(model), model.n_layer if self.layers is None else len(self.layers)
        return super().n_parameters(model) + n_layers * sum(sizes[target][1] for target in self.targets)


KINDS = {"lora": LoraConfig, "full": LoraConfig, "dora": DoraConfig}  # by method


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what training has beside --lora_dim and --lora_alpha."""
    group = parser.add_argument_group("adapters")
    group.add_argument(
        "--lora_targets",
        default="q,v",
        help=f"what is adapted: any of {', '.join(TARGETS)} with commas between them, or all; default: %(default)s",
    )
    group.add_argument(
        "--lora_layers",
        default="all",
        help="in which layers, counted from 0, e.g. 0-11 or 0,2,5-7; default: %(default)s",
    )
    group.add_argument(
        "--lora_budget", help="in place of --lora_dim: the highest rank with at most so many parameters, e.g. 0.39M"
    )
    group.add_argument(
        "--trained_budget", help="the same for the size of any method that has one: the largest within, e.g. 0.35M"
    )
    group.add_argument("--lora_dropout", type=float, default=0.0, help="on the adapters' input")
    group.add_argument(
        "--lora_init",
        default="kaiming",
        help="start: A Kaiming-uniform and B zero (kaiming), A from N(0, STD) and B zero (gaussian:STD), both from N(0, STD) "
        "(gaussian_b:STD), or the matrix's first singular vectors, of which it keeps the rest (pissa); default: %(default)s",
    )
    group.add_argument(
        "--lora_scaling",
        default="alpha/r",
        help="ΔW is scaled by alpha/r, or by alpha/√r (rslora); default: %(default)s",
    )


@dataclass(frozen=True)
class Given:
    """What --lora_dim and --lora_alpha say. In front of a file, rank 0 and alpha None agree with whatever it says."""

    rank: int | dict[str, int] = 0
    alpha: float | None = None

    @classmethod
    def by(cls, args: argparse.Namespace) -> "Given":
        """Return what the flags of a program say: the one place that reads them."""
        return cls(parse_rank(args.lora_dim), args.lora_alpha)


def refuse_without_adapters(args: argparse.Namespace) -> None:
    """Raise UserError for --lora_dim or --lora_alpha in a program that decodes the base alone."""
    if not args.lora_checkpoint and Given.by(args) != Given():
        raise UserError(
            "--lora_dim and --lora_alpha need the adapters they describe: their file goes into --lora_checkpoint, and the base they "
            f"were trained on into --init_checkpoint, which is {args.init_checkpoint or 'missing'}"
        )


def is_asked(args: argparse.Namespace) -> bool:
    """Return whether the flags of gpt2_ft.py ask for adapters."""
    return args.lora_budget is not None or args.trained_budget is not None or Given.by(args).rank != 0


def places_of(args: argparse.Namespace, model: ModelConfig) -> dict:
    """Return `targets` and `layers`, None for all, that the flags of gpt2_ft.py name. Raises UserError."""
    targets, layers = parse_targets(args.lora_targets), parse_layers(args.lora_layers)
    if layers is not None and layers[-1] >= model.n_layer:
        raise UserError(
            f"--lora_layers must be from 0 to {model.n_layer - 1}, the last layer of {args.model_card}, but is {args.lora_layers}"
        )
    if layers is not None and targets == ("wte",):
        raise UserError("--lora_layers would have no effect: wte, the embedding, is in no layer; leave it out")
    return {"targets": targets, "layers": None if layers == tuple(range(model.n_layer)) else layers}


def from_flags(args: argparse.Namespace, model: ModelConfig, method: str = "lora") -> LoraConfig:
    """Return the adapters that the flags of gpt2_ft.py describe; of rank 0 where there are none. Raises UserError."""
    given, places = Given.by(args), places_of(args, model)
    assert given.alpha is not None  # gpt2_ft.py's flag has a default
    rank, targets = given.rank, places["targets"]
    if isinstance(rank, dict) and tuple(rank) == targets and len(set(rank.values())) == 1:
        rank = rank[targets[0]]
    budgets = [flag for flag in BUDGETS if getattr(args, flag) is not None]
    if len(budgets) > 1:
        raise UserError("--lora_budget and --trained_budget say the same of LoRA; give one of the two")
    budget = budgets[0] if budgets else None
    if budget is not None and rank:
        raise UserError(f"--{budget} chooses the rank that --lora_dim sets; give one of the two")
    settings = dict(dropout=args.lora_dropout, init=args.lora_init, scaling=args.lora_scaling, **places)
    config = KINDS[method](1 if budget else rank, given.alpha, **settings)
    if budget is not None:
        return _within(config, model, budget, getattr(args, budget))
    if config.is_pissa and (odd := [t for t in targets if config.rank_of(t) > min(target_sizes(model)[t])]):
        raise UserError(
            f"--lora_init pissa takes singular vectors, of which {odd[0]} has {min(target_sizes(model)[odd[0]])}, fewer than the rank "
            f"{config.rank_of(odd[0])}; lower --lora_dim"
        )
    if max(config.rank_of(target) for target in targets) > model.n_embd:
        raise UserError(
            f"--lora_dim must be at most {model.n_embd}, the width of {args.model_card}, but is {rank_text(rank)}"
        )
    return config


def _within(config: LoraConfig, model: ModelConfig, flag: str, text: str) -> LoraConfig:
    """Return `config` with the highest rank that the budget `--FLAG TEXT` allows."""

    def count(rank: int) -> int:
        return dataclasses.replace(config, rank=rank).n_parameters(model)

    where = f" on {','.join(config.targets)}"
    return dataclasses.replace(config, rank=largest(flag, text, "rank", model.n_embd, count, where))


def no_adapters(path: Path) -> UserError:
    """Return the error for a file without adapters where they are wanted."""
    return UserError(f"{path} holds no LoRA adapters; a base or a fully fine-tuned model goes into --init_checkpoint")


def from_file(found: LoraConfig | None, tensors: Mapping[str, "Tensor"], path: Path, given: Given) -> LoraConfig:
    """Return the configuration of the adapters `tensors` of the file `path`, checked against the flags. Raises UserError.

    `found` is what the file says of them. One that says nothing holds what the recipe trains: adapters of query and value, of one
    rank, in every layer.
    """
    recipe_rank = next((tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("lora_B")), None)
    if recipe_rank is None:
        raise no_adapters(path)
    said = found or LoraConfig(recipe_rank)
    wanted = given.rank if isinstance(given.rank, dict) else dict.fromkeys(said.targets, given.rank)
    if given.rank != 0 and wanted != {target: said.rank_of(target) for target in said.targets}:
        theirs = rank_text(said.rank)
        raise UserError(
            f"{path} holds adapters of rank {theirs}, not {rank_text(given.rank)}; pass --lora_dim {theirs} or leave it out"
        )
    largest = max(size for tensor in tensors.values() for size in tensor.shape)
    if any(said.rank_of(target) > largest for target in said.targets):
        raise UserError(
            f"{path} says that its rank is {rank_text(said.rank)}, but it has no such tensors; save it again"
        )
    if found is None:
        if given.alpha is None:
            raise UserError(
                f"{path} does not say its alpha; pass what it was trained with, in the recipe --lora_alpha 32"
            )
        return LoraConfig(recipe_rank, given.alpha)
    if given.alpha not in (None, found.alpha):
        raise UserError(
            f"{path} was trained with alpha {found.alpha:g}, not {given.alpha:g}; pass --lora_alpha {found.alpha:g}"
        )
    return found


def check_start(found: LoraConfig | None, tensors: Mapping[str, "Tensor"], path: Path, config: LoraConfig) -> None:
    """Raise UserError when the adapters to start from are elsewhere than those to be trained, or scaled otherwise."""
    start = from_file(found, tensors, path, Given(config.rank, config.alpha))
    for flag, verb, text in (
        ("targets", "adapts", ",".join),
        ("layers", "adapts layers", layers_text),
        ("scaling", "scales by", str),
    ):
        theirs, ours = (text(getattr(lora, flag)) for lora in (start, config))
        if theirs != ours:
            raise UserError(f"{path} {verb} {theirs}, not {ours}; pass --lora_{flag} {theirs}")
    if start.is_pissa != config.is_pissa:
        raise UserError(f"{path} started from {start.init}, not {config.init}; pass --lora_init {start.init}")


def summary(config: LoraConfig) -> str:
    """Return what is trained, in words for people."""
    return f"adapters on {places_text(config)}, rank {rank_text(config.rank)}"


def places_text(config: Any) -> str:
    """Return where the adapters of `config` are, in words for people."""
    where = "" if config.layers is None else f" of layers {layers_text(config.layers)}"
    return f"{','.join(config.targets)}{where}"


# What `described` says
DESCRIBED = ("rank", "alpha", "dropout", "targets", "layers", "init", "scaling")


def described(config: LoraConfig) -> dict[str, object]:
    """Return what a file says of its adapters."""
    return {
        "rank": rank_text(config.rank),
        "alpha": config.alpha,
        "dropout": config.dropout,
        "targets": ",".join(config.targets),
        "layers": layers_text(config.layers),
        "init": config.init,
        "scaling": config.scaling,
    }


def from_description(said: Mapping[str, str], method: str = "lora") -> LoraConfig | None:
    """Undo `described`, of which an earlier version left out what was then not to be chosen; None for what others saved."""
    if not (ours := [name for name in DESCRIBED if name in said]):
        return None
    if missing := next((name for name in ("rank", "alpha") if name not in said), None):
        raise UserError(f"it has {', '.join(ours)} and no {missing}")
    if said["rank"] == "0":
        raise UserError("its rank is 0, which is that of no adapters")
    return KINDS[method](
        parse_rank(said["rank"]),
        float(said["alpha"]),
        dropout=float(said.get("dropout", 0)),
        targets=parse_targets(said.get("targets", "q,v")),
        layers=parse_layers(said.get("layers", "all")),
        init=said.get("init", "kaiming"),
        scaling=said.get("scaling", "alpha/r"),
    )


def parse_targets(text: str) -> tuple[str, ...]:
    """Return the targets of `--lora_targets`, e.g. "q,v" or "all", in the order of TARGETS."""
    named = TARGETS if text == "all" else text.split(",")
    if not set(named) <= set(TARGETS):
        raise UserError(f"--lora_targets must be some of {','.join(TARGETS)}, or all, but is {text!r}")
    return tuple(target for target in TARGETS if target in named)


def parse_layers(text: str) -> tuple[int, ...] | None:
    """Return the layers of `--lora_layers`, e.g. "0-11" or "0,2,5-7", rising; None for "all"."""
    if text == "all":
        return None
    ranges = [re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part) for part in text.split(",")]
    bounds = [(int(m[1]), int(m[2] or m[1])) for m in ranges if m]
    if not all(ranges) or any(first > last for first, last in bounds):
        raise UserError(f"--lora_layers must be numbers and rising ranges such as 0,2,5-7, or all, but is {text!r}")
    return tuple(sorted({layer for first, last in bounds for layer in range(first, last + 1)}))


def layers_text(layers: Sequence[int] | None) -> str:
    """Undo `parse_layers`."""
    return "all" if layers is None else ",".join(map(str, layers))


def parse_rank(text: str) -> int | dict[str, int]:
    """Return the rank of `--lora_dim`: 4 of "4", {"q": 8, "v": 4} of "q=8,v=4", in the order of TARGETS."""
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    parts = [re.fullmatch(r"(\w+)=(\d{1,18})", part) for part in text.split(",")]
    named = {m[1]: int(m[2]) for m in parts if m}
    if not all(parts) or len(named) < len(parts) or not set(named) <= set(TARGETS):
        raise UserError(f"--lora_dim must be a rank, or one for every target such as q=8,v=4, but is {text!r}")
    return {target: named[target] for target in TARGETS if target in named}
