#!/usr/bin/env bash
# Usage: bash scripts/04_beam.sh [--preset NAME] [--work_dir DIR] [flags of gpt2_beam.py]
#
# Decodes the test inputs with the trained model into beam_prediction.jsonl in the work dir; presets that compare with the
# base alone decode with it too, into beam_base.jsonl (WITHOUT_BASE=1 leaves that out, here and in steps 5 and 6).
# Time of mini on 2 CPU cores: 40 s.
# NPROC, NNODES, NODE_RANK and MASTER_ADDR as in 03_train.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
take_preset "$@"
check_flags src/gpt2_beam.py
from_step "$data/test.jsonl" 02 "$DATA"
base=$(value_of --init_checkpoint --init_checkpoint "$BASE" ${rest[@]+"${rest[@]}"})
if is_downloaded "$base"; then from_step "$base" 01 "$CARD"; fi
from_step "$work_dir/model.final.pt" 03
ensure_setup

decode() { # OUTPUT flags…
  launch src/gpt2_beam.py "${decoding[@]}" --work_dir "$work_dir" --output_file "$1" "${@:2}" --resume ${rest[@]+"${rest[@]}"}
}

if [[ -n $COMPARE_WITH_BASE ]]; then
  say "Decoding with the base alone"
  decode beam_base.jsonl --init_checkpoint "$BASE"
fi
say "Decoding with the trained model"
if [[ ${#LORA[@]} -gt 0 ]]; then
  decode beam_prediction.jsonl --init_checkpoint "$BASE" --lora_checkpoint "$work_dir/model.final.pt"
else
  decode beam_prediction.jsonl --init_checkpoint "$work_dir/model.final.pt"
fi
