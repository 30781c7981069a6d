#!/usr/bin/env bash
# Usage: bash scripts/run_seeds.sh SEED SEED [SEED ...] [--preset NAME] [--work_dir DIR] [flags of gpt2_ft.py]
#
# Runs the whole pipeline once for each seed, in DIR/seed110 and so on (DIR: trained_models/NAME by default), and prints every
# run's scores with their mean and standard deviation, as the paper has them. A seed that has been run with the same preset
# and flags is not run again. Takes as long as run_all.sh, for each seed: bash scripts/run_seeds.sh 110 111 112
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
seeds=()
while [[ ${1:-} =~ ^[0-9]+$ ]]; do
  seeds+=("$1")
  shift
done
[[ ${#seeds[@]} -ge 2 ]] || fail "give two seeds or more before the flags, for example 110 111 112"
[[ -z $(printf '%s\n' "${seeds[@]}" | sort | uniq -d) ]] || fail "a seed is given twice: ${seeds[*]}"
take_preset "$@"
for argument in ${rest[@]+"${rest[@]}"}; do
  [[ $argument != --random_seed* ]] || fail "--random_seed is what the seeds are for; give them as arguments"
done

# What a run is made with, but for the seed.
made_with() {
  printf '%s\n' "$DATA" "$CARD" "$BASE" ${PRETRAIN[@]+"${PRETRAIN[@]}"} ${LORA[@]+"${LORA[@]}"} "${TRAIN[@]}" "${DECODE[@]}" \
    ${rest[@]+"${rest[@]}"}
}

work_dirs=()
for seed in "${seeds[@]}"; do
  folder=$work_dir/seed$seed
  work_dirs+=("$folder")
  if [[ -f $folder/made_with.txt && $(made_with) == "$(cat "$folder/made_with.txt")" ]]; then
    say "Seed $seed is done: $folder"
    continue
  fi
  say "Seed $seed"
  rm -f "$folder/made_with.txt"
  bash scripts/run_all.sh --preset "$preset" --work_dir "$folder" ${rest[@]+"${rest[@]}"} --random_seed "$seed"
  made_with >"$folder/made_with.txt"
done
if [[ ${NODE_RANK:-0} == 0 ]]; then # the other nodes have no scores
  say "All seeds"
  "$python" eval/seeds.py "${work_dirs[@]}" --json "$work_dir/seeds.json"
fi
