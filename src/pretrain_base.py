"""Pretrain the small base that LoRA then adapts, on a CPU: on invented venues (the bundled base), or on your own texts."""

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import errors, flags


def parser() -> argparse.ArgumentParser:
    """Return the flags; the defaults make the bundled base."""
    p = flags.Parser(description=__doc__)
    p.add_argument("--texts", help="raw E2E lines (MR||reference), shown in other layouts; default: invented venues")
    p.add_argument(
        "--model_card", default="gpt2.mini", help="gpt2.mini, .sm, .md, .lg, .xl or the path of a config.json"
    )
    p.add_argument("--vocab", default="vocab", help="folder with encoder.json and vocab.bpe")
    p.add_argument("--output_dir", default="pretrained_checkpoints/gpt2.mini", help="folder of the base")
    p.add_argument("--steps", type=int, default=1600, help="how many steps are taken")
    p.add_argument("--rows", type=int, default=16, help="rows of n_positions tokens a step")
    p.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    p.add_argument("--warmup_step", type=int, default=100, help="the rate rises from 0 in so many steps")
    p.add_argument("--random_seed", type=int, default=1, help="random start, and the order of the texts")
    return p


def main(argv: list[str] | None = None) -> int:
    """Pretrain and write config.json and model.safetensors."""
    args = parser().parse_args(argv)

    from lora_nlg import config, files
    from lora_nlg.bundled import layouts, pretrain, venues
    from lora_nlg.data import bpe
    from lora_nlg.storage import checkpoints
    from lora_nlg.tasks import e2e

    for flag in ("steps", "rows"):
        if getattr(args, flag) < 1:
            raise errors.UserError(f"--{flag} must be at least 1, but is {getattr(args, flag)}")
    if not 0 <= args.random_seed < 2**63:  # what torch takes
        raise errors.UserError(f"--random_seed must be from 0 to {2**63 - 1}, but is {args.random_seed}")
    model_config = config.model_config(args.model_card)
    if model_config.vocab_size != config.GPT2_VOCAB_SIZE:
        raise errors.UserError(
            f"--model_card {args.model_card} has {model_config.vocab_size} tokens; expected a card with GPT-2's vocabulary, "
            f"{config.GPT2_VOCAB_SIZE}"
        )
    optim = config.OptimConfig(
        args.lr,
        args.steps,
        weight_decay=0.01,
        correct_bias=True,
        scheduler="cosine",
        warmup_step=args.warmup_step,
        clip=1.0,
    )
    output = Path(args.output_dir)
    files.check_outputs([output / "model.safetensors", output / "config.json"])  # now, not after an hour
    rng = random.Random(args.random_seed)
    pairs: Iterator[tuple[dict[str, str], str]]
    if args.texts:
        lines = list(e2e.read_pairs(args.texts))
        pairs = (line for _ in itertools.count() for line in rng.sample(lines, len(lines)))
    else:
        pairs = venues.venue_pairs(rng)
    # Each token is read one and a half times on average; a run of one step still needs a whole stretch.
    n_tokens = max(args.steps * args.rows * model_config.n_positions * 2 // 3, model_config.n_positions + 1)
    ids = pretrain.pack(layouts.documents(pairs, rng), bpe.load_encoding(args.vocab), n_tokens)
    used = ids.unique()
    print(f"{len(ids):,} tokens, {len(used):,} of them different", flush=True)
    model = pretrain.pretrain(ids, used, model_config, optim, args.rows, args.random_seed)

    checkpoints.save_compact(model, used, output / "model.safetensors")
    with files.atomic_writer(output / "config.json") as file:
        json.dump({"model_type": "gpt2", **vars(model_config)}, file, indent=1)
        file.write("\n")
    print(f"saved {output}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
