#!/usr/bin/env bash
# Usage: bash scripts/sweep.sh [--ranks R ...] [--targets T ...] [--seeds S ...] [--length_penalties P ...]
#                              [--preset NAME] [--work_dir DIR] [flags of gpt2_ft.py]
#
# Trains with every combination of ranks, targets and seeds, decodes and scores each training with every length penalty, and
# prints a line a run, then the table: as the paper's Table 18, its row below each rank, several seeds with mean ± deviation.
#   bash scripts/sweep.sh --ranks 1 2 4 8 64 --targets q,v q,k,v --seeds 110 111 --length_penalties 0.8 0.9
# What is not given is the preset's. A training is in DIR/r4_q,v_seed110, what is decoded from it in lp0.8 and so on below
# (DIR: trained_models/NAME by default); the table is in DIR/sweep.md and sweep.json, the runs side by side are in
# side_by_side.html. What was trained or decoded with the same preset and flags is not done again; interrupted, the same command goes
# on. Base and data are made once, and the base alone is not decoded. Before the first training, what all of them need is checked.
# Takes as long as run_all.sh for each training, and as its steps 4 to 7 for each further length penalty.
# NPROC, NNODES, NODE_RANK and MASTER_ADDR as in 03_train.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/many_runs.sh"
help_if_asked "$@"

take_lists --ranks --targets --seeds --length_penalties -- "$@"
penalties=(${length_penalties[@]+"${length_penalties[@]}"})
take_preset ${others[@]+"${others[@]}"}
for argument in ${rest[@]+"${rest[@]}"}; do
  case $argument in
    --lora_dim*) instead --lora_dim --ranks ;;
    --lora_targets*) instead --lora_targets --targets ;;
    --random_seed*) instead --random_seed --seeds ;;
    --length_penalty*) instead --length_penalty --length_penalties ;;
  esac
done
refuse_flags_of_all_steps
if [[ ${#LORA[@]} -eq 0 ]]; then
  [[ ${#ranks[@]}${#targets[@]} == 00 ]] || fail "preset $preset trains no adapters; --ranks and --targets need one that does"
  ranks=(0) targets=("-")
fi
[[ ${#ranks[@]} -gt 0 ]] || ranks=("$(value_of --lora_dim "${LORA[@]}")")
[[ ${#targets[@]} -gt 0 ]] || targets=(q,v)
[[ ${#seeds[@]} -gt 0 ]] || seeds=("$(value_of --random_seed "${TRAIN[@]}")")
[[ ${#penalties[@]} -gt 0 ]] || penalties=("$(value_of --length_penalty "${DECODE[@]}")")

[[ ${#LORA[@]} -eq 0 ]] || check --ranks '^[1-9][0-9]*$' "whole numbers from 1" "${ranks[@]}"
[[ ${#LORA[@]} -eq 0 ]] || check --targets '^[a-z]+(,[a-z]+)*$' "names with commas between them, such as q,v" "${targets[@]}"
check_seeds "${seeds[@]}"
check --length_penalties '^-?[0-9]+(\.[0-9]+)?$' "numbers such as 0.8" "${penalties[@]}"
check_flags src/gpt2_ft.py --ranks --targets --seeds --length_penalties

# Name the training of RANK TARGETS SEED: its folder and its flags.
name_training() {
  local name=full adapters=()
  if [[ $1 != 0 ]]; then name=r${1}_$2 adapters=(--lora_dim "$1" --lora_targets "$2"); fi
  training=$work_dir/${name}_seed$3
  flags=("${chosen[@]}" --work_dir "$training" ${adapters[@]+"${adapters[@]}"} --random_seed "$3" ${rest[@]+"${rest[@]}"})
}

if [[ -e $work_dir ]]; then take_lock; fi
prepare_runs
export WITHOUT_BASE=1
n=0 n_runs=$((${#ranks[@]} * ${#targets[@]} * ${#seeds[@]} * ${#penalties[@]})) runs=()
log=$(mktemp 2>/dev/null) || fail "no temporary file can be made in ${TMPDIR:-/tmp}; set TMPDIR to a folder that can be written"
trap 'rm -f "$log"' EXIT
for rank in "${ranks[@]}"; do # what is wrong with the last of them is found out before the first is trained
  for target in "${targets[@]}"; do
    name_training "$rank" "$target" "${seeds[0]}"
    is_done "$training" || check_training
  done
done
rm "$log"
trap - EXIT
mkdir -p "$work_dir"
take_lock
say "$n_runs runs in $work_dir"
for rank in "${ranks[@]}"; do
  for target in "${targets[@]}"; do
    for seed in "${seeds[@]}"; do
      name_training "$rank" "$target" "$seed"
      train
      [[ ${NODE_RANK:-0} == 0 ]] || continue # the first node has the checkpoint and goes on alone
      for penalty in "${penalties[@]}"; do
        run=$training/lp$penalty
        score "$penalty"
        runs+=("$run")
        "$python" eval/sweep.py "$run" "${test_data[@]}" | sed -n "$((n ? 2 : 1)),2p"
        n=$((n + 1))
      done
    done
  done
done
if [[ ${NODE_RANK:-0} == 0 ]]; then
  say "The table, which is also in $work_dir/sweep.md and sweep.json"
  attended "$python" eval/sweep.py "${runs[@]}" "${test_data[@]}"
  attended "$python" eval/sweep.py "${runs[@]}" "${test_data[@]}" --format md --output "$work_dir/sweep.md"
  attended "$python" eval/sweep.py "${runs[@]}" "${test_data[@]}" --format json --output "$work_dir/sweep.json"
  side_by_side "${runs[@]}"
fi
