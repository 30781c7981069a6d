#!/usr/bin/env bash
# Usage: bash benchmarks/gpt2_md_shape.sh [DIR]
#
# Shows that the paper's model fits this machine: two training steps and one decoded input of GPT-2 Medium with random weights,
# LoRA r = 4, batch 8, on real E2E data (bash scripts/02_create_datasets.sh e2e). What it measures: that the shapes work, and
# peak memory. What it does not: quality (the weights are random) and speed (two steps are no timing). Under a minute on 2 cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=${1:-}
if [[ -z $dir ]]; then
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
fi
head -n 16 data/e2e/train.jsonl >"$dir/train.jsonl"
head -n 1 data/e2e/test.jsonl >"$dir/test.jsonl"
shape=(--model_card gpt2.md --init_checkpoint random --work_dir "$dir" --device cpu)
.venv/bin/python src/gpt2_ft.py "${shape[@]}" --train_data "$dir/train.jsonl" --valid_data "$dir/test.jsonl" \
  --lora_dim 4 --lora_alpha 32 --lora_dropout 0.1 --label_smooth 0.1 --lr 0.0002 --correct_bias --max_step 2 --log_interval 1
.venv/bin/python src/gpt2_beam.py "${shape[@]}" --data "$dir/test.jsonl" --lora_checkpoint "$dir/model.final.pt" \
  --beam 10 --eval_len 4 --length_penalty 0.8 --eos_token_id 628
.venv/bin/python - "$dir" <<'PYTHON'
import json, sys
for name in ("run.json", "beam_prediction.run.json"):
    record = json.load(open(f"{sys.argv[1]}/{name}"))
    print(f"{name}: {record['seconds']:.0f} s in all, peak {record['peak_memory']['host_mib']:,.0f} MiB")
PYTHON
