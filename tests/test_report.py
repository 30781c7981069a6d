"""The page of a run: its contents, and how a browser shows them."""

import base64
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

import contrast
import recipe
from report_page import again, contents, figures, opening, page, standing
from run_dir import errors

ROOT = Path(__file__).resolve().parents[1]

INPUTS = {  # input: its references
    "name : The Fox | Type : pub": ["The Fox is a pub .", "There is a pub , The Fox ."],
    "name : Blue Spice | price : less than £ 20": ["Blue Spice is cheap ."],
    "name : Zizzi | area : riverside": ["Zizzi is by the river ."],
    "name : Aromi | food : French": ["Aromi serves French food ."],
}
HOSTILE = """<script>document.title = "run"</script> & "quoted" $x^2$ </td>"""
OUTPUTS = ["The Fox is a pub .", HOSTILE, "", "Aromi serves Indian food by the river ."]
SENTENCE_BLEU = [1.0, 0.25, 0.0, 0.5]
SCORES = {"BLEU": 0.61234, "NIST": 7.5, "METEOR": 0.4, "ROUGE_L": 0.65, "CIDEr": 1.75}
BASE_SCORES = {"BLEU": 0.02, "NIST": 1.1, "METEOR": 0.1, "ROUGE_L": 0.15, "CIDEr": 0.05}
PUBLISHED = {"BLEU": 0.704, "NIST": 8.85, "METEOR": 0.468, "ROUGE_L": 0.718, "CIDEr": 2.53}
MADE_BY = {  # file: the script that the page names when it is not there
    "comparison.json": "07_compare.sh",
    "slots.json": "07_compare.sh",
    "segments.tsv": "06_evaluate.sh",
    "prediction.txt": "05_decode.sh",
    "beam_prediction.run.json": "04_beam.sh",
}


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value))


def change(path: Path, **values) -> None:
    """Set top-level fields of a JSON file."""
    write_json(path, {**json.loads(path.read_text()), **values})


def make_run(folder: Path) -> Path:
    """Write a complete run of four inputs, and its test file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"context": mr, "completion": text} for mr, texts in INPUTS.items() for text in texts]
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "prediction.txt").write_text("".join(f"{output}\n" for output in OUTPUTS))
    (folder / "reference.txt").write_text("\n\n".join("\n".join(texts) for texts in INPUTS.values()) + "\n\n")
    log = [
        {"step": 50, "lr": 0.002, "avg_loss": 1.5, "loss": 1.4, "ms_per_batch": 310.0, "tokens_per_s": 900.0},
        {"step": 100, "lr": 0.001, "avg_loss": 1.25, "loss": 1.2, "ms_per_batch": 300.0, "tokens_per_s": 1000.0},
        {"eval": {"step": 100, "valid_loss": 1.125, "valid_ppl": 3.1, "seconds": 2.0}},
        {"step": 150, "lr": 0.0, "avg_loss": 1.125, "loss": 1.1, "ms_per_batch": 900.0, "tokens_per_s": 400.0},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    settings = {section: {name: good[0] for name, good in names.items()} for section, names in recipe.RECIPE.items()}
    settings |= {"model": {"n_embd": 1024, "n_layer": 24}, "device": "cpu", "world_size": 1}
    settings["optim"] |= {"grad_acc": 1, "max_step": 26290}
    settings["train"] |= {"train_batch_size": 8}
    settings["lora"] |= {"rank": 2}
    training = {
        "argv": ["--lora_dim", "2", "--work_dir", "a folder"],
        "settings": settings,
        "versions": {"torch": "2.13.0", "gpu": "none"},
        "commit": "abc1234",
        "seconds": 90,
        "peak_memory": {"host_mib": 1234.5},
        "trained_parameters": 16384,
        "valid_loss": 1.125,
    }
    write_json(folder / "run.json", training)
    write_json(
        folder / "beam_prediction.run.json",
        {"argv": ["--beam", "10"], "seconds": 30, "input_seconds": [0.5, 2.25, 0.125, 1]},
    )
    system = {"file": str(folder / "prediction.txt"), "scores": SCORES}
    system["intervals"] = {metric: [0.9 * value, 1.1 * value] for metric, value in SCORES.items()}
    signature = {"segments": 4, "references": 5, "nist_reference_length": "sum of the segments' mean lengths"}
    systems = [{"file": str(folder / "base.txt"), "scores": BASE_SCORES}, system]
    write_json(folder / "scores.json", {"systems": systems, "signature": {**signature, "sha256": {"x.jar": "f" * 64}}})
    paper = {"system": "paper, LoRA", "kind": "paper", "source": "Hu et al. 2021", "deviations": {"BLEU": 0.001}}
    public = {"system": "public <run>", "kind": "public", "source": "somewhere", "deviations": {}}
    rows = [{**paper, **PUBLISHED}, {**public, **PUBLISHED, "CIDEr": None}]
    comparison = {"comparable": True, "why_not": None, "verdict": "BLEU is off.", "band": [0.6865, 0.698]}
    write_json(folder / "comparison.json", {**comparison, "run": SCORES, "rows": rows})
    with open(folder / "segments.tsv", "w") as file:
        print("src", "sys_out", "BLEU", "sentBLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr", sep="\t", file=file)
        for output, score in zip(OUTPUTS, SENTENCE_BLEU, strict=True):
            print("", output, 0, score, 1, 0.5, 0.5, -score, sep="\t", file=file)
    none = {"missing": [], "wrong": [], "invented": []}
    marks = [none, {**none, "missing": ["name", "price"]}, {**none, "missing": ["name"]}, none]
    marks[3] = {
        "missing": [],
        "wrong": [{"slot": "food", "expected": "French", "found": "Indian"}],
        "invented": [{"slot": "area", "found": "riverside"}],
    }
    counts = {"inputs": 4, "slots": 8, "missing": 3, "wrong": 1, "invented": 1, "slot_error_rate": 0.625}
    write_json(folder / "slots.json", {**counts, "outputs": marks})
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def render(folder: Path) -> str:
    return page.render(contents.read(folder, folder / "test.jsonl"))


class Elements(HTMLParser):
    """The elements of a page as (tag, attributes), and the text inside each table row."""

    def __init__(self, text: str):
        super().__init__()
        self.all, self.rows, self.scripts, self.open, self.in_row = [], [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))
        self.open = tag
        if tag == "tr":
            self.rows.append([])
            self.in_row = True

    def handle_data(self, data):
        if self.open == "script":
            self.scripts.append(data)
        elif self.in_row and data.strip():
            self.rows[-1].append(data.strip())

    def handle_endtag(self, tag):
        self.open = ""
        if tag == "tr":
            self.in_row = False

    def of(self, *tags: str) -> list[dict]:
        return [attributes for tag, attributes in self.all if tag in tags]


def test_figures_are_those_of_the_files(run):
    rows = Elements(render(run)).rows
    own = ["this run", "0.6123", "0.551–0.674", "7.5000", "6.750–8.250", "0.4000", "0.360–0.440"]
    assert [*own, "0.6500", "0.585–0.715", "1.7500", "1.575–1.925"] in rows
    assert ["this run, base alone", "0.0200", "1.1000", "0.1000", "0.1500", "0.0500"] in rows
    differences = ["0.7040", "−0.0917", "8.8500", "−1.3500", "0.4680", "−0.0680", "0.7180", "−0.0680"]
    assert ["paper, LoRA", "0.7040±.001", *differences[1:], "2.5300", "−0.7800", "Hu et al. 2021"] in rows
    assert ["public <run>", *differences, "–", "somewhere"] in rows
    assert ["100", "1.2500", "1.1250", "0.001"] in rows  # losses of training and validation, learning rate
    assert ["150", "1.1250", "–", "0"] in rows
    assert ["Time a step, median", "310.0 ms"] in rows
    assert ["Time a step, slowest interval", "900.0 ms, up to step 150"] in rows
    assert ["Training, peak memory, host", "1\u202f234 MiB"] in rows
    slowest = [row for row in rows if row[1:2] in (["2.250"], ["1.000"], ["0.500"], ["0.125"])]
    assert [row[:2] for row in slowest] == [["2", "2.250"], ["4", "1.000"], ["1", "0.500"], ["3", "0.125"]]
    assert ["name", "2", "0", "0"] in rows  # slot: outputs where it is missing, wrong, invented
    assert ["food", "0", "1", "0"] in rows
    assert ["area", "0", "0", "1"] in rows


def test_the_verdict_in_words_is_there_for_any_run(run, tmp_path):
    """Whether or not the run may be compared."""
    said = "BLEU .612 (95 % interval .551 to .674), base alone .020; 5 slot errors in 8 slots asked for."
    assert opening.verdict(contents.read(run, run / "test.jsonl")) == said
    scores = json.loads((run / "scores.json").read_text())
    del scores["systems"][1]["intervals"], scores["systems"][0]
    write_json(run / "scores.json", scores)
    (run / "slots.json").unlink()
    change(run / "comparison.json", comparable=False, why_not="other data", verdict="Not comparable.")
    text = render(run)
    assert opening.verdict(contents.read(run, run / "test.jsonl")) == "BLEU .612."
    assert text.index("<p>BLEU .612.</p>") < text.index(
        "<p>Not comparable. Not compared with the paper: other data.</p>"
    )
    webnlg = make_webnlg(tmp_path / "webnlg")
    assert opening.verdict(contents.read(webnlg, webnlg / "test.jsonl")) == "BLEU 54.9 (95 % interval 49.4 to 60.4)."


def test_what_the_base_makes_of_an_input_stands_beside_it(run):
    """A long text is folded, since a base that was not trained often goes on and on."""
    long = " ".join(["The Fox"] * 30)
    (run / "base.txt").write_text(f"x\n{HOSTILE}\n\n{long}\n")
    rows = {row[0]: row for row in Elements(render(run)).rows if row[0] in "1234" and "of input " + row[0] in row}
    assert rows["1"][10] == "x"
    assert rows["2"][9] == HOSTILE
    assert rows["3"][9] == "(empty)"
    assert rows["4"][9:11] == [f"{long[:120]} …", long]
    (run / "base.txt").write_text("one line\n")
    assert '"columnheader">Base alone' not in render(run)


def test_rows_of_the_outputs(run):
    shown = [row for row in Elements(render(run)).rows if "name" in row[1:2] and len(row) > 9]
    assert len(shown) == len(INPUTS)
    assert shown[0][:7] == ["1", "name", "The Fox", "Type", "pub", OUTPUTS[0], "2 references"]
    assert shown[0][8:10] == INPUTS["name : The Fox | Type : pub"]
    assert shown[0][10:] == ["none", "1.000", "1.000", "0.500", "0.500", "-1.000"]
    assert shown[1][5] == HOSTILE
    assert {"missing name", "missing price"} <= set(shown[1])
    assert "(empty)" in shown[2]
    assert {"wrong food: Indian instead of French", "invented area: riverside"} <= set(shown[3])


def test_the_worst_come_first(run):
    rows = Elements(render(run)).rows
    start = next(i for i, row in enumerate(rows) if row == ["Input", "Asked for", "Output", "Slot errors", "BLEU"])
    assert [(row[0], row[-1]) for row in rows[start + 1 : start + 5]] == [
        ("3", "0.000"),
        ("2", "0.250"),
        ("4", "0.500"),
        ("1", "1.000"),
    ]


def test_text_of_a_run_is_never_markup(run):
    change(run / "comparison.json", verdict=HOSTILE)
    change(run / "run.json", argv=[HOSTILE], commit=HOSTILE)
    write_json(run / "beam_prediction.run.json", {"argv": ["</code><img src=x onerror=alert(1)>"]})
    elements = Elements(render(run))
    assert len(elements.of("script")) == 1
    assert not elements.of("img")
    assert not [name for _, attributes in elements.all for name in attributes if name.startswith("on")]


def test_nothing_is_loaded_and_no_other_script_may_run(run):
    text = render(run)
    elements = Elements(text)
    links = [a[name] for _, a in elements.all for name in ("src", "href", "xlink:href") if name in a]
    assert links and all(link.startswith("#") or link == "data:," for link in links)
    assert "http" not in text.replace("http-equiv", "")
    assert "@import" not in text
    assert text.count("url(") == text.count("url(#")
    [policy] = [meta["content"] for meta in elements.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    [script] = elements.scripts
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_every_table_and_figure_says_what_it_is(run):
    elements = Elements(render(run))
    assert len(elements.of("caption")) == len(elements.of("table"))
    assert all("scope" in header for header in elements.of("th"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in elements.of("svg"))
    ids = [attributes["id"] for _, attributes in elements.all if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    references = ("aria-labelledby", "aria-describedby", "for")
    referred = [a[name] for _, a in elements.all for name in references if name in a]
    assert set(referred) <= set(ids)
    assert {link["href"][1:] for link in elements.of("a")} <= set(ids)
    assert elements.of("html") == [{"lang": "en"}]


@pytest.mark.parametrize(("name", "script"), MADE_BY.items())
@pytest.mark.slow
def test_what_is_not_there_is_named_with_its_step(run, name, script):
    before = Elements(render(run))
    (run / name).unlink()
    text = render(run)
    assert f"<code>{name}</code> is not there" in text
    assert f"scripts/{script}" in text
    assert f"<code>{name}</code> is not there" not in str(before.all)


def test_a_run_with_the_three_first_files_only(run):
    for name in (*MADE_BY, "reference.txt"):
        (run / name).unlink()
    scores = json.loads((run / "scores.json").read_text())
    del scores["systems"][1]["intervals"]
    write_json(run / "scores.json", scores)
    text = render(run)
    assert "0.6123" in text
    assert "Without intervals: step 6" in text


def test_a_part_of_the_outputs_is_not_taken_for_those_of_other_inputs(run):
    for name in ("segments.tsv", "slots.json"):
        (run / name).unlink()
    (run / "prediction.txt").write_text("The Fox is a pub .\n")
    assert "or not of all inputs" in render(run)


def test_what_cannot_be_compared_stands_alone(run):
    change(run / "comparison.json", comparable=False, why_not="other data", verdict="Not comparable.")
    text = render(run)
    assert "Not compared with the paper: other data" in text
    assert "paper, LoRA" not in text


@pytest.mark.parametrize("name", ["scores.json", "run.json", "log.jsonl", "test.jsonl"])
def test_a_missing_file_is_an_error(run, name):
    (run / name).unlink()
    with pytest.raises(errors.UserError, match=name):
        render(run)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.jsonl", '{"step": 1}\n{"step"', "log.jsonl, line 2: not JSON"),
        ("run.json", "[]", "run.json is not a JSON object"),
        ("scores.json", '{"systems": [], "signature": {}}', "scores.json has no scores of one prediction.txt"),
        ("test.jsonl", '{"context": "name : x"}\n', "test.jsonl:1: expected"),
        ("segments.tsv", "src\tsys_out\na\n", "segments.tsv:2: expected 2 cells, found 1"),
    ],
)
def test_a_broken_file_is_an_error(run, name, text, message):
    (run / name).write_text(text)
    with pytest.raises(errors.UserError, match=message):
        render(run)


def test_files_of_another_run_of_the_steps_are_refused(run):
    change(run / "comparison.json", run={**SCORES, "BLEU": 0.7})
    with pytest.raises(errors.UserError, match=r"comparison.json is of other scores"):
        render(run)
    make_run(run)
    change(run / "slots.json", outputs=[])
    with pytest.raises(errors.UserError, match=r"slots.json is of 0 outputs, but prediction.txt has 4"):
        render(run)
    make_run(run)
    (run / "prediction.txt").write_text("".join(f"{output}\n" for output in reversed(OUTPUTS)))
    with pytest.raises(errors.UserError, match=r"segments.tsv is of other outputs"):
        render(run)


@pytest.fixture
def curves(tmp_path, monkeypatch):
    """A published curve of three points."""
    monkeypatch.setattr(recipe, "CURVE", tmp_path / "curve.tsv")
    points = ["step\tlr\tloss_a\tavg_loss_a", "50\t0.002\t1.5\t1.51", "100\t0.001\t1.3\t1.28", "150\t0\t1.1\t1.12"]
    (tmp_path / "curve.tsv").write_text("\n".join(points) + "\n")
    (tmp_path / contents.VALIDATION_CURVE).write_text("step\tA_valid_loss\n100\t1.17\n")
    return tmp_path


@pytest.mark.parametrize("smoothing", [0.1, 0])
def test_the_curve_says_which_of_its_losses_are_smoothed(run, smoothing):
    """Below the chart that has both. Fails when a run without smoothing is said to have some."""
    settings = json.loads((run / "run.json").read_text())["settings"]
    settings["train"]["label_smooth"] = smoothing
    change(run / "run.json", settings=settings)
    said = ", with label smoothing of 0.1; validation loss is without, so the two are not to be compared."
    assert (f"Training loss is the mean since the point before it{said if smoothing else '.'}") in render(run)


@pytest.mark.slow
def test_the_published_curve_stands_behind_its_own_recipe_only(run, curves):
    assert "this run has LoRA rank 2 instead of 4." in render(run)
    settings = json.loads((run / "run.json").read_text())["settings"]
    settings["lora"]["rank"] = 4
    change(run / "run.json", settings=settings)
    text = render(run)
    assert "The training losses are at most 0.030 from it (step 100)" in text
    assert ["100", "1.2500", "1.28", "1.1250", "1.17", "0.001"] in Elements(text).rows
    change(run / "run.json", settings={**settings, "world_size": 2})
    assert "this run has 16 examples an update instead of 8" in render(run)
    change(run / "run.json", settings={**settings, "model": {"n_embd": 256, "n_layer": 4}})
    assert "this run has a model of 4 layers of width 256 instead of GPT-2 Medium." in render(run)
    change(run / "run.json", settings={**settings, "lora": {"rank": 0}})
    assert "this run has every parameter trained instead of LoRA." in render(run)
    change(run / "run.json", settings=settings)
    (curves / contents.VALIDATION_CURVE).unlink()
    assert "does not hold it" in render(run)


# WebNLG


HALVES = {"Unseen": (46.0, 0.38, 0.47), "Seen": (62.0, 0.44, 0.34), "All": (54.9, 0.412, 0.402)}
OF_TRIPLES = ("BLEU", "METEOR", "TER")


def make_webnlg(folder: Path) -> Path:
    """Write a run of WebNLG as the steps leave it: its task, scores with halves, and a comparison with one row of each kind."""
    make_run(folder)
    task = {"task": "webnlg", "scorer": "eval/triples/measure_scores.py", "scores": OF_TRIPLES, "slots": None}
    task |= {"published": "webnlg", "copied": None, "protocols": ["generation_eval"], "references": "references"}
    write_json(folder / "task.json", task)
    named = {name: dict(zip(OF_TRIPLES, values, strict=True)) for name, values in HALVES.items()}
    splits = {name: {"inputs": 2, "scores": scores} for name, scores in named.items()}
    system = {"file": "prediction.txt", "scores": named["All"], "splits": splits}
    system["intervals"] = {name: [0.9 * value, 1.1 * value] for name, value in named["All"].items()}
    signature = {"inputs": 1862, "references": 6, "protocol": "generation_eval"}
    write_json(folder / "scores.json", {"systems": [system], "signature": signature})
    for name in ("segments.tsv", "slots.json"):
        (folder / name).unlink()
    own = {
        f"{m}{end}": named[name][m] for name, end in (("Unseen", "_U"), ("Seen", "_S"), ("All", "")) for m in OF_TRIPLES
    }
    paper = {"system": "paper, LoRA", "kind": "paper", "protocol": "not known", "source": "Hu et al.", "is_judge": True}
    paper |= {
        "BLEU_U": 46.7,
        "BLEU_S": 62.1,
        "BLEU": 55.3,
        "TER": 0.39,
        "TER_U": 0.46,
        "METEOR": 0.41,
        "METEOR_S": None,
    }
    paper["deviations"] = {"BLEU_U": 0.4}
    adamix = {
        "system": "AdaMix LoRA",
        "kind": "since",
        "protocol": "p",
        "source": "s",
        "is_judge": False,
        "BLEU": 55.64,
    }
    result = {
        "comparable": True,
        "why_not": None,
        "verdict": "BLEU is near.",
        "band": None,
        "notes": ["By a protocol."],
    }
    write_json(folder / "comparison.json", {**result, "run": own, "rows": [paper, {**adamix, "deviations": {}}]})
    return folder


@pytest.fixture
def webnlg(tmp_path):
    return make_webnlg(tmp_path / "run")


def test_unseen_seen_and_all_stand_side_by_side(webnlg):
    rows = Elements(render(webnlg)).rows
    heads = [f"{metric} {half}" for metric in OF_TRIPLES for half in "USA"]
    assert ["System", *heads, "Protocol and source"] in rows
    bleu = ["46.00", "62.00", "54.90", "49.4–60.4"]
    meteor, ter = ["0.3800", "0.4400", "0.4120", "0.371–0.453"], ["0.4700", "0.3400", "0.4020", "0.362–0.442"]
    assert ["this run", *bleu, *meteor, *ter, "generation_eval"] in rows


def test_what_is_not_published_of_a_half_is_a_dash(webnlg):
    rows = Elements(render(webnlg)).rows
    bleu, ter = (
        ["46.70±.4", "−0.70", "62.10", "−0.10", "55.30", "−0.40"],
        ["0.4600", "+0.0100", "–", "0.3900", "+0.0120"],
    )
    assert ["paper, LoRA", *bleu, "–", "–", "0.4100", "+0.0020", *ter, "not known; Hu et al."] in rows
    assert ["AdaMix LoRA", "–", "–", "55.64", "−0.74", *"––––––", "p; s"] in rows


def test_the_page_says_the_protocol_and_that_less_ter_is_better(webnlg):
    text = render(webnlg)
    assert "<p>By a protocol.</p>" in text
    assert ("By the protocol", "generation_eval") in opening.facts(contents.read(webnlg, webnlg / "test.jsonl"))
    assert "<dt>TER, less is better</dt>" in text and "<dt>BLEU</dt>" in text


def test_charts_show_what_judges_the_run(webnlg, monkeypatch):
    drawn = []
    monkeypatch.setattr(standing.charts, "of_scores", lambda *arguments, **options: drawn.append(arguments[2]) or "")
    render(webnlg)
    assert [mark.name for mark in drawn[0]] == ["this run", "paper, LoRA"]


def test_a_band_is_shaded_where_it_has_a_width(webnlg):
    change(webnlg / "comparison.json", band=[55.0, 55.37])
    assert "recipe, BLEU 55.00 to 55.37." in render(webnlg)
    change(webnlg / "comparison.json", band=[55.37, 55.37])
    assert "Shaded" not in render(webnlg)


def test_what_is_neither_the_papers_nor_a_public_run_is_not_called_so(webnlg):
    assert "● public runs" in render(webnlg)
    rows = json.loads((webnlg / "comparison.json").read_text())["rows"]
    change(webnlg / "comparison.json", rows=[{**rows[1], "is_judge": True}])
    assert "● others" in render(webnlg)


def test_a_comparison_of_other_halves_is_refused(webnlg):
    scores = json.loads((webnlg / "scores.json").read_text())
    scores["systems"][0]["splits"]["Seen"]["scores"]["BLEU"] = 62.5
    write_json(webnlg / "scores.json", scores)
    with pytest.raises(errors.UserError, match=r"comparison.json is of other scores"):
        render(webnlg)


def test_the_scores_of_triples_are_made_with_their_categories(webnlg):
    commands = dict(again.commands(contents.read(webnlg, webnlg / "test.jsonl")))
    assert commands["Scores"][1:] == ["--protocol generation_eval", f"--categories {webnlg}/test.jsonl"]


def test_another_method_is_not_called_full_fine_tuning(run):
    settings = json.loads((run / "run.json").read_text())["settings"]
    change(run / "run.json", settings={**settings, "lora": None, "vera": {"rank": 1024}})
    read = contents.read(run, run / "test.jsonl")
    assert ("Method", "VeRA, r = 1024") in opening.facts(read)
    assert read.departures == ["VeRA trained instead of LoRA"]


def test_commands_can_be_typed_again(run):
    commands = dict(again.commands(contents.read(run, run / "test.jsonl")))
    assert commands["Training"] == [".venv/bin/python src/gpt2_ft.py", "--lora_dim 2", "--work_dir 'a folder_again'"]
    assert commands["Beam search"] == [".venv/bin/python src/gpt2_beam.py", "--beam 10"]
    scoring = (
        ".venv/bin/python eval/e2e/measure_scores.py 'a folder_again/reference.txt' 'a folder_again/prediction.txt' -p"
    )
    assert commands["Scores"] == [scoring]
    digest = hashlib.sha256((run / "prediction.txt").read_bytes()).hexdigest()
    assert [f"{run}/prediction.txt", digest] in Elements(render(run)).rows


def test_what_is_run_again_leaves_the_run_as_it_is(run):
    """Also one of a sweep, whose decodings have links to their training's weights. Fails when a path keeps its folder."""
    change(run / "run.json", argv=["--init_checkpoint", "base/x.pt", "--work_dir=runs/a/", "--resume", "auto"])
    argv = [
        "--data",
        "data/runs/a.jsonl",
        "--work_dir",
        "runs/a/lp0.8",
        "--lora_checkpoint",
        "runs/a/lp0.8/model.final.pt",
    ]
    change(run / "beam_prediction.run.json", argv=argv, settings={"world_size": 2})
    commands = {what: " ".join(parts) for what, parts in again.commands(contents.read(run, run / "test.jsonl"))}
    training = "src/gpt2_ft.py --init_checkpoint base/x.pt --work_dir=runs/a_again/ --resume auto"
    assert commands["Training"] == f".venv/bin/python {training}"
    launcher = ".venv/bin/python -m torch.distributed.run --standalone --nproc_per_node=2 src/gpt2_beam.py"
    weights = "--work_dir runs/a_again/lp0.8 --lora_checkpoint runs/a_again/model.final.pt"
    assert commands["Beam search"] == f"{launcher} --data data/runs/a.jsonl {weights}"
    assert "--output_pred_file runs/a_again/lp0.8/prediction.txt" in commands["Ids to text"]
    assert "runs/a_again/lp0.8/prediction.txt" in commands["Scores"]


def test_the_steps_are_those_of_the_last_validation(run):
    """The last logged interval ends before the run where that is no multiple of --log_interval."""
    assert ("Training", "150 steps of 8") in opening.facts(contents.read(run, run / "test.jsonl"))
    with open(run / "log.jsonl", "a") as file:
        file.write(json.dumps({"eval": {"step": 190, "valid_loss": 1.1, "valid_ppl": 3.0, "seconds": 2.0}}) + "\n")
    assert ("Training", "190 steps of 8") in opening.facts(contents.read(run, run / "test.jsonl"))


@pytest.mark.slow
def test_a_run_shorter_than_its_log_interval_has_no_empty_charts(run):
    shown = {svg["aria-label"].split()[0] for svg in Elements(render(run)).of("svg")}
    assert {"Loss", "Learning", "Time"} <= shown
    line = {"eval": {"step": 5, "valid_loss": 1.125, "valid_ppl": 3.1, "seconds": 2.0}}
    (run / "log.jsonl").write_text(json.dumps(line) + "\n")
    text = render(run)
    shown = {svg["aria-label"].split()[0] for svg in Elements(text).of("svg")}
    assert "Loss" in shown and not {"Learning", "Time"} & shown
    assert "shorter than its <code>--log_interval</code>" in text
    assert "Times as a table" not in text


def test_weights_and_data_are_named_by_their_recorded_hashes(run):
    training = json.loads((run / "run.json").read_text())
    training["settings"] |= {"base": {"card": "gpt2.md", "sha256": "b" * 64}, "train_data": "d" * 64}
    write_json(run / "run.json", training)
    decoding = {"argv": ["--beam", "10"], "settings": {"weights": "e" * 64, "data": "f" * 64}}
    write_json(run / "beam_prediction.run.json", decoding)
    rows = Elements(render(run)).rows
    assert ["the base's weights, as trained on", "b" * 64] in rows
    assert ["the training data, as trained on", "d" * 64] in rows
    assert ["the weights decoded with", "e" * 64] in rows
    assert ["the data decoded", "f" * 64] in rows


def test_losses_that_are_no_numbers(run):
    with open(run / "log.jsonl", "a") as file:
        rest = {"lr": 0.0, "loss": 1.0, "ms_per_batch": 1.0, "tokens_per_s": 1.0}
        file.write(json.dumps({"step": 200, "avg_loss": math.nan, **rest}) + "\n")
        file.write(json.dumps({"step": 250, "avg_loss": math.inf, **rest}) + "\n")
    rows = Elements(render(run)).rows
    assert ["200", "not a number", "–", "0"] in rows
    assert ["250", "∞", "–", "0"] in rows


def test_numbers_for_people():
    assert figures.number(0.60585) == "0.6058"
    assert figures.number(None) == "–"
    assert figures.whole(26290) == "26\u202f290"
    assert figures.signed(-0.01) == "−0.0100"
    assert figures.signed(-0.00001) == figures.signed(0.00001) == "+0.0000"
    assert [figures.duration(seconds) for seconds in (59.94, 60, 7200)] == ["59.9 seconds", "1.0 minutes", "2.0 hours"]


def report(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "eval" / "report.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.mark.slow
def test_the_program_writes_the_page_or_nothing(run):
    done = report(run, "--data", run / "test.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"report: {run / 'report.html'} (0.")
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    (run / "log.jsonl").unlink()
    done = report(run, "--data", run / "test.jsonl", "--output", run / "other.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("report.py: error: ") and "log.jsonl" in done.stderr and done.stderr.count("\n") == 1
    assert not (run / "other.html").exists()


def test_help_loads_nothing_heavy():
    code = "import sys; sys.path[:0] = ['eval']; import report; report.parser(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"matplotlib", "jinja2"} & set(modules.split())


# In a browser

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 320, "height": 640}  # the narrowest that is sold


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("report") / "run")
    (folder / "report.html").write_text(render(folder))
    return (folder / "report.html").as_uri()


@pytest.fixture
def open_page(browser, url):
    """Return a function that opens the page; what it complains about or asks for makes the test fail at the end."""
    contexts, troubles, requests = [], [], []

    def opened(viewport=DESKTOP, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(60_000)
        tab.on("console", lambda message: troubles.append(message.text))
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(url)
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []
    assert set(requests) <= {url}


def numbers(tab) -> list[str]:
    """Return the inputs' numbers in the order that the table of all outputs shows them."""
    return tab.locator("#all tbody tr:visible th").all_inner_texts()


def sorted_by(tab) -> list[tuple[str, str]]:
    headers = tab.locator("#all thead th[aria-sort]").all()
    return [(header.inner_text(), header.get_attribute("aria-sort")) for header in headers]


def test_it_opens_and_the_runs_text_stays_text(open_page):
    tab = open_page()
    assert tab.title().startswith("Report of ")
    assert tab.locator("#input-2 td").nth(1).inner_text().startswith(HOSTILE)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_webnlg_does_not_scroll_sideways(browser, tmp_path, viewport):
    """Nine columns of scores, and names of DBpedia, which have no blank to break at."""
    folder = make_webnlg(tmp_path)
    name = "Abhandlungen_aus_dem_Mathematischen_Seminar_der_Universität_Hamburg"
    lines = [
        {"context": f"{name} : publisher : {name}", "completion": name},
        *({"context": f"a : b : {i}", "completion": "x"} for i in range(3)),
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "report.html").write_text(render(folder))
    tab = browser.new_page(viewport=viewport)
    tab.goto((folder / "report.html").as_uri())
    width = tab.evaluate("document.documentElement.scrollWidth")
    tab.close()
    assert width <= viewport["width"]


def test_sorting_by_mouse(open_page):
    tab = open_page()
    assert sorted_by(tab) == [("Input", "ascending")]
    button = tab.locator("#all").get_by_role("button", name="BLEU", exact=True)
    button.click()
    assert numbers(tab) == ["3", "2", "4", "1"]
    assert sorted_by(tab) == [("BLEU", "ascending")]
    button.click()
    assert numbers(tab) == ["1", "4", "2", "3"]
    assert sorted_by(tab) == [("BLEU", "descending")]
    assert tab.locator("#sorted").inner_text() == "Sorted by BLEU, descending"
    tab.locator("#all").get_by_role("button", name="CIDEr").click()
    assert numbers(tab) == ["1", "4", "2", "3"]  # -1.0 is less than -0.5
    tab.locator("#all").get_by_role("button", name="Slot errors").click()
    assert numbers(tab) == ["1", "3", "2", "4"]  # by their number; equal ones in the order of the inputs
    tab.locator("#all").get_by_role("button", name="Asked for").click()
    assert numbers(tab) == ["4", "2", "1", "3"]


def test_sorting_by_keyboard(open_page):
    tab = open_page()
    tab.locator("#search").focus()
    tab.keyboard.press("Tab")  # to the first header
    tab.keyboard.press("Space")
    assert numbers(tab) == ["4", "3", "2", "1"]
    for _ in range(2):
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert sorted_by(tab) == [("Output", "ascending")]
    assert tab.evaluate("document.activeElement.textContent") == "Output"  # focus stays
    assert tab.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2


def test_search(open_page):
    tab = open_page()
    search = tab.get_by_label("Search inputs, references, outputs and slot errors")
    for words, found in {
        "FRENCH food": ["4"],
        "There is a pub": ["1"],  # in a reference that is not unfolded
        "missing": ["2", "3"],
        "no such words": [],
        "river": ["3", "4"],
        "": ["1", "2", "3", "4"],
    }.items():
        search.fill(words)
        assert numbers(tab) == found
        assert tab.locator("#count").inner_text() == f"{len(found)} of 4 inputs"
    search.press_sequentially("aromi")
    assert numbers(tab) == ["4"]
    search.press("Enter")  # must not reload the page
    assert search.input_value() == "aromi"


@pytest.fixture
def long_page(browser, tmp_path):
    """A page of 25 inputs, which are three pages of its table."""
    folder = make_run(tmp_path / "long")
    for name in ("segments.tsv", "slots.json"):
        (folder / name).unlink()
    lines = [{"context": f"name : n{i}", "completion": f"r{i}"} for i in range(1, 26)]
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "prediction.txt").write_text("".join(f"output {i}\n" for i in range(1, 26)))
    (folder / "report.html").write_text(render(folder))
    tab = browser.new_page(viewport=DESKTOP)
    tab.set_default_timeout(60_000)
    tab.goto((folder / "report.html").as_uri())
    yield tab
    tab.close()


def test_rows_are_shown_page_by_page(long_page):
    def shown() -> tuple[str, str, str]:
        rows = numbers(long_page)
        return rows[0], rows[-1], long_page.locator("#shown").inner_text()

    def press(name: str) -> None:
        long_page.get_by_role("button", name=name, exact=True).click()

    assert shown() == ("1", "10", "1–10 of 25")
    assert long_page.get_by_role("button", name="Previous").get_attribute("aria-disabled") == "true"
    press("Last")
    assert shown() == ("21", "25", "21–25 of 25")
    press("Previous")
    assert shown() == ("11", "20", "11–20 of 25")
    long_page.get_by_role("button", name="Input").click()  # sorted the other way, from its first page on
    assert shown() == ("25", "16", "1–10 of 25")
    long_page.get_by_label("Rows a page").select_option("all")
    assert shown() == ("25", "1", "1–25 of 25")
    long_page.locator("#search").fill("n2")
    assert shown() == ("25", "2", "1–7 of 7")


def test_a_link_turns_to_the_page_of_its_row(long_page):
    long_page.evaluate("location.hash = '#input-23'")
    long_page.locator("#input-23").wait_for(state="visible")
    assert long_page.locator("#shown").inner_text() == "21–25 of 25"


def test_a_button_copies_its_command_and_another_all(open_page):
    tab = open_page()
    tab.evaluate("navigator.clipboard.writeText = async (words) => { window.copied = words; }")
    tab.get_by_role("button", name="Copy", exact=True).first.click()
    tab.wait_for_function("window.copied")
    training = ".venv/bin/python src/gpt2_ft.py --lora_dim 2 --work_dir 'a folder_again'"
    assert tab.evaluate("window.copied") == training
    assert tab.locator("#copied").inner_text() == "Copied"
    tab.get_by_role("button", name="Copy all").click()
    tab.wait_for_function("window.copied.includes('&&')")
    assert tab.evaluate("window.copied").startswith(f"{training} &&\n.venv/bin/python src/gpt2_beam.py --beam 10 &&\n")


def test_a_link_to_a_row_that_the_search_hides_shows_it(open_page):
    tab = open_page()
    tab.locator("#search").fill("aromi")
    tab.get_by_role("link", name="3", exact=True).first.click()
    tab.wait_for_function("document.getElementById('search').value === ''")
    assert tab.locator("#input-3").is_visible()


def test_the_way_by_keyboard_begins_with_a_link_to_the_content(open_page):
    tab = open_page()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert tab.locator(".skip").bounding_box()["width"] > 50  # visible now
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("viewport", [DESKTOP, {"width": 800, "height": 900}, PHONE])
def test_no_scrolling_sideways(open_page, viewport):
    tab = open_page(viewport)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    hidden = "[...document.querySelectorAll('svg, td, th, p, li, dd')].filter((e) => !e.closest('.scroll') &&"
    hidden += " e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"
    assert tab.evaluate(hidden) == []


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_what_a_screen_reader_finds(open_page, viewport):
    tab = open_page(viewport)
    nodes = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in nodes if not node["ignored"]]
    roles = Counter(node["role"]["value"] for node in shown)
    assert roles["table"] == 5  # and six that are not unfolded
    assert roles["main"] == roles["banner"] == roles["navigation"] == roles["search"] == roles["searchbox"] == 1
    nameless = [
        node["role"]["value"]
        for node in shown
        if not node.get("name", {}).get("value")
        and (
            any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", []))
            or node["role"]["value"] in ("table", "columnheader", "image", "img", "button", "link", "region", "search")
        )
    ]
    assert [role for role in nameless if role not in ("RootWebArea", "main", "search")] == []
    sortable = tab.locator("#all").get_by_role("columnheader")
    assert sortable.count() == 9
    assert tab.locator("#all").get_by_role("row").count() == 1 + len(INPUTS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(open_page, scheme):
    tab = open_page(color_scheme=scheme)
    colours = """([...document.querySelectorAll('p, a, dt, dd, th, td, small, summary, li, code, button, caption, svg text')]
      .map((element) => {
        let under = element;
        while (getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)' && under.parentElement) under = under.parentElement;
        const style = getComputedStyle(element);
        return [element.closest('svg') ? style.fill : style.color, getComputedStyle(under).backgroundColor].join();
      }))"""
    pairs = {tuple(map(int, re.findall(r"\d+", text))) for text in tab.evaluate(colours)}
    assert {len(pair) for pair in pairs} == {6}  # no transparent ones
    assert len(pairs) > 4
    assert [pair for pair in pairs if contrast.contrast(pair[:3], pair[3:]) < contrast.LEAST] == []
    page_is_dark = contrast.luminance(pairs.pop()[3:]) < 0.2
    assert page_is_dark == (scheme == "dark")


def test_without_javascript_it_is_a_plain_page_whose_rows_are_folded(open_page):
    tab = open_page(java_script_enabled=False)
    assert not tab.locator("#search").is_visible()
    assert tab.locator("#all button").count() == 0
    assert tab.get_by_role("button").count() == 0
    assert not tab.locator("#input-4").is_visible()
    tab.get_by_text("All 4 inputs").click()
    assert tab.locator("#input-4").is_visible()


def test_printed_it_has_no_controls(open_page):
    tab = open_page(color_scheme="dark")
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible()
    assert not tab.locator("#search").is_visible()
    assert contrast.luminance(tab.evaluate("getComputedStyle(document.body).color.match(/\\d+/g).map(Number)")) < 0.2


# The script that installs the browser


def install_chromium(tools: Path, *names: str) -> subprocess.CompletedProcess:
    """Run it where only a few commands exist, and `names`, which fail."""
    tools.mkdir()
    for name in ("bash", "dirname", "id", "env"):
        (tools / name).symlink_to(shutil.which(name))
    for name in names:
        (tools / name).write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    command = [shutil.which("bash"), ROOT / "scripts" / "install_chromium.sh"]
    return subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True)


def test_an_installed_chromium_is_left_alone(tmp_path):
    done = install_chromium(tmp_path / "tools", "chromium", "apt-get")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("names", "message"), [((), "there is no apt-get"), (("apt-get", "sudo"), "could not install")]
)
def test_what_keeps_chromium_from_being_installed_is_said(tmp_path, names, message):
    done = install_chromium(tmp_path / "tools", *names)
    assert done.returncode == 2
    assert message in done.stderr and "by hand" in done.stderr


# Charts, whatever the user has set for matplotlib

CHARTS = """
import sys
sys.path.insert(0, sys.argv[1])
if len(sys.argv) > 2:
    import matplotlib
    matplotlib.rcParams["text.usetex"] = True
from report_page import charts
print(charts.over_steps("a", "b", [charts.Line("training", [1, 2], [3, 4], "run")], "loss"))
print(charts.of_scores("c", "d", [charts.Mark("this run", 0.3, (0.2, 0.4), "run")], "BLEU"))
"""


def drawn(folder: Path, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", CHARTS, str(ROOT / "eval"), *arguments]
    given = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "MATPLOTLIBRC")}
    done = subprocess.run(command, cwd=folder, env=given | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


@pytest.fixture(scope="module")
def as_ever(tmp_path_factory) -> str:
    return drawn(tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.no_backend", "none such", "TkAgg"])
def test_charts_need_no_backend_of_the_users(backend, as_ever, tmp_path):
    assert drawn(tmp_path, MPLBACKEND=backend) == as_ever


@pytest.mark.parametrize(
    "content", [b"text.usetex: true", b"font.size: 30\nsvg.fonttype: path", b"\xff\xfe", b"backend: none such"]
)
@pytest.mark.parametrize("found_by", ["MATPLOTLIBRC", "MPLCONFIGDIR", "HOME", ""])
@pytest.mark.slow
def test_charts_do_not_take_a_users_settings(content, found_by, as_ever, tmp_path):
    """TeX in particular, which may not be here; a file that is damaged is not read. Without a variable: of the current folder."""
    path = tmp_path / (".config/matplotlib" if found_by == "HOME" else "") / "matplotlibrc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (tmp_path / "elsewhere").mkdir()
    given = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")} if found_by == "HOME" else {}
    given |= {found_by: str(tmp_path)} if found_by.startswith("M") else {}
    assert drawn(tmp_path / "elsewhere" if found_by else tmp_path, **given) == as_ever


def test_charts_do_not_take_what_was_set_before(as_ever, tmp_path):
    assert drawn(tmp_path, "with TeX") == as_ever
