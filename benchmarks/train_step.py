"""Time one training step: this project, transformers + PEFT, and the recipe's way, on the same real examples.

    python benchmarks/train_step.py --model_card gpt2.sm
    python benchmarks/train_step.py --model_card gpt2.md --modes ours,peft

A step is making the batch, loss, gradients and optimiser, in float32, batch 8, LoRA r = 4, dropout 0.1, random weights of the real
shape. Each round takes another batch of the recipe's order; in a round every mode gets the same one.
    ours    label smoothing 0.1, and the recipe's AdamW
    peft    LoRA on all of c_attn, padded to the longest of the batch, transformers' own loss (no smoothing, all logits), torch's AdamW
    recipe  padded to 512, all logits, dense ΔW by loralib; in gpt2.sm it needs 12 GB, in gpt2.md more than 30
Does not measure reading data, logging, validation, saving, or what a GPU would do.

Before any timing the three must agree on losses (1e-5 of them) and on the adapters' gradients, with the same weights, B not zero and
no dropout. PEFT's one A is put into both of ours then, and its key's part of B is zero; it is compared without smoothing.
Memory is the peak of a process of its own that takes two steps on the longest batch of the epoch.
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import harness

MODES = ("ours", "peft", "recipe")
SMOOTHING, LR, EPSILON = 0.1, 2e-4, 1e-6
LOSS_TOLERANCE = 1e-5  # relative; float32 sums over 50 257 logits in another order
GRADIENT_TOLERANCE = 1e-4  # of the largest element; float32 through every block and back, 1e-6 on a toy


@dataclass
class Mode:
    """One way to train."""

    model: object
    batch: Callable  # examples -> what `loss` takes
    loss: Callable  # (batch, smoothing) -> scalar
    optimizer: object

    def step(self, examples) -> None:
        """Take one step of the optimiser."""
        self.loss(self.batch(examples), SMOOTHING).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss_and_gradients(self, examples, smoothing: float) -> tuple[float, dict]:
        """Return the loss without dropout, and the adapters' gradients by name; the gradients are cleared again."""
        self.model.eval()
        loss = self.loss(self.batch(examples), smoothing)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad()
        self.model.train()
        return loss.item(), gradients


def own_optimizer(model):
    """Return this project's AdamW, which has the recipe's order of operations."""
    from lora_nlg import config
    from lora_nlg.training import optim

    return optim.build_optimizer(model, config.OptimConfig(LR, 1000, correct_bias=True, beta2=0.999, epsilon=EPSILON))


def ours(shape, lora, seq_len: int) -> Mode:
    """Return this project's way, with random weights."""
    from lora_nlg.methods import add_adapters
    from lora_nlg.training import losses

    model = harness.random_model(shape)
    add_adapters(model, lora)
    return Mode(
        model,
        lambda chosen: harness.batch(chosen, seq_len),
        lambda batch, smoothing: losses.masked_loss(model, batch, smoothing),
        own_optimizer(model),
    )


def peft(shape, lora, seq_len: int, base: dict | None = None) -> Mode:
    """Return the way of transformers and PEFT; its loss knows no smoothing."""
    import torch

    import hugging_face

    model = hugging_face.with_adapters(hugging_face.gpt2(shape, base), lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, eps=EPSILON)
    return Mode(model, hugging_face.padded_batch, lambda batch, _: model(**batch).loss, optimizer)


def recipe(shape, lora, seq_len: int, weights: dict | None = None) -> Mode:
    """Return the recipe's way, with this project's AdamW."""
    import recipe_way as way

    model = way.RecipeGPT2(shape, lora)
    if weights is not None:
        model.load_state_dict(weights)
    return Mode(
        model,
        lambda chosen: way.padded_batch(chosen, seq_len),
        lambda batch, smoothing: way.padded_loss(model, batch, smoothing),
        own_optimizer(model),
    )


def build(names: list[str], shape, lora, seq_len: int) -> dict[str, Mode]:
    """Return the modes with the same weights: adapters with one A for query and value, and B not zero."""
    import torch

    modes = {"ours": ours(shape, lora, seq_len)}
    parameters = dict(modes["ours"].model.named_parameters())
    generator = torch.Generator().manual_seed(harness.SEED)
    with torch.no_grad():
        for name, p in parameters.items():
            if name.endswith("lora_A"):
                p[lora.rank :] = p[: lora.rank]
            if name.endswith("lora_B"):
                p.normal_(0, 0.02, generator=generator)
    if "peft" in names:
        modes["peft"] = peft(shape, lora, seq_len, {n: p.detach() for n, p in parameters.items() if "lora_" not in n})
        with torch.no_grad():
            for name, p in modes["peft"].model.named_parameters():
                if ".lora_" in name:
                    own = name.removeprefix("base_model.model.transformer.").removesuffix(".default.weight")
                    same = parameters[own]
                    if ".lora_A." in name:
                        p.copy_(same[: lora.rank])
                    else:
                        p.zero_()
                        p[thirds(shape)] = same
    if "recipe" in names:
        modes["recipe"] = recipe(shape, lora, seq_len, {name: p.detach() for name, p in parameters.items()})
    return modes


def token_counts(examples) -> tuple[list[int], list[int]]:
    """Return each example's inputs, and how many of them are learnt from."""
    return [len(e.context) + len(e.completion) - 1 for e in examples], [len(e.completion) for e in examples]


def thirds(shape) -> list[int]:
    """Return which of c_attn's 3C outputs are query or value."""
    C = shape.n_embd
    return [*range(C), *range(2 * C, 3 * C)]


def check(modes: dict[str, Mode], shape, examples) -> None:
    """End the benchmark unless all modes have the same loss, and the same gradients for B."""
    for name in modes.keys() - {"ours"}:
        smoothing = 0.0 if name == "peft" else SMOOTHING
        own, own_gradients = modes["ours"].loss_and_gradients(examples, smoothing)
        other, other_gradients = modes[name].loss_and_gradients(examples, smoothing)
        harness.require(abs(own - other) <= LOSS_TOLERANCE * own, f"losses of ours {own:.6f} and of {name} {other:.6f}")
        own_b = [g for n, g in own_gradients.items() if "lora_B" in n]
        other_b = [g if name == "recipe" else g[thirds(shape)] for n, g in other_gradients.items() if "lora_B" in n]
        assert len(own_b) == len(other_b) == shape.n_layer
        worst = max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(own_b, other_b, strict=True))
        what = f"gradients of ours and of {name}, apart by {worst:.1e} of the largest"
        harness.require(worst <= GRADIENT_TOLERANCE, what)


def memory(mode: str, shape, lora, seq_len: int, examples) -> dict[str, float]:
    """Return the peak of this process, which takes two steps, in MiB.

    `beyond_base` is all but the frozen weights; `before`, a part of it, is what libraries and the examples take.
    """
    before = harness.peak_mib()
    built = {"ours": ours, "peft": peft, "recipe": recipe}[mode](shape, lora, seq_len)
    for _ in range(2):
        built.step(examples)
    frozen = sum(p.numel() * p.element_size() for p in built.model.parameters() if not p.requires_grad) / harness.MIB
    peak = harness.peak_mib()
    return {"peak": peak, "base_weights": round(frozen, 1), "beyond_base": round(peak - frozen, 1), "before": before}


def main(argv: list[str] | None = None) -> int:
    """Check, time, report."""
    p = harness.parser(__doc__)
    p.add_argument("--model_card", default="gpt2.sm")
    p.add_argument("--modes", default=",".join(MODES), help="some of %(default)s; ours is always there")
    p.add_argument("--recipe_repeats", type=int, default=2, help="the recipe's step is long; default: %(default)s")
    p.add_argument("--batch_size", type=int, default=8)
    p.add_argument("--seq_len", type=int, default=512, help="what the recipe pads to; default: %(default)s")
    p.add_argument("--memory_of", choices=MODES, help="only print the memory of this mode, measured in this process")
    args = p.parse_args(argv)
    if args.smoke:
        args.batch_size, args.seq_len = 4, 128
    names = args.modes.split(",")
    if not set(names) <= set(MODES):
        p.error(f"--modes must be some of {','.join(MODES)}, but is {args.modes}")
    others = [name for name in MODES[1:] if name in names]

    import work
    from lora_nlg.data.batches import ItemOrder
    from lora_nlg.methods.placement import LoraConfig

    harness.start(args)
    shape, lora = harness.model_config(args), LoraConfig(rank=4, alpha=32, dropout=0.1)
    examples, data = harness.examples("train", args.smoke)
    epoch = [[examples[i] for i in items] for items in ItemOrder(len(examples), args.batch_size, harness.SEED).epoch(1)]
    longest = max(epoch, key=lambda batch: max(len(e.context) + len(e.completion) for e in batch))
    if args.memory_of:
        print(json.dumps(memory(args.memory_of, shape, lora, args.seq_len, longest)))
        return 0

    # First of all, while this process is small and the machine's memory is free.
    arguments = [*sys.argv[1:], "--memory_of"]
    peaks_mib = {name: harness.in_own_process("train_step.py", *arguments, name) for name in ("ours", *others)}
    modes = build(others, shape, lora, args.seq_len)
    check(modes, shape, epoch[0])
    rounds = {name: min(args.repeats, args.recipe_repeats) if name == "recipe" else args.repeats for name in modes}
    reached: dict[str, float] = {}

    def measure_peak(_: int) -> None:
        for name, speed in work.peaks(args.smoke):
            reached[name] = max(speed, reached.get(name, 0.0))

    steps = {name: (lambda number, mode=mode: mode.step(epoch[number % len(epoch)])) for name, mode in modes.items()}
    harness.say("warming up")
    harness.interleave(steps, dict.fromkeys(steps, 1))
    seconds = harness.interleave({**steps, "matmul": measure_peak}, {**rounds, "matmul": args.repeats})

    peak = max(reached.values())
    batches = [epoch[number % len(epoch)] for number in range(args.repeats)]
    needed = [work.training_flop(shape, lora.rank, *token_counts(batch)) for batch in batches]
    shares = [flop["needed"] / s / peak for flop, s in zip(needed, seconds["ours"], strict=True)]
    ratios = {name: harness.ratio(seconds[name], seconds["ours"]) for name in others}
    results = {
        "benchmark": "train_step",
        "data": data,
        "model": vars(shape),
        "batch_size": args.batch_size,
        "seconds_a_step": {name: harness.spread(seconds[name]) for name in rounds},
        "times_slower_than_ours": ratios,
        "gflop_needed": {part: round(statistics.median(f[part] for f in needed) / 1e9, 2) for part in needed[0]},
        "matmul_gflops": {name: round(speed / 1e9, 1) for name, speed in reached.items()},
        "share_of_peak": harness.spread(shares),
        "memory_mib": peaks_mib,
    }
    rows = [
        (
            args.model_card, name, results["seconds_a_step"][name]["median"], rounds[name], ratios.get(name, 1),
            f"{results['share_of_peak']['median']:.2f}" if name == "ours" else "", f"{peaks_mib[name]['beyond_base']:,.0f}",
        )
        for name in rounds
    ]  # fmt: skip
    header = ("model", "mode", "s a step", "steps", "× ours", "share of matmul peak", "MiB beyond base weights")
    harness.report(args, results, harness.table(header, rows))
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
