#!/usr/bin/env bash
# Usage: bash scripts/placement.sh [--preset NAME] [--work_dir DIR] [--seeds S ...] [flags of gpt2_ft.py]
#
# Trains with adapters on different matrices and of different ranks, as the paper's Tables 5 and 6 do with GPT-3 (which they
# are is in eval/published_placement.tsv: 19 of them), each with three seeds (110 111 112), and puts validation losses and BLEU
# into both tables, with the paper's figures below: in DIR/placement.md (DIR: trained_models/placement) and, if no flag is
# given, in docs/lora.md. Every run's five scores are in DIR/sweep.md. NAME is mini_short by default.
# These are 57 short runs of scripts/sweep.sh: interrupted, the same command goes on.
# NPROC, NNODES, NODE_RANK and MASTER_ADDR as in 03_train.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/many_runs.sh"
help_if_asked "$@"
document=()
[[ $# -gt 0 ]] || document=(--doc docs/lora.md)
take_lists --seeds -- "$@"
[[ ${#seeds[@]} -gt 0 ]] || seeds=(110 111 112)
take_preset --preset mini_short --work_dir trained_models/placement ${others[@]+"${others[@]}"}
for argument in ${rest[@]+"${rest[@]}"}; do
  case $argument in
    --ranks* | --targets* | --length_penalties*) fail "${argument%%=*} is what the tables say; bash scripts/sweep.sh takes others" ;;
  esac
done
check_flags src/gpt2_ft.py --seeds

table=eval/published_placement.tsv
for rank in $(tail -n +2 "$table" | cut -f 3 | sort -nu); do
  targets=$(awk -F '\t' -v rank="$rank" '$3 == rank { print $2 }' "$table" | sort -u)
  # shellcheck disable=SC2086  # several of them
  attended bash scripts/sweep.sh --ranks "$rank" --targets $targets "${chosen[@]}" --work_dir "$work_dir" \
    --seeds "${seeds[@]}" ${rest[@]+"${rest[@]}"}
done
[[ ${NODE_RANK:-0} == 0 ]] || exit 0 # the first node has the scores
runs=("$work_dir"/r*/lp*)
attended "$python" eval/sweep.py "${runs[@]}" "${test_data[@]}" --format md --output "$work_dir/sweep.md"
attended "$python" eval/sweep.py "${runs[@]}" "${test_data[@]}" --format json --output "$work_dir/sweep.json"
say "Placements, which are also in $work_dir/placement.md"
attended "$python" eval/placement_table.py "${runs[@]}" "${test_data[@]}" --output "$work_dir/placement.md" ${document[@]+"${document[@]}"}
