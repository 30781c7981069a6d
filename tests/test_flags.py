"""Every program's flags against the checked-in table: a renamed flag or another default breaks people's scripts silently."""

import argparse
import csv
import importlib
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("flags.tsv")
COLUMNS = ("program", "flag", "type", "default")
ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = sorted(
    path.stem
    for folder in ("src", "eval", "eval/e2e")
    for path in (ROOT / folder).glob("*.py")
    if "def parser(" in path.read_text()
)


def kind(action: argparse.Action) -> str:
    """Return what a flag takes: a type, a choice, or nothing (switch)."""
    if action.nargs == 0:
        return "switch"
    name = " ".join(map(str, action.choices)) if action.choices else (action.type or str).__name__
    return name + (" (may be repeated)" if isinstance(action, argparse._AppendAction) else "")


def flags(program: str) -> list[dict[str, str]]:
    """Return the rows of the table that `program` has in fact."""
    rows = []
    for action in importlib.import_module(program).parser()._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        default = "required" if action.required else "" if action.default is None else str(action.default)
        names = " ".join(action.option_strings) or action.dest
        rows.append(dict(zip(COLUMNS, (program, names, kind(action), default), strict=True)))
    return rows


def table() -> list[dict[str, str]]:
    with open(TABLE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_has_the_name_type_and_default_of_the_table(program):
    """Fails when a flag is added, renamed, retyped or given another default without the table."""
    assert flags(program) == [row for row in table() if row["program"] == program]


def test_the_table_has_every_program_and_no_other():
    assert {row["program"] for row in table()} == set(PROGRAMS)


# The recipe's own flags and defaults, in its spelling, but for those whose default differs on purpose: docs/recipe.md has them.
RECIPE = {
    "gpt2_ft": """platform=k8s local_rank=0 rank=0 world_size=0 random_seed=10 lr=1e-05 weight_decay=0.01 correct_bias=False
        adam_epislon=1e-06 no_decay_bias=False adam_beta1=0.9 adam_beta2=0.98 scheduler=linear max_step= max_epoch=
        warmup_step=0 i_steps=0 i_lrs=0.00025 train_data=required valid_data=required train_batch_size=8 valid_batch_size=4
        grad_acc=1 clip=0.0 seq_len=512 model_card=gpt2.md init_checkpoint= fp16=False log_interval=100 eval_interval=2000
        save_interval=500 lora_dim=0 lora_alpha=128.0 obj=clm lora_dropout=0.0 label_smooth=0.0 roll_interval=-1
        roll_lr=1e-05 roll_step=100 eval_epoch=1""",
    "gpt2_beam": """batch_size=10 seq_len=512 eval_len=256 min_length=0 model_card=gpt2.sm lora_dim=0 beam=1
        length_penalty=1.0 no_repeat_ngram_size=4 repetition_penalty=1.0 init_checkpoint= output_file=""",
    "gpt2_encode": "add_bos=False add_eos=False",
    "gpt2_decode": "ref_type=e2e tokenize=False lower=False filter=all",
}


@pytest.mark.parametrize("program", RECIPE)
def test_the_recipes_flags_are_there_with_its_defaults(program):
    """Fails when the spelling of adam_epislon is mended in place of being given an alias."""
    here = {name.removeprefix("--"): row["default"] for row in flags(program) for name in row["flag"].split()}
    recipe = dict(word.split("=") for word in RECIPE[program].split())
    assert {name: here.get(name) for name in recipe} == recipe
