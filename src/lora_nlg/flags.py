"""Flags that several programs share, and a parser whose errors are one sentence."""

import argparse
from typing import NoReturn

from lora_nlg.errors import EXIT_USER_ERROR, UserError

PRECISIONS = ("fp32", "bf16", "fp16", "fp64")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, in place of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {message}; --help lists all flags\n")


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
    parser: argparse.ArgumentParser, card: str | None, alpha: float | None, several: bool = False
) -> None:
    """Which model, and how it computes; with `several`, --lora_checkpoint is a list."""
    group = parser.add_argument_group("model")
    group.add_argument("--model_card", default=card, help="gpt2.mini, .sm, .md, .lg, .xl or the path of a config.json")
    group.add_argument(
        "--init_checkpoint",
        help="the base: a .safetensors, .bin or .pt file, a folder from the Hub, or the word random",
    )
    group.add_argument(
        "--lora_checkpoint",
        action="append" if several else "store",
        help="adapters: model.final.pt, a .safetensors, a PEFT folder, or a whole checkpoint, which needs no base"
        + ("; may be repeated" if several else ""),
    )
    group.add_argument("--lora_dim", default="0", help="rank of the adapters, or ranks such as q=8,v=4; 0: none")
    group.add_argument("--lora_alpha", type=float, default=alpha, help="the adapters are scaled by alpha / rank")
    group.add_argument("--precision", choices=PRECISIONS, help="default: fp32")
    group.add_argument("--fp16", action="store_true", help="the same as --precision fp16")


def chosen_precision(args: argparse.Namespace) -> str:
    """Return the precision that --precision and --fp16 together ask for."""
    if args.fp16 and args.precision not in (None, "fp16"):
        raise UserError(f"--fp16 contradicts --precision {args.precision}; give one of the two")
    return "fp16" if args.fp16 else args.precision or "fp32"
