#!/usr/bin/env bash
# Usage: bash scripts/run_seeds.sh SEED SEED [SEED ...] [--preset NAME] [--work_dir DIR] [flags of gpt2_ft.py]
#
# Runs a preset once for each seed and prints every run's scores with their mean and standard deviation, as the paper has
# them: the sweep (scripts/sweep.sh) over seeds alone. bash scripts/run_seeds.sh 110 111 112
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
seeds=()
while [[ $# -gt 0 && $1 != -* ]]; do
  [[ $1 =~ ^[0-9]+$ ]] || fail "a seed must be a whole number, but is $1"
  seeds+=("$1") && shift
done
[[ ${#seeds[@]} -gt 0 ]] || fail "give the seeds first, such as bash scripts/run_seeds.sh 110 111 112"
[[ -z $(printf '%s\n' "${seeds[@]}" | sort | uniq -d) ]] || fail "a seed is given twice: ${seeds[*]}"
take_preset "$@"
check_flags src/gpt2_ft.py
root=$PWD
cd -- "$called_from" # whence a folder of data is seen
exec bash "$root/scripts/sweep.sh" --seeds "${seeds[@]}" "$@"
