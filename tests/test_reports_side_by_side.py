"""The page of several runs: which may stand beside each other, what they are called, what it shows of them."""

import json
import shutil
from pathlib import Path

import pytest

import comparable
import measure_scores
import paired
import report
import task
from metrics.bootstrap import Difference
from metrics.scores import METRICS
from report_page import alike, charts, names, opening, overlay, page, ranking, several
from run_dir import errors, read_run
from test_report import DESKTOP, HOSTILE, INPUTS, OUTPUTS, PHONE, SCORES, Elements, change, make_run, write_json

HEIGHTS = ((1400, 5000), (390, 12_000))  # widths of a screen, and the pixels that a page of twelve runs may be high


def another(first: Path, name: str, seed: int = 111, bleu: float = 0.6, outputs: list[str] | None = None) -> Path:
    """Write a run beside `first` that differs in its seed, its BLEU and its outputs."""
    folder = shutil.copytree(first, first.parent / name)
    settings = json.loads((folder / "run.json").read_text())["settings"]
    settings["train"]["random_seed"] = seed
    change(folder / "run.json", settings=settings)
    scores = json.loads((folder / "scores.json").read_text())
    scores["systems"][1]["scores"]["BLEU"] = bleu
    write_json(folder / "scores.json", scores)
    (folder / "comparison.json").unlink()
    if outputs:
        (folder / "prediction.txt").write_text("".join(f"{output}\n" for output in outputs))
        (folder / "segments.tsv").unlink()
    return folder


def test_of(value: float, p: float) -> dict[str, Difference]:
    return dict.fromkeys(METRICS, Difference(value, (value - 0.01, value + 0.01), p))


test_of.__test__ = False  # no test, for all its name


@pytest.fixture(autouse=True)
def light(monkeypatch, request):
    """Tests without Java and, but for those of the charts and of a browser, without charts."""
    tests = [None, test_of(-0.0123, 0.032), test_of(0.004, 0.4), test_of(0.05, 0.0005)]
    if "real" not in request.node.name:
        monkeypatch.setattr(paired, "against_first", lambda runs, of: (tests * 4)[: len(runs)])
    if "chart" not in request.node.name and "browser" not in request.node.name:
        for chart in ("over_steps", "of_scores", "against_sizes"):
            monkeypatch.setattr(charts, chart, lambda *arguments, **options: "")


@pytest.fixture
def runs(tmp_path):
    """Three runs of one test set: the second says one thing otherwise, the third is the first's with another seed."""
    first = make_run(tmp_path / "runs/A")
    said = ["The Fox is a cheap pub .", *OUTPUTS[1:]]
    return [first, another(first, "B", bleu=0.6, outputs=said), another(first, "C", 112, 0.62)]


def data_of(runs) -> Path:
    return runs[0] / "test.jsonl"


def read(runs) -> several.Several:
    return several.read(runs, data_of(runs))


def rendered(runs) -> str:
    return page.render_several(read(runs))


# Which runs, and what they are called


def test_a_name_is_what_tells_a_folder_from_the_others():
    folders = [Path(f"/x/methods/{name}_seed110/lp") for name in ("lora", "vera", "lora+prefix")]
    assert names.short(folders) == ["lora_seed110", "vera_seed110", "lora+prefix_seed110"]
    assert names.short([Path("/x/r1/lp0.8"), Path("/x/r1/lp0.9"), Path("/x/r4/lp0.8")]) == [
        "r1/lp0.8",
        "r1/lp0.9",
        "r4/lp0.8",
    ]
    assert names.short([Path("/x/a"), Path("/x/a/b")]) == ["a", "b"]
    assert names.short([Path("/x/a")]) == ["a"]


def test_the_settings_that_tell_runs_apart_are_named(runs):
    settings = json.loads((runs[2] / "run.json").read_text())["settings"]
    settings["optim"]["lr"] = 0.5
    change(runs[2] / "run.json", settings=settings)
    told = [dict(one.differs) for one in read(runs).runs]
    assert [one["seed"] for one in told[1:]] == ["111", "112"]
    assert told[2]["rate"] == "0.5" and told[0]["rate"] == told[1]["rate"] != "0.5"
    assert all(set(one) <= {"seed", "rate"} for one in told)


def test_the_settings_of_a_method_are_not_held_against_those_of_another(runs):
    """LoRA's rank and dropout are no difference to VeRA's dim: the method is named."""
    settings = json.loads((runs[1] / "run.json").read_text())["settings"]
    change(runs[1] / "run.json", settings={**settings, "lora": None, "vera": {"dim": 256, "rank": 8}})
    shown = read(runs)
    assert all(set(dict(one.differs)) <= {"seed"} for one in shown.runs)
    assert opening.method(shown.runs[1].run.record) == ("Method", "VeRA, r = 8")


def test_what_the_settings_of_one_method_differ_in_is_named(runs):
    """Also of one that no published table names, which a run may say itself."""
    for run, size in zip(runs, (1, 2, 2), strict=True):
        settings = json.loads((run / "run.json").read_text())["settings"]
        change(run / "run.json", method="own", settings={**settings, "lora": None, "own": {"own_size": size}})
    shown = read(runs)
    assert [dict(one.differs)["own size"] for one in shown.runs] == ["1", "2", "2"]
    assert opening.named(shown.runs[0].run.record) == "own"


@pytest.mark.parametrize("name", ["run.json", "log.jsonl", "scores.json", "prediction.txt"])
def test_a_run_that_is_not_finished_is_left_out_with_a_sentence(runs, name):
    (runs[1] / name).unlink()
    shown = read(runs)
    assert [one.name for one in shown.runs] == ["A", "C"]
    assert f"Left out: {runs[1]} has no {name} yet; step 0" in page.render_several(shown)


def test_a_training_that_goes_on_is_not_finished(runs):
    training = json.loads((runs[2] / "run.json").read_text())
    del training["valid_loss"]
    write_json(runs[2] / "run.json", training)
    assert read(runs).lacking == [f"{runs[2]} has a training that did not come to its end; step 03 goes on with it"]


def test_one_finished_run_is_a_page_and_none_is_an_error(runs):
    for run in runs[1:]:
        (run / "scores.json").unlink()
    assert "no other run is there to stand beside it" in rendered(runs)
    (runs[0] / "scores.json").unlink()
    with pytest.raises(errors.UserError, match=r"none of the 3 runs is finished: .*/A has no scores.json yet"):
        read(runs)


def test_a_run_that_is_given_twice_or_is_not_there_is_an_error(runs):
    with pytest.raises(errors.UserError, match=r"are the same run; give each once"):
        read([*runs, runs[0] / "../A"])
    with pytest.raises(errors.UserError, match=r"/D is no folder"):
        read([*runs, runs[0].parent / "D"])


@pytest.mark.parametrize("name", comparable.SCALE)
def test_runs_of_other_test_inputs_do_not_stand_side_by_side(runs, name):
    scores = json.loads((runs[2] / "scores.json").read_text())
    scores["signature"][name] = 7 if name in ("segments", "inputs") else "other"
    write_json(runs[2] / "scores.json", scores)
    with pytest.raises(errors.UserError, match=rf"A and .*C are scored with other {comparable.SCALE[name]}, so that"):
        read(runs)


def test_outputs_of_other_data_are_an_error(runs, tmp_path):
    lines = data_of(runs).read_text().splitlines(keepends=True)
    (tmp_path / "part.jsonl").write_text("".join(lines[:3]))
    with pytest.raises(
        errors.UserError, match=r"A/prediction.txt does not have an output for each input of .*part.jsonl"
    ):
        several.read(runs, tmp_path / "part.jsonl")


# What the page shows


def test_scores_stand_with_intervals_and_paired_tests(runs):
    text = rendered(runs)
    rows = {row[0]: row for row in Elements(text).rows if row}
    trained = ["16\u202f384", "1.1250"]
    assert rows["1 A"][2:6] == [*trained, "0.6123", "0.551–0.674"]
    assert rows["2 B"][1].endswith("LoRA, r = 2, α = 32, seed 111")
    assert rows["2 B"][2:8] == [*trained, "0.6000", "0.551–0.674", "−0.0123", "p = .032"]
    assert rows["3 C"][6:8] == ["+0.0040", "p = .400"]
    assert text.count('<small class="clear">') == 2 * len(METRICS)  # of the second run alone
    assert rows["3 C"][-2:] == ["62.5 %", "1.5 minutes"]


def test_the_verdict_says_which_is_the_highest_and_which_can_be_told_apart(runs):
    assert ranking.verdict(read(runs)) == [
        "BLEU .600 to .620 over 3 runs; the highest is that of run 3, C.",
        "Held against run 1, A (.612), on the same inputs: none is above it and 1 is below it (p < .05), 1 is not to be told from it.",
    ]


def test_runs_that_differ_in_the_seed_alone_have_a_mean(runs):
    (group,) = ranking.over_seeds(read(runs[1:]))
    assert [one.name for one in group.runs] == ["B", "C"]
    assert group.means["BLEU"] == pytest.approx((0.61, 0.02 / 2**0.5))
    settings = json.loads((runs[2] / "run.json").read_text())["settings"]
    settings["train"]["random_seed"] = 111  # a second run of one seed
    change(runs[2] / "run.json", settings=settings)
    assert ranking.over_seeds(read(runs[1:])) == []


@pytest.mark.parametrize(
    ("first", "other", "pieces"),
    [
        ("a b c", "a b c", [("same", "a b c")]),
        ("a b c", "a x c", [("same", "a"), ("removed", "b"), ("added", "x"), ("same", "c")]),
        ("a b", "a b c d", [("same", "a b"), ("added", "c d")]),
        ("a b", "b", [("removed", "a"), ("same", "b")]),
        ("", "a", [("added", "a")]),
        ("a", "", [("removed", "a")]),
        ("", "", []),
    ],
)
def test_differences_are_marked_word_by_word(first, other, pieces):
    assert alike.marked(first, other) == pieces


def test_all_outputs_for_an_input_stand_in_one_row(runs):
    """Equal ones once; and with what tells the others from the first run's."""
    text = rendered(runs)
    assert "The Fox is a\n<ins>cheap</ins>" in text.replace(" <ins>", "\n<ins>")
    rows = {row[0]: row for row in Elements(text).rows if row and "of input " + row[0] in row}
    assert list(rows) == ["1", "2", "3", "4"]
    of_first = rows["1"][rows["1"].index("runs 1, 3, BLEU 1.000") :]
    assert of_first == [
        "runs 1, 3, BLEU 1.000",
        "The Fox is a pub .",
        "run 2",
        "The Fox is a",
        "cheap",
        "pub .",
        "2",
        "–",
    ]
    assert "all, BLEU 0.250" in rows["2"] and HOSTILE in rows["2"]
    assert "(empty)" in rows["3"]


def test_text_of_a_run_is_never_markup(runs):
    evil = another(runs[0], "<img src=x onerror=alert(1)>", outputs=[HOSTILE, *OUTPUTS[1:]])
    change(evil / "run.json", argv=["</code><img src=x>"], commit=HOSTILE)
    elements = Elements(rendered([*runs, evil]))
    assert len(elements.of("script")) == 1
    assert not elements.of("img")
    assert not [name for _, attributes in elements.all for name in attributes if name.startswith("on")]


def test_every_run_has_its_commands(runs):
    text = rendered(runs)
    assert text.count("<h3 id=") == 4 * len(runs)
    assert text.count("src/gpt2_ft.py") == len(runs)
    ids = [attributes["id"] for _, attributes in Elements(text).all if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_of_too_many_outputs_those_that_differ_most_are_shown(runs, monkeypatch):
    monkeypatch.setattr(alike, "MOST", 3 * len(runs))
    spread = dict(zip(INPUTS, (0.1, 0.4, 0.2, 0.3), strict=True))
    real = alike._compared
    monkeypatch.setattr(
        alike, "_compared", lambda rows: alike.Compared(rows[0], [], real(rows).variants, spread[rows[0].meaning])
    )
    shown = read(runs)
    assert [one.row.number for one in alike.compared(shown)] == [2, 3, 4]
    assert "Of 4 inputs, these are the 3 whose sentence BLEU differs most" in page.render_several(shown)


def test_of_too_many_runs_the_first_and_the_best_have_a_colour(runs):
    many = [*runs, *(another(runs[0], f"D{i}", 120 + i, 0.3) for i in range(4))]
    assert list(overlay.looks(read(many[:6]))) == [1, 2, 3, 4, 5, 6]
    shown = read(many)
    assert list(overlay.looks(shown)) == [1, 3]
    faint = [line.faint for line in overlay._lines(shown, overlay._validations)]
    assert faint == [True] * 5 + [False] * 2  # behind the others
    text = page.render_several(shown)
    assert "the others" in text and text.count('class="line ') == 3


def test_charts_have_the_curves_and_the_score_against_the_size(runs):
    """Of equal sizes each point is seen."""
    shown = read(runs)
    drawn = [*overlay.curves(shown), overlay.score_against_size(shown)]
    assert [svg.count("aria-label") for svg in drawn] == [1, 1, 1]
    assert ">16.4k<" in drawn[2] and all(f">{number}<" in drawn[2] for number in (1, 2, 3))
    assert charts._side_by_side([5, 7, 5]) == [5 / charts.DODGE**0.5, 7, 5 * charts.DODGE**0.5]
    for run in runs:
        training = json.loads((run / "run.json").read_text())
        del training["trained_parameters"]
        write_json(run / "run.json", training)
    assert overlay.score_against_size(read(runs)) is None


def test_a_task_without_paired_tests_says_so(runs, monkeypatch):
    monkeypatch.setattr(paired, "against_first", lambda runs, of: None)
    text = rendered(runs)
    assert "Without paired tests: the scorer of the task e2e has none." in text
    assert len(ranking.verdict(read(runs))) == 1


def test_the_program_writes_one_page_beside_the_runs(runs, capsys):
    assert report.main([*map(str, runs), "--data", str(data_of(runs))]) == 0
    written = runs[0].parent / "side_by_side.html"
    assert capsys.readouterr().out.startswith(f"report: {written} (0.")
    assert "<title>3 runs side by side</title>" in written.read_text()
    assert report.main([str(runs[0]), "--data", str(data_of(runs))]) == 0
    assert "Report of a run" in (runs[0] / "report.html").read_text()


# The paired tests


def test_of_another_scorer_there_are_no_real_tests(runs):
    records = [read_run(run) for run in runs]
    assert paired.against_first(records, task.Task(scorer="eval/toy/measure.py")) is None


def test_real_tests_refuse_outputs_of_other_scores(runs, monkeypatch):
    class Scored:
        corpus = SCORES

    monkeypatch.setattr(paired.scores, "score", lambda *arguments: [Scored] * 2)
    monkeypatch.setattr(paired.java, "find_java", lambda: None)
    with pytest.raises(
        errors.UserError, match=r"B/prediction.txt does not have the scores of .*B/scores.json; run step 06"
    ):
        paired.against_first([read_run(run) for run in runs[:2]], task.Task())


@pytest.mark.slow
def test_real_tests_are_those_of_the_scorer(runs, tmp_path):
    """Fails when the difference is taken the other way round, or NIST's reference length is another."""
    paths = [str(run / "prediction.txt") for run in runs[:2]]
    scored = tmp_path / "scored.json"
    flags = ["-p", "--paired", "--json", str(scored)]
    assert measure_scores.main([str(runs[0] / "reference.txt"), *paths, *flags]) == 0
    result = json.loads(scored.read_text())
    for run, system in zip(runs, result["systems"], strict=False):
        write_json(run / "scores.json", {"systems": [system], "signature": result["signature"]})
    none, test = paired.against_first([read_run(run) for run in runs[:2]], task.Task())
    assert none is None
    assert {name: one.value for name, one in test.items()} == {
        name: one["difference"] for name, one in result["paired"].items()
    }
    assert test["CIDEr"].p == result["paired"]["CIDEr"]["p"]


# In a browser


@pytest.fixture
def tab(browser, tmp_path):
    """The page of twelve runs of 25 inputs."""
    first = make_run(tmp_path / "runs/A")
    for name in ("segments.tsv", "slots.json"):
        (first / name).unlink()
    lines = [{"context": f"name : n{i} | area : riverside", "completion": f"r{i}"} for i in range(1, 26)]
    (first / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def said(seed: int) -> str:
        return "".join(f"The Fox number {i} is a {'cheap ' * (seed % 3)}pub by the river .\n" for i in range(25))

    (first / "prediction.txt").write_text(said(0))
    twelve = [first, *(another(first, f"lora_lr0.00{seed}_seed{seed}", seed) for seed in range(1, 12))]
    for seed, run in enumerate(twelve):
        (run / "prediction.txt").write_text(said(seed))
    (tmp_path / "page.html").write_text(rendered(twelve))
    tab = browser.new_page(viewport=DESKTOP)
    tab.set_default_timeout(60_000)
    tab.goto((tmp_path / "page.html").as_uri())
    yield tab
    tab.close()


def test_in_a_browser_many_runs_are_no_long_page(tab):
    for width, height in HEIGHTS:
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.body.scrollHeight") < height, width
    for viewport in (DESKTOP, PHONE):
        tab.set_viewport_size(viewport)
        assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_in_a_browser_rows_are_sorted_and_searched(tab):
    shown = "#all tbody tr:visible th"
    assert len(tab.locator(shown).all_inner_texts()) == 10
    tab.get_by_role("button", name="Different").click()
    tab.locator("#search").fill("n7")
    assert tab.locator(shown).all_inner_texts() == ["7"]
    assert tab.locator("#input-7 ins").first.inner_text() == "cheap"
