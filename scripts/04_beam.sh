#!/usr/bin/env bash
# Usage: bash scripts/04_beam.sh [--preset NAME] [--work_dir DIR] [--checkpoint best|final] [flags of gpt2_beam.py]
#
# Decodes the test inputs with the trained model into beam_prediction.jsonl in the work dir; presets that compare with the
# base alone decode with it too, into beam_base.jsonl (WITHOUT_BASE=1 leaves that out, here and in steps 5 and 6).
# --init_checkpoint is the base that the training had, where that was not the preset's.
# --checkpoint best decodes with model.best.pt, of the best validation, in place of model.final.pt, of the training's end.
# Time of mini on 2 CPU cores: 42 s.
# NPROC, NNODES, NODE_RANK and MASTER_ADDR as in 03_train.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
take_preset "$@"
take_checkpoint
check_flags src/gpt2_beam.py --checkpoint
refuse_own_flags src/gpt2_beam.py --lora_checkpoint --output_file
from_step "$data/test.jsonl" 02 "$DATA"
base=$(value_of --init_checkpoint --init_checkpoint "$BASE" ${rest[@]+"${rest[@]}"})
if is_downloaded "$base"; then from_step "$base" 01 "$CARD"; fi
weights=$work_dir/model.$checkpoint.pt
from_step "$weights" 03

# Whether a whole model was trained: as run.json says, and as the preset does where there is none.
is_whole() {
  if [[ -f $work_dir/run.json ]]; then
    [[ $(tr -d ' \n' <"$work_dir/run.json") == *'"lora":{"rank":0,'* ]]
  else
    [[ ${#LORA[@]} -eq 0 ]]
  fi
}

if is_whole && [[ -z $COMPARE_WITH_BASE && -n $(value_of --init_checkpoint ${rest[@]+"${rest[@]}"}) ]]; then
  fail "--init_checkpoint would have no effect: a model that was trained whole needs no base; leave it out"
fi
ensure_setup

decode() { # OUTPUT flags…, which come after those of `rest`: the last --init_checkpoint counts
  launch src/gpt2_beam.py "${decoding[@]}" ${rest[@]+"${rest[@]}"} --work_dir "$work_dir" --output_file "$1" "${@:2}" --resume
}

if [[ -n $COMPARE_WITH_BASE ]]; then
  say "Decoding with the base alone"
  decode beam_base.jsonl --init_checkpoint "$base"
fi
say "Decoding with the trained model, $weights"
if is_whole; then
  decode beam_prediction.jsonl --init_checkpoint "$weights"
else
  decode beam_prediction.jsonl --init_checkpoint "$base" --lora_checkpoint "$weights"
fi
