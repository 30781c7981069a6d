"""Flags that several programs share, and a parser whose errors are one sentence."""

import argparse
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from lora_nlg import mistakes
from lora_nlg.config import PRECISIONS, BeamConfig, ModelConfig
from lora_nlg.errors import EXIT_USER_ERROR, UserError, let_the_first_rank_speak, visible


class Parser(mistakes.MendingParser):
    """A parser whose errors are one sentence, in place of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        let_the_first_rank_speak()
        name = mistakes.typed_name(self.prog)
        self.exit(EXIT_USER_ERROR, f"{name}: error: {visible(message)}; --help lists all flags\n")


class NoEffect(argparse.Action):
    """A flag the recipe accepts and ignores. Giving it is an error, so that nobody believes it did something."""

    def __init__(self, option_strings, dest, reason="the recipe accepts it and does nothing with it", **kwargs):
        self.reason = reason
        super().__init__(option_strings, dest, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} would have no effect: {self.reason}; leave it out")


def add_platform_flags(parser: argparse.ArgumentParser) -> None:
    """Where to run. A launcher's environment variables come before these flags."""
    group = parser.add_argument_group("where to run")
    group.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N")
    group.add_argument(
        "--platform", default="k8s", choices=("k8s", "local"), help="of no effect here: torchrun's variables decide"
    )
    group.add_argument("--local_rank", "--local-rank", type=int, default=0, help="what torch.distributed.launch passes")
    group.add_argument("--rank", type=int, default=0, help="without a launcher: this process among --world_size")
    group.add_argument("--world_size", type=int, default=0, help="without a launcher: number of processes")
    group.add_argument("--random_seed", type=int, default=10, help="random start, order of the examples, dropout")


def add_model_flags(
    parser: argparse.ArgumentParser, card: str | None, alpha: float | None, several: bool = False, no_card: str = ""
) -> None:
    """Which model, and how it computes; with `several`, --lora_checkpoint is a list. `no_card`: what is taken without a card."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model_card",
        default=card,
        help="gpt2.mini, .sm, .md, .lg, .xl or the path of a config.json"
        + (f"; default: {no_card}" if no_card else ""),
    )
    group.add_argument(
        "--init_checkpoint",
        help="the base: a .safetensors, .bin or .pt file, a folder from the Hub, a Hub id (openai-community/gpt2-medium), or the word "
        "random",
    )
    group.add_argument(
        "--lora_checkpoint",
        action="append" if several else "store",
        help="adapters: model.final.pt, a .safetensors, a PEFT folder, a Hub id (user/adapter@revision), or a whole checkpoint, which "
        "needs no base" + ("; may be repeated" if several else ""),
    )
    group.add_argument(
        "--lora_dim", default="0", help="rank of the adapters, or ranks such as q=8,v=4; 0: none, or as the file says"
    )
    group.add_argument("--lora_alpha", type=float, default=alpha, help="the adapters are scaled by alpha / rank")
    group.add_argument("--precision", choices=PRECISIONS, help="how numbers are computed; default: fp32")
    group.add_argument("--fp16", action="store_true", help="the same as --precision fp16")


def fit_seq_len(args: argparse.Namespace, model: ModelConfig, n_before: int = 0) -> str:
    """Make --seq_len the model's positions where it is more; return the sentence that says so, or nothing.

    Of the positions a prefix takes the first `n_before`.
    """
    left = model.n_positions - n_before
    if left < 2:
        raise UserError(
            f"the prefix takes {n_before} of the {model.n_positions} positions of {args.model_card}; check --model_card"
        )
    if args.seq_len <= left:
        return ""
    asked, args.seq_len = args.seq_len, left
    which = f"positions of {args.model_card}" + (f" behind the prefix's {n_before}" if n_before else "")
    return f"warning: --seq_len {asked} is more than the {left} {which}, so it is {left}"


def chosen_precision(args: argparse.Namespace) -> str:
    """Return the precision that --precision and --fp16 together ask for."""
    if args.fp16 and args.precision not in (None, "fp16"):
        raise UserError(f"--fp16 contradicts --precision {args.precision}; give one of the two")
    return "fp16" if args.fp16 else args.precision or "fp32"


@dataclass(frozen=True)
class SearchDefaults:
    """What the search's flags are if they are not given: the recipe's own for gpt2_beam.py."""

    beam: int = 1
    eval_len: int = 256
    length_penalty: float = 1.0


E2E_SEARCH = SearchDefaults(beam=10, eval_len=64, length_penalty=0.8)  # that of the E2E runs


def add_search_flags(
    parser: argparse.ArgumentParser, defaults: SearchDefaults, of_score: str
) -> argparse._ArgumentGroup:
    """The rules of beam search, but for the end tokens; `of_score` says which scores the length penalty divides."""
    group = parser.add_argument_group("search")
    group.add_argument("--beam", type=int, default=defaults.beam, help="how many beams")
    group.add_argument("--eval_len", type=int, default=defaults.eval_len, help="most tokens generated")
    group.add_argument("--min_length", type=int, default=0, help="tokens before an end token may be chosen")
    group.add_argument(
        "--length_penalty",
        type=float,
        default=defaults.length_penalty,
        help=f"{of_score} is divided by length to this power",
    )
    group.add_argument(
        "--no_repeat_ngram_size", type=int, default=4, help="no n-gram of this size is generated twice; 0: off"
    )
    group.add_argument(
        "--repetition_penalty", type=float, default=1.0, help="lowers tokens that were generated before; 1: off"
    )
    return group


def search_rules(args: argparse.Namespace, end_tokens: Iterable[int]) -> BeamConfig:
    """Return what the search's flags say, with these end tokens. Raises UserError."""
    names = "beam eval_len min_length length_penalty no_repeat_ngram_size repetition_penalty".split()
    return BeamConfig(**{name: getattr(args, name) for name in names}, eos_token_ids=tuple(dict.fromkeys(end_tokens)))


def recorded(argv: Iterable[object], flag: str) -> str | None:
    """Return what a recorded command line gives as `flag`; None if that is not there."""
    for word, following in itertools.pairwise([*map(str, argv), ""]):
        if word == flag:
            return following or None
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def numbers(text: str, kind: type, flag: str) -> tuple:
    """Return the comma-separated numbers of `--FLAG`."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--{flag} must be numbers with commas between them, but is {text!r}") from None


def max_step(args: argparse.Namespace, n_batches: int, world_size: int) -> int:
    """Return the length of the schedule in micro-batches: --max_step, or what --max_epoch comes to."""
    if args.scheduler == "cycle":
        return max(1, numbers(args.i_steps, int, "i_steps")[-1])  # 0, the default, is refused with the other corners
    if args.max_step is not None:
        return args.max_step
    if args.max_epoch is None:
        raise UserError("give --max_epoch or --max_step; without either, training would never end")
    return math.ceil(args.max_epoch * n_batches / world_size)
