"""The task door: a row is all that programs and eval/ know of a task."""

import json
from pathlib import Path

import pytest

import describe_task
import gpt2_decode
from lora_nlg import errors, tasks
from lora_nlg.tasks import TASKS, Task

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", TASKS)
def test_a_row_names_what_there_is(name):
    """A scorer that is a program, and a copied slot only where slots are counted."""
    task = TASKS[name]
    assert (ROOT / task.scorer).is_file()
    assert len(set(task.scores)) == len(task.scores) > 0
    assert task.slots is not None or task.copied is None


def test_task_json_is_the_row(tmp_path, capsys):
    assert describe_task.main(["e2e", "--output", str(tmp_path / "task.json"), "--field", "scorer"]) == 0
    assert json.loads((tmp_path / "task.json").read_text()) == json.loads(json.dumps(TASKS["e2e"].described("e2e")))
    assert capsys.readouterr().out == "eval/e2e/measure_scores.py\n"
    with pytest.raises(errors.UserError, match=r"--field must be one of task, scorer, .* but is 'scorers'"):
        describe_task.main(["e2e", "--field", "scorers"])


@pytest.mark.parametrize("files", [True, False])
def test_a_row_says_how_references_are_written(files, tmp_path, monkeypatch, capsys):
    """One more row, and the decode step writes its references as it says. Fails where a program asks for E2E by name."""
    row = Task(
        TASKS["e2e"].read_raw, print, reference_files=files, scorer="eval/e2e/measure_scores.py", scores=("BLEU",)
    )
    monkeypatch.setitem(tasks.TASKS, "toy", row)
    monkeypatch.setattr(gpt2_decode, "REF_TYPES", ("e2e", "toy"))
    formatted, decoded = tmp_path / "formatted.jsonl", tmp_path / "decoded.jsonl"
    formatted.write_text('{"context": "a", "completion": "A ."}\n{"context": "a", "completion": "AA ."}\n')
    decoded.write_text('{"id": 0, "predict": [32]}\n')
    paths = f"--sample_file {decoded} --input_file {formatted} --output_pred_file {tmp_path}/texts --vocab {ROOT}/vocab".split()
    assert gpt2_decode.main([*paths, "--output_ref_file", str(tmp_path / "refs"), "--ref_type", "toy"]) == 0
    found = tmp_path / "refs"
    assert found.is_dir() == files
    if files:
        assert [(found / f"reference{i}").read_text() for i in range(2)] == ["A .\n", "AA .\n"]
    else:
        assert found.read_text() == "A .\nAA .\n\n"
