"""Weather, CONTRIBUTING.md's example of a new task: 20 pairs, from raw lines to texts, by a row of the table alone."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import describe_task
import format_converting
import gpt2_beam
import gpt2_decode
import gpt2_encode
import gpt2_ft
from lora_nlg import tasks
from lora_nlg.data.lines import read_lines
from lora_nlg.errors import UserError
from lora_nlg.tasks import Task

ROOT = Path(__file__).resolve().parents[1]
BASE, VOCAB = ROOT / "pretrained_checkpoints" / "gpt2.mini", ROOT / "vocab"
PLACES, SKIES = (
    ("old town", "harbour", "riverside", "city centre", "market quarter"),
    ("high", "low", "cheap", "moderate"),
)


def read_raw(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield ("place, sky", sentence) of every `place, sky => sentence` line."""
    for where, text in read_lines(path):
        source, arrow, sentence = text.partition(" => ")
        if not arrow:
            raise UserError(f"{where}: expected place, sky => sentence, found {text[:60]!r}")
        check_input(source, where)
        yield source, sentence


def check_input(text: str, where: str) -> None:
    """Raise UserError for anything but "place, sky"."""
    if not re.fullmatch(r"[^,]+, [^,]+", text):
        raise UserError(f"{where}: expected place, sky, found {text[:60]!r}")


WEATHER = Task(
    read_raw, check_input, reference_files=False, scorer="eval/e2e/measure_scores.py", scores=("BLEU", "ROUGE_L")
)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """The row is in the table, and its 20 pairs in a file."""
    monkeypatch.setitem(tasks.TASKS, "weather", WEATHER)
    lines = [f"{place}, {sky} => The {place} has {sky} skies ." for place in PLACES for sky in SKIES]
    (tmp_path / "raw.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "raw.txt"


@pytest.mark.skipif(not (VOCAB / "encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh")
def test_from_raw_lines_to_texts(raw, tmp_path):
    """Fails when a program on the way knows E2E by name."""
    formatted, encoded, work = (str(tmp_path / name) for name in ("formatted.jsonl", "encoded.jsonl", "work"))
    assert format_converting.main(["weather", str(raw), formatted]) == 0
    assert describe_task.main(["weather", "--output", str(tmp_path / "task.json")]) == 0
    gpt2_encode.main(["--vocab", str(VOCAB), "--input", formatted, "--output", encoded, "--add_bos", "--add_eos"])
    model = ["--model_card", "gpt2.mini", "--init_checkpoint", str(BASE), "--device", "cpu", "--work_dir", work]
    adapters = "--lora_dim 8 --lora_alpha 32 --lora_targets all".split()
    steps = "--lr 0.004 --correct_bias --max_step 30 --train_batch_size 10 --seq_len 64".split()
    assert gpt2_ft.main(["--train_data", encoded, "--valid_data", encoded, *model, *adapters, *steps]) == 0
    search = [
        "--data",
        encoded,
        "--lora_checkpoint",
        f"{work}/model.final.pt",
        "--seq_len",
        "64",
        "--eval_len",
        "16",
        "--beam",
        "2",
    ]
    assert gpt2_beam.main([*model, *search]) == 0
    texts = [f"--output_pred_file={work}/texts.txt", f"--output_ref_file={work}/refs.txt", f"--input_file={formatted}"]
    assert gpt2_decode.main([*texts, "--vocab", str(VOCAB), "--sample_file", f"{work}/beam_prediction.jsonl"]) == 0
    predicted, references = ((tmp_path / "work" / name).read_text() for name in ("texts.txt", "refs.txt"))
    assert references == "".join(f"The {place} has {sky} skies .\n\n" for place in PLACES for sky in SKIES)
    assert sum(a == b for a, b in zip(predicted.splitlines(), references.split("\n\n"), strict=False)) >= 15
    assert json.loads((tmp_path / "task.json").read_text())["slots"] is None


@pytest.mark.parametrize("line", ["old town, high", "old town high => It is ."])
def test_what_is_no_line_of_the_task_is_refused_by_its_number(raw, tmp_path, line):
    raw.write_text(raw.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"raw\.txt:21: expected place, sky"):
        format_converting.main(["weather", str(raw), str(tmp_path / "out.jsonl")])
