#!/usr/bin/env bash
# Usage: bash scripts/03_train.sh [--preset NAME] [--work_dir DIR] [flags of gpt2_ft.py]
#
# Checks what this and the later steps need, trains, and leaves model.final.pt, model.best.pt, adapter.safetensors, the newest
# model.STEP.pt and state.STEP.pt, the model.STEP.pt of every epoch's end, log.jsonl and run.json in trained_models/NAME.
# Time of mini, the default, on 2 CPU cores: 108 s.
# An interrupted run goes on from its newest save when the same command is given again; a finished one is not trained again
# (--resume never starts anew).
# CHECK_ONLY=1 ends it after the checks. NPROC=4 uses four processes, one a GPU; NNODES, NODE_RANK and MASTER_ADDR join several
# machines. Every process takes --train_batch_size examples a step.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
take_preset "$@"
check_flags src/gpt2_ft.py
from_step "$(value_of --train_data --train_data "$data/train.jsonl" "${TRAIN[@]}" ${rest[@]+"${rest[@]}"})" 02 "$DATA"
base=$(value_of --init_checkpoint --init_checkpoint "$BASE" ${rest[@]+"${rest[@]}"})
if is_downloaded "$base"; then from_step "$base" 01 "$CARD"; fi
ensure_setup

if [[ ${#PRETRAIN[@]} -gt 0 && ! -f $BASE/compact.safetensors ]]; then
  say "Pretraining the base $BASE"
  attended "$python" src/pretrain_base.py --output_dir "$BASE" "${PRETRAIN[@]}"
fi
# The published curve is of one process, of seed 110, of averages over 100 steps, and of the preset's adapters, started and stepped as
# the recipe does.
curve=()
if [[ -n $CURVE && $(value_of --random_seed "${TRAIN[@]}" ${rest[@]+"${rest[@]}"}) == 110 && ${NPROC:-1}${NNODES:-1} == 11 &&
  $(value_of --lora_dim "${LORA[@]}" ${rest[@]+"${rest[@]}"}) == "$(value_of --lora_dim "${LORA[@]}")" &&
  $(value_of --lora_targets --lora_targets q,v ${rest[@]+"${rest[@]}"}) == q,v &&
  $(value_of --method --method lora ${rest[@]+"${rest[@]}"}) == lora &&
  ! " ${rest[*]-}" =~ \ --(log_interval|lora_init|lora_scaling|lora_layers|lora_plus_ratio|precondition) ]]; then
  curve=(--compare_curve "$CURVE")
fi
flags=(--model_card "$CARD" --init_checkpoint "$BASE" --train_data "$data/train.jsonl" --valid_data "$data/valid.jsonl"
  --work_dir "$work_dir" ${LORA[@]+"${LORA[@]}"} "${TRAIN[@]}" ${curve[@]+"${curve[@]}"} --resume auto ${rest[@]+"${rest[@]}"})
processes=()
[[ ! ${NPROC:-1} =~ ^[0-9]+$ || ${NPROC:-1} == 1 ]] || processes=(--world_size "$NPROC")
later=() # without test data there is only training
[[ ! -f $data/test.jsonl ]] || later=(-- "${decoding[@]}")
say "Before training"
attended "$python" src/preflight.py "${flags[@]}" ${processes[@]+"${processes[@]}"} ${later[@]+"${later[@]}"}
[[ -z ${CHECK_ONLY:-} ]] || exit 0
say "Training, preset $preset"
launch src/gpt2_ft.py "${flags[@]}"
