"""A run beside the published scores: what may be compared, the verdict, and the forms of the table."""

import copy
import csv
import hashlib
import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest

import comparable
import compare
import published
import real_data
import recipe
import run_dir
import side_by_side
from metrics.errors import UserError
from metrics.scores import METRICS
from verdict import SPREAD

ROOT = Path(__file__).resolve().parents[1]
SCORES = {"BLEU": 0.6955, "NIST": 8.7445, "METEOR": 0.4652, "ROUGE_L": 0.7165, "CIDEr": 2.4902}
SYSTEM = {"file": "x/prediction.txt", "empty_outputs": 0, "scores": SCORES}
SIGNATURE = {"segments": 630, "references_sha256": comparable.REFERENCES}
TRAINING = {
    "argv": ["--init_checkpoint", "pretrained_checkpoints/gpt2-medium"],
    "settings": {
        "model": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
        "lora": {"rank": 4, "alpha": 32.0, "dropout": 0.1},
        "optim": {
            **{
                "lr": 0.0002,
                "max_step": 26290,
                "weight_decay": 0.01,
                "correct_bias": True,
                "beta1": 0.9,
                "beta2": 0.999,
            },
            **{"epsilon": 1e-6, "scheduler": "linear", "warmup_step": 500, "grad_acc": 1, "clip": 0.0},
        },
        "train": {
            **{"train_batch_size": 8, "seq_len": 512, "objective": "clm", "label_smooth": 0.1, "random_seed": 110},
            **{"precision": "fp32", "log_interval": 100},
        },
        "world_size": 1,
    },
    "valid_loss": 1.17,
}
SEARCH = {
    **{"beam": 10, "eval_len": 64, "min_length": 0, "length_penalty": 0.8, "no_repeat_ngram_size": 4},
    **{"repetition_penalty": 1.0, "eos_token_ids": [50256, 628]},
}


def a_run(bleu=0.6955, log=(), **changed) -> run_dir.Run:
    """Return a run of the public recipe, but for settings named SECTION__NAME and signature__NAME."""
    training, search, signature = copy.deepcopy(TRAINING), dict(SEARCH), dict(SIGNATURE)
    sections = {**training["settings"], "search": search, "signature": signature}
    for name, value in changed.items():
        section, _, key = name.partition("__")
        sections[section][key] = value
    system = {**SYSTEM, "scores": {**SCORES, "BLEU": bleu}}
    return run_dir.Run(Path("x"), system, signature, training, {"settings": {"search": search}}, list(log))


def verdict(*args, **changed) -> str:
    return compare.compare(a_run(*args, **changed))["verdict"]


# What may be compared


def test_the_recipe_may_be_compared():
    result = compare.compare(a_run())
    assert (result["comparable"], result["why_not"], result["band"]) == (True, None, [0.6865, 0.698])
    [paper] = [row for row in result["rows"] if row["kind"] == "paper" and row["is_judge"]]
    assert (paper["BLEU"], paper["deviations"]["BLEU"]) == (0.704, 0.001)
    assert paper["difference"]["BLEU"] == pytest.approx(-0.0085)
    assert [row["BLEU"] for row in result["rows"] if row["kind"] == "rank"] == [0.7038]


@pytest.mark.parametrize(
    ("changed", "inputs", "says"),
    [
        ({"model__n_embd": 256, "model__n_layer": 4}, None, "its base, 4 layers of width 256, is not one of GPT-2 S"),
        ({"signature__segments": 72}, 72, "scored on 72 inputs that are not E2E's 630"),
        ({"signature__segments": 200}, 630, "only 200 of the test set's 630 inputs are scored"),
        ({"signature__segments": 200}, None, "scored on 200 inputs that are not E2E's 630"),
        ({"signature__references_sha256": "0"}, 630, "other references than the recipe's tokenised ones"),
        ({"signature__references_sha256": None}, 630, "does not say which references"),
    ],
)
def test_what_is_not_comparable_is_refused_with_its_own_scores(changed, inputs, says):
    result = compare.compare(a_run(**changed), inputs)
    assert says in result["why_not"]
    assert result["verdict"] == f"Not to be compared with the paper: {result['why_not']}."
    assert (result["comparable"], result["rows"], result["band"]) == (False, [], None)
    shown = side_by_side.as_text(result)
    assert "0.6955" in shown
    assert "0.7040" not in shown


def test_every_reason_is_named():
    assert comparable.why_not(a_run(model__n_layer=4, signature__segments=72)).count(", and ") == 1


@pytest.mark.parametrize("argv", [["--init_checkpoint", "random"], ["--init_checkpoint=random"]])
def test_random_weights_are_no_gpt2(argv):
    run = a_run()
    run.training["argv"] = argv
    assert comparable.why_not(run) == "its base has random weights"


def test_without_a_record_of_the_training_nothing_is_guessed():
    run = run_dir.Run(Path("x"), SYSTEM, SIGNATURE, {}, {"settings": {"search": SEARCH}}, [])
    assert "no run.json" in comparable.why_not(run)


# The verdict


@pytest.mark.parametrize(
    ("bleu", "where"),
    [
        (0.6865, "is inside the band of public runs (0.6865 to 0.6980) and 0.0175 below the paper's 0.7040 (Table 3)"),
        (0.69801, "is inside the band"),  # what the table shows is what counts
        (0.6999, "is 0.0019 above the band of public runs (0.6865 to 0.6980) and 0.0041 below the paper's"),
        (0.7030, "is 0.0050 above the band of public runs (0.6865 to 0.6980) and at the paper's 0.7040"),
        (0.7051, "is 0.0071 above the band of public runs (0.6865 to 0.6980) and 0.0011 above the paper's"),
        (0.6864, "is 0.0001 below the band"),
        (0.0, "is 0.6865 below the band"),
    ],
)
def test_where_a_run_stands(bleu, where):
    assert f"BLEU {bleu:.4f} {where}" in verdict(bleu)


def test_a_run_of_the_recipe_has_no_reason():
    for bleu in (0.6955, 0.5):
        assert verdict(bleu).endswith("; nothing in its records is unlike the recipe.")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"search__length_penalty": 1.0}, "length_penalty 1.0 instead of 0.8 or 0.9"),
        ({"search__eos_token_ids": [50256]}, "eos_token_ids [50256] instead of [50256, 628]"),
        ({"lora__alpha": 128.0}, "LoRA alpha 128.0 instead of 32"),
        ({"lora__targets": ["q", "k"]}, "LoRA targets ['q', 'k'] instead of ['q', 'v']"),
        ({"lora__layers": [0, 1]}, "LoRA layers [0, 1] instead of all"),
        ({"train__label_smooth": 0.0}, "label_smooth 0.0 instead of 0.1"),
        ({"optim__correct_bias": False}, "correct_bias False instead of True"),
        ({"optim__max_step": 1000}, "8,000 examples trained on instead of 210,320"),
        ({"train__train_batch_size": 32, "optim__max_step": 6573}, "32 examples an update instead of 8"),
    ],
)
def test_what_is_unlike_the_recipe_is_the_likely_reason(changed, reason):
    assert verdict(0.60, **changed).endswith(f"; the likely reason: {reason}.")
    assert verdict(0.69, **changed).endswith(f"; unlike the recipe: {reason}.")


def test_seeds_spread_is_not_called_off():
    assert "; unlike the recipe: LoRA alpha" in verdict(0.6836, lora__alpha=8)
    assert "; the likely reason: LoRA alpha" in verdict(0.6834, lora__alpha=8)
    assert "; unlike the recipe: LoRA alpha" in verdict(0.7069, lora__alpha=8)
    assert "; the likely reason: LoRA alpha" in verdict(0.7071, lora__alpha=8)


@pytest.mark.parametrize("penalty", [0.8, 0.9])
def test_both_length_penalties_are_the_recipes(penalty):
    assert recipe.departures(a_run(search__length_penalty=penalty)) == []


def test_four_processes_with_a_quarter_of_the_batch_are_the_recipe():
    run = a_run(train__train_batch_size=2, optim__max_step=26289)
    run.training["settings"]["world_size"] = 4
    assert recipe.departures(run) == []


def test_another_rank_is_held_against_its_own_line_of_table_18():
    result = compare.compare(a_run(0.6957, lora__rank=8))
    assert result["band"] == [0.7057, 0.7057]
    assert [row["BLEU"] for row in result["rows"] if row["is_judge"]] == [0.704, 0.6957, 0.7057]
    assert [row["BLEU"] for row in result["rows"] if row["kind"] == "rank"] == [0.6957]
    assert "is 0.0100 below the one public run's 0.7057 and at the paper's 0.6957 (Table 18); " in result["verdict"]
    assert "unlike the recipe: LoRA rank 8 instead of 4" in result["verdict"]
    assert "is at the one public run's 0.7057 and 0.0100 above the paper's" in verdict(0.7057, lora__rank=8)
    assert "nothing is published for GPT-2 M and LoRA of rank 3" in verdict(0.69, lora__rank=3)


def test_full_fine_tuning_is_held_against_the_papers():
    result = compare.compare(a_run(0.682, lora__rank=0, train__label_smooth=0.0))
    assert [row["system"] for row in result["rows"] if row["is_judge"]] == ["paper, full fine-tuning (Table 3)"]
    assert (
        result["verdict"]
        == "BLEU 0.6820 is at the paper's 0.6820 (Table 3); nothing in its records is unlike the recipe."
    )


def test_full_fine_tuning_has_a_recipe_for_decoding():
    assert verdict(0.6, lora__rank=0, search__beam=1).endswith("; the likely reason: beam 1 instead of 10.")


def test_a_model_that_the_paper_has_not(tmp_path):
    result = compare.compare(a_run(0.68, model__n_embd=768, model__n_layer=12))
    assert result["band"] == [0.6727, 0.6941]
    assert "inside the band of public runs (0.6727 to 0.6941); nothing" in result["verdict"]


def test_scores_that_are_not_published_are_dashes():
    result = compare.compare(a_run(0.7, model__n_embd=1280, model__n_layer=36))
    nola = next(row for row in result["rows"] if row["system"] == "NOLA paper's LoRA, r = 1")
    assert set(nola["difference"]) == {"BLEU", "METEOR", "ROUGE_L"}
    [line] = [line for line in side_by_side.as_text(result).splitlines() if line.startswith(nola["system"])]
    assert line.removeprefix(nola["system"]).split()[:5] == ["0.6990", "-", "0.4670", "0.7160", "-"]


# Other methods, and what came after the paper


SMALL = {"model__n_embd": 768, "model__n_layer": 12}


def of_method(name: str, bleu=0.6955, trained=None, **fields) -> dict:
    """Return the comparison of a run of another method, whose settings are in a section of its name."""
    run = a_run(bleu)
    del run.training["settings"]["lora"]
    run.training["settings"][name] = fields
    if trained:
        run.training["trained_parameters"] = trained
    return compare.compare(run)


def judges(result: dict) -> list[str]:
    return [row["system"] for row in result["rows"] if row["is_judge"]]


def test_vera_is_held_against_veras_own():
    """Whatever its rank, and never against full fine-tuning's."""
    result = of_method("vera", 0.6990, rank=256)
    assert judges(result) == ["VeRA"]
    assert result["verdict"].startswith("BLEU 0.6990 is 0.0020 below VeRA's 0.7010 (Tables 3 and 10, 0.098M); nothing")


@pytest.mark.parametrize(
    ("trained", "paper"), [(368_784, "0.6630 (Table 3, 0.37M)"), (11_089_152, "0.6890 (Table 3, 11.09M)")]
)
def test_adapters_are_held_against_those_of_their_size(trained, paper):
    result = of_method("adapter_l", 0.70, trained, size=6)
    assert judges(result) == ["paper, Adapter-L, 0.37M", "paper, Adapter-L, 11.09M"]
    assert f"above the paper's {paper}" in result["verdict"]


def test_a_method_that_nothing_is_published_of():
    result = of_method("lora+prefix_embed", rank=4)
    assert judges(result) == []
    assert result["verdict"] == "BLEU 0.6955: nothing is published for GPT-2 M and LoRA and PreEmbed of rank 4."


def test_rows_by_another_protocol_do_not_count_for_the_recipe():
    """Settings tuned, another optimiser, code of one's own: they stand in the table, and neither in the band nor in the verdict."""
    for changed, outside in (
        ({}, "LoRA, SGD"),
        ({}, "FourierFT paper's LoRA, 3 seeds"),
        (SMALL, "a user's own code, baseline"),
    ):
        result = compare.compare(a_run(**changed))
        [row] = [row for row in result["rows"] if row["system"] == outside]
        assert row["method"] == "LoRA" and row["protocol"] and not row["is_judge"]
        assert row["BLEU"] < result["band"][0] or outside.startswith("FourierFT")


def test_the_papers_rows_come_first_then_method_by_method():
    rows = compare.compare(a_run())["rows"]
    kinds = [{"paper": 0, "rank": 1}.get(row["kind"], 2) for row in rows]
    assert kinds == sorted(kinds)
    since = [row["method"] for row in rows if row["kind"] in ("public", "since")]
    assert [name for name, _ in itertools.groupby(since)] == list(dict.fromkeys(since))
    assert (rows[0]["system"], since[0], since[-1]) == ("paper, LoRA (Table 3)", "LoRA", "FedLoRA")


def test_empty_outputs_and_an_unfinished_training_are_reasons():
    run = a_run(0.5, log=[{"step": 100, "avg_loss": 5.56}])
    run.system["empty_outputs"] = 7
    del run.training["valid_loss"]
    assert compare.compare(run)["verdict"].endswith("reason: a training that did not finish, 7 empty outputs.")


def test_an_early_end_is_a_reason():
    """The schedule's length, which is the recipe's, does not tell. Fails when its end is taken for the run's."""
    run = a_run(0.5, log=[{"early_stop": {"step": 5258, "select": "loss", "best": 1.2, "validations": 3}}])
    assert compare.compare(run)["verdict"].endswith("reason: an early end at step 5,258.")


# The published curve


@pytest.fixture
def curve(tmp_path, monkeypatch):
    path = tmp_path / "curve.tsv"
    path.write_text("step\tlr\tloss_a\tavg_loss_a\n100\t4e-05\t5.17\t5.56\n200\t8e-05\t3.21\t3.75\n")
    monkeypatch.setattr(recipe, "CURVE", path)
    return path


def log(*losses):
    return [*({"step": 100 * i, "avg_loss": loss} for i, loss in enumerate(losses, 1)), {"eval": {"step": 200}}]


def test_leaving_the_curve_is_a_reason(curve):
    assert recipe.off_curve(a_run(log=log(5.60, 3.71, 9.9))) is None  # nothing is published for the third
    left = "average loss 3.81 at step 200, where public runs have 3.75"
    assert recipe.off_curve(a_run(log=log(5.56, 3.81))) == left
    assert verdict(0.6, log=log(5.56, 3.81)).endswith(f"the likely reason: {left}.")
    assert "average loss nan" in recipe.off_curve(a_run(log=log(float("nan"))))


@pytest.mark.parametrize(
    "changed", [{"train__random_seed": 111}, {"train__log_interval": 50}, {"train__train_batch_size": 4}]
)
def test_the_curve_is_of_its_own_seed_and_intervals(curve, changed):
    assert recipe.off_curve(a_run(log=log(1.0), **changed)) is None


def test_the_curve_is_of_gpt2_medium(curve):
    assert "nothing in its records" in verdict(0.6, log=log(1.0), model__n_embd=768, model__n_layer=12)


@pytest.mark.parametrize("settings", [{"lora": {"rank": 0}}, {"lora": None, "vera": {"rank": 1024}}])
def test_the_curve_is_of_lora(curve, settings):
    run = a_run(0.6, log=log(1.0))
    run.training["settings"] |= settings
    assert "nothing in its records" in compare.compare(run)["verdict"]


def test_without_the_curve_nothing_is_said_of_it(curve):
    curve.unlink()
    assert recipe.off_curve(a_run(log=log(1.0))) is None


# The data


def test_published_rows_are_complete_and_on_one_scale():
    rows = published.read()
    kinds = [(row.model, row.kind) for row in rows]
    for kind, number in {("GPT-2 M", "paper"): 7, ("GPT-2 L", "paper"): 5, ("GPT-2 M", "rank"): 11}.items():
        assert kinds.count(kind) == number
    assert kinds.count(("GPT-2 M", "public")) == 12
    assert len({(row.model, row.system) for row in rows}) == len(rows)
    for row in rows:
        assert row.source
        assert set(row.scores) in ({"BLEU", "METEOR", "ROUGE_L"}, set(METRICS))
        assert set(row.deviations) in (set(), set(METRICS))
        assert (row.kind in ("public", "since")) == bool(row.protocol)
        assert (row.kind == "rank") == (row.valid_loss is not None)
        for metric, value in row.scores.items():
            assert 0 <= value < (10 if metric in ("NIST", "CIDEr") else 1)
    spread = max(row.deviations.get("BLEU", 0) for row in rows if row.method == "LoRA")
    assert spread == SPREAD["e2e"]


@real_data.needs("PAPER.md", "published")
def test_published_rows_are_the_collected_ones():
    """Every row's scores, deviations and validation loss stand together in one line of the collection, in per cent or not."""
    files = [real_data.folder("PAPER.md"), real_data.folder("published") / "e2e_since_the_paper.tsv"]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    collected = [{float(number) for number in re.findall(r"\d*\.?\d+", line)} for line in lines]
    for row in published.read():
        numbers = [*row.scores.values(), *row.deviations.values(), row.valid_loss or 0.0]
        ways = [{round(number, 6), round(100 * number, 6)} for number in numbers if number]
        assert any(all(way & line for way in ways) for line in collected), row


def collected(name: str) -> list[dict[str, str]]:
    with open(real_data.folder("published") / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@real_data.needs("published")
def test_each_row_since_the_paper_is_there_once():
    """With model, method, rank, size, every score and every deviation, on this project's scale."""
    theirs = collected("e2e_since_the_paper.tsv")
    assert len(theirs) == 49
    per_cent = {"BLEU", "METEOR", "ROUGE_L"}
    rows = [
        (row.model, row.method, str(row.rank or ""), row.trained, row.scores, row.deviations)
        for row in published.read()
    ]
    for row in theirs:
        scores, deviations = (
            {m: round(float(row[m + end]) / (100 if m in per_cent else 1), 6) for m in METRICS if row[m + end]}
            for end in ("", "_sd")
        )
        found = (row["model"], row["method"], row["rank"], row["trained"], scores, deviations)
        assert rows.count(found) == 1, found


@real_data.needs("published")
def test_each_row_of_webnlg_and_dart_is_there_once():
    theirs = collected("webnlg_dart.tsv")
    assert len(theirs) == 28
    ours = {
        of: [(row.model, row.trained, row.scores, row.deviations) for row in published.read(of)]
        for of in ("webnlg", "dart")
    }
    for row in theirs:
        scores = {
            metric + end: float(row[theirs_is + mark])
            for metric, theirs_is in (("BLEU", "BLEU"), ("METEOR", "MET"), ("TER", "TER"))
            for end, mark in (("", ""), ("", "_A"), ("_U", "_U"), ("_S", "_S"))
            if row[theirs_is + mark]
        }
        ends = ("_U", "_S", "") if "/" in row["BLEU_sd"] else ("",)
        spread = {
            f"BLEU{end}": float(value) for end, value in zip(ends, row["BLEU_sd"].split("/"), strict=True) if value
        }
        assert ours[row["dataset"].lower()].count((row["model"], row["trained"], scores, spread)) == 1, row
    assert sum(map(len, ours.values())) == 28


def test_the_preset_is_the_recipe(tmp_path):
    """The two places that hold the recipe say the same: the preset's flags, parsed as the programs do, depart in nothing."""
    import gpt2_beam
    import gpt2_ft
    from lora_nlg import config
    from lora_nlg.methods import placement

    script = 'source scripts/presets/e2e_gpt2_md.sh; printf \'%s\\n\' "${LORA[@]}" "${TRAIN[@]}" -- "${DECODE[@]}"'
    flags = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    train, decode = flags[: flags.index("--")], flags[flags.index("--") + 1 :]
    args = gpt2_ft.parser().parse_args([*train, "--train_data", "x", "--valid_data", "x", "--init_checkpoint", "x"])
    t, lora = vars(args), vars(placement.from_flags(args, config.model_config(args.model_card)))
    d = vars(gpt2_beam.parser().parse_args([*decode, "--data", "x", "--init_checkpoint", "x"]))
    named = {"beta1": "adam_beta1", "beta2": "adam_beta2", "epsilon": "adam_epislon", "objective": "obj"}
    changed = {f"lora__{name}": list(value) if name == "targets" else value for name, value in lora.items()}
    for section, of in (("optim", t), ("train", t), ("search", d)):
        for name in recipe.RECIPE[section].keys() - {"precision", "eos_token_ids"}:
            changed[f"{section}__{name}"] = of[named.get(name, name)]
    assert len(changed) > 20
    assert recipe.departures(a_run(**changed, search__eos_token_ids=[50256, *d["eos_token_id"]])) == []


# The program


@pytest.fixture
def folder(tmp_path):
    system = {**SYSTEM, "intervals": {metric: [value - 0.01, value + 0.01] for metric, value in SCORES.items()}}
    base = {"file": "x/base.txt", "empty_outputs": 0, "scores": dict.fromkeys(METRICS, 0.0)}
    (tmp_path / "scores.json").write_text(json.dumps({"systems": [base, system], "signature": SIGNATURE}))
    (tmp_path / "run.json").write_text(json.dumps(TRAINING))
    (tmp_path / "beam_prediction.run.json").write_text(json.dumps({"settings": {"search": SEARCH}}))
    return tmp_path


def test_text_has_scores_intervals_and_differences(folder, capsys):
    assert compare.main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    width = lines[0].index("BLEU") - 4  # a column has 8 letters
    rows = {line[:width].strip(): line[width : width + 5 * 9].split() for line in lines}
    assert rows["this run"] == ["0.6955", "8.7445", "0.4652", "0.7165", "2.4902"]
    assert rows["this run, 95 % interval from"][0] == "0.6855"
    assert rows["paper, LoRA (Table 3)"] == ["0.7040", "8.8500", "0.4680", "0.7180", "2.5300"]
    assert rows["paper, LoRA (Table 3), ±"] == ["0.0010", "0.0200", "0.0020", "0.0010", "0.0200"]
    assert rows["this run - paper, LoRA (Table 3)"] == ["-0.0085", "-0.1055", "-0.0028", "-0.0015", "-0.0398"]
    assert any(line.startswith("BLEU 0.6955 is inside the band") for line in lines)


def test_nothing_is_below_zero_by_nothing():
    comparison = {"published": "e2e", "columns": ["BLEU", "NIST", "METEOR"]}
    line = side_by_side.Line("x", {"BLEU": -0.00001, "NIST": None}, form="+")
    assert side_by_side.cells(line, comparison) == ["+0.0000", "-", "-"]


def test_tables_for_pages_and_programs(folder, capsys):
    compare.main([str(folder), "--format", "tsv"])
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["system", *METRICS, "method", "protocol", "source"]
    assert {len(row) for row in rows} == {9}
    compare.main([str(folder), "--format", "md"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {10}
    assert len(lines) == len(rows) + 1
    scores = "0.6865 | 8.6808 | 0.4638 | 0.7116 | 2.5030"
    assert f"| public run, V100 | {scores} | LoRA | the public recipe | github.com/microsoft/LoRA issue 165 |" in lines


def test_json_is_the_comparison(folder, tmp_path, capsys):
    assert compare.main([str(folder), "--format", "json", "--output", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().out == ""
    result = json.loads((tmp_path / "out.json").read_text())
    described = {"published", "protocol", "columns", "notes"}
    assert set(result) == {"comparable", "why_not", "verdict", "band", "run", "intervals", "rows", *described}
    assert result["run"] == SCORES


def test_without_intervals_the_table_says_how_to_get_them(folder, capsys):
    (folder / "scores.json").write_text(json.dumps({"systems": [SYSTEM], "signature": SIGNATURE}))
    compare.main([str(folder)])
    assert "--bootstrap" in capsys.readouterr().out


def test_inputs_are_counted_once_each(folder, capsys):
    scored = {"systems": [SYSTEM], "signature": {"segments": 2}}
    (folder / "scores.json").write_text(json.dumps(scored))
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps({"context": f"name : {i % 630}"}) + "\n" for i in range(1000)))
    compare.main([str(folder), "--data", str(data)])
    assert "only 2 of the test set's 630 inputs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("scores.json", None, r"scores.json does not exist; run bash scripts/06_evaluate.sh --work_dir"),
        ("scores.json", '{"systems": []}', "no scores of one prediction.txt"),
        ("scores.json", "[]", "not a JSON object"),
        ("run.json", '{\n"a":', "run.json, line 2: not JSON"),
        ("log.jsonl", '{"step": 1}\n{"st', "log.jsonl, line 2: not JSON"),
        ("data.jsonl", '{"mr": 1}\n', 'not every line has a "context"'),
        ("data.jsonl", None, "cannot read .*data.jsonl"),
    ],
)
def test_a_file_that_does_not_serve_is_named(folder, name, text, says):
    (folder / "data.jsonl").write_text('{"context": "x"}\n')
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=says):
        compare.main([str(folder), "--data", str(folder / "data.jsonl"), "--output", str(folder / "out")])
    assert not (folder / "out").exists()


@real_data.needs("e2e", "scoring")
def test_a_real_system_is_inside_the_band(folder, score_once, monkeypatch):
    """Scored by measure_scores.py itself; against the official references the same outputs are refused."""
    import measure_scores
    from metrics import scores

    monkeypatch.setattr(scores, "score", score_once)
    groups: dict[str, list[str]] = {}
    for line in (real_data.folder("e2e") / "test.txt").read_text(encoding="utf-8").splitlines():
        source, _, reference = line.strip().partition("||")
        groups.setdefault(source, []).append(reference)
    references = folder / "reference.txt"
    references.write_text("".join("\n".join(group) + "\n\n" for group in groups.values()), encoding="utf-8")
    assert hashlib.sha256(references.read_bytes()).hexdigest() == comparable.REFERENCES
    outputs = folder / "prediction.txt"
    outputs.write_bytes((real_data.folder("scoring") / "lora_gpt2md.txt").read_bytes())
    for path, says in (
        (references, "inside the band"),
        (real_data.folder("scoring") / "official_test_refs.txt", "other references"),
    ):
        measure_scores.main([str(path), str(outputs), "-p", "--bootstrap", "--json", str(folder / "scores.json")])
        assert says in compare.compare(run_dir.read_run(folder))["verdict"]
