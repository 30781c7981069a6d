"""Show how speed and memory of training change with batch size, sequence length, model and number of processes.

    python benchmarks/scaling.py

Each row is a process of its own (several with --ranks above 1, joined by gloo): LoRA r = 4, float32, random weights; tokens without
padding a second, over all ranks, from the median step after one to warm up, and the peak memory of rank 0. Batch sizes, models and
ranks take real examples, in the recipe's order; sequence lengths take random ids of exactly that length, the latter half learnt.
Ranks share --threads. Does not compare with anything else, nor show more ranks than this machine has cores as anything but overhead.
"""

import argparse
import json
import statistics
import sys
import time

import harness

BASE = {"card": "gpt2.sm", "batch": 8, "length": 0, "ranks": 1}  # length 0: real examples
ROWS = {
    "batch size": [{"batch": batch} for batch in (1, 2, 4, 8, 16, 32)],
    "sequence length": [{"length": length} for length in (32, 64, 128, 256, 512)],
    "model": [{"card": card} for card in ("gpt2.mini", "gpt2.sm", "gpt2.md")],
    "ranks": [{"ranks": ranks} for ranks in (1, 2, 4)],
}
SMOKE_ROWS = {"sequence length": [{"length": 32}], "ranks": [{"ranks": 2, "batch": 2}]}


def step(model, batch, optimizer, world_size: int) -> None:
    """Take one training step on this rank's batch."""
    from lora_nlg import dist
    from lora_nlg.training import losses

    losses.masked_loss(model, batch, 0.1).backward()
    dist.average_gradients([p for p in model.parameters() if p.requires_grad], world_size)
    optimizer.step()
    optimizer.zero_grad()


def batches(args: argparse.Namespace, shape, point: dict, ranks) -> list:
    """Return this rank's batches, one to warm up and one a repeat."""
    import torch

    from lora_nlg.data.batches import ItemOrder
    from lora_nlg.data.examples import Example

    if length := point["length"]:
        generator = torch.Generator().manual_seed(harness.SEED)
        ids = torch.randint(shape.vocab_size, (point["batch"], length), generator=generator).tolist()
        halves = [Example(row[: length // 2], row[length // 2 :]) for row in ids]
        return [harness.batch(halves, length)] * (args.repeats + 1)
    examples, _ = harness.examples("train", args.smoke)
    order = ItemOrder(len(examples), point["batch"], harness.SEED, ranks.world_size, ranks.rank).epoch(1)
    chosen = [next(order) for _ in range(args.repeats + 1)]
    return [harness.batch([examples[i] for i in items], 512) for items in chosen]


def measure(args: argparse.Namespace, point: dict) -> dict:
    """Return tokens a second, seconds a step and peak memory of one row; called on every rank."""
    import torch

    from lora_nlg import config, dist, methods
    from lora_nlg.methods import placement
    from lora_nlg.training import optim

    ranks = dist.start("cpu", 0, 0, 0)
    torch.set_num_threads(max(1, args.threads // ranks.world_size))
    args.model_card = point["card"]
    shape = harness.model_config(args)
    model = harness.random_model(shape)
    methods.add_adapters(model, placement.LoraConfig(rank=4, alpha=32, dropout=0.1))
    optimizer = optim.build_optimizer(model, config.OptimConfig(2e-4, max_step=1000))
    seconds, tokens = [], []
    for batch in batches(args, shape, point, ranks):
        started = time.perf_counter()
        step(model, batch, optimizer, ranks.world_size)
        seconds.append(time.perf_counter() - started)
        tokens.append(batch.n_tokens)
    mean = dist.mean_over_ranks(torch.tensor(float(sum(tokens[1:]))), ranks.world_size).item()
    row = {
        "seconds_a_step": harness.spread(seconds[1:]),
        "tokens_a_second": round(mean * ranks.world_size / len(seconds[1:]) / statistics.median(seconds[1:])),
        "peak_mib": harness.peak_mib(),
    }
    dist.stop()
    return row if ranks.is_main else {}


def main(argv: list[str] | None = None) -> int:
    """Measure every row, report."""
    p = harness.parser(__doc__)
    p.add_argument("--only", choices=tuple(ROWS), help="one of the tables; default: all")
    p.add_argument("--ranks", type=int, action="append", help="numbers of ranks; may be repeated; default: 1, 2 and 4")
    p.add_argument("--point", help="only measure this row, a JSON object, in this process")
    args = p.parse_args(argv)
    if args.smoke:
        args.repeats = 1
    if args.point:
        row = measure(args, json.loads(args.point))
        if row:
            print(json.dumps(row))
        return 0

    harness.start(args)
    tables = SMOKE_ROWS if args.smoke else {name: rows for name, rows in ROWS.items() if args.only in (None, name)}
    if args.ranks and "ranks" in tables:
        tables["ranks"] = [{"ranks": ranks} for ranks in args.ranks]
    rows, measured = [], []
    for name, changes in tables.items():
        for change in changes:
            point = BASE | change
            launch = f"-m torch.distributed.run --standalone --nproc_per_node={point['ranks']}".split()
            flags = ["--repeats", str(args.repeats), "--threads", str(args.threads), "--point", json.dumps(point)]
            flags += ["--smoke"] if args.smoke else []
            row = harness.in_own_process("scaling.py", *flags, launcher=launch if point["ranks"] > 1 else ())
            measured.append({"varied": name, **point, **row})
            rows.append(
                (
                    name, args.model_card if args.smoke else point["card"], point["batch"], point["length"] or "real", point["ranks"],
                    f"{row['tokens_a_second']:,}", row["seconds_a_step"]["median"], f"{row['peak_mib']:,.0f}",
                )
            )  # fmt: skip
            harness.say(f"{name}: {point} {row}")
    _, data = harness.examples("train", args.smoke)
    header = ("varied", "model", "batch", "length", "ranks", "tokens/s", "s a step", "peak MiB of rank 0")
    harness.report(args, {"benchmark": "scaling", "data": data, "rows": measured}, harness.table(header, rows))
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
