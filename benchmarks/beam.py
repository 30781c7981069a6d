"""Time beam search: this project, transformers `generate` and CTranslate2, on the same real inputs.

    python benchmarks/beam.py
    python benchmarks/beam.py --merged

GPT-2 small's shape with random weights, float32, 16 distinct E2E inputs in one batch, beam 10, length penalty 0.8, no 4-gram twice,
and 64 steps for everybody: end tokens are banned until then. What their semantics leave different: in transformers and
CTranslate2 the n-gram ban covers the prompt too; transformers keeps 2K candidates and bans end tokens after the softmax.
CTranslate2 runs if it is installed, in float32 and with weights and products in int8. `floor` is the matrix products and the top-K of
the same rows alone, from a few steps.

Before any timing the systems must agree where their rules coincide, without n-gram ban: the same ids, or, at a near tie, an equally
probable hypothesis by transformers' judgement. Does not measure loading, merging adapters, or texts on which searches end early.

--merged decodes the same batch with the base alone, with LoRA adapters (r = 4, query and value) merged into it, and with the adapters
kept apart, and times putting adapters on a loaded base both ways. Before, the logits of merged and apart must agree.
"""

import copy
import sys

import harness

STEPS = 64
TIE = 1e-5  # relative difference of total log p at which two hypotheses count as equally good: float32's rounding
CHECK_STEPS = 12  # of the agreement; the searches are the same at every step
FLOOR_STEPS = 4
SWITCHES = 20  # of --merged
ROUNDING = 1e-3  # of what the adapters change: float32's, through every layer


def ours(model, prompts, config) -> list[list[int]]:
    """Return this project's best hypotheses."""
    from lora_nlg.decoding.beam import beam_search

    return beam_search(model, prompts, config)


def distinct_prompts(examples) -> list[list[int]]:
    """Return the distinct contexts, shortest first, as decoding takes them."""
    return sorted(map(list, {tuple(e.context) for e in examples}), key=lambda ids: (len(ids), ids))


def one_batch(args) -> tuple[list[list[int]], str]:
    """Return as many prompts as a batch has, short and long ones alike, and what they are from."""
    examples, data = harness.examples("test", args.smoke)
    every = distinct_prompts(examples)
    return every[:: len(every) // args.prompts][: args.prompts], data


def rules(shape, **changes):
    """Return the benchmark's search; unless `changes` say otherwise no beam ends before the last step."""
    from lora_nlg.config import BeamConfig

    steps = changes.pop("eval_len", STEPS)
    plain = dict(
        beam=10, min_length=steps, length_penalty=0.8, no_repeat_ngram_size=4, eos_token_ids=(shape.vocab_size - 1,)
    )
    return BeamConfig(eval_len=steps, **plain | changes)


def check(systems: dict, judge, prompts, config) -> None:
    """End the benchmark unless every system finds ours' hypotheses, or equally good ones."""
    import hugging_face

    found = {name: run(prompts, config) for name, run in systems.items()}
    totals = {name: hugging_face.total_log_p(judge, prompts, outputs) for name, outputs in found.items()}
    for name in found.keys() - {"ours"}:
        same = sum(a == b for a, b in zip(found["ours"], found[name], strict=True))
        apart = max(abs(a - b) / abs(a) for a, b in zip(totals["ours"], totals[name], strict=True))
        what = (
            f"ours and {name}: {same} of {len(prompts)} outputs have the same ids, log p apart by {apart:.1e} at most"
        )
        harness.require(apart <= TIE, what)


class Floor:
    """Nothing but the products that decoding cannot do without, each in the form that is fastest here, and each row's best tokens.

    The numbers are random. Both are done as this project does them; torch's own ways were slower wherever it was tried.
    """

    def __init__(self, shape, n_prompt_tokens: int, n_sentences: int, beam: int):
        import torch

        C, V = shape.n_embd, shape.vocab_size
        self.beam, self.sentences, self.prompt_rows = beam, n_sentences, n_prompt_tokens
        of_block = (3 * C, C), (C, C), (4 * C, C), (C, 4 * C)
        # No cache holds them, as in decoding. Parameters, for such alone may be packed.
        self.weights = [torch.nn.Parameter(torch.randn(size), False) for size in of_block * shape.n_layer]
        self.head = torch.nn.Parameter(torch.randn(V, C), False)

    def blocks(self, rows: int) -> None:
        """Multiply `rows` rows by every block's matrices."""
        import torch

        from lora_nlg.model import forms

        for weight in self.weights:
            forms.product(torch.empty(rows, weight.shape[1]).fill_(0.5), weight)

    def choose(self, rows: int) -> None:
        """Compute the logits of `rows` rows, and their best K with log p."""
        import torch

        from lora_nlg.decoding.beam import best_tokens
        from lora_nlg.model import forms

        best_tokens(forms.product(torch.empty(rows, self.head.shape[1]).fill_(0.5), self.head), self.beam)

    def prefill(self, _: int) -> None:
        """Do the first step's work."""
        self.blocks(self.prompt_rows)
        self.choose(self.sentences)

    def steps(self, _: int) -> None:
        """Do FLOOR_STEPS later steps' work."""
        for _ in range(FLOOR_STEPS):
            self.blocks(self.sentences * self.beam)
            self.choose(self.sentences * self.beam)


def compare(args) -> None:
    """Time one batch in every system."""
    import importlib.util

    import hugging_face

    shape = harness.model_config(args)
    prompts, data = one_batch(args)
    model = harness.random_model(shape).eval().requires_grad_(False)
    judge = hugging_face.gpt2(shape, model.state_dict()).eval()
    systems = {
        "ours": lambda chosen, config: ours(model, chosen, config),
        "transformers": lambda chosen, config: hugging_face.generate(judge, chosen, config),
    }
    if importlib.util.find_spec("ctranslate2"):
        systems["ctranslate2"] = hugging_face.Ctranslate2(judge, args.threads).generate
    check(systems, judge, prompts, rules(shape, eval_len=min(args.steps, CHECK_STEPS), no_repeat_ngram_size=0))
    if "ctranslate2" in systems:  # whose rounding no longer lets the hypotheses agree
        systems["ctranslate2 int8"] = hugging_face.Ctranslate2(judge, args.threads, "int8").generate

    config = rules(shape, eval_len=args.steps)
    floor = Floor(shape, sum(map(len, prompts)), len(prompts), config.beam)

    def decode(run):
        def of_round(_: int) -> None:
            assert [len(ids) for ids in run(prompts, config)] == [args.steps] * len(prompts), "not the same work"

        return of_round

    harness.say("warming up")
    for run in systems.values():
        run(prompts, rules(shape, eval_len=2))
    floor.prefill(0)
    floor.steps(0)
    modes = {name: decode(run) for name, run in systems.items()} | {"prefill": floor.prefill, "steps": floor.steps}
    seconds = harness.interleave(modes, dict.fromkeys(modes, args.repeats))
    multiple = (args.steps - 1) / FLOOR_STEPS
    seconds["floor"] = [a + b * multiple for a, b in zip(seconds.pop("prefill"), seconds.pop("steps"), strict=True)]
    versus = {name: harness.ratio(seconds[name], seconds["ours"]) for name in seconds if name != "ours"}
    results = {
        "benchmark": "beam",
        "data": data,
        "model": vars(shape),
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "search": vars(config),
        "seconds": {name: harness.spread(values) for name, values in seconds.items()},
        "times_slower_than_ours": versus,
        "floor_from_steps": FLOOR_STEPS,
    }
    rows = [(args.model_card, name, harness.spread(seconds[name])["median"], versus.get(name, 1)) for name in seconds]
    harness.report(args, results, harness.table(("model", "system", "s", "× ours"), rows))


def compare_merged(args) -> None:
    """Time one batch with the base, with merged adapters, and with adapters apart."""
    import torch

    from lora_nlg.methods import adapter_tensors, add_adapters
    from lora_nlg.methods.placement import LoraConfig
    from lora_nlg.methods.switch import Switch

    shape, adapters = harness.model_config(args), LoraConfig(rank=4, alpha=32)
    prompts, data = one_batch(args)
    models = {"base": harness.random_model(shape).eval().requires_grad_(False)}
    models |= {name: copy.deepcopy(models["base"]) for name in ("merged", "apart")}
    switches = {name: Switch(models[name]) for name in ("merged", "apart")}
    add_adapters(models["apart"], adapters)
    generator = torch.Generator().manual_seed(harness.SEED)
    tensors = {
        name: p.detach().normal_(0, 0.02, generator=generator) for name, p in adapter_tensors(models["apart"]).items()
    }

    def put_on(name: str):
        return lambda _: switches[name].put_on(adapters, tensors, merge=name == "merged")

    switching = harness.interleave(
        {name: put_on(name) for name in switches}, dict.fromkeys(switches, 1 if args.smoke else SWITCHES)
    )
    ids = torch.tensor([prompts[-1]])
    with torch.inference_mode():
        logits = {name: model.logits(model(ids)) for name, model in models.items()}
    rounding, effect = ((logits[name] - logits["apart"]).abs().max().item() for name in ("merged", "base"))
    what = f"logits of merged and apart, {rounding:.1e} at most; those of the base alone {effect:.1e}"
    harness.require(rounding <= ROUNDING * effect, what)

    config = rules(shape, eval_len=args.steps)
    for model in models.values():
        ours(model, prompts, rules(shape, eval_len=2))
    modes = {name: (lambda _, model=model: ours(model, prompts, config)) for name, model in models.items()}
    seconds = harness.interleave(modes, dict.fromkeys(modes, args.repeats))
    versus = {name: harness.ratio(seconds[name], seconds["base"]) for name in modes}
    results = {
        "benchmark": "beam --merged",
        "data": data,
        "model": vars(shape),
        "search": vars(config),
        "seconds": {name: harness.spread(values) for name, values in seconds.items()},
        "times_the_base": versus,
        "switch_seconds": {name: harness.spread(values) for name, values in switching.items()},
        "logits_apart": rounding,
    }
    rows = [
        (
            args.model_card, name, harness.spread(seconds[name])["median"], versus[name],
            f"{1e3 * harness.spread(switching[name])['median']:.1f}" if name in switching else "",
        )
        for name in modes
    ]  # fmt: skip
    harness.report(args, results, harness.table(("model", "adapters", "s", "× base", "ms to put on"), rows))


def main(argv: list[str] | None = None) -> int:
    """Check, time, report."""
    p = harness.parser(__doc__)
    p.add_argument("--model_card", default="gpt2.sm")
    p.add_argument("--prompts", type=int, default=16, help="inputs in a batch; default: %(default)s")
    p.add_argument("--steps", type=int, default=STEPS, help="tokens generated; default: %(default)s")
    p.add_argument(
        "--merged", action="store_true", help="merged adapters against the base alone and against adapters apart"
    )
    args = p.parse_args(argv)
    if args.smoke:
        args.prompts, args.steps = 4, 8
    harness.start(args)
    if args.merged:
        compare_merged(args)
    else:
        compare(args)
    return 0


if __name__ == "__main__":
    sys.exit(harness.run(main))
