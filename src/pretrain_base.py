"""Pretrain the small base that LoRA then adapts, on a CPU: on invented venues (the bundled base), or on your own texts."""

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import config, errors, flags
from lora_nlg.config import END_OF_TEXT_ID, ModelConfig

PAIRS_WITH_LEARNT_TOKENS = 20_000  # what occurs in so many gets rows of its own


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
    p.add_argument("--row_seed", type=int, default=1, help="draws the embedding rows of tokens that the texts lack")
    p.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of products; auto: bf16 where the CPU has it",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Pretrain and write config.json and compact.safetensors."""
    args = parser().parse_args(argv)

    import torch

    from lora_nlg import files
    from lora_nlg.bundled import layouts, pretrain, strange, venues
    from lora_nlg.data import bpe
    from lora_nlg.storage import compact, hub
    from lora_nlg.tasks import e2e

    model_config = checked_config(args)
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
    files.check_outputs([output / hub.COMPACT_FILE, output / "config.json"])  # now, not after an hour
    rng = random.Random(args.random_seed)
    pairs = endless_pairs(e2e.read_pairs(args.texts), rng) if args.texts else venues.venue_pairs(rng)
    encoding = bpe.load_encoding(args.vocab)
    plain = layouts.documents(itertools.islice(pairs, PAIRS_WITH_LEARNT_TOKENS), rng)
    used = torch.tensor(sorted({END_OF_TEXT_ID}.union(*map(encoding.encode_ordinary, plain))))
    # Each token is read one and a half times on average; a run of one step still needs a whole stretch.
    n_tokens = max(args.steps * args.rows * model_config.n_positions * 2 // 3, model_config.n_positions + 1)
    strange_ones = strange.strange_pairs(pairs, strange.Words(encoding), rng)
    ids = pretrain.pack(layouts.documents(strange_ones, rng), encoding, n_tokens)
    print(
        f"{len(ids):,} tokens, {len(ids.unique()):,} of them different, {len(used):,} with rows that are learnt",
        flush=True,
    )
    vocabulary = pretrain.Vocabulary.of(used, model_config.n_embd, args.row_seed)
    dtypes = {"auto": pretrain.fastest_dtype(), "fp32": torch.float32, "bf16": torch.bfloat16}
    model = pretrain.pretrain(ids, vocabulary, model_config, optim, args.rows, args.random_seed, dtypes[args.precision])

    compact.save(model, used, args.row_seed, pretrain.ROW_ENTRY, output / hub.COMPACT_FILE)
    with files.atomic_writer(output / "config.json") as file:
        json.dump({"model_type": "gpt2", **vars(model_config)}, file, indent=1)
        file.write("\n")
    print(f"saved {output}")
    return 0


def checked_config(args: argparse.Namespace) -> ModelConfig:
    """Return the shape of the base. Raises UserError for flags that fit nothing."""
    for flag in ("steps", "rows"):
        if getattr(args, flag) < 1:
            raise errors.UserError(f"--{flag} must be at least 1, but is {getattr(args, flag)}")
    for flag in ("random_seed", "row_seed"):
        if not 0 <= getattr(args, flag) < 2**63:  # what torch takes
            raise errors.UserError(f"--{flag} must be from 0 to {2**63 - 1}, but is {getattr(args, flag)}")
    model_config = config.model_config(args.model_card)
    if model_config.vocab_size != config.GPT2_VOCAB_SIZE:
        raise errors.UserError(
            f"--model_card {args.model_card} has {model_config.vocab_size} tokens; expected a card with GPT-2's vocabulary, "
            f"{config.GPT2_VOCAB_SIZE}"
        )
    return model_config


def endless_pairs(lines: list[tuple[dict[str, str], str]], rng: random.Random) -> Iterator[tuple[dict[str, str], str]]:
    """Yield `lines` again and again, each time in another order."""
    while True:
        yield from rng.sample(lines, len(lines))


if __name__ == "__main__":
    sys.exit(errors.run(main))
