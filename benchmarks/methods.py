"""Time every method's training step and decoding beside LoRA's, and PEFT's step where it has the method.

    python benchmarks/methods.py --model_card gpt2.sm
    python benchmarks/methods.py --methods lora,dora,prefix_kv --no_peft

A step is making the batch, loss, gradients and optimiser, in float32, batch 8, no dropout, random weights of the real shape; LoRA has
r = 4, a prefix 14 positions, adapters their default width, VeRA rank 256, FourierFT 1 000 coefficients. PEFT's step is on all of
c_attn, padded to the longest of the batch, without smoothing. Each round takes another batch of the recipe's order, the same for all.
Decoding is one batch of the longest prompts, every beam to its last step: the base, what is merged into it, and what cannot be.
Does not measure reading data, logging, validation, saving, or what a GPU would do.
"""

import argparse
import sys

import harness
from train_step import LR, SMOOTHING, Mode, own_optimizer

NOT_TIMED = ("lora+prefix_embed", "lora+prefix_kv")  # pairs, of which one is enough
MERGED = ("lora",)  # all that can be merged become a plain model
PROMPTS, STEPS = 16, 64


def config_of(name: str, shape):
    """Return a method's configuration, by its flags."""
    import argparse

    from lora_nlg import methods

    parser = argparse.ArgumentParser()
    for flag in ("--lora_dim", "--lora_alpha", "--model_card"):
        parser.add_argument(flag)
    methods.add_flags(parser)
    rank = "4" if name.startswith(("lora", "dora")) else "0"
    args = parser.parse_args(["--method", name, "--lora_dim", rank, "--model_card", "the model"])
    args.lora_alpha = 32.0
    return methods.from_flags(args, shape)


def on_the_same_weights(base, copied: bool):
    """Return a GPT-2 with the weights of `base`, the very same in memory unless they are trained."""
    import torch
    from torch import nn

    from lora_nlg.model.gpt2 import GPT2

    with torch.device("meta"):
        model = GPT2(base.config)
    for (_, theirs), (_, module) in zip(base.named_modules(), model.named_modules(), strict=True):
        for name, parameter in theirs.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach().clone() if copied else parameter.detach()))
    return model.train(base.training)


def ours(name: str, base, seq_len: int) -> Mode:
    """Return this project's way to train by a method."""
    import torch

    from lora_nlg import methods
    from lora_nlg.training import losses

    model = on_the_same_weights(base, copied=name == "full")
    methods.add_adapters(model, config_of(name, base.config), torch.Generator().manual_seed(harness.SEED))
    return Mode(
        model,
        lambda chosen: harness.batch(chosen, seq_len),
        lambda batch, smoothing: losses.masked_loss(model, batch, smoothing),
        own_optimizer(model),
    )


def peft_config(name: str):
    """Return PEFT's configuration of a method, None where it has none."""
    import peft

    places = dict(target_modules=["c_attn"], task_type="CAUSAL_LM")
    makers = {
        "lora": lambda: peft.LoraConfig(r=4, lora_alpha=32, fan_in_fan_out=True, **places),
        "dora": lambda: peft.LoraConfig(r=4, lora_alpha=32, fan_in_fan_out=True, use_dora=True, **places),
        "vera": lambda: peft.VeraConfig(r=256, fan_in_fan_out=True, **places),
        "fourier": lambda: peft.FourierFTConfig(n_frequency=1000, fan_in_fan_out=True, **places),
        "prefix_embed": lambda: peft.PromptTuningConfig(num_virtual_tokens=14, task_type="CAUSAL_LM"),
        "prefix_kv": lambda: peft.PrefixTuningConfig(num_virtual_tokens=14, task_type="CAUSAL_LM"),
    }
    return makers[name]() if name in makers else None


def theirs(name: str, shape, seq_len: int) -> Mode:
    """Return PEFT's way."""
    import peft
    import torch

    import hugging_face

    model = peft.get_peft_model(hugging_face.gpt2(shape), peft_config(name))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR)
    return Mode(model, hugging_face.padded_batch, lambda batch, _: model(**batch).loss, optimizer)


def train(args: argparse.Namespace, names: list[str], base) -> tuple[dict, list]:
    """Time the steps; return the seconds by method, and the table's rows."""
    from lora_nlg.data.batches import ItemOrder
    from lora_nlg.methods.cost import cost_of

    examples, data = harness.examples("train", args.smoke)
    epoch = [[examples[i] for i in items] for items in ItemOrder(len(examples), args.batch_size, harness.SEED).epoch(1)]
    modes = {name: ours(name, base, args.seq_len) for name in names}
    for name in names if not args.no_peft else ():
        if peft_config(name) is not None:
            modes[f"PEFT's {name}"] = theirs(name, base.config, args.seq_len)
    steps = {name: (lambda number, mode=mode: mode.step(epoch[number % len(epoch)])) for name, mode in modes.items()}
    harness.say("warming up")
    harness.interleave(steps, dict.fromkeys(steps, 1))
    seconds = harness.interleave(steps, dict.fromkeys(steps, args.repeats))
    rows = []
    for name in names:
        cost, own = cost_of(modes[name].model), seconds[name]
        other = seconds.get(f"PEFT's {name}")
        rows.append(
            (
                name, f"{cost.trained:,}", harness.spread(own)["median"], harness.ratio(own, seconds["lora"]),
                harness.ratio(other, own) if other else "", f"{cost.bytes_on_disk / 1e6:.2f}",
            )
        )  # fmt: skip
    return {"data": data, "seconds_a_step": {name: harness.spread(s) for name, s in seconds.items()}}, rows


def decode(args: argparse.Namespace, names: list[str], base) -> tuple[dict, list]:
    """Time one batch with the base, with a merged method and with those that cannot be merged."""
    import torch

    from lora_nlg import methods
    from lora_nlg.config import BeamConfig
    from lora_nlg.decoding.beam import beam_search

    examples, _ = harness.examples("test", args.smoke)
    prompts = sorted({tuple(e.context) for e in examples}, key=len)[-args.prompts :]
    rules = BeamConfig(10, args.steps, length_penalty=0.8, no_repeat_ngram_size=4, eos_token_ids=())
    base = base.eval().requires_grad_(False)
    models = {"the base": base}
    for name in names:
        model = on_the_same_weights(base, copied=False)
        methods.add_adapters(model, config_of(name, base.config), torch.Generator().manual_seed(harness.SEED))
        methods.merge_adapters(model)
        if model.trained_by is not None or name in MERGED:
            models[f"{name}, merged" if name in MERGED else name] = model.eval().requires_grad_(False)

    def of_round(model):
        return lambda _: beam_search(model, prompts, rules)

    modes = {name: of_round(model) for name, model in models.items()}
    harness.interleave(modes, dict.fromkeys(modes, 1))
    seconds = harness.interleave(modes, dict.fromkeys(modes, max(1, args.repeats // 2)))
    rows = [(n, harness.spread(s)["median"], harness.ratio(s, seconds["the base"])) for n, s in seconds.items()]
    return {name: harness.spread(s) for name, s in seconds.items()}, rows


def main(argv: list[str] | None = None) -> int:
    """Time, report."""
    p = harness.parser(__doc__, repeats=6)
    p.add_argument("--model_card", default="gpt2.sm")
    p.add_argument("--methods", help="some of the methods with commas between them; lora is always there; default: all")
    p.add_argument("--batch_size", type=int, default=8)
    p.add_argument("--seq_len", type=int, default=512)
    p.add_argument("--prompts", type=int, default=PROMPTS, help="inputs in the decoded batch; default: %(default)s")
    p.add_argument("--steps", type=int, default=STEPS, help="tokens generated; default: %(default)s")
    p.add_argument("--no_peft", action="store_true", help="leave PEFT's steps out")
    args = p.parse_args(argv)
    harness.start(args)
    if args.smoke:
        args.batch_size, args.seq_len, args.prompts, args.steps = 4, 128, 4, 8

    from lora_nlg import methods

    names = [name for name in methods.CHOICES if name not in NOT_TIMED]
    if args.methods:
        asked = args.methods.split(",")
        if not set(asked) <= set(methods.CHOICES):
            p.error(f"--methods must be some of {','.join(methods.CHOICES)}, but is {args.methods}")
        names = ["lora", *(name for name in asked if name != "lora")]
    base = harness.random_model(harness.model_config(args))
    training, of_training = train(args, names, base)
    decoding, of_decoding = decode(args, [name for name in names if name != "full"], base)
    header = ("method", "trained", "s a step", "× LoRA's", "PEFT's × ours", "MB on disk")
    tables = harness.table(header, of_training) + "\n\n" + harness.table(("decoding", "s", "× base"), of_decoding)
    results = {
        "benchmark": "methods",
        "model": vars(base.config),
        **training,
        "decoding": decoding,
        "smoothing": SMOOTHING,
    }
    harness.report(args, results, tables)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
