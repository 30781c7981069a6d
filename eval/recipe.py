"""What a run did otherwise than the public recipe, by its own records."""

from pathlib import Path

import curve
from run_dir import Run, method_of

CURVE = Path(__file__).resolve().parents[1] / "data" / "curves" / "gpt2_md_seed110.tsv"
CURVE_SEED, CURVE_INTERVAL = 110, 100  # micro-batches

# The public recipe of GPT-2 on E2E, each setting with the values that are as good. The preset e2e_gpt2_md says the same to training.
RECIPE: dict[str, dict[str, tuple]] = {
    "lora": {
        "rank": (4,),
        "alpha": (32,),
        "dropout": (0.1,),
        "targets": (["q", "v"],),
        "layers": ("all",),  # which is recorded as none
        "init": ("kaiming",),
        "scaling": ("alpha/r",),
    },
    "optim": {
        "lr": (2e-4,),
        "scheduler": ("linear",),
        "warmup_step": (500,),
        "weight_decay": (0.01,),
        "correct_bias": (True,),
        "beta1": (0.9,),
        "beta2": (0.999,),
        "epsilon": (1e-6,),
        "clip": (0,),
    },
    "train": {"seq_len": (512,), "objective": ("clm",), "label_smooth": (0.1,), "precision": ("fp32",)},
    "search": {
        "beam": (10,),
        "length_penalty": (0.8, 0.9),  # the public recipe's, and the paper's Table 11
        "no_repeat_ngram_size": (4,),
        "repetition_penalty": (1,),
        "eval_len": (64,),
        "min_length": (0,),
        "eos_token_ids": ([50256, 628],),
    },
}
# What is otherwise in the paper's Table 11, by task
OTHERWISE: dict[str, dict[str, dict[str, tuple]]] = {
    "e2e": {},
    "webnlg": {"search": {"length_penalty": (0.8,)}},
    "dart": {
        "search": {"length_penalty": (0.8,)},
        "lora": {"dropout": (0,)},
        "optim": {"weight_decay": (0,)},
        "train": {"label_smooth": (0,)},
    },
}
EXAMPLES_AN_UPDATE = 8
EXAMPLES = {
    "e2e": 5 * 42_064,
    "webnlg": 5 * 18_032,
    "dart": 5 * 62_664,
}  # five epochs, each filled up to whole batches of 8


def departures(run: Run, of: str = "e2e") -> list[str]:
    """Return, in words, every recorded setting that is not the recipe's. What is not LoRA has a recipe for decoding only."""
    sections = list(RECIPE) if method_of(run) == "lora" else ["search"]
    found = []
    for section in sections:
        for name, expected in (RECIPE[section] | OTHERWISE[of].get(section, {})).items():
            value = run.setting(section, name)
            if value is not None and value not in expected:
                words = " or ".join(map(str, expected))
                found.append(f"{'LoRA ' if section == 'lora' else ''}{name} {value} instead of {words}")
    if "train" in sections:
        found += _amount(run, EXAMPLES[of])
    return found


def _amount(run: Run, examples: int) -> list[str]:
    """Return what is unlike the recipe in how much was trained on, in all, where it has `examples`, and for an update."""
    processes, batch = run.training.get("settings", {}).get("world_size"), run.setting("train", "train_batch_size")
    grad_acc, steps = run.setting("optim", "grad_acc"), run.setting("optim", "max_step")
    if None in (processes, batch, grad_acc, steps):
        return []
    an_update, seen = processes * batch * grad_acc, processes * batch * steps
    found = []
    if an_update != EXAMPLES_AN_UPDATE:
        found.append(f"{an_update} examples an update instead of {EXAMPLES_AN_UPDATE}")
    if abs(seen - examples) > examples / 1000:  # several processes fill up their epochs differently
        found.append(f"{seen:,} examples trained on instead of {examples:,}")
    found += [f"an early end at step {line['early_stop']['step']:,}" for line in run.log if "early_stop" in line]
    if run.log and "valid_loss" not in run.training:
        found.append("a training that did not finish")
    return found


def off_curve(run: Run) -> str | None:
    """Return where the training of GPT-2 Medium left the published curve, in words; None if it did not or cannot be held against it.

    The curve is of one process with the recipe's settings and one seed: other seeds see other examples at a step.
    """
    alike = [run.setting("train", name) for name in ("random_seed", "log_interval", "train_batch_size")]
    alike.append(run.training.get("settings", {}).get("world_size"))
    published = curve.read(CURVE) if alike == [CURVE_SEED, CURVE_INTERVAL, EXAMPLES_AN_UPDATE, 1] else None
    for step, loss, known in curve.compared(run.log, published) if published else ():
        if not curve.is_on(loss, known):
            return f"average loss {loss:.2f} at step {step:,}, where public runs have {known:.2f}"
    return None
