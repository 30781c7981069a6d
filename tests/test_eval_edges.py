"""Edges of eval/: files that are not what their names say, odd and empty names, outputs over inputs, records with more in them."""

import functools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import compare
import describe_task
import measure_scores
import methods_table
import placement_table
import report
import run_dir
import slots
import summary
import sweep
from lora_nlg.data import lines as training_lines
from lora_nlg.data import tables as of_training
from metrics import files as metric_files
from metrics import java, results, scores, tables, ter, triples
from metrics.errors import UserError
from report_page import again, charts, contents, outputs
from test_report import change, make_run, render
from test_sweep import write_run
from test_triples_scores import OUTPUTS, data, measure_triples  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[1]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# Tables


def cells(path: Path, text: str) -> list[list[str]]:
    """Return the cells as both readers have them."""
    write(path, text)
    rows = [row for _, row in tables.cells_of(str(path))]
    assert rows == [row for _, row in of_training.cells_of(str(path))]
    return rows


@pytest.mark.parametrize("separator", [", ", " , ", " ;", "\t ", ","])
def test_single_quotes_around_cells_with_blanks_beside_the_separator(separator, tmp_path):
    text = "".join(f"'{mr}'{separator}'{ref}'\n" for mr, ref in (("mr", "ref"), ("m1", "It''s, a pub"), ("m2", "")))
    assert cells(tmp_path / "t.csv", text) == [["mr", "ref"], ["m1", "It's, a pub"], ["m2", ""]]


def test_blanks_and_quotes_within_cells_stay_text(tmp_path):
    """Fails when a blank beside the separator is looked for alone."""
    assert cells(tmp_path / "t.csv", "'m','r'\n'm1','the pubs', 'tis said'\n") == [
        ["m", "r"],
        ["m1", "the pubs', 'tis said"],
    ]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('6" pub, cheap\t6" is the pub\nb\tB\n', ['6" pub, cheap', '6" is the pub']),
        ("a, b\tA\nb\tB\n", ["a, b", "A"]),
    ],
)
def test_a_tab_in_the_first_line_of_a_tsv_separates_whatever_is_quoted(text, row, tmp_path):
    assert cells(tmp_path / "t.tsv", text) == [row, ["b", "B"]]


def test_a_tab_within_quotes_of_a_csv_does_not(tmp_path):
    assert cells(tmp_path / "t.csv", '"a\tb",A\n') == [["a b", "A"]]


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_quoted_cell_may_have_a_line_break_and_a_tab(separator, tmp_path):
    text = f'mr{separator}ref\nm1{separator}"one\ttwo\nthree"\n'
    assert cells(tmp_path / "t.csv", text) == [["mr", "ref"], ["m1", "one two three"]]


# The scorers: what they read


@pytest.fixture
def counted(monkeypatch):
    """Replace both scorings by constants, for what surrounds them."""

    def constant(metrics):
        class Scored:
            corpus = dict.fromkeys(metrics, 0.5)
            segments = dict.fromkeys(metrics, np.full(9, 0.5))
            bleu_statistics = np.zeros((3, 1))

            def of(self, chosen):
                return self

        return Scored

    monkeypatch.setattr(
        scores, "score", lambda references, systems, *rest: [constant(scores.METRICS)() for _ in systems]
    )
    monkeypatch.setattr(
        triples, "score", lambda references, systems, *rest: [constant(triples.METRICS)() for _ in systems]
    )
    monkeypatch.setattr(java, "find_java", lambda: java.Java("java", "17"))


def of_triples(data, *flags, system="out.txt"):  # noqa: F811
    """Call the scorer of triples, and return what it writes."""
    argv = [
        str(data / "references"),
        str(data / system),
        "--protocol",
        "dart",
        "--json",
        str(data / "scores.json"),
        *flags,
    ]
    assert measure_triples.main(argv) == 0
    return json.loads((data / "scores.json").read_text())


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("beam.jsonl", '{"id": 0, "predict": [1]}\n' * 3, "holds JSON"),
        ("beam.txt", '{"id": 0, "predict": [1]}\n' * 3, "holds JSON"),
        ("out.tsv", "a\tA\nb\tB\nc\tC\n", "is a table; give plain text, one line an input"),
        ("out.csv", "A\nB\nC\n", "is a table; give plain text, one line an input"),
        ("tabs.txt", "a\tA\nb\tB\nc\tC\n", "has a tab in every line, as a table has; name it .tsv"),
    ],
)
def test_triples_are_not_scored_of_what_is_no_plain_text(name, text, says, data, counted):  # noqa: F811
    write(data / name, text)
    with pytest.raises(UserError, match=says):
        of_triples(data, system=name)
    write(data / "references" / "reference0", text)
    if not name.startswith("out"):  # which a reference's name says, not its text
        with pytest.raises(UserError, match=says):
            triples.read_references(str(data / "references"))


@pytest.mark.parametrize(
    ("references", "text", "says"),
    [
        ("A\n\nB\n", "a\tA\nb\tB\n", "has a tab in every line"),
        ("A\n\nB\n", "a\tA\t1\nb\tB\t2\n", "has 2 tabs in every line"),
        ("a\tA\n\nb\tB\n\n", "A\nB\n", "has a tab in every line"),
    ],
)
def test_a_table_by_another_name_is_not_scored_with_its_sources(references, text, says, counted, tmp_path):
    argv = [write(tmp_path / "ref.txt", references), write(tmp_path / "sys.txt", text)]
    with pytest.raises(UserError, match=says):
        measure_scores.main(argv)


@pytest.mark.parametrize("text", ["a\tA\nB\n", "a\tA\nb\tB\tC\n", " \tA\n\tB\t\n"])
def test_texts_may_have_tabs(text, counted, tmp_path):
    assert measure_scores.main([write(tmp_path / "ref.txt", "A\n\nB\n"), write(tmp_path / "sys.txt", text)]) == 0


def test_a_header_of_unknown_names_is_told(counted, tmp_path, capsys):
    ref, sys_ = (write(tmp_path / f"{name}.csv", "meaning,utterance\na,A\nb,B\n") for name in ("ref", "sys"))
    assert measure_scores.main([ref, sys_]) == 0
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith(
        f"{sys_}: the first line, which is that of {ref}, is read as an input, 'meaning' and 'utterance'"
    )
    assert said.endswith("if it names the columns, call them mr, ref and sys_out")


@pytest.mark.parametrize(
    ("ref", "sys_"),
    [
        ("mr,ref\na,A\n", "mr,output\na,A\n"), ("mr,ref\na,A\n", "mr,text\na,A\n"), ("ref\nA\n", "sys_out\nA\n"),
        ("a,A\nb,B\n", "a,another A\nb,B\n"),
    ],
)  # fmt: skip
def test_of_known_names_and_of_inputs_nothing_is_told(ref, sys_, counted, tmp_path, capsys):
    assert measure_scores.main([write(tmp_path / "r.csv", ref), write(tmp_path / "s.csv", sys_)]) == 0
    assert capsys.readouterr().err == ""


def test_scores_of_a_part_of_the_triples_say_so(data, counted, capsys):  # noqa: F811
    write(data / "out.txt.covered.json", '{"inputs": 5, "covered": [0, 2, 3]}')
    signature = of_triples(data)["signature"]
    assert (signature["inputs"], signature["segments"]) == (5, 3)
    assert capsys.readouterr().out.startswith(f"{data / 'out.txt'} (3 of 5 inputs)\n")
    write(data / "out.txt.covered.json", '{"inputs": 5, "covered": [0]}')
    with pytest.raises(UserError, match="is of 1 outputs but"):
        of_triples(data)
    (data / "out.txt.covered.json").unlink()
    assert of_triples(data)["signature"]["inputs"] == 3


def test_a_part_of_the_triples_is_compared_with_none_of_the_whole(data, counted):  # noqa: F811
    write(data / "b.txt", "a\nb\nc\n")
    write(data / "b.txt.covered.json", '{"inputs": 5, "covered": [0, 2, 3]}')
    argv = [data / "references", data / "out.txt", data / "b.txt", "--protocol", "dart"]
    with pytest.raises(UserError, match="do not cover the same inputs"):
        measure_triples.main([*map(str, argv)])


def test_categories_of_other_inputs_are_not_taken(data, counted, capsys):  # noqa: F811
    """As many inputs, and in another order."""
    lines = (data / "test.jsonl").read_text().splitlines()
    write(data / "turned.jsonl", "\n".join(lines[::-1]) + "\n")
    found = of_triples(data, "--categories", str(data / "turned.jsonl"))
    assert "splits" not in found["systems"][0]
    assert "input 1 of" in capsys.readouterr().err


@pytest.mark.parametrize("form", [str.lower, str.upper, triples.split, lambda text: text.replace("Á", "A")])
def test_categories_of_references_in_another_form_are_taken(form, data, counted, capsys):  # noqa: F811
    for path in (data / "references").iterdir():
        write(path, "".join(f"{form(line)}\n" for line in path.read_text().splitlines()))
    found = of_triples(data, "--categories", str(data / "test.jsonl"))
    assert list(found["systems"][0]["splits"]) == ["Unseen", "Seen", "All"] and capsys.readouterr().err == ""


# The scorers: what they write


@pytest.mark.parametrize("flag", ["--json", "-l", "-s"])
def test_an_empty_name_is_an_error_of_the_scorer(flag, capsys):
    with pytest.raises(SystemExit):
        measure_scores.parse(["ref", "sys", flag, ""])
    assert "the name of a file is empty" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--json", "-l", "--categories"])
def test_an_empty_name_is_an_error_of_the_scorer_of_triples(flag, data, capsys):  # noqa: F811
    with pytest.raises(SystemExit):
        measure_triples.parse([str(data / "references"), "sys", "--protocol", "dart", flag, ""])
    assert "the name of a file is empty" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["references/reference1", "out.txt.covered.json", "test.jsonl"])
def test_no_input_of_the_triples_is_written_over(name, data, counted):  # noqa: F811
    write(data / "out.txt.covered.json", '{"inputs": 3, "covered": [0, 1, 2]}')
    before = (data / name).read_text()
    with pytest.raises(UserError, match="it is an input, too"):
        of_triples(data, "-l", str(data / name), "--categories", str(data / "test.jsonl"))
    assert (data / name).read_text() == before


def test_scores_in_a_folder_whose_name_is_no_utf_8_can_be_read(counted, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    write(folder / "ref.txt", "A\n\nB\n")
    argv = [str(folder / "ref.txt"), write(folder / "prediction.txt", "A\nB\n"), "--json", str(folder / "scores.json")]
    assert measure_scores.main(argv) == 0
    run = run_dir.read_run(folder)
    assert run_dir.output_file(run.system) == "prediction.txt" and r"caf\udce9" in run.system["file"]


def test_other_names_are_written_as_they_are():
    assert results._utf8("a folder/é\x1b 你.txt") == "a folder/é\x1b 你.txt"


def test_a_process_that_counts_ter_and_is_killed_is_one_sentence(monkeypatch):
    monkeypatch.setattr(ter, "_begin", functools.partial(os._exit, 1))
    with pytest.raises(UserError, match="a process that counts TER was ended, perhaps for want of memory"):
        ter.statistics(["a"], [["a"]], best_ratio=False, case=False)


# Outputs over inputs


@pytest.fixture
def run(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "model.final.pt").write_text("weights")
    (folder / "references").mkdir()
    (folder / "references/reference0").write_text("a\n")
    (folder / "earlier.json").write_text("{}")
    (folder / "adapter.safetensors").write_text("weights")
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["train"]["random_seed"] = 110
    change(folder / "run.json", settings=record["settings"])
    change(folder / "beam_prediction.run.json", settings={"search": {"beam": 10, "length_penalty": 0.8}})
    return folder


WRITERS = {  # program, its flags beside the work dir, and its flag of an output
    "compare": (compare, ["--data", "test.jsonl"], "--output"),
    "report": (report, ["--data", "test.jsonl"], "--output"),
    "slots": (slots, ["--data", "test.jsonl"], "--json"),
    "sweep": (sweep, ["--data", "test.jsonl"], "--output"),
    "placement_table": (placement_table, ["--data", "test.jsonl"], "--output"),
    "methods_table": (methods_table, ["--earlier", "earlier.json"], "--output"),
    "methods_table, figures": (methods_table, ["--earlier", "earlier.json"], "--json"),
}
READ = [
    "scores.json",
    "run.json",
    "log.jsonl",
    "segments.tsv",
    "prediction.txt",
    "reference.txt",
    "references/reference0",
]
READ += ["beam_prediction.run.json", "model.final.pt", "adapter.safetensors", "comparison.json", "slots.json"]


@pytest.mark.parametrize("name", WRITERS)
def test_no_file_of_a_run_is_written_over(name, run):
    program, (flag, given), output = WRITERS[name]
    made = {"compare": "comparison.json", "slots": "slots.json"}.get(name)
    for target in {*READ, given} - {made, given if output == "--json" and program is methods_table else None}:
        before = (run / target).read_bytes()
        with pytest.raises(UserError, match="it is an input, too, and would be lost"):
            program.main([str(run), flag, str(run / given), output, str(run / target)])
        assert (run / target).read_bytes() == before


def test_no_paired_test_is_written_over(run):
    (run / "paired").mkdir()
    write(run / "paired/vera.json", "{}")
    with pytest.raises(UserError, match="it is an input, too"):
        methods_table.main([str(run), "--paired", str(run / "paired"), "--json", str(run / "paired/vera.json")])


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("placement_table", "methods_table")])
def test_an_output_may_be_written_again(name, run, monkeypatch, capsys):
    for chart in ("over_steps", "of_scores"):
        monkeypatch.setattr(charts, chart, lambda *arguments, **options: "")
    program, flags, output = WRITERS[name]
    flags = [] if program is methods_table else [flags[0], str(run / flags[1])]
    if program is methods_table:
        record = json.loads((run / "run.json").read_text())
        record["settings"]["optim"]["lr"] = 0.1
        change(run / "run.json", settings=record["settings"])
    target = {"compare": "comparison.json", "slots": "slots.json"}.get(name, "own.out")
    for _ in range(2):
        assert program.main([str(run), *flags, output, str(run / target)]) == 0


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_name_is_no_output(name, run):
    program, (flag, given), output = WRITERS[name]
    with pytest.raises(UserError, match="cannot write"):
        program.main([str(run), flag, str(run / given), output, ""])


# Records with more, or less, in them


@pytest.mark.parametrize("text", ["x\n", "x\ny\n", "\n", "src\nx\n"])
def test_a_table_of_segments_with_one_column_is_one_sentence(text, run):
    write(run / "segments.tsv", text)
    with pytest.raises(UserError, match="expected the columns src, sys_out"):
        run_dir.read_segments(run)


def test_further_keys_in_an_output_of_slots_json_are_free(run):
    counted = json.loads((run / "slots.json").read_text())
    for output in counted["outputs"]:
        output |= {"seconds": 3, "note": "x", "text": [1]}
    change(run / "slots.json", outputs=counted["outputs"])
    shown = contents.read(run, run / "test.jsonl")
    assert dict(outputs.slot_counts(shown))["name"] == {"missing": 2}


@pytest.mark.parametrize("value", ["2", 1.5, None])
def test_a_number_of_processes_that_is_none_is_one_sentence(value, run):
    change(run / "beam_prediction.run.json", settings={"world_size": value})
    with pytest.raises(UserError, match=r"settings\.world_size is .*, not a whole number"):
        again.commands(contents.read(run, run / "test.jsonl"))


def test_further_keys_of_an_earlier_table_are_free(tmp_path, capsys):
    def with_rate(training, decoding):
        training["optim"]["lr"] = 0.1

    runs = [write_run(tmp_path / str(seed), seed, change=with_rate) for seed in (1, 2)]
    for work_dir in runs:
        change(Path(work_dir) / "run.json", trained_parameters=5)
    earlier = tmp_path / "earlier.json"
    assert methods_table.main([runs[0], "--json", str(earlier)]) == 0
    table = json.loads(earlier.read_text())
    change(earlier, of={**table["of"], "machine": "another"})
    assert methods_table.main([runs[1], "--earlier", str(earlier)]) == 0
    assert "±" in capsys.readouterr().out


def test_the_best_of_no_run_is_one_sentence():
    with pytest.raises(UserError, match="no run is given"):
        methods_table.main(["--best_of"])


def less_one(tmp_path, metric):
    """Return a run of E2E without one of its scores, and the flags that say so."""
    folder = Path(write_run(tmp_path / "run"))
    scored = json.loads((folder / "scores.json").read_text())
    for system in scored["systems"]:
        del system["scores"][metric]
    change(folder / "scores.json", systems=scored["systems"])
    assert describe_task.main(["e2e", "--output", str(tmp_path / "task.json")]) == 0
    task = json.loads((tmp_path / "task.json").read_text())
    change(tmp_path / "task.json", scores=[name for name in task["scores"] if name != metric])
    write(tmp_path / "test.jsonl", '{"context": "a", "completion": "A"}\n')
    return [str(folder), "--data", str(tmp_path / "test.jsonl")]


@pytest.mark.parametrize("metric", scores.METRICS)
def test_a_score_that_a_task_leaves_out_is_not_asked_for(metric, tmp_path, capsys):
    flags = less_one(tmp_path, metric)
    for form in sweep.FORMATS:
        assert sweep.main([*flags, "--format", form]) == 0
        assert metric not in capsys.readouterr().out.partition("paper")[0]
    assert compare.main(flags) == 0


def test_a_score_that_the_paper_lacks_is_a_dash(tmp_path, capsys):
    flags = less_one(tmp_path, "NIST")
    task = json.loads((tmp_path / "task.json").read_text())
    change(tmp_path / "task.json", scores=[*task["scores"], "chrF"])
    scored = json.loads((tmp_path / "run/scores.json").read_text())
    for system in scored["systems"]:
        system["scores"]["chrF"] = 0.5
    change(tmp_path / "run/scores.json", systems=scored["systems"])
    assert sweep.main([*flags, "--format", "tsv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split("\t")[3::6] == ["paper", "-"]


# Charts


@pytest.mark.parametrize("value", ["abc", "", "1e99", "-1"])
def test_the_date_of_a_build_is_no_chart_s(value, run, monkeypatch):
    without = render(run)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    assert render(run) == without and os.environ["SOURCE_DATE_EPOCH"] == value


EVIL = "\x1b]0;title\x07\x00\n\\d \\x \"<b>' 你 \u0645 \u202e"


def test_nothing_that_a_terminal_obeys_reaches_matplotlib(capfd):
    """Nor does it warn of letters that its font lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        line, mark = charts.Line(EVIL, [1, 2], [1, 2], "run"), charts.Mark(EVIL, 1.0, None, "run")
        point = charts.Point(EVIL, 10.0, 1.0, None, "run")
        shown = [
            charts.over_steps(EVIL, EVIL, [line, line], EVIL),
            charts.of_scores(EVIL, EVIL, [mark], EVIL),
            charts.against_sizes(EVIL, EVIL, [point], EVIL, EVIL),
        ]
    assert capfd.readouterr() == ("", "")
    for svg in shown:
        assert r"\x1b]0;title\x07\x00\n\d \x" in svg and "\x07</text>" not in svg


def test_a_report_with_such_a_name_says_nothing_on_stderr(run):
    scored = json.loads((run / "scores.json").read_text())
    scored["systems"][0]["file"] = f"{EVIL.replace('/', '')}.txt"
    change(run / "scores.json", systems=scored["systems"])
    (run / "comparison.json").unlink()
    command = [sys.executable, str(ROOT / "eval/report.py"), str(run), "--data", str(run / "test.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.jsonl"])
def test_utf_16_without_its_mark_is_not_text(encoding, name, tmp_path):
    """Its bytes are UTF-8, too: letters with NULs between them. Fails when perfect outputs have a BLEU of 0."""
    path = tmp_path / name
    path.write_bytes("The Mill is a pub .\nIt is cheap .\n".encode(encoding))
    for lines, error in ((metric_files.lines, UserError), (training_lines.raw_lines, of_training.UserError)):
        with pytest.raises(error, match="UTF-16 without its mark, by its NUL bytes; save it as UTF-8"):
            list(lines(path))
    path.write_text("a\0b, a NUL that a model has written\n")
    assert list(metric_files.lines(path)) == list(training_lines.raw_lines(path)) == [path.read_text()]


@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_one_row_in_single_quotes_is_a_table(separator, tmp_path):
    row = ["name[A]", "It's a pub ."]
    text = separator.join(f"'{cell.replace(chr(39), chr(39) * 2)}'" for cell in row) + "\n"
    assert cells(tmp_path / "t.csv", text) == [row]
    assert cells(tmp_path / "t.csv", f'"mr"{separator}"ref"\n{text}') == [
        ["mr", "ref"],
        row,
    ]  # quoted as other programs do
    assert cells(tmp_path / "t.csv", "'tis a pub'\n") == [["'tis a pub'"]]  # an apostrophe


def test_outputs_that_are_not_the_scored_ones_are_refused(run):
    """Fails when scores stand beside texts that they are not of."""
    write(run / "base.txt", "It is a pub .\n" * 4)
    for program in (summary, report):
        (run / "prediction.txt").write_text("x .\n" * 4)
        with pytest.raises(
            UserError, match=r"segments\.tsv is of other outputs than prediction\.txt; run step 06 again"
        ):
            program.main([str(run), "--data", str(run / "test.jsonl")])


@pytest.mark.parametrize("program", [summary, report, slots])
def test_data_in_another_order_than_the_scored_references_are_refused(program, run):
    """Fails when outputs are put beside other inputs without a word."""
    groups = run_dir.references_by_input(run / "test.jsonl")
    write(run / "base.txt", "It is a pub .\n" * 4)
    write(run / "reference.txt", "".join("\n".join(texts).upper() + "\n\n" for texts in groups.values()))
    arguments = [str(run), "--data", str(run / "test.jsonl")]
    assert program.main(arguments) == 0
    lines = (run / "test.jsonl").read_text().splitlines()
    write(run / "test.jsonl", "".join(f"{line}\n" for line in reversed(lines)))
    with pytest.raises(
        UserError, match=r"reference\.txt has as input 1 what in .* is another one, .*; run step 05 again"
    ):
        program.main(arguments)


def test_scores_of_two_files_of_one_name_are_refused(run):
    scored = json.loads((run / "scores.json").read_text())
    twin = {**scored["systems"][0], "file": "other/base.txt"}
    change(run / "scores.json", systems=[*scored["systems"], twin, twin])
    with pytest.raises(UserError, match="has scores of two files of one name"):
        summary.main([str(run), "--data", str(run / "test.jsonl")])


def test_what_a_record_says_twice_is_not_believed(run):
    text = (run / "scores.json").read_text()
    write(run / "scores.json", text.replace('"BLEU":', '"BLEU": 0.99, "BLEU":', 1))
    with pytest.raises(UserError, match=r"scores\.json: it has 'BLEU' twice; run step 06 again"):
        summary.main([str(run), "--data", str(run / "test.jsonl")])


@pytest.mark.parametrize("name", ["scores.json", "run.json", "log.jsonl", "segments.tsv", "task.json"])
def test_a_folder_is_not_taken_for_a_file_that_is_missing(name, run):
    if (run / name).exists():
        (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(UserError, match=rf"cannot read .*{name}: Is a directory"):
        report.main([str(run), "--data", str(run / "test.jsonl")])
