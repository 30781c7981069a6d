"""Decode encoded examples by beam search, with a base, one or several adapters on it, or a fully fine-tuned model."""

import argparse
import json
import sys
from pathlib import Path

from lora_nlg import config, errors, flags
from lora_nlg.methods import placement


def parser() -> argparse.ArgumentParser:
    """Return the recipe's flags and this project's own."""
    p = flags.Parser(description=__doc__, allow_abbrev=False)
    flags.add_platform_flags(p)
    flags.add_model_flags(p, card="gpt2.sm", alpha=None, several=True)
    p.add_argument("--data", required=True, help="encoded examples (JSON lines); their contexts are decoded")
    p.add_argument(
        "--batch_size", type=int, default=10, help="distinct contexts decoded together; no effect on the result"
    )
    p.add_argument("--seq_len", type=int, default=512, help="a context keeps its last seq_len - eval_len ids")
    p.add_argument("--work_dir", default="trained_models/run", help="default: %(default)s")
    p.add_argument(
        "--output_file",
        action="append",
        help="once for every --lora_checkpoint; a relative path is in the work dir; default: beam_prediction.jsonl, or with several "
        "adapters beam_prediction.1.jsonl, beam_prediction.2.jsonl … in their order",
    )
    p.add_argument(
        "--compile",
        action="store_true",
        help="on a GPU: steps of equal shapes, recorded as CUDA graphs; no effect on the result",
    )
    p.add_argument(
        "--resume", action="store_true", help="go on with what an interrupted run with the same settings has decoded"
    )

    rules = p.add_argument_group("search")
    rules.add_argument("--beam", type=int, default=1)
    rules.add_argument("--eval_len", type=int, default=256, help="most tokens generated")
    rules.add_argument("--min_length", type=int, default=0, help="tokens before an end token may be chosen")
    rules.add_argument(
        "--length_penalty", type=float, default=1.0, help="a finished score is divided by length to this power"
    )
    rules.add_argument("--no_repeat_ngram_size", type=int, default=4, help="0: off")
    rules.add_argument("--repetition_penalty", type=float, default=1.0, help="1: off")
    rules.add_argument(
        "--eos_token_id", type=int, action="append", default=[], help="one more end token beside 50256; may be repeated"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Decode as the flags say."""
    args = parser().parse_args(argv)

    if not args.lora_checkpoint and (placement.parse_rank(args.lora_dim) or args.lora_alpha is not None):
        raise errors.UserError(
            "--lora_dim and --lora_alpha need the adapters they describe; pass them as --lora_checkpoint"
        )

    if args.init_checkpoint != "random" and args.random_seed != parser().get_default("random_seed"):
        raise errors.UserError("--random_seed would have no effect: decoding draws nothing at random; leave it out")

    import torch

    from lora_nlg import dist, files, record, signals
    from lora_nlg.data import examples
    from lora_nlg.decoding import decode
    from lora_nlg.methods import lora
    from lora_nlg.model import gpt2
    from lora_nlg.storage import checkpoints

    precision = flags.chosen_precision(args)
    model_config = config.model_config(args.model_card)
    eos = [config.END_OF_TEXT_ID] if config.END_OF_TEXT_ID < model_config.vocab_size else []
    rules = config.BeamConfig(
        args.beam, args.eval_len, args.min_length, args.length_penalty, args.no_repeat_ngram_size, args.repetition_penalty,
        tuple(dict.fromkeys(eos + args.eos_token_id)),
    )  # fmt: skip
    check_lengths(args, model_config)
    outputs = output_files(args)
    files.check_outputs([path for o in outputs for path in (o, o.with_suffix(".run.json"))], [args.data])
    lines = examples.read_examples(args.data, model_config.vocab_size)
    longest = args.seq_len - args.eval_len
    contexts = [line.context[-longest:] for line in lines]
    n_cut = sum(len(line.context) > longest for line in lines)

    ranks = dist.start(args.device, args.rank, args.world_size, args.local_rank)
    if args.compile and ranks.device.type != "cuda":
        raise errors.UserError(f"--compile records what a GPU does, and this is the {ranks.device.type}; leave it out")
    several = [checkpoints.read(path) for path in args.lora_checkpoint or ()]
    generator = torch.Generator().manual_seed(args.random_seed)
    model = checkpoints.base_model(
        model_config, args.init_checkpoint, generator, precision, several[0] if several else None
    )
    weights = checkpoints.fingerprint(model)
    switch = lora.Switch(model)
    lora_configs = [adapters.lora_config(placement.parse_rank(args.lora_dim), args.lora_alpha) for adapters in several]
    for adapters, lora_config in zip(several, lora_configs, strict=True):  # all, before hours with the first
        lora.add_adapters(model, lora_config)
        checkpoints.load_adapters(model, adapters, weights)
        switch.take_off()
    decisive = dict(model=model_config, weights=weights, search=rules, precision=precision)
    model.to(ranks.device).requires_grad_(False)

    if ranks.is_main:
        print(f"{len(lines):,} lines, {len(set(map(tuple, contexts))):,} distinct inputs, ", end="")
        print(f"beam {args.beam}, {ranks.world_size} × {ranks.device}, {precision}", flush=True)
        if n_cut:
            print(f"warning: {n_cut:,} contexts have more than {longest} ids and keep their last ones", file=sys.stderr)

    def decode_to(output: Path) -> None:
        """Decode with what is on the base now, unless --resume finds that done."""
        run = record.Record(
            output.with_suffix(".run.json"), argv or sys.argv[1:], **decisive, data=files.sha256(args.data), seq_len=args.seq_len,
            device=str(ranks.device), world_size=ranks.world_size, batch_size=args.batch_size,
        )  # fmt: skip
        if args.resume and dist.from_main(ranks.is_main and is_decoded(output, run), ranks):
            if ranks.is_main:
                print(f"{output} is decoded with these settings already; without --resume it is decoded again")
            return
        how_to_go_on = (
            "interrupted; what is decoded is kept, and the same command with --resume goes on" if ranks.is_main else ""
        )
        with signals.stopped_by_signals(how_to_go_on):
            partial = None
            if ranks.is_main:
                run.write()  # before the first step: a folder that cannot be written is found out now
                settings = {name: run.fields["settings"][name] for name in decisive}
                partial = decode.Partial(output.with_suffix(".partial.jsonl"), settings, args.resume)
                if partial.decoded:
                    print(f"going on after {len(partial.decoded):,} inputs")
            predictions = decode.decode(
                model, contexts, rules, args.batch_size, ranks, precision, partial, args.compile
            )
        if ranks.is_main:
            with files.atomic_writer(output) as file:
                for number, decoded in enumerate(predictions):
                    file.write(json.dumps({"id": number, "predict": decoded.predict}) + "\n")
            distinct = {decoded.context: decoded for decoded in predictions}
            seconds = [round(decoded.seconds, 3) for decoded in distinct.values()]
            run.write(sha256=files.sha256(output), input_seconds=seconds)
            partial.remove()
            print(f"saved {output}", flush=True)

    for number, output in enumerate(outputs):
        if several:
            tensors = several[number].adapters()
            switch.put_on(lora_configs[number], tensors, merge=True)
            decisive |= dict(lora=lora_configs[number], adapters=checkpoints.digest(tensors))
        if len(several) > 1 and ranks.is_main:
            print(f"with {several[number].path}", flush=True)
        # The base of several must stay as it is: the next are merged into it.
        if precision in dist.AUTOCAST and len(outputs) == 1:
            gpt2.store_frozen_in(model, dist.AUTOCAST[precision])
        decode_to(output)
    dist.stop()
    return 0


def output_files(args: argparse.Namespace) -> list[Path]:
    """Return the file of every --lora_checkpoint, or the base's alone."""
    n = len(args.lora_checkpoint or [None])
    default = ["beam_prediction.jsonl"] if n == 1 else [f"beam_prediction.{number}.jsonl" for number in range(1, n + 1)]
    names = args.output_file or default
    if len(names) != n:
        raise errors.UserError(
            f"--output_file is given {len(names)} times and --lora_checkpoint {len(args.lora_checkpoint or ())} times; give one "
            "output for each, or none"
        )
    return [Path(args.work_dir) / name for name in names]


def is_decoded(output: Path, run) -> bool:
    """Return whether `output` is what an earlier run with the same settings wrote, unchanged."""
    from lora_nlg import files

    try:
        earlier = json.loads(run.path.read_text(encoding="utf-8"))
        return earlier["settings"] == json.loads(json.dumps(run.fields["settings"])) and earlier[
            "sha256"
        ] == files.sha256(output)
    except (OSError, ValueError, KeyError):
        return False


def check_lengths(args: argparse.Namespace, model_config: config.ModelConfig) -> None:
    """Raise UserError when context and output together do not fit the model."""
    if args.batch_size < 1:
        raise errors.UserError(f"--batch_size must be at least 1, but is {args.batch_size}")
    config.check_seq_len(args.seq_len, model_config, args.model_card)
    if args.eval_len >= args.seq_len:
        raise errors.UserError(f"--eval_len {args.eval_len} leaves no room for the context in --seq_len {args.seq_len}")
    bad = next((token for token in args.eos_token_id if not 0 <= token < model_config.vocab_size), None)
    if bad is not None:
        raise errors.UserError(f"--eos_token_id must be from 0 to {model_config.vocab_size - 1}, but is {bad}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
