"""The methods: what can be trained in a model. One table, and what a row's module must have.

A new method is a module with the functions of `Method`, a line in METHODS, its tests and a row in docs/ (CONTRIBUTING.md has an
example). Nothing else of this package names a method: programs, training, decoding and files reach it through the functions below.
No torch is imported before a model is there, so that --help and a wrong flag answer at once.
"""

import argparse
import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from lora_nlg.config import ModelConfig
from lora_nlg.errors import UserError
from lora_nlg.methods import common, placement
from lora_nlg.methods.sizes import MOST_DIM
from lora_nlg.mistakes import did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lora_nlg.model.gpt2 import GPT2

Config = Any  # a method's own frozen dataclass; its `method` is the name of its row


class Method(Protocol):
    """The functions of a method's module."""

    def from_flags(self, args: argparse.Namespace, model: ModelConfig) -> Config:
        """Return what the flags of gpt2_ft.py describe. Raises UserError."""

    def summary(self, config: Config) -> str:
        """Return what is trained, in words for people."""

    def attach(self, model: "GPT2", config: Config) -> Config | None:
        """Make of a plain model one that the method trains: put in what it needs, not set, and freeze what it does not train.

        Return the configuration with what only the model could say; nothing, where that is nothing.
        """

    def start(self, model: "GPT2", generator: "torch.Generator | None") -> None:
        """Set what `attach` put in to its start."""

    def tensors(self, model: "GPT2") -> "dict[str, Tensor]":
        """Return what is trained, by name: what a save holds."""

    def is_own(self, name: str) -> bool:
        """Return whether a tensor of this name is the method's, not the base's."""

    def merge(self, model: "GPT2") -> Config | None:
        """Make the model a plain one again that computes the same, as far as that is exact; return what is left on it."""

    def described(self, config: Config) -> dict[str, object]:
        """Return what a file says of what it holds; nothing if the file is a whole model."""

    def from_description(self, said: Mapping[str, str]) -> Config | None:
        """Undo `described`; None for what others saved."""

    def from_file(
        self, found: Config | None, tensors: "Mapping[str, Tensor]", path: Path, given: placement.Given
    ) -> Config:
        """Return the configuration of the tensors in a file, of which it says `found`, checked against the flags `given`."""

    def check_start(self, found: Config | None, tensors: "Mapping[str, Tensor]", path: Path, config: Config) -> None:
        """Raise UserError when the tensors in a file are no start for training with `config`."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    module: str  # with the functions of `Method`, or "module:object" that has them; imported when it is needed
    section: str  # of run.json's settings, with its configuration
    flags: tuple[str, ...] = ()  # of gpt2_ft.py that it reads; those of other rows are of no effect with it
    add_flags: Callable[[argparse.ArgumentParser], object] = lambda parser: None  # adds those that are its own
    is_asked: Callable[[argparse.Namespace], bool] = lambda args: False  # whether flags ask for it without --method
    why: str = ""  # its flags are of none where nothing is asked for, in words
    is_merged: bool = True  # False: merging leaves something of it on the model


def _sizes_of_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix_length", type=int, help="positions of a prefix; default: 14")


def _sizes_of_adapters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter_dim", type=int, help="width between of bottleneck adapters; default: 8 (adapter_h), 6 (adapter_l)"
    )


def _sizes_of_fourier(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fourier_n", type=int, help="FourierFT's coefficients a matrix; default: 1000")
    parser.add_argument("--fourier_scale", type=float, help="what FourierFT's ΔW is multiplied by; default: 300")


BIASES = ("no_decay_bias",)  # read by methods that train biases or layer norms
START = ("lora_checkpoint",)  # training from what a file holds
PREFIX = ("prefix_length", "trained_budget", *START)
METHODS = {
    "lora": Row(
        module="lora_nlg.methods.lora",
        section="lora",
        flags=placement.FLAGS,
        add_flags=placement.add_flags,
        is_asked=placement.is_asked,
        why="--lora_dim 0 trains no adapters",
    ),
    "pissa": Row(module="lora_nlg.methods.pissa", section="lora", flags=placement.FLAGS),  # LoRA by --lora_init pissa
    "full": Row(
        module="lora_nlg.methods.full",
        section="lora",  # recorded as LoRA of rank 0
        flags=BIASES,
        why="adapters have neither biases nor layer norms",
    ),
    "top2": Row(module="lora_nlg.methods.subsets:TOP2", section="top2", flags=(*BIASES, *START)),
    "bias": Row(module="lora_nlg.methods.subsets:BIAS", section="bias", flags=(*BIASES, *START)),
    "prefix_embed": Row(
        module="lora_nlg.methods.prefix:EMBED",
        section="prefix_embed",
        flags=PREFIX,
        add_flags=_sizes_of_prefix,
        is_merged=False,
    ),
    "prefix_layer": Row(module="lora_nlg.methods.prefix:LAYER", section="prefix_layer", flags=PREFIX, is_merged=False),
    "prefix_kv": Row(module="lora_nlg.methods.prefix:KV", section="prefix_kv", flags=PREFIX, is_merged=False),
    "adapter_h": Row(
        module="lora_nlg.methods.bottleneck:H",
        section="adapter_h",
        flags=("adapter_dim", "trained_budget", *BIASES, *START),
        add_flags=_sizes_of_adapters,
        is_merged=False,
    ),
    "adapter_l": Row(
        module="lora_nlg.methods.bottleneck:L",
        section="adapter_l",
        flags=("adapter_dim", "trained_budget", *BIASES, *START),
        is_merged=False,
    ),
    "dora": Row(module="lora_nlg.methods.dora", section="dora", flags=placement.FLAGS),
    "vera": Row(
        module="lora_nlg.methods.vera:METHOD",
        section="vera",
        flags=("vera_dim", "trained_budget", *placement.PLACES, *START),
        add_flags=lambda p: p.add_argument("--vera_dim", type=int, help="VeRA's rank; default: 256"),
    ),
    "fourier": Row(
        module="lora_nlg.methods.fourier:METHOD",
        section="fourier",
        flags=("fourier_n", "fourier_scale", "trained_budget", *placement.PLACES, *START),
        add_flags=_sizes_of_fourier,
    ),
    "ia3": Row(module="lora_nlg.methods.ia3:METHOD", section="ia3", flags=START),
    **{
        f"lora+prefix_{kind}": Row(
            module=f"lora_nlg.methods.pairs:{kind.upper()}",
            section=f"lora+prefix_{kind}",
            flags=(*placement.FLAGS, "prefix_length"),
            is_merged=False,
        )
        for kind in ("embed", "layer", "kv")
    },
}


PLAIN = "full"  # the method whose files are those of a plain model
CHOICES = tuple(name for name in METHODS if name != "pissa")  # of --method


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that gpt2_ft.py has for the methods."""
    parser.add_argument_group("method").add_argument(
        "--method",
        metavar="NAME",
        help=f"what is trained: {', '.join(CHOICES)}; default: lora if there is a --lora_dim, else full",
    )
    for row in METHODS.values():
        row.add_flags(parser)


def refuse_unread(args: argparse.Namespace, default: Callable[[str], Any]) -> None:
    """Raise UserError for a flag that differs from its `default` and that the chosen method does not read."""
    name = chosen(args)
    for row in METHODS.values():
        for flag in row.flags:
            if flag not in METHODS[name].flags and getattr(args, flag, default(flag)) != default(flag):
                why = row.why if row.why and args.method is None else f"--method {name} does not read it"
                raise UserError(f"--{flag} would have no effect: {why}; leave it out")


def method(name: str) -> Method:
    """Return the functions of a method."""
    module, _, attribute = METHODS[name].module.partition(":")
    found = importlib.import_module(module)
    return cast(Method, getattr(found, attribute) if attribute else found)


def chosen(args: argparse.Namespace) -> str:
    """Return the method that the flags of gpt2_ft.py ask for: full fine-tuning if they ask for none. Raises UserError."""
    if args.method is not None:
        if args.method not in CHOICES:
            near = (
                " (LoRA's start: --lora_init pissa)" if args.method == "pissa" else did_you_mean(args.method, CHOICES)
            )
            raise UserError(f"--method must be one of {', '.join(CHOICES)}, but is {args.method!r}{near}")
        return args.method
    asked = [name for name, row in METHODS.items() if row.is_asked(args)]
    if len(asked) > 1:
        raise UserError(f"the flags ask for {' and '.join(asked)}; expected one method, so leave the others out")
    return asked[0] if asked else PLAIN


def called(name: str) -> str:
    """Return what a file of the method holds, in words for people."""
    return "LoRA adapters" if name in ("lora", "pissa") else f"what --method {name} trains"


def positions_before(config: Config) -> int:
    """Return how many of the model's positions the method takes from the sequences."""
    return getattr(getattr(config, "prefix", config), "prefix_length", 0)


def is_merged(config: Config) -> bool:
    """Return whether nothing of the method is left on a model after merging."""
    return METHODS[config.method].is_merged


FROM_FILE = ("seed", "joined", "n_in", "n_out")  # settings that no flag gives


def as_in_file(config: Config, found: Config | None) -> Config:
    """Return what is to be trained from a start: `config`, of the flags, with what only the file's own, `found`, can say."""
    if (
        found is None
        or type(found) is not type(config)
        or getattr(found, "targets", ()) != getattr(config, "targets", ())
    ):
        return config
    said = {name: getattr(found, name) for name in FROM_FILE if hasattr(found, name)}
    said = {name: value for name, value in said.items() if name not in common.OF_SHAPES or value}  # 0 says nothing
    if getattr(found, "is_pissa", False):
        said["init"] = found.init
    return dataclasses.replace(config, **said)


def from_flags(args: argparse.Namespace, model: ModelConfig) -> Config:
    """Return what the flags of gpt2_ft.py ask for. Raises UserError."""
    config = method(chosen(args)).from_flags(args, model)
    if chosen(args) == "lora" and not config.rank:
        raise placement.without_rank("lora")
    return config


def section(config: Config) -> dict[str, Config]:
    """Return `config` under the name of its section in run.json's settings."""
    return {METHODS[config.method].section: config}


def of_tensors(names: Iterable[str]) -> str:
    """Return the method whose tensors are among `names`, those of a file; PLAIN if they are a plain model's.

    Where methods share names, the file's description tells them apart.
    """
    owners = {name: {row for row in METHODS if method(row).is_own(name)} for name in names}
    owned = [rows for rows in owners.values() if rows]
    if not owned:
        return PLAIN
    of_all = set.intersection(*owned)
    return next(row for row in METHODS if row in (of_all or owned[0]))


def of_base(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors that are the base's, not a method's."""
    return {name: tensor for name, tensor in tensors.items() if of_tensors([name]) == PLAIN}


def check(config: Config, model: ModelConfig) -> None:
    """Raise UserError for what is no configuration of a method, or for one that does not fit a model of this shape.

    Flags are checked where they are read, and files where they are put on; this is the door for what was made in Python.
    """
    if isinstance(config, type) or not dataclasses.is_dataclass(config) or getattr(config, "method", "") not in METHODS:
        raise UserError(
            f"what is trained must be the configuration of a method, such as LoraConfig(4, 32), but is {config!r:.60}"
        )
    parts = [part for part in vars(config).values() if dataclasses.is_dataclass(part)]  # of a pair
    for part in parts or [config]:
        _check_layers(getattr(part, "layers", None), model)
        _check_sizes(part, model)


def _check_layers(layers: Any, model: ModelConfig) -> None:
    if layers is not None and not (layers and all(type(at) is int and 0 <= at < model.n_layer for at in layers)):
        raise UserError(f"layers must be some of the model's, from 0 to {model.n_layer - 1}, but is {layers!r:.60}")


def _check_sizes(config: Config, model: ModelConfig) -> None:
    rank = getattr(config, "rank", 0)
    sizes = {"rank": max(rank.values()) if isinstance(rank, dict) else rank}
    # The limit of n is the matrix's size.
    sizes |= {name: getattr(config, name, 0) for name in common.SIZES if name != "n"}
    if odd := next((name for name, size in sizes.items() if size > MOST_DIM), None):
        raise UserError(f"{odd} must be at most {MOST_DIM:,}, but is {sizes[odd]:,}")
    if sizes["prefix_length"] > model.n_positions - 2:
        raise UserError(
            f"the prefix takes {sizes['prefix_length']} of the model's {model.n_positions} positions, and leaves less than two; use a "
            "shorter one"
        )


def attach(model: "GPT2", config: Config) -> None:
    """Make of a plain model one that is trained as `config` says, not set: for a caller that fills it from a file."""
    model.trained_by = method(config.method).attach(model, config) or config


def add_adapters(model: "GPT2", config: Config, generator: "torch.Generator | None" = None) -> None:
    """Make of a plain model one that is trained as `config` says, at its start. Raises UserError."""
    check(config, model.config)
    attach(model, config)
    method(config.method).start(model, generator)


def merge_adapters(model: "GPT2") -> None:
    """Make the model a plain one again that computes the same, as far as that is exact; `trained_by` is what is left on it."""
    if model.trained_by is not None:
        model.trained_by = method(model.trained_by.method).merge(model)


def adapter_tensors(model: "GPT2") -> "dict[str, Tensor]":
    """Return what a save of the model holds, by name: what was put on it, nothing if that is nothing."""
    config = model.trained_by
    return {} if config is None else method(config.method).tensors(model)


def adapter_config(model: "GPT2") -> Config | None:
    """Return the configuration of what was put on the model, None if that is nothing."""
    return model.trained_by
