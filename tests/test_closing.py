"""The screen at the end of a whole pipeline."""

import json

import pytest

import closing
from test_summary import run  # noqa: F401  (a fixture)

INTERVALS = {name: [0.4, 0.6] for name in ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")}


@pytest.fixture
def finished(run):  # noqa: F811
    """A run after step 7, and what is printed of it."""
    scores = json.loads((run / "scores.json").read_text())
    scores["systems"][1]["intervals"] = INTERVALS
    (run / "scores.json").write_text(json.dumps(scores))
    record = json.loads((run / "run.json").read_text())
    record["argv"] = [
        "--model_card",
        "gpt2.mini",
        "--init_checkpoint",
        "pretrained_checkpoints/gpt2.mini",
        "--lora_dim",
        "4",
    ]
    record["settings"] = {"lora": {"rank": 4}}
    (run / "run.json").write_text(json.dumps(record))
    verdict = {
        "comparable": False,
        "why_not": "it is small",
        "verdict": "Not to be compared.",
        "band": None,
        "run": {},
        "rows": [],
    }
    (run / "comparison.json").write_text(json.dumps(verdict))
    counts = {"inputs": 2, "slots": 4, "missing": 1, "wrong": 0, "invented": 1, "slot_error_rate": 0.5, "outputs": []}
    (run / "slots.json").write_text(json.dumps(counts))
    return run


def shown(run, capsys, *more: str) -> str:  # noqa: F811
    assert closing.main([str(run), "--data", str(run / "data.jsonl"), *more]) == 0
    return capsys.readouterr().out


def test_it_fits_one_screen_and_ends_in_what_to_type(finished, capsys):
    out = shown(finished, capsys, "--log", "all.log")
    assert len(out.splitlines()) <= 24
    assert "           95 % from   0.4000" in out and out.count("input      ") == 2
    assert "Not to be compared." in out and "slot error rate 0.5000: 2 errors in 4 slots asked for" in out
    command = "src/gpt2_generate.py --model_card gpt2.mini --init_checkpoint pretrained_checkpoints/gpt2.mini --lora_checkpoint"
    last = out.splitlines()[-4:]
    assert (
        last[0].endswith("report.html")
        and command in last[1]
        and "--preset mine" in last[2]
        and last[3].endswith("all.log")
    )


def test_a_whole_model_is_asked_without_its_base(finished, capsys):
    record = json.loads((finished / "run.json").read_text())
    record["settings"]["lora"]["rank"] = 0
    (finished / "run.json").write_text(json.dumps(record))
    out = shown(finished, capsys)
    assert f"--init_checkpoint {finished}/model.final.pt" in out and "--lora_checkpoint" not in out


def test_long_texts_are_cut(finished, capsys):
    (finished / "prediction.txt").write_text("word " * 200 + "\nIt .\n")
    [text] = [line for line in shown(finished, capsys).splitlines() if line.startswith("prediction word")]
    assert len(text) == len("prediction ") + closing.LONGEST and text.endswith("…")
