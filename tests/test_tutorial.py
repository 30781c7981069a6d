"""The recipe's own commands, steps 4 to 7 of its README, as they are typed: with the small card, its base, and data that are short."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import format_converting_e2e
import gpt2_encode
from test_dist import free_port

ROOT = Path(__file__).resolve().parents[1]
LINES = 16
TRAIN = """-m torch.distributed.launch --nproc_per_node=1 src/gpt2_ft.py --train_data ./data/e2e/train.jsonl
    --valid_data ./data/e2e/valid.jsonl --train_batch_size 8 --grad_acc 1 --valid_batch_size 4 --seq_len 512 --model_card gpt2.mini
    --init_checkpoint ./pretrained_checkpoints/gpt2.mini --platform local --clip 0.0 --lr 0.0002 --weight_decay 0.01 --correct_bias
    --adam_beta2 0.999 --scheduler linear --warmup_step 3 --max_epoch 5 --save_interval 1000 --lora_dim 4 --lora_alpha 32
    --lora_dropout 0.1 --label_smooth 0.1 --work_dir ./trained_models/GPT2_M/e2e --random_seed 110"""
BEAM = """-m torch.distributed.launch --nproc_per_node=1 src/gpt2_beam.py --data ./data/e2e/test.jsonl --batch_size 1 --seq_len 512
    --eval_len 64 --model_card gpt2.mini --init_checkpoint {base} --platform local --lora_dim 4 --lora_alpha 32 --beam 10
    --length_penalty 0.8 --no_repeat_ngram_size 4 --repetition_penalty 1.0 --eos_token_id 628 --work_dir ./trained_models/GPT2_M/e2e
    --output_file predict.10.b10p08r4.jsonl"""
DECODE = """src/gpt2_decode.py --vocab ./vocab --sample_file ./trained_models/GPT2_M/e2e/predict.10.b10p08r4.jsonl
    --input_file ./data/e2e/test_formatted.jsonl --output_ref_file e2e_ref.txt --output_pred_file e2e_pred.txt"""
SCORE = "eval/e2e/measure_scores.py e2e_ref.txt e2e_pred.txt -p"
FITTED = "warning: --seq_len 512 is more than the 256 positions of gpt2.mini, so it is 256\n"


@pytest.fixture
def folder(tmp_path, capsys) -> Path:
    """A folder with the project's programs and base, and the first lines of the bundled data as data/e2e."""
    for name in ("src", "eval", "vocab", "pretrained_checkpoints"):
        (tmp_path / name).symlink_to(ROOT / name)
    data = tmp_path / "data/e2e"
    data.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        lines = (ROOT / f"data/mini/{split}.txt").read_text().splitlines(keepends=True)[:LINES]
        (data / f"{split}.txt").write_text("".join(lines))
        format_converting_e2e.main([f"{data}/{split}.txt", f"{data}/{split}_formatted.jsonl"])
        of_split = f"--input {data}/{split}_formatted.jsonl --output {data}/{split}.jsonl --vocab {ROOT}/vocab"
        gpt2_encode.main(["--add_bos", "--add_eos", *of_split.split()])
    return tmp_path


def type_in(folder: Path, command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *shlex.split(command)], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_steps_4_to_7_run_as_typed(folder):
    """Fails when --seq_len 512 is an error, an epoch's end does not stay, or a mistake of the tutorial's reader is not explained."""
    work = folder / "trained_models/GPT2_M/e2e"
    trained = type_in(folder, TRAIN)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.count(FITTED) == 1
    assert {f"model.{step}.pt" for step in (2, 4, 6, 8, 10)} <= {path.name for path in work.iterdir()}
    assert "saved | step       2 | model.2.pt, state.2.pt\n" in trained.stdout
    final = "trained_models/GPT2_M/e2e/model.final.pt and trained_models/GPT2_M/e2e/adapter.safetensors"
    assert trained.stdout.endswith(f"saved {final}\n")
    assert json.loads((work / "run.json").read_text())["settings"]["train"]["seq_len"] == 256

    misled = type_in(folder, BEAM.format(base="./trained_models/GPT2_M/e2e/model.10.pt"))
    assert (
        "their file goes into --lora_checkpoint, and the base they were trained on into --init_checkpoint"
        in misled.stderr
    )
    adapters = "./pretrained_checkpoints/gpt2.mini --lora_checkpoint ./trained_models/GPT2_M/e2e/model.10.pt"
    decoded = type_in(folder, BEAM.format(base=adapters))
    assert decoded.returncode == 0, decoded.stderr
    assert decoded.stderr.count(FITTED) == 1

    assert type_in(folder, DECODE).returncode == 0
    scored = type_in(folder, SCORE)
    assert scored.returncode == 0, scored.stderr
    assert scored.stdout.startswith("SCORES:") and "\nBLEU: 0." in scored.stdout
