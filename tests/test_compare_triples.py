"""A WebNLG or DART run beside the published scores: its halves, its protocol, and TER, of which less is better."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

import comparable
import compare
import published
import real_data
import recipe
import run_dir
import side_by_side
import task
import verdict
from test_compare import ROOT, SEARCH, TRAINING

SCORES = {"BLEU": 54.9, "METEOR": 0.412, "TER": 0.402}
HALVES = {"Unseen": {"BLEU": 46.0, "METEOR": 0.38, "TER": 0.47}, "Seen": {"BLEU": 62.0, "METEOR": 0.44, "TER": 0.34}}
STEPS = {"webnlg": 11_270, "dart": 39_165}
LESS = {"dropout": 0.0, "weight_decay": 0.0, "label_smooth": 0.0}  # DART's


def the_task(name: str) -> task.Task:
    return task.Task(name=name, scores=("BLEU", "METEOR", "TER"), published=name, slots=None, copied=None)


def a_run(name: str = "webnlg", halves: bool = True, protocol: str | None = "generation_eval", **scores) -> run_dir.Run:
    """Return a run of the paper's recipe on WebNLG or DART."""
    tests = comparable.TEST_SETS[name]
    signature = {
        "inputs": tests.inputs,
        "references": 6,
        "references_sha256": tests.references[0],
        "protocol": protocol,
    }
    system = {"file": "x/prediction.txt", "scores": SCORES | scores}
    if halves and name == "webnlg":
        parts = HALVES | {"All": system["scores"]}
        system["splits"] = {part: {"inputs": 9, "scores": of_part} for part, of_part in parts.items()}
    training = copy.deepcopy(TRAINING)
    for section in training["settings"].values():
        if isinstance(section, dict) and name == "dart":
            section |= {key: value for key, value in LESS.items() if key in section}
    training["settings"]["optim"]["max_step"] = STEPS[name]
    return run_dir.Run(Path("x"), system, signature, training, {"settings": {"search": dict(SEARCH)}}, [])


def compared(run: run_dir.Run, name: str = "webnlg") -> dict:
    return compare.compare(run, comparable.TEST_SETS[name].inputs, the_task(name))


def row(result: dict, system: str) -> dict:
    return next(row for row in result["rows"] if row["system"] == system)


# Tables


def test_halves_stand_side_by_side():
    result = compared(a_run())
    assert result["columns"] == [f"{metric}{end}" for metric in SCORES for end in ("_U", "_S", "")]
    header, halves, own, *_ = side_by_side.as_text(result).splitlines()
    assert (header.split(), halves.split()) == (["BLEU", "METEOR", "TER"], list("USAUSAUSA"))
    figures = ["46.00", "62.00", "54.90", "0.3800", "0.4400", "0.4120", "0.4700", "0.3400", "0.4020"]
    assert own.removeprefix("this run").split() == [*figures, "generation_eval"]
    [paper] = [line for line in side_by_side.as_text(result).splitlines() if line.startswith("paper, LoRA (Table 14) ")]
    figures = "46.70 62.10 55.30 0.3800 0.4400 0.4100 0.4600 0.3300 0.3900".split()
    assert paper.removeprefix("paper, LoRA (Table 14)").split()[:9] == figures


def test_halves_have_names_in_the_other_forms():
    result = compared(a_run())
    names = [f"{metric}_{half}" for metric in SCORES for half in "USA"]
    assert side_by_side.as_tsv(result).splitlines()[0].split("\t") == ["system", *names, "method", "protocol", "source"]
    assert side_by_side.as_markdown(result).startswith(f"| | {' | '.join(names)} | method | protocol | source |")
    assert json.loads(side_by_side.as_json(result))["run"]["BLEU_U"] == 46.0


def test_adamix_has_all_inputs_alone():
    result = compared(a_run())
    adamix = row(result, "AdaMix LoRA")
    assert (adamix["BLEU"], adamix["BLEU_U"], adamix["METEOR"], adamix["TER"]) == (55.64, None, None, 0.39)
    assert set(adamix["difference"]) == {"BLEU", "TER"}
    [line] = [line for line in side_by_side.as_text(result).splitlines() if line.startswith("AdaMix LoRA")]
    assert line.removeprefix("AdaMix LoRA").split()[:9] == ["-", "-", "55.64", *"-----", "0.3900"]


def test_a_run_without_halves_is_held_against_all():
    result = compared(a_run(halves=False))
    own = side_by_side.as_text(result).splitlines()[2]
    assert own.removeprefix("this run").split()[:3] == ["-", "-", "54.90"]
    assert any("step 06 makes the others" in note for note in result["notes"])


def test_dart_has_no_halves():
    result = compared(a_run("dart"), "dart")
    assert result["columns"] == list(SCORES)
    assert side_by_side.as_text(result).splitlines()[0].split() == list(SCORES)
    assert row(result, "paper, LoRA (Table 13)")["BLEU"] == 47.1


# The verdict


def test_where_a_run_stands_and_that_less_ter_is_better():
    assert compared(a_run())["verdict"] == (
        "BLEU 54.90 is 0.47 below the one public run's 55.37 and 0.40 below the paper's 55.30 (Table 14); "
        "METEOR 0.4120 is at the paper's 0.4100; TER 0.4020 is 0.0120 above (worse than) the paper's 0.3900; "
        "nothing in its records is unlike the recipe."
    )
    assert "TER 0.3700 is 0.0200 below (better than) the paper's 0.3900" in compared(a_run(TER=0.37))["verdict"]
    assert "TER 0.3940 is at the paper's 0.3900" in compared(a_run(TER=0.394))["verdict"]


def test_a_difference_of_ter_is_signed_as_every_other():
    """And it is said that below zero is a gain."""
    result = compared(a_run(TER=0.37))
    assert row(result, "paper, LoRA (Table 14)")["difference"]["TER"] == pytest.approx(-0.02)
    assert any("TER: less is better" in note for note in result["notes"])


def test_the_papers_deviation_is_at_the_paper():
    assert "at the paper's 55.30" in compared(a_run(BLEU=55.1))["verdict"]
    assert "below the paper's 55.30" in compared(a_run(BLEU=55.09))["verdict"]


def test_a_point_of_bleu_is_not_called_off():
    for bleu, word in (
        (54.31, "unlike the recipe"),
        (54.29, "the likely reason"),
        (56.36, "unlike"),
        (56.38, "the likely"),
    ):
        run = a_run(BLEU=bleu)
        run.decoding["settings"]["search"]["beam"] = 5
        assert f"; {word}" in compared(run)["verdict"], bleu


@pytest.mark.parametrize(
    ("protocol", "says"), [("dart", "by the protocol dart."), (None, "that scores.json does not name")]
)
def test_the_protocol_is_said_and_that_the_papers_is_not_known(protocol, says):
    result = compared(a_run(protocol=protocol))
    assert says in result["notes"][0] and "cannot be read off for sure" in result["notes"][0]
    assert row(result, "paper, LoRA (Table 14)")["protocol"] == "not known for sure"
    assert result["notes"][0] in side_by_side.as_text(result)
    assert result["notes"][0] in side_by_side.as_markdown(result)


def test_full_fine_tuning_is_held_against_the_papers():
    run = a_run(BLEU=46.5)
    run.training["settings"]["lora"]["rank"] = 0
    result = compared(run)
    assert [row["system"] for row in result["rows"] if row["is_judge"]] == ["paper, full fine-tuning (Table 14)"]
    assert "at the paper's 46.50" in result["verdict"]


def test_a_model_that_nothing_is_published_of():
    run = a_run()
    run.training["settings"]["model"] = {"n_embd": 768, "n_layer": 12}
    result = compared(run)
    assert result["verdict"] == "BLEU 54.90: nothing is published for GPT-2 S and LoRA of rank 4."
    assert side_by_side.as_text(result).splitlines()[1].split() == list("USAUSAUSA")


# What may be compared


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"inputs": 891}, "only 891 of the test set's 1862 inputs are scored"),
        ({"references_sha256": "0"}, "other references than those of step 5 or the formatted test file"),
        ({"references_sha256": None}, "does not say which references"),
    ],
)
def test_other_inputs_and_references_are_refused(changed, says):
    run = a_run()
    run.signature.update(changed)
    result = compared(run)
    assert says in result["why_not"] and result["rows"] == []
    assert not any("protocol" in note for note in result["notes"])


def test_e2es_references_are_not_webnlgs():
    run = a_run("dart")
    assert "not WebNLG's 1862" in comparable.why_not(run, None, "webnlg")


@real_data.needs("webnlg", "dart")
@pytest.mark.parametrize("name", ["webnlg", "dart"])
def test_the_references_are_those_of_step_5_and_of_the_formatted_file(name, tmp_path):
    """As gpt2_decode.py writes them with the task's flags, and as the scorer reads both."""
    import gpt2_decode
    from lora_nlg.tasks import TASKS, formatted
    from metrics import results, triples

    raw = real_data.folder(name) / {"webnlg": "test.json", "dart": "dart-v1.1.1-full-test.json"}[name]
    lines = [{"context": c, "completion": text} for c, text, *_ in TASKS[name].read_raw(raw)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = gpt2_decode.parser().parse_args([*TASKS[name].decode_flags, *(f"--{flag}=x" for flag in REQUIRED)])
    groups: dict[str, list[str]] = {}
    for line in lines:
        text = formatted.standardise(formatted.clean(line["completion"]), flags.tokenize, flags.lower)
        groups.setdefault(line["context"], []).append(text)
    decoded = [formatted.Group(texts, "") for texts in groups.values()]
    gpt2_decode.write_folder(decoded, str(tmp_path / "out"), tmp_path / "references", flags.ref_num)
    read = [triples.read_references(str(tmp_path / file)).groups for file in ("references", "test.jsonl")]
    assert tuple(map(results.references_sha256, read)) == comparable.TEST_SETS[name].references


REQUIRED = ("sample_file", "input_file", "output_ref_file", "output_pred_file")


# The recipe


@pytest.mark.parametrize("name", ["webnlg", "dart"])
def test_the_papers_settings_are_each_tasks_own(name):
    assert recipe.departures(a_run(name), name) == []
    other = {"webnlg": "dart", "dart": "webnlg"}[name]
    wrong = recipe.departures(a_run(name), other)
    assert any("examples trained on" in one for one in wrong)
    assert any("dropout" in one for one in wrong) and any("label_smooth" in one for one in wrong)


@pytest.mark.parametrize("name", ["webnlg", "dart"])
def test_the_presets_are_the_recipe(name):
    script = f'source scripts/presets/{name}_gpt2_md.sh; echo "${{LORA[*]}} ${{TRAIN[*]}} ${{DECODE[*]}}"'
    flags = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    given = {flag[2:]: value for flag, value in zip(flags, [*flags[1:], ""], strict=True) if flag.startswith("--")}
    otherwise = {key: value for section in recipe.OTHERWISE[name].values() for key, value in section.items()}
    flag = {"dropout": "lora_dropout"}
    assert {key: float(given[flag.get(key, key)]) for key in otherwise} == {
        key: value[0] for key, value in otherwise.items()
    }


def test_tables_have_a_name_for_each_task_and_nothing_above_their_scale():
    from lora_nlg.tasks import TASKS

    assert {row.published for row in TASKS.values() if row.published} == set(published.TABLES) == set(verdict.SPREAD)
    for name in ("webnlg", "dart"):
        assert TASKS[name].published == name
        for line in published.read(name):
            assert all(0 < value < (100 if column.startswith("BLEU") else 1) for column, value in line.scores.items())


# The programs


def test_the_program_reads_the_task_beside_the_data(tmp_path):
    """task.json as step 2 writes it, scores.json as the scorer does."""
    run = a_run()
    lines = [json.dumps({"context": f"a : b : {i}", "completion": "x"}) for i in range(1862)]
    (tmp_path / "test_formatted.jsonl").write_text("\n".join(lines) + "\n")
    described = [sys.executable, ROOT / "src/describe_task.py", "webnlg", "--output", tmp_path / "task.json"]
    subprocess.run(list(map(str, described)), check=True)
    (tmp_path / "scores.json").write_text(json.dumps({"systems": [run.system], "signature": run.signature}))
    (tmp_path / "run.json").write_text(json.dumps(run.training))
    flags = ["--data", str(tmp_path / "test_formatted.jsonl"), "--format", "json", "--output", str(tmp_path / "out")]
    assert compare.main([str(tmp_path), *flags]) == 0
    assert json.loads((tmp_path / "out").read_text())["verdict"].startswith("BLEU 54.90 is 0.47 below")
