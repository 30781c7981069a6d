"""Fine-tune GPT-2 on encoded examples, with LoRA adapters (--lora_dim R), whole (--lora_dim 0), or by another --method."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

from lora_nlg import config, errors, flags, methods, mistakes


def parser() -> argparse.ArgumentParser:
    """Return the recipe's flags, misspellings included, and this project's own."""
    p = flags.Parser(description=__doc__)
    flags.add_platform_flags(p)
    flags.add_model_flags(p, card="gpt2.md", alpha=128.0)
    methods.add_flags(p)

    data = p.add_argument_group("data")
    data.add_argument("--train_data", required=True, help="encoded training examples (JSON lines)")
    data.add_argument("--valid_data", required=True, help="encoded validation examples (JSON lines)")
    data.add_argument("--train_batch_size", type=int, default=8, help="examples a micro-batch and process")
    data.add_argument("--valid_batch_size", type=int, default=4, help="the same in validation")
    data.add_argument(
        "--seq_len",
        type=int,
        default=512,
        help="longer examples are cut, shorter ones cost only their length; at most the model's positions",
    )
    data.add_argument(
        "--obj", default="clm", choices=("clm", "jlm"), help="learn the completion only, or the context too"
    )
    data.add_argument(
        "--label_smooth",
        type=float,
        default=0.0,
        help="share of the probability that is spread over all tokens; never in validation",
    )

    speed = p.add_argument_group("speed (the first two change the batches, so they are off unless asked for)")
    speed.add_argument(
        "--length_window", type=int, default=0, help="put the examples of so many batches into batches of like lengths"
    )
    speed.add_argument(
        "--share_prompts",
        action="store_true",
        help="an item is an input with all its references, whose input is computed once; batch sizes count inputs",
    )
    speed.add_argument("--compile", action="store_true", help="compile the step, on a GPU into CUDA graphs")

    optim = p.add_argument_group("optimiser and schedule (every count is in micro-batches)")
    optim.add_argument("--lr", type=float, default=1e-5, help="highest learning rate")
    optim.add_argument("--weight_decay", type=float, default=0.01, help="of AdamW")
    optim.add_argument("--correct_bias", action="store_true", help="Adam's bias correction")
    optim.add_argument("--no_decay_bias", action="store_true", help="no weight decay on biases and layer norms")
    optim.add_argument(
        "--adam_epislon",
        "--adam_epsilon",
        type=float,
        default=1e-6,
        help="AdamW's ε; the recipe's spelling, and the right one",
    )
    optim.add_argument("--adam_beta1", type=float, default=0.9, help="decay of the gradient's average")
    optim.add_argument("--adam_beta2", type=float, default=0.98, help="decay of the squared gradient's average")
    scheduler = optim.add_argument(
        "--scheduler", default="linear", choices=config.SCHEDULERS, help="how the rate goes on after the warm-up"
    )
    constant = "is a constant rate in the recipe; say --scheduler constant"
    vars(scheduler)["refused"] = dict.fromkeys(("inv_sqrt", "dev_perf"), constant)
    optim.add_argument(
        "--max_step", type=int, help="length of the schedule and of the run; default: enough for --max_epoch"
    )
    optim.add_argument("--max_epoch", type=int, help="stop after so many epochs")
    optim.add_argument("--warmup_step", type=int, default=0, help="the rate rises from 0 in so many steps")
    optim.add_argument("--i_steps", default="0", help="cycle: comma-separated corners, e.g. 0,500,5000")
    optim.add_argument("--i_lrs", default="0.00025", help="cycle: the rate at each corner")
    optim.add_argument("--grad_acc", type=int, default=1, help="micro-batches an update")
    optim.add_argument("--clip", type=float, default=0.0, help="largest gradient norm; 0: no clipping")
    optim.add_argument("--lora_plus_ratio", type=float, default=1.0, help="LoRA+: B's learning rate over A's, e.g. 16")
    optim.add_argument(
        "--precondition",
        action="store_true",
        help="multiply the gradient of each of LoRA's A and B by the inverse Gram matrix of the other",
    )

    output = p.add_argument_group("output")
    output.add_argument("--work_dir", default="trained_models/run", help="where the results go")
    output.add_argument("--log_interval", type=int, default=100, help="micro-batches between two lines of the log")
    output.add_argument("--eval_interval", type=int, default=2000, help="micro-batches between two validations")
    output.add_argument(
        "--eval_texts",
        type=int,
        default=0,
        help="at each validation, decode validation inputs, show so many beside their references, and take BLEU",
    )
    output.add_argument(
        "--eval_sample", type=int, default=0, help="how many validation inputs --eval_texts decodes for BLEU; 0: all"
    )
    output.add_argument("--vocab", default="vocab", help="folder with encoder.json and vocab.bpe, for --eval_texts")
    output.add_argument(
        "--select",
        default="loss",
        choices=config.SELECTS,
        help="which validation is the best one, whose weights are model.best.pt: lowest loss or highest BLEU",
    )
    output.add_argument(
        "--early_stop", type=int, default=0, help="end after so many validations without a better one; 0: never"
    )
    output.add_argument("--save_interval", type=int, default=500, help="micro-batches between two saves")
    output.add_argument("--keep_last", type=int, default=3, help="how many of the newest saves are kept")
    output.add_argument(
        "--no_keep_epochs",
        action="store_true",
        help="let go of the weights of epochs' ends (model.STEP.pt) with the other saves, in place of keeping them all",
    )
    output.add_argument(
        "--resume",
        nargs="?",
        const="newest",
        metavar="auto|never|STEP",
        help="go on with the run in the work dir from its newest save, or from that of STEP; auto: if there is one; never: start "
        "anew; default: start anew unless that would throw away an unfinished run",
    )
    output.add_argument("--skip_nan", action="store_true", help="leave out batches whose loss or gradient is no number")
    output.add_argument(
        "--tracker",
        action="append",
        default=[],
        choices=config.TRACKERS,
        help="send the curves to TensorBoard's files, Weights & Biases or MLflow as well; may be repeated",
    )
    output.add_argument("--tensorboard", action="store_true", help="the same as --tracker tensorboard")
    output.add_argument(
        "--compare_curve",
        help="say at steps 100, 200, 300, 500, 1000, 2000 … whether the run is on this published curve",
    )

    for flag, kind, default in (
        ("roll_interval", int, -1),
        ("roll_lr", float, 1e-5),
        ("roll_step", int, 100),
        ("eval_epoch", int, 1),
    ):
        p.add_argument(f"--{flag}", type=kind, default=default, action=flags.NoEffect, help=argparse.SUPPRESS)
    return p


def refuse_ignored(args: argparse.Namespace) -> None:
    """Raise UserError for a flag that differs from its default and that the others leave without effect."""
    default = parser().get_default
    methods.refuse_unread(args, default)
    rules = (
        (args.lora_checkpoint is not None, ("lora_init",), "--lora_checkpoint is the start"),
        (args.eval_texts == 0, ("eval_sample", "vocab"), "only --eval_texts decodes"),
        (args.scheduler != "cycle", ("i_steps", "i_lrs"), "only --scheduler cycle reads it"),
        (
            args.scheduler == "cycle",
            ("lr", "max_step", "max_epoch", "warmup_step"),
            "--scheduler cycle follows --i_steps and --i_lrs",
        ),
    )
    for applies, names, reason in rules:
        for flag in names:
            if applies and getattr(args, flag) != default(flag):
                raise errors.UserError(f"--{flag} would have no effect: {reason}; leave it out")
    if args.select == "bleu" and args.eval_texts == 0:
        raise errors.UserError(config.NEEDS_TEXTS)
    for flag in ("eval_texts", "eval_sample"):
        config.require(getattr(args, flag) >= 0, flag, "0 or more", getattr(args, flag))


def train_config(args: argparse.Namespace) -> config.TrainConfig:
    """Return what the flags say of a run besides its model and its optimiser."""
    same = (
        "train_batch_size valid_batch_size seq_len label_smooth random_seed max_epoch log_interval eval_interval save_interval "
        "keep_last skip_nan length_window share_prompts compile early_stop select"
    ).split()
    given = {name: getattr(args, name) for name in same}
    named = dict(objective=args.obj, precision=flags.chosen_precision(args), keep_epochs=not args.no_keep_epochs)
    return config.TrainConfig(**named, **given)


def optim_config(args: argparse.Namespace, n_batches: int, world_size: int) -> config.OptimConfig:
    """Return what the flags say of the optimiser and its schedule."""
    same = "lr weight_decay correct_bias no_decay_bias scheduler warmup_step grad_acc clip".split()
    return config.OptimConfig(
        max_step=flags.max_step(args, n_batches, world_size),
        beta1=args.adam_beta1,
        beta2=args.adam_beta2,
        epsilon=args.adam_epislon,
        i_steps=flags.numbers(args.i_steps, int, "i_steps"),
        i_lrs=flags.numbers(args.i_lrs, float, "i_lrs"),
        **{name: getattr(args, name) for name in same},
    )


def make_splits(args: argparse.Namespace, settings: config.TrainConfig, train_examples, valid_examples, ranks) -> tuple:
    """Return the training and the validation data as this rank's batches. Raises UserError if there are too few for the ranks."""
    from lora_nlg.data.batches import Split

    train_split = Split(train_examples, settings, ranks)
    valid_split = Split(valid_examples, settings, ranks, validation=True)
    if train_split.order.n_batches < ranks.world_size:
        raise errors.UserError(
            f"{args.train_data} makes {train_split.order.n_batches} batches of {args.train_batch_size}, too few for "
            f"{ranks.world_size} processes; use fewer, or a smaller --train_batch_size"
        )
    return train_split, valid_split


def check_place(args: argparse.Namespace) -> None:
    """Raise UserError if results cannot be written, would replace data or weights, or another run is at work there."""
    from lora_nlg import files, locks
    from lora_nlg.training.saves import RESULTS, check_folder

    config.require(args.work_dir != "", "work_dir", "the name of a folder", "''")
    work_dir = Path(args.work_dir)
    files.check_inputs([args.train_data, args.valid_data])
    files.check_outputs([work_dir / name for name in RESULTS], [args.train_data, args.valid_data])
    check_folder(work_dir)
    locks.check(locks.of_folder(work_dir))


def check_starts(args: argparse.Namespace) -> None:
    """Raise UserError if the results would replace what the training starts from."""
    from lora_nlg.training.saves import check_start

    for start in filter(None, (args.init_checkpoint, args.lora_checkpoint)):
        check_start(Path(args.work_dir), start)


def read_start(args: argparse.Namespace, method_config) -> tuple:
    """Return the adapters to start from, None if there are none, and the method's configuration with what only they can say.

    Raises UserError if they are no start for this training.
    """
    from lora_nlg.storage import checkpoints

    adapters = checkpoints.read(args.lora_checkpoint) if args.lora_checkpoint else None
    if adapters:
        method_config = methods.as_in_file(method_config, adapters.config)
        adapters.check_start(method_config)
    return adapters, method_config


def make_model(args: argparse.Namespace, model_config: config.ModelConfig, method_config, adapters, ranks) -> tuple:
    """Return the model as training starts with it, on this rank's device, and the base that it was made from."""
    import torch

    from lora_nlg import dist
    from lora_nlg.model import gpt2
    from lora_nlg.storage import checkpoints, hub, models

    precision = flags.chosen_precision(args)
    generator = torch.Generator().manual_seed(args.random_seed)
    model = models.base_model(model_config, args.init_checkpoint, generator, precision, adapters)
    called = hub.called(args.init_checkpoint, args.model_card)
    base = checkpoints.Base(called, models.fingerprint(model), hub.published(args.init_checkpoint, args.model_card))
    methods.add_adapters(model, method_config, generator)
    if adapters:
        models.load_adapters(model, adapters, base.sha256, precision)
    if precision in dist.AUTOCAST:
        gpt2.store_frozen_in(model, dist.AUTOCAST[precision])
    model.to(ranks.device)
    torch.manual_seed(args.random_seed + ranks.rank)  # dropout differs between ranks
    return model, base


def make_sampler(args: argparse.Namespace, model_config: config.ModelConfig, valid_examples, ranks):
    """Return the function with which the training decodes validation inputs, None if --eval_texts asks for none."""
    if args.eval_texts == 0:
        return None

    from lora_nlg import samples
    from lora_nlg.data import bpe

    samples.check_vocabulary(model_config, args.model_card)
    how = (args.seq_len, bpe.load_encoding(args.vocab), ranks.device, flags.chosen_precision(args))
    return samples.sampler(valid_examples, model_config, *how, args.eval_texts, args.eval_sample)


def announce(args: argparse.Namespace, method_config, cost, train_split, optim: config.OptimConfig, ranks) -> None:
    """Print what is about to be trained."""
    max_step, grad_acc = optim.max_step, optim.grad_acc
    share = f"{cost.trained:,} trained ({100 * cost.share:.2f} %)"
    errors.say(f"{args.model_card} from {args.init_checkpoint}: {cost.total:,} parameters, {share}")
    what = methods.method(method_config.method).summary(method_config)
    sizes = f"{megabytes(cost.bytes_on_disk)} on disk, {megabytes(cost.optimizer_bytes)} of memory for Adam's averages"
    print(f"{what}: {sizes}")
    where = f"{ranks.world_size} × {ranks.device}, {flags.chosen_precision(args)}"
    print(f"{train_split.n_examples:,} examples, {max_step:,} steps on {where}", flush=True)
    if n_left := max_step % grad_acc:
        print(
            f"warning: --grad_acc {grad_acc} does not divide the {max_step:,} steps; nothing is learnt from the last {n_left:,}",
            file=sys.stderr,
        )
    if n_cut := train_split.n_cut:
        lost = f", {train_split.n_lost:,} of them before their text begins" if train_split.n_lost else ""
        print(
            f"warning: {n_cut:,} examples are longer than --seq_len {args.seq_len} and are cut{lost}", file=sys.stderr
        )


def megabytes(n_bytes: int) -> str:
    """Return a size in megabytes for people."""
    return f"{n_bytes / 1e6:,.2f} MB"


def factors_of(args: argparse.Namespace) -> config.FactorConfig:
    """Return how LoRA's two factors are trained. Raises UserError."""
    return config.FactorConfig(args.lora_plus_ratio, args.precondition)


def make_record(args: argparse.Namespace, argv: list[str] | None, ranks, base, method_config, **settings):
    """Return the record of a run, not written."""
    from lora_nlg import files, record

    sections = methods.section(method_config) | factors_of(args).recorded() | validation_of(args)
    return record.Record(
        Path(args.work_dir) / "run.json", argv or sys.argv[1:], device=str(ranks.device), **settings, base=base,
        world_size=ranks.world_size, train_data=files.sha256(args.train_data), **sections,
    )  # fmt: skip


def trackers_of(args: argparse.Namespace) -> list[str]:
    """Return where the curves are to go besides log.jsonl, each once. Raises UserError if one is not installed."""
    from lora_nlg.training import trackers

    names = list(dict.fromkeys(["tensorboard"] * args.tensorboard + args.tracker))
    trackers.check(names)
    return names


def validation_of(args: argparse.Namespace) -> dict[str, object]:
    """Return what decides a run's validations where those decide its result; nothing where they only watch, as in earlier runs."""
    from lora_nlg import files

    of_bleu = {"eval_sample": args.eval_sample} if args.select == "bleu" else {}
    of_both = {"valid_data": files.sha256(args.valid_data)} if args.early_stop or of_bleu else {}
    return {**of_both, **of_bleu}


def what_decides_the_result(settings: dict) -> dict:
    """Return the settings that a run must share with the one it resumes: all but its device and how often it saves.

    How often it validates is among them with --early_stop alone. A run made before there were early_stop and select is one
    with their defaults, which are therefore left out.
    """
    settings = json.loads(json.dumps(settings))  # as they come back from a file
    train = settings["train"]
    watched = () if train["early_stop"] else ("eval_interval", "early_stop")
    default = ("select",) if train["select"] == "loss" else ()
    del settings["device"]
    for name in (
        "log_interval",
        "save_interval",
        "keep_last",
        "keep_epochs",
        "skip_nan",
        "compile",
        *watched,
        *default,
    ):
        del train[name]
    return settings


def earlier_state(resume: str | None, saves) -> dict | None:
    """Return the state to resume from, None to start anew, and {} where the run in the work dir is finished already."""
    if resume == "never" or not saves.read():
        if resume not in (None, "auto", "never"):
            raise errors.UserError(f"{saves.work_dir} holds no run to go on with; leave --resume out to start one")
        return None
    if resume is None:
        if saves.finished:
            return None
        raise errors.UserError(
            f"{saves.work_dir} holds a run saved at step {saves.last_step}; pass --resume to go on with it, or --resume never to "
            "start anew"
        )
    saves.check_settings()
    if saves.finished:
        return {}
    if resume not in ("auto", "newest") and not (resume.isdecimal() and len(resume) <= 18):
        meant = mistakes.did_you_mean(resume, ("auto", "never"))
        raise errors.UserError(f"--resume must be auto, never or the step of a save, but is {resume[:40]!r}{meant}")
    return saves.load(int(resume) if resume.isdecimal() else None, fall_back=resume == "auto")


def main(argv: list[str] | None = None) -> int:
    """Train as the flags say."""
    args = parser().parse_args(argv)
    refuse_ignored(args)

    from lora_nlg import dist, locks, record  # noqa: F401  (a foreign numpy is found out before the data are read)
    from lora_nlg.data.examples import read_examples
    from lora_nlg.methods.cost import cost_of
    from lora_nlg.model import forms
    from lora_nlg.storage import hub
    from lora_nlg.training import curve, train
    from lora_nlg.training.saves import Saves

    model_config = config.model_config(args.model_card)
    method_config = methods.from_flags(args, model_config)
    fitted = flags.fit_seq_len(args, model_config, methods.positions_before(method_config))
    settings, factors = train_config(args), factors_of(args)
    work_dir = Path(args.work_dir)
    check_place(args)
    adapters, method_config = read_start(args, method_config)
    published = curve.read(args.compare_curve, args.log_interval) if args.compare_curve else None
    tracked_by = trackers_of(args)

    examples = [read_examples(path, model_config.vocab_size) for path in (args.train_data, args.valid_data)]

    ranks = dist.start(args.device, args.rank, args.world_size, args.local_rank)
    train_split, valid_split = make_splits(args, settings, examples[0], examples[1], ranks)
    optim = optim_config(args, train_split.order.n_batches, ranks.world_size)
    sample_of = make_sampler(args, model_config, examples[1], ranks)
    model, base = make_model(args, model_config, method_config, adapters, ranks)
    check_starts(args)  # what is wrong with them is said first
    dist.take_from_main(methods.adapter_tensors(model).values(), ranks)
    run = make_record(args, argv, ranks, base, method_config, model=model_config, optim=optim, train=settings)
    saves = Saves(
        work_dir, what_decides_the_result(run.fields["settings"]), settings.keep_last, base, settings.keep_epochs
    )
    resume = "auto" if dist.restarted() else args.resume
    with dist.within(locks.held(locks.of_folder(work_dir)), ranks):  # before any file is written there
        state = dist.on_main(lambda: earlier_state(resume, saves), ranks)
        sources = hub.recorded(init_checkpoint=args.init_checkpoint, lora_checkpoint=args.lora_checkpoint)
        known = {"method": methods.chosen(args), **cost_of(model).recorded(), **sources}
        known["resumed_from"] = state and state.get("step")
        if ranks.is_main and state == {}:
            errors.say(f"{work_dir} holds this run, finished at step {saves.last_step}; --resume never trains it again")
        elif ranks.is_main:
            saves.begin(resumed=state is not None)
            if state is not None:
                print(f"going on from step {state['step']:,}")
            run.write(**known)  # before the first step: a folder that cannot be written is found out now
            if fitted:
                print(fitted, file=sys.stderr)
            announce(args, method_config, cost_of(model), train_split, optim, ranks)
        if state != {}:
            valid_loss = train.train(
                model, train_split, valid_split, optim, saves, ranks, published, state, tracked_by, factors, sample_of
            )  # fmt: skip
            if ranks.is_main:
                known |= {"valid_loss": valid_loss, "products": forms.chosen}
                run.write(checkpoint=str(work_dir / "model.final.pt"), **known)
                errors.say(f"saved {' and '.join(str(work_dir / name) for name in saves.listed['final']['files'])}")
    dist.stop()
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
