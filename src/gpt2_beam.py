"""Decode encoded examples by beam search, with a base, one or several adapters on it, or a fully fine-tuned model."""

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import config, errors, flags, methods
from lora_nlg.methods import placement


def parser() -> argparse.ArgumentParser:
    """Return the recipe's flags and this project's own."""
    p = flags.Parser(description=__doc__)
    flags.add_platform_flags(p)
    flags.add_model_flags(p, card="gpt2.sm", alpha=None, several=True)
    p.add_argument("--data", required=True, help="encoded examples (JSON lines); their contexts are decoded")
    p.add_argument(
        "--batch_size", type=int, default=10, help="distinct contexts decoded together; no effect on the result"
    )
    p.add_argument(
        "--seq_len",
        type=int,
        default=512,
        help="a context keeps its last seq_len - eval_len ids; at most the model's positions",
    )
    p.add_argument("--work_dir", default="trained_models/run", help="where the results go")
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

    rules = flags.add_search_flags(p, flags.SearchDefaults(), "a finished score")
    rules.add_argument(
        "--eos_token_id",
        type=int,
        action="append",
        default=[],
        help="one more end token beside 50256, which ends a text and is no part of it; may be repeated",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Decode as the flags say."""
    args = parser().parse_args(argv)
    placement.refuse_without_adapters(args)
    if args.init_checkpoint != "random" and args.random_seed != parser().get_default("random_seed"):
        raise errors.UserError("--random_seed would have no effect: decoding draws nothing at random; leave it out")

    config.require(
        0 <= args.random_seed <= config.MOST_SEED, "random_seed", f"from 0 to {config.MOST_SEED}", args.random_seed
    )

    import torch

    from lora_nlg import dist, files, locks
    from lora_nlg.decoding.outputs import partial_of, record_of
    from lora_nlg.model import gpt2
    from lora_nlg.storage import checkpoints, hub, models

    precision = flags.chosen_precision(args)
    model_config = config.model_config(args.model_card)
    eos = [config.END_OF_TEXT_ID] if config.END_OF_TEXT_ID < model_config.vocab_size else []
    rules = flags.search_rules(args, eos + args.eos_token_id)
    several = [checkpoints.read(path) for path in args.lora_checkpoint or ()]
    n_before, fitted = fit_behind(args, model_config, several)
    check_lengths(args, model_config)
    outputs = output_files(args)
    files.check_inputs([args.data])
    read = [args.data, *filter(None, [args.init_checkpoint]), *(adapters.path for adapters in several)]
    files.check_outputs([path for o in outputs for path in (o, record_of(o), partial_of(o))], read)
    locks.check(locks.of_outputs(outputs))
    n_cut, contexts, lengths = read_contexts(args)

    ranks = dist.start(args.device, args.rank, args.world_size, args.local_rank)
    if args.compile and ranks.device.type != "cuda":
        raise errors.UserError(f"--compile records what a GPU does, and this is the {ranks.device.type}; leave it out")
    warn_of_memory(args, contexts, ranks, n_before)
    generator = torch.Generator().manual_seed(args.random_seed)
    model = models.base_model(model_config, args.init_checkpoint, generator, precision, several[0] if several else None)
    weights = models.fingerprint(model)
    switch, on = models.tried(model, several, placement.Given.by(args), weights, precision)
    decisive = dict(model=model_config, weights=weights, search=rules, precision=precision)
    model.to(ranks.device).requires_grad_(False)

    if ranks.is_main:
        print(f"{len(contexts):,} lines, {len(set(map(tuple, contexts))):,} distinct inputs, ", end="")
        print(f"beam {args.beam}, {ranks.world_size} × {ranks.device}, {precision}", flush=True)
        warn_of_cuts(args, fitted, n_cut, lengths)
    with dist.within(locks.held(locks.of_outputs(outputs)), ranks):
        for number, output in enumerate(outputs):
            of_adapters: dict = {}
            if several:
                of_method, tensors = on[number]
                switch.put_on(of_method, tensors, merge=True)
                of_adapters = dict(methods.section(of_method), adapters=models.digest(several[number].adapters()))
            if len(several) > 1 and ranks.is_main:
                errors.say(f"with {several[number].path}")
            # The base of several must stay as it is: the next are merged into it.
            if precision in dist.AUTOCAST and len(outputs) == 1:
                gpt2.store_frozen_in(model, dist.AUTOCAST[precision])
            lora_checkpoint = args.lora_checkpoint[number] if several else None
            sources = hub.recorded(init_checkpoint=args.init_checkpoint, lora_checkpoint=lora_checkpoint)
            decode_to(
                output, model, contexts, rules, ranks, args, decisive | of_adapters, argv or sys.argv[1:], sources
            )
    dist.stop()
    return 0


def fit_behind(args: argparse.Namespace, model_config: config.ModelConfig, several: list) -> tuple[int, str]:
    """Fit --seq_len behind the longest prefix of `several` adapters; return its length, and the sentence that says so, or nothing.

    Raises UserError where that would cut the contexts of those with a shorter one, too.
    """
    before = {methods.positions_before(adapters.config) for adapters in several}
    n_before = max(before, default=0)
    fitted = flags.fit_seq_len(args, model_config, n_before)
    if fitted and len(before) > 1:
        raise errors.UserError(
            f"the adapters take {min(before)} to {n_before} positions, so contexts would be cut for all; decode each by itself, or "
            f"pass --seq_len {args.seq_len}"
        )
    return n_before, fitted


def warn_of_cuts(args: argparse.Namespace, fitted: str, n_cut: int, lengths: list[int]) -> None:
    """Say on stderr what is shortened: --seq_len, contexts, and outputs as long as the longest references."""
    if fitted:
        print(fitted, file=sys.stderr)
    if n_cut:
        longest = args.seq_len - args.eval_len
        print(f"warning: {n_cut:,} contexts have more than {longest} ids and keep their last ones", file=sys.stderr)
    if n_long := sum(length > args.eval_len for length in lengths):
        print(
            f"warning: {n_long:,} of the {len(lengths):,} references have more than --eval_len {args.eval_len} ids, and outputs "
            f"as long are cut; --eval_len {max(lengths)} is enough for all",
            file=sys.stderr,
        )


def decode_to(
    output: Path,
    model,
    contexts: list[list[int]],
    rules: config.BeamConfig,
    ranks,
    args: argparse.Namespace,
    decisive: dict,
    argv: list[str],
    sources: dict,
) -> None:
    """Decode with what is on the base now, unless --resume finds that done. `decisive` is all that decides a prediction.

    `sources` says, for the record, which commits of the Hub base and adapters are.
    """
    from lora_nlg import dist, files, record, signals
    from lora_nlg.decoding import outputs, predictions
    from lora_nlg.model import forms

    run = record.Record(
        outputs.record_of(output), argv, **decisive, data=files.sha256(args.data), seq_len=args.seq_len,
        device=str(ranks.device), world_size=ranks.world_size, batch_size=args.batch_size,
    )  # fmt: skip
    known = dist.from_main(ranks.is_main and is_decoded(output, run), ranks)
    if args.resume and known:
        if ranks.is_main:
            errors.say(f"{output} is decoded with these settings already; without --resume it is decoded again")
        return
    how = "interrupted; what is decoded is kept, and the same command with --resume goes on" if ranks.is_main else ""
    with signals.stopped_by_signals(how):
        partial = None
        if ranks.is_main:
            if not known and (moved := outputs.set_aside(output)):
                errors.say(f"moved what another decoding left: {', '.join(map(str, moved))}")
            run.write(**sources)  # before the first step: a folder that cannot be written is found out now
            settings = {name: run.fields["settings"][name] for name in decisive}
            partial = predictions.Partial(outputs.partial_of(output), settings, args.resume)
            if partial.decoded:
                print(f"going on after {len(partial.decoded):,} inputs")
        decoded = predictions.decode(
            model, contexts, rules, args.batch_size, ranks, decisive["precision"], partial, args.compile
        )
    if partial is not None and decoded is not None:  # on the main rank
        with files.atomic_writer(output) as file:
            for number, one in enumerate(decoded):
                file.write(json.dumps({"id": number, "predict": one.predict}) + "\n")
        distinct = {one.context: one for one in decoded}
        seconds = [round(one.seconds, 3) for one in distinct.values()]
        run.write(sha256=files.sha256(output), input_seconds=seconds, products=forms.chosen, **sources)
        partial.remove()
        errors.say(f"saved {output}")


# What a training, its records and its lock are called in a work dir
OF_A_TRAINING = re.compile(r"run(\.jsonl?|\.txt)?|log\.jsonl|saves\.json|adapter\.safetensors|(model|state)\.\w+\.pt")


def output_files(args: argparse.Namespace) -> list[Path]:
    """Return the file of every --lora_checkpoint, or the base's alone."""
    n = len(args.lora_checkpoint or [None])
    default = ["beam_prediction.jsonl"] if n == 1 else [f"beam_prediction.{number}.jsonl" for number in range(1, n + 1)]
    names = args.output_file or default
    config.require(args.work_dir != "", "work_dir", "the name of a folder", "''")
    if len(names) != n:
        raise errors.UserError(
            f"--output_file is given {len(names)} times and --lora_checkpoint {len(args.lora_checkpoint or ())} times; give one "
            "output for each, or none"
        )
    for name in names:
        config.require(Path(name).name not in ("", ".."), "output_file", "the name of a file", repr(name))
        is_free = OF_A_TRAINING.fullmatch(Path(name).name) is None
        config.require(is_free, "output_file", "a name that no file of a training has", repr(name))
    return [Path(args.work_dir) / name for name in names]


def is_decoded(output: Path, run) -> bool:
    """Return whether `output` is what an earlier run with the same settings wrote, unchanged."""
    from lora_nlg import files

    try:
        earlier = json.loads(run.path.read_text(encoding="utf-8"))
        return earlier["settings"] == json.loads(json.dumps(run.fields["settings"])) and earlier[
            "sha256"
        ] == files.sha256(output)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, errors.UserError):
        return False


def read_contexts(args: argparse.Namespace) -> tuple[int, list[list[int]], list[int]]:
    """Return how many contexts are too long, all of them, of which those keep their last ids, and the references' lengths in ids."""
    from lora_nlg.data import examples

    longest, vocab_size = args.seq_len - args.eval_len, config.model_config(args.model_card).vocab_size
    lines = examples.read_examples(args.data, vocab_size)
    n_cut = sum(len(line.context) > longest for line in lines)
    return n_cut, [line.context[-longest:] for line in lines], [len(line.completion) for line in lines]


def needed_memory(args: argparse.Namespace, contexts: list[list[int]], world_size: int, n_before: int = 0) -> float:
    """Return about how many bytes each of `world_size` processes will take at most."""
    from lora_nlg.decoding import needs

    model_config, n_outputs = config.model_config(args.model_card), len(args.lora_checkpoint or [None])
    rules, precision = flags.search_rules(args, args.eos_token_id), flags.chosen_precision(args)
    return needs.of_decoding(model_config, contexts, rules, args.batch_size, world_size, precision, n_outputs, n_before)


def warn_of_memory(args: argparse.Namespace, contexts: list[list[int]], ranks, n_before: int) -> None:
    """Say on stderr if the longest batch, which comes last, may not fit. This is an estimate, and what is decoded is kept."""
    from lora_nlg import memory
    from lora_nlg.decoding import needs

    on_gpu = ranks.device.type == "cuda"  # each rank has its own, while all share the machine's memory
    if not on_gpu and not ranks.is_main:
        return
    devices = [ranks.device] * (1 if on_gpu else ranks.on_this_node)
    try:
        memory.check(needed_memory(args, contexts, ranks.world_size, n_before), devices, needs.REMEDY)
    except errors.UserError as error:
        print(f"warning: decoding {error}", file=sys.stderr, flush=True)


def check_lengths(args: argparse.Namespace, model_config: config.ModelConfig) -> None:
    """Raise UserError when context and output together do not fit the model."""
    if args.batch_size < 1:
        raise errors.UserError(f"--batch_size must be at least 1, but is {args.batch_size}")
    if args.eval_len >= args.seq_len:
        raise errors.UserError(f"--eval_len {args.eval_len} leaves no room for the context in --seq_len {args.seq_len}")
    bad = next((token for token in args.eos_token_id if not 0 <= token < model_config.vocab_size), None)
    if bad is not None:
        raise errors.UserError(f"--eos_token_id must be from 0 to {model_config.vocab_size - 1}, but is {bad}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
