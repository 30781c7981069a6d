"""Time the whole test set: this project's decoding against the recipe's, on a sample of which that is estimated.

    python benchmarks/whole_set.py --trained trained_models/e2e_scratch/model.final.pt
    python benchmarks/whole_set.py

GPT-2 small's shape, float32, beam 10, length penalty 0.8, no 4-gram twice, at most 64 tokens. The recipe decodes every line by itself:
prompt padded to 512 and repeated, dense ΔW, caches copied at each reorder, 64 steps whatever has ended; prefill and later steps are
measured on a few steps of one line and multiplied. Ours decodes all distinct inputs, in batches sorted by length, a part of them in
each round. Before that both must find the same ids, on those few steps. Does not measure loading and merging.

--trained takes the weights of a gpt2.mini that has learnt E2E (preset e2e_scratch) and makes a GPT-2 small of them that computes the
same function, which is checked: its texts end where a trained model ends them. Without it the weights are random and end no text:
everybody generates 64 tokens.
"""

import statistics
import sys

import harness
from beam import STEPS, TIE, distinct_prompts, ours, rules

RECIPE_STEPS = 4
ENLARGED = 1e-4  # difference of logits, of the largest: float32's rounding, through every layer
NEW_PARAGRAPH = 628  # "\n\n", the presets' second end token


def enlarged(small, shape):
    """Return a GPT-2 of `shape` that computes what `small` does (Chen et al. 2015, Net2Net).

    Every channel and head is there n times, each output of a matrix being a sum over n equal inputs divided by n; further blocks
    add nothing. `shape` has n times the width and the heads, and at least the layers and positions.
    """
    import torch

    n = shape.n_embd // small.config.n_embd
    assert (shape.n_embd, shape.n_head) == (n * small.config.n_embd, n * small.config.n_head)
    model, given = harness.random_model(shape), dict(small.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in given:
                tiled = _tiled(name, given[name], n)
                p.zero_()[: len(tiled)] = tiled  # there may be more positions
            elif "c_proj" in name:
                p.zero_()
    return model


def _tiled(name: str, x, n: int):
    """Return the parameter `x` of `enlarged`'s small model for n times the width."""
    if name.startswith("w"):
        return x.repeat(1, n)
    if name.startswith("ln_f"):
        return x.repeat(n) / n  # before the tied head, which adds up n equal parts
    if name.endswith("c_attn.weight"):
        return x.unflatten(1, (3, -1)).repeat(n, 1, n).flatten(1) / n  # query, key and value, each for itself
    if name.endswith("c_attn.bias"):
        return x.view(3, -1).repeat(1, n).flatten()
    return x.repeat(n) if x.dim() == 1 else x.repeat(n, n) / n


def trained_model(args, shape, prompt: list[int]):
    """Return the whole gpt2.mini of --trained, enlarged to `shape`."""
    import torch

    from lora_nlg.config import CARDS
    from lora_nlg.storage import models

    small = models.base_model(CARDS["gpt2.mini"], args.trained, torch.Generator(), "fp32").eval()
    model = enlarged(small, shape).eval()
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        expected = small.logits(small(ids))
        apart = (model.logits(model(ids)) - expected).abs().max() / expected.abs().max()
    harness.require(apart <= ENLARGED, f"logits of {args.trained} and of it enlarged, {apart:.1e} of the largest")
    return model


def put_adapters_on(model, lora) -> None:
    """Put random adapters on and take their ΔW from the base: with them it computes what it did."""
    import torch

    from lora_nlg.methods import add_adapters

    add_adapters(model, lora)
    generator = torch.Generator().manual_seed(harness.SEED)
    with torch.no_grad():
        for block in model.h:
            adapted = block.attn.c_attn
            adapted.lora_B.normal_(0, 0.02, generator=generator)
            adapted.weight -= adapted.delta_weight()


def compare(args) -> None:
    """Time a sample of the recipe's whole test set and all of ours."""
    import recipe_way
    from lora_nlg.config import END_OF_TEXT_ID
    from lora_nlg.methods import merge_adapters
    from lora_nlg.methods.placement import LoraConfig

    shape, lora = harness.model_config(args), LoraConfig(rank=4, alpha=32)
    examples, data = harness.examples("test", args.smoke)
    every = distinct_prompts(examples)
    batches = [every[start : start + args.prompts] for start in range(0, len(every), args.prompts)]
    line = every[len(every) // 2]

    model = trained_model(args, shape, line) if args.trained else harness.random_model(shape).eval()
    put_adapters_on(model, lora)
    padded = recipe_way.RecipeGPT2(shape, lora).eval()
    padded.load_state_dict({name: p.detach() for name, p in model.named_parameters()})
    merge_adapters(model)

    few = rules(shape, eval_len=RECIPE_STEPS)
    harness.say("one line in the recipe's way, which also warms up")
    found, total, _ = recipe_way.padded_search(padded, line, few, args.seq_len)
    same = [found] == ours(model, [line], few)
    harness.require(same, f"ids of ours and of the recipe's way after {RECIPE_STEPS} steps")

    judged = recipe_way.log_p(padded, line, found, few)
    harness.require(
        abs(total - judged) <= TIE * abs(judged), f"log p with the recipe's cache {total:.5f}, without {judged:.5f}"
    )

    config, steps, outputs = rules(shape, eval_len=args.steps), [], []
    if args.trained:
        config = rules(shape, eval_len=args.steps, min_length=0, eos_token_ids=(END_OF_TEXT_ID, NEW_PARAGRAPH))

    def of_recipe(_: int) -> None:
        steps.append(recipe_way.padded_search(padded, line, few, args.seq_len)[-1])

    def of_ours(number: int) -> None:
        for batch in batches[number :: args.repeats]:
            outputs.extend(ours(model, batch, config))

    seconds = harness.interleave(
        {"recipe": of_recipe, "ours": of_ours}, dict.fromkeys(("recipe", "ours"), args.repeats)
    )
    recipe_whole = [len(examples) * (first + (args.steps - 1) * statistics.mean(later)) for first, *later in steps]
    parts = [sum(map(len, batches[number :: args.repeats])) for number in range(args.repeats)]
    ours_whole = [len(every) / part * value for part, value in zip(parts, seconds["ours"], strict=True)]
    quotient = harness.ratio(recipe_whole, ours_whole)
    results = {
        "benchmark": "whole_set",
        "data": data,
        "model": vars(shape),
        "search": vars(config),
        "lines": len(examples),
        "distinct": len(every),
        "recipe_seconds": {**harness.spread(recipe_whole), "how": f"estimated from {RECIPE_STEPS} steps of one line"},
        "ours_seconds": {**harness.spread(ours_whole), "how": "extrapolated from each round's part of the inputs"},
        "ours_seconds_of_all_parts": round(sum(seconds["ours"]), 1),
        "ours_tokens": statistics.mean(sum(token != 0 for token in ids) for ids in outputs),
        "trained": bool(args.trained),
        "times_slower_than_ours": quotient,
    }
    rows = [
        (args.model_card, f"the recipe, {len(examples):,} lines", results["recipe_seconds"]["median"], quotient),
        (args.model_card, f"ours, {len(every):,} distinct inputs", results["ours_seconds"]["median"], 1),
        (args.model_card, "ours, all parts added up", results["ours_seconds_of_all_parts"], ""),
    ]
    harness.report(args, results, harness.table(("model", "whole test set", "s", "× ours"), rows))


def main(argv: list[str] | None = None) -> int:
    """Check, time, report."""
    p = harness.parser(__doc__)
    p.add_argument("--model_card", default="gpt2.sm")
    p.add_argument("--trained", help="a whole gpt2.mini's model.final.pt")
    p.add_argument("--prompts", type=int, default=16, help="inputs in a batch; default: %(default)s")
    p.add_argument("--steps", type=int, default=STEPS, help="tokens generated at most; default: %(default)s")
    p.add_argument("--seq_len", type=int, default=512, help="what the recipe pads to; default: %(default)s")
    args = p.parse_args(argv)
    if args.smoke:
        args.prompts, args.steps, args.seq_len, args.trained = 4, 8, 128, None
    harness.start(args)
    compare(args)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
