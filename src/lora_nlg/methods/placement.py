"""Where adapters go: the flags of it, as text in files and on the command line, and what it costs."""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_nlg.config import TARGETS, LoraConfig, ModelConfig, rank_text
from lora_nlg.errors import UserError

SUFFIXES = {"": 1, "k": 1_000, "M": 1_000_000}  # of --lora_budget


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
    group.add_argument("--lora_dropout", type=float, default=0.0, help="on the adapters' input")
    group.add_argument(
        "--lora_init",
        default="kaiming",
        help="start: A Kaiming-uniform and B zero (kaiming), A from N(0, STD) and B zero (gaussian:STD), or both from N(0, STD) "
        "(gaussian_b:STD); default: %(default)s",
    )
    group.add_argument(
        "--lora_scaling",
        default="alpha/r",
        help="ΔW is scaled by alpha/r, or by alpha/√r (rslora); default: %(default)s",
    )


def from_flags(args: argparse.Namespace, model: ModelConfig) -> LoraConfig:
    """Return the adapters that the flags of gpt2_ft.py describe; of rank 0 where there are none. Raises UserError."""
    targets = parse_targets(args.lora_targets)
    layers = parse_layers(args.lora_layers)
    if layers is not None and layers[-1] >= model.n_layer:
        raise UserError(
            f"--lora_layers must be from 0 to {model.n_layer - 1}, the last layer of {args.model_card}, but is {args.lora_layers}"
        )
    if layers is not None and targets == ("wte",):
        raise UserError("--lora_layers would have no effect: wte, the embedding, is in no layer; leave it out")
    rank = parse_rank(args.lora_dim)
    if isinstance(rank, dict) and tuple(rank) == targets and len(set(rank.values())) == 1:
        rank = rank[targets[0]]
    config = LoraConfig(
        rank, args.lora_alpha, args.lora_dropout, targets, None if layers == tuple(range(model.n_layer)) else layers,
        args.lora_init, args.lora_scaling,
    )  # fmt: skip
    if args.lora_budget is not None:
        return _within(config, model, args)
    if max(config.rank_of(target) for target in targets) > model.n_embd:
        raise UserError(
            f"--lora_dim must be at most {model.n_embd}, the width of {args.model_card}, but is {rank_text(rank)}"
        )
    return config


def _within(config: LoraConfig, model: ModelConfig, args: argparse.Namespace) -> LoraConfig:
    """Return `config` with the highest rank that --lora_budget allows."""
    if config.rank:
        raise UserError("--lora_budget chooses the rank that --lora_dim sets; give one of the two")
    budget = parse_budget(args.lora_budget)
    of_rank_1 = dataclasses.replace(config, rank=1).n_parameters(model)
    if not of_rank_1 <= budget < of_rank_1 * (model.n_embd + 1):
        raise UserError(
            f"--lora_budget must be from {of_rank_1:,}, what rank 1 takes on {','.join(config.targets)}, to "
            f"{of_rank_1 * model.n_embd:,}, rank {model.n_embd}, but is {args.lora_budget}"
        )
    return dataclasses.replace(config, rank=budget // of_rank_1)


def described(lora: LoraConfig) -> dict[str, object]:
    """Return what a file says of its adapters."""
    return {
        "rank": rank_text(lora.rank),
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "targets": ",".join(lora.targets),
        "layers": layers_text(lora.layers),
        "init": lora.init,
        "scaling": lora.scaling,
    }


def from_description(said: Mapping[str, str]) -> LoraConfig | None:
    """Undo `described`, of which an earlier version left out what was then not to be chosen; None for what others saved."""
    if not {"rank", "alpha"} <= set(said):
        return None
    return LoraConfig(
        parse_rank(said["rank"]), float(said["alpha"]), float(said.get("dropout", 0)),
        parse_targets(said.get("targets", "q,v")), parse_layers(said.get("layers", "all")),
        said.get("init", "kaiming"), said.get("scaling", "alpha/r"),
    )  # fmt: skip


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


def parse_budget(text: str) -> int:
    """Return the parameters of `--lora_budget`, e.g. 390 000 of "0.39M"."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)(k|M|)", text)
    if found is None:
        raise UserError(f"--lora_budget must be a number of parameters such as 390000, 390k or 0.39M, but is {text!r}")
    return round(float(found[1]) * SUFFIXES[found[2]])


@dataclass(frozen=True)
class Cost:
    """What training a part of a model takes."""

    total: int  # parameters
    trained: int
    number_size: int  # bytes

    @property
    def share(self) -> float:
        """The trained part of all parameters, from 0 to 1."""
        return self.trained / self.total

    @property
    def bytes_on_disk(self) -> int:
        """The size of the numbers in a file of what is trained; the file adds a few kB of names."""
        return self.trained * self.number_size

    @property
    def optimizer_bytes(self) -> int:
        """The memory of Adam's two averages."""
        return 2 * self.trained * self.number_size
