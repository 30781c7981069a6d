"""Every program's flags against the checked-in table: a renamed flag or another default breaks people's scripts silently."""

import argparse
import csv
import importlib.util
import re
from pathlib import Path

import pytest

from lora_nlg import config, errors

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


# Help, and what is mistyped


TRIPLES = "triples/measure_scores"  # whose module has the name of E2E's


def parser_of(program: str) -> argparse.ArgumentParser:
    if program != TRIPLES:
        return importlib.import_module(program).parser()
    spec = importlib.util.spec_from_file_location("of_triples", ROOT / f"eval/{TRIPLES}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.parser()


def with_commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return a parser and those of its commands."""
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(below for action in commands for below in action.choices.values())]


@pytest.mark.parametrize("program", [*PROGRAMS, TRIPLES])
def test_every_flag_has_a_text_and_shows_its_default(program):
    for parser in with_commands(parser_of(program)):
        shown = " ".join(parser.format_help().split())
        for action in parser._actions:
            if (
                isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
                or action.help == argparse.SUPPRESS
            ):
                continue
            text, _, default = (action.help or "").rpartition("default: ")
            name = action.option_strings or action.dest
            assert len(re.sub(r"\W", "", text or default)) > 2, f"{program}: {name} has no text"
            ends_at_once = action.nargs == 0 and not isinstance(action.default, bool)
            if action.option_strings and not action.required and not ends_at_once:
                assert "default" in action.help, f"{program}: {name} shows no default"
                if isinstance(action.default, str | int | float) and not isinstance(action.default, bool):
                    assert str(action.default) in action.help % vars(action), f"{program}: {name}"
            assert " ".join((action.help % {"default": action.default}).split()) in shown


@pytest.mark.parametrize("program", [*PROGRAMS, TRIPLES])
def test_abbreviations_are_refused_everywhere(program):
    assert all(parser.allow_abbrev is False for parser in with_commands(parser_of(program)))


def refused(program: str, *words: str, capsys) -> str:
    """Return what a program says to flags that it does not take."""
    with pytest.raises(SystemExit) as stopped:
        parser_of(program).parse_args(list(words))
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    return said


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("gpt2_ft", "--lora_dmi 4", "unknown flag --lora_dmi (did you mean --lora_dim?)"),
        ("gpt2_ft", "--train-dta=x", "unknown flag --train-dta (did you mean --train_data?)"),  # before what is required
        ("gpt2_ft", "-lora_dim 4", "unknown flag -lora_dim (did you mean --lora_dim?)"),
        ("gpt2_ft", "--xyzzy", "unknown flag --xyzzy; --help"),
        ("gpt2_ft", "--scheduler linaer", "must be one of linear, cosine, constant, cycle, but is 'linaer' (did you mean linear?)"),
        ("gpt2_ft", "--scheduler inv_sqrt", "--scheduler inv_sqrt is a constant rate in the recipe; say --scheduler constant"),
        ("gpt2_beam", "--lenght_penalty 1", "unknown flag --lenght_penalty (did you mean --length_penalty?)"),
        ("gpt2_export", "--to safetensor", "(did you mean safetensors?)"),
        ("download", "vocba", "command must be one of vocab, e2e, webnlg, dart, checkpoint, but is 'vocba' (did you mean vocab?)"),
        ("download", "checkpoint gpt2.mdd", "(did you mean gpt2.md?)"),
        ("download", "checkpoint gpt2.md --foldr x", "unknown flag --foldr (did you mean --folder?)"),
        ("download", "--foldr x checkpoint gpt2.md", "unknown flag --foldr"),
        ("gpt2_decode", "--ref_type webnl", "(did you mean webnlg?)"),
        ("compare", "run --fromat md", "unknown flag --fromat (did you mean --format?)"),
        ("measure_scores", "refs sys --bootstrp", "unknown flag --bootstrp (did you mean --bootstrap?)"),
        ("measure_scores", "refs sys --boot", "unknown flag --boot"),
        (TRIPLES, "refs sys --protocol webnlg", "(did you mean webnlg2017?)"),
    ],
)  # fmt: skip
def test_what_is_mistyped_gets_what_may_be_meant(program, words, says, capsys):
    assert says in refused(program, *words.split(), capsys=capsys)


def test_choices_that_are_errors_are_not_offered():
    shown = parser_of("gpt2_ft").format_help()
    assert "{linear,cosine,constant,cycle}" in shown
    assert "inv_sqrt" not in shown and "roll_lr" not in shown


def test_a_mistyped_card_gets_what_may_be_meant():
    for typed, meant in (("gpt2.mdd", "gpt2.md"), ("GPT2-mini", "gpt2.mini")):
        with pytest.raises(errors.UserError, match=rf"but is '{typed}' \(did you mean {meant}\?\)"):
            config.model_config(typed)


def test_a_dash_is_understood_as_an_underscore():
    """In any flag of any program, with = as well; not in what follows --, and not in values."""
    given = "--train-data a --valid_data b --lora-dim 8 --lora-alpha=1 --work-dir x-y --adam-epsilon 1 --local_rank 2"
    args = parser_of("gpt2_ft").parse_args(given.split())
    assert (args.train_data, args.lora_dim, args.lora_alpha, args.work_dir) == ("a", "8", 1.0, "x-y")
    assert (args.adam_epislon, args.local_rank) == (1.0, 2)
    scored = parser_of("measure_scores").parse_args("refs sys --seg_level segments --json=a-b".split())
    assert (scored.seg_level, scored.json) == (["segments"], "a-b")
    negative = parser_of("gpt2_beam").parse_args("--data a --length-penalty -0.5".split())
    assert negative.length_penalty == -0.5


def test_training_and_scorer_have_one_rule_for_mistakes():
    """Neither imports the other, so each has the file."""
    assert (ROOT / "eval/metrics/mistakes.py").read_text() == (ROOT / "src/lora_nlg/mistakes.py").read_text()
