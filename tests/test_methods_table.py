"""The table of methods: what is one row, which training is the best, what is published beside."""

import json

import pytest

import methods_table
from metrics import errors

SCORES = {"BLEU": 0.5, "NIST": 5.0, "METEOR": 0.3, "ROUGE_L": 0.5, "CIDEr": 1.0}


@pytest.fixture
def a_run(tmp_path):
    """A function that writes a finished run's folder."""

    def write(name: str, section: dict, seed: int, bleu: float, valid_loss: float = 1.0):
        folder = tmp_path / name
        folder.mkdir()
        scored = {
            "systems": [{"file": "prediction.txt", "scores": {**SCORES, "BLEU": bleu}}],
            "signature": {"segments": 72},
        }
        (folder / "scores.json").write_text(json.dumps(scored))
        settings = {
            "model": {"n_embd": 256, "n_layer": 4}, "optim": {"max_step": 400, "lr": 0.002}, **section,
            "train": {"train_batch_size": 16, "random_seed": seed},
        }  # fmt: skip
        record = {"settings": settings, "trained_parameters": 16384, "bytes_on_disk": 65536, "valid_loss": valid_loss,
                  "peak_memory": {"host_mib": 600.0}}  # fmt: skip
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "log.jsonl").write_text(json.dumps({"step": 1, "ms_per_batch": 20.0}) + "\n")
        return str(folder)

    return write


LORA, VERA = {"lora": {"rank": 4}}, {"vera": {"dim": 256}}


def test_seeds_are_one_row_and_methods_are_others(a_run, tmp_path, capsys):
    folders = [a_run("a", LORA, 110, 0.80), a_run("b", LORA, 111, 0.82), a_run("c", VERA, 110, 0.7)]
    (tmp_path / "paired").mkdir()
    test = {"paired": {"BLEU": {"difference": -0.1, "interval": [-0.2, 0.0], "p": 0.0312}}}
    (tmp_path / "paired/vera.json").write_text(json.dumps(test))
    figures = tmp_path / "methods.json"
    assert methods_table.main([*folders, "--paired", str(tmp_path / "paired"), "--json", str(figures)]) == 0
    shown = capsys.readouterr().out
    assert "| `lora` | 16,384 | 0.002 | 0.8100 ± .0141 |" in shown
    assert "| `vera` | 16,384 | 0.002 | 0.7000 |" in shown and "| 0.031 |" in shown
    written = json.loads(figures.read_text())
    assert [run["BLEU"] for run in written["methods"]["lora"]] == [0.80, 0.82]
    assert written["paired"]["vera"]["p"] == 0.0312


def test_a_table_grows_by_methods_and_seeds_that_were_run_elsewhere(a_run, tmp_path, capsys):
    """As from one set of runs, whichever part comes from an earlier table."""
    (tmp_path / "paired").mkdir()
    test = {"paired": {"BLEU": {"difference": -0.1, "interval": [-0.2, 0.0], "p": 0.0312}}}
    (tmp_path / "paired/vera.json").write_text(json.dumps(test))
    paired = ["--paired", str(tmp_path / "paired")]
    folders = [
        a_run(name, *rest)
        for name, *rest in (("a", LORA, 110, 0.8), ("b", LORA, 111, 0.82), ("c", VERA, 110, 0.7), ("d", VERA, 111, 0.6))
    ]
    assert methods_table.main([*folders, *paired]) == 0
    whole = capsys.readouterr().out
    parts = [tmp_path / "of_lora.json", tmp_path / "of_vera.json"]
    assert methods_table.main([folders[0], folders[1], "--json", str(parts[0])]) == 0
    assert methods_table.main([folders[2], *paired, "--json", str(parts[1])]) == 0
    capsys.readouterr()
    assert methods_table.main([folders[3], "--earlier", *map(str, parts)]) == 0
    assert capsys.readouterr().out == whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "lora with seed 110 is there twice; give each once"),
        ({"rate": 0.005, "seed": 111}, "lora has runs of rate 0.005 and 0.002; a row's runs differ in the seed alone"),
        ({"trained": 8192, "seed": 111}, "lora has runs of trained 8192 and 16384"),
        ({"seed": None}, "seed is None, not a whole number"),
        ({"BLEU": "high"}, "methods.lora.0.BLEU is 'high', not a number; run step methods.sh again"),
    ],
)
def test_an_earlier_table_that_does_not_fit_is_refused(change, says, a_run, tmp_path, capsys):
    folder, earlier = a_run("a", LORA, 110, 0.8), tmp_path / "earlier.json"
    assert methods_table.main([folder, "--json", str(earlier)]) == 0
    written = json.loads(earlier.read_text())
    written["methods"]["lora"][0].update(change)
    earlier.write_text(json.dumps(written))
    with pytest.raises(errors.UserError) as error:
        methods_table.main([folder, "--earlier", str(earlier)])
    assert says in str(error.value)


@pytest.mark.parametrize("runs", ["twice", "two rates", "none"])
def test_an_earlier_table_that_contradicts_itself_is_refused(runs, a_run, tmp_path, capsys):
    earlier = tmp_path / "earlier.json"
    assert methods_table.main([a_run("a", VERA, 110, 0.8), "--json", str(earlier)]) == 0
    written = json.loads(earlier.read_text())
    [run] = written["methods"]["vera"]
    others = {"twice": [run, run], "two rates": [run, {**run, "seed": 111, "rate": 1.0}], "none": []}
    written["methods"]["vera"] = others[runs]
    earlier.write_text(json.dumps(written))
    with pytest.raises(errors.UserError, match=r"earlier\.json"):
        methods_table.main([a_run("b", LORA, 110, 0.8), "--earlier", str(earlier)])


def test_runs_that_are_there_already_are_found_out_before_they_are_made(a_run, tmp_path, capsys):
    earlier = tmp_path / "earlier.json"
    assert methods_table.main([a_run("a", VERA, 110, 0.8), "--json", str(earlier)]) == 0
    assert methods_table.main(["--earlier", str(earlier), "--coming", "vera:111", "lora:110"]) == 0
    with pytest.raises(errors.UserError, match="has vera with seed 110 already; give other --methods or --seeds"):
        methods_table.main(["--earlier", str(earlier), "--coming", "lora:110", "vera:110"])
    with pytest.raises(errors.UserError, match="has vera already, whose rate is to be the same; give --rates_of"):
        methods_table.main(["--earlier", str(earlier), "--coming", "vera:111", "vera:any"])
    with pytest.raises(errors.UserError, match="no run is given"):
        methods_table.main([])


def test_a_loss_that_is_no_number_has_no_deviation(a_run, capsys):
    folders = [a_run("a", LORA, 110, 0.8, float("nan")), a_run("b", LORA, 111, 0.8, 1.0)]
    assert methods_table.main(folders) == 0
    assert "| nan ± nan |" in capsys.readouterr().out


def test_tables_of_other_presets_are_not_joined(a_run, tmp_path, capsys):
    folder, earlier = a_run("a", LORA, 110, 0.8), tmp_path / "earlier.json"
    assert methods_table.main([folder, "--json", str(earlier)]) == 0
    written = json.loads(earlier.read_text())
    written["of"]["steps"] = 800
    earlier.write_text(json.dumps(written))
    with pytest.raises(errors.UserError, match="has 800 steps, and these runs have 400; they make no one table"):
        methods_table.main([folder, "--earlier", str(earlier)])


def test_what_is_published_is_of_the_methods_that_were_trained(a_run, capsys):
    assert methods_table.main([a_run("a", LORA, 110, 0.8), a_run("b", {"bias": {}}, 110, 0.7)]) == 0
    shown = capsys.readouterr().out
    assert "paper, LoRA" in shown or "LoRA" in shown.split("Published of GPT-2 Medium")[1]
    assert "| BitFit | 14.2M | 71.3 |" in shown and "PreEmbed" not in shown and "VeRA" not in shown


def test_the_best_is_the_one_with_the_lowest_validation_loss(a_run, capsys):
    folders = [
        a_run(name, LORA, 110, bleu, loss) for name, bleu, loss in (("a", 0.9, 1.2), ("b", 0.1, 1.1), ("c", 0.5, 1.3))
    ]
    assert methods_table.main(["--best_of", *folders]) == 0
    assert capsys.readouterr().out.strip() == folders[1]


def test_a_seed_twice_is_refused(a_run):
    with pytest.raises(errors.UserError, match="lora with seed 110 is there twice"):
        methods_table.main([a_run("a", LORA, 110, 0.8), a_run("b", LORA, 110, 0.8)])


def test_it_goes_between_the_marks_of_a_document(a_run, tmp_path, capsys):
    document = tmp_path / "methods.md"
    begin, end = methods_table.BEGIN.format("mini"), methods_table.END.format("mini")
    document.write_text(f"before\n{begin}old\n{end}after\n")
    assert methods_table.main([a_run("a", LORA, 110, 0.8), "--doc", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "`lora`" in text
    document.write_text("no marks")
    with pytest.raises(errors.UserError, match="lacks the lines"):
        methods_table.main([a_run("b", LORA, 110, 0.8), "--doc", str(document)])
