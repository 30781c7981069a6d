#!/usr/bin/env bash
# Usage: bash scripts/methods.sh [--methods M ...] [--seeds S ...] [--budget N] [--rates_of DIR|FILE] [--earlier FILE ...] [--doc FILE]
#                               [--preset NAME] [--work_dir DIR] [flags of gpt2_ft.py]
#
# Table 3 in small: trains by every method with as many parameters as the preset's LoRA has, or as --budget says, and whole. Each
# one's learning rate is the best of three (scripts/methods.tsv, or methods_NAME.tsv for a base that has more to learn) by the
# validation loss with the first seed, or with --rates_of the one that an earlier table has; one that diverges is not chosen. With that
# rate it is trained with every seed (110 111 112), decoded and scored. The table, with paired tests against LoRA and the paper's rows,
# is in DIR/methods.md and methods.json (DIR: trained_models/methods_NAME) and, with --doc, between FILE's marks for NAME; the runs side
# by side are in DIR/side_by_side.html. So that several machines can share the work, by methods or by seeds, --earlier takes the
# methods.json of others into the table.
#   bash scripts/methods.sh --methods lora prefix_layer adapter_l --seeds 110
#   bash scripts/methods.sh --preset e2e_small_lora --seeds 110
#   bash scripts/methods.sh --seeds 113 --rates_of docs/methods.md --earlier docs/methods_mini.json
#   bash scripts/methods.sh --preset e2e_gpt2_md        # on a GPU node
# Where a preset NAME_METHOD is there, its sizes and its rate are taken, and --budget is refused. What was made with the same flags is not made again;
# interrupted, the same command goes on. NAME is mini by default.
# NPROC, NNODES, NODE_RANK and MASTER_ADDR as in 03_train.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/many_runs.sh"
help_if_asked "$@"

take_lists --methods --seeds --budget --rates_of --earlier --doc -- "$@"
for extra in ${budget[@]+"${budget[@]:1}"} ${rates_of[@]+"${rates_of[@]:1}"} ${doc[@]+"${doc[@]:1}"}; do
  fail "unknown argument $extra; expected flags"
done
take_preset ${others[@]+"${others[@]}"}
[[ " ${others[*]-} " == *" --work_dir"* ]] || work_dir=trained_models/methods_$preset
table=scripts/methods_$preset.tsv # a base that has more to learn takes higher rates
[[ -f $table ]] || table=scripts/methods.tsv
for argument in ${rest[@]+"${rest[@]}"}; do
  case $argument in
    --method | --method=*) instead --method --methods ;;
    --random_seed*) instead --random_seed --seeds ;;
    --trained_budget*) instead --trained_budget --budget ;;
    --lr | --lr=*) fail "--lr is what is chosen for each method; $table has the rates" ;;
    --lora_dim*) instead --lora_dim --budget ;;
  esac
done
refuse_flags_of_all_steps
[[ ${#LORA[@]} -gt 0 ]] || fail "preset $preset trains no adapters; expected one that does, whose size the others are given"
known=$(tail -n +2 "$table" | cut -f 1)
[[ ${#methods[@]} -gt 0 ]] || read -r -d '' -a methods <<<"$known" || true
for method in "${methods[@]}"; do
  grep -qxF -- "$method" <<<"$known" || fail "--methods has $method, which is not in $table; expected some of ${known//$'\n'/ }"
done
[[ ${#seeds[@]} -gt 0 ]] || seeds=(110 111 112)
check --methods '^[a-z0-9_+]+$' "methods" "${methods[@]}"
check_seeds "${seeds[@]}"
check_flags src/gpt2_ft.py --methods --seeds --budget --rates_of --earlier --doc

of_preset() { echo "scripts/presets/${preset}_${1//+/_}.sh"; } # METHOD
column() { awk -F '\t' -v method="$1" -v n="$2" '$1 == method { print $n }' "$table"; }

# Name the training of METHOD RATE SEED: its folder and its flags.
name_training() {
  training=$work_dir/$1_lr$2_seed$3
  own=(--method "$1")
  if [[ -f $(of_preset "$1") ]]; then
    # shellcheck disable=SC1090,SC2207
    own+=($(source "$(of_preset "$1")" && printf '%s\n' ${LORA[@]+"${LORA[@]}"} --lr "$(value_of --lr "${TRAIN[@]}")"))
  elif [[ $(column "$1" 2) == budget* ]]; then
    [[ $1 != lora* && $1 != dora ]] || own+=(--lora_dim 0) # in place of the preset's
    read -r -a size <<<"$(column "$1" 2)" # budget, and flags that take a part of it
    own+=(--trained_budget "$budget" "${size[@]:1}")
  fi
  if [[ $2 != preset ]]; then own+=(--lr "$2"); fi
  flags=("${chosen[@]}" --work_dir "$training" "${own[@]}" --random_seed "$3" ${rest[@]+"${rest[@]}"})
}

# Print the rates that METHOD is tried with: the preset's own where it has one, the one of an earlier table if that is given.
rates_of() {
  if [[ -f $(of_preset "$1") || $preset == e2e_gpt2_* ]]; then
    echo preset
  elif [[ ${#rates_of[@]} -gt 0 ]]; then
    # In a row of the table: | `lora` | 16,384 | 0.002 | …
    awk -F ' *[|] *' -v method="\`$1\`" '$2 == method && $4 ~ /^[0-9.e-]+$/ && !found { print $4; found = 1 }' "${rates_of[0]}"
  else
    column "$1" 3
  fi
}

for method in ${budget[@]+"${methods[@]}"}; do
  [[ ! -f $(of_preset "$method") ]] || fail "--budget would have no effect on $method, whose size is in $(of_preset "$method")"
done
if [[ ${#doc[@]} -gt 0 ]]; then
  begin="<!-- methods on $preset: begin, written by scripts/methods.sh -->"
  grep -qxF -- "$begin" "${doc[0]}" 2>/dev/null || fail "--doc ${doc[0]} has no line $begin; put it there, and below it one with end"
  awk -v begin="$begin" -v end="<!-- methods on $preset: end -->" '$0 == begin { on = 1 } on && $0 == end { found = 1 } END { exit !found }' "${doc[0]}" ||
    fail "--doc ${doc[0]} has no line <!-- methods on $preset: end --> below the one with begin"
fi
if [[ ${#rates_of[@]} -gt 0 ]]; then
  if [[ ! -f ${rates_of[0]} ]]; then rates_of[0]+=/methods.md; fi
  [[ -f ${rates_of[0]} ]] || fail "--rates_of: there is no ${rates_of[0]}; expected a table, or a folder, that methods.sh has made"
  for method in "${methods[@]}"; do
    [[ $(rates_of "$method") != preset ]] || fail "--rates_of would have no effect on $method, whose rate is its preset's"
    [[ -n $(rates_of "$method") ]] || fail "the table of --rates_of, ${rates_of[0]}, has no $method; name others with --methods"
  done
fi
for file in ${earlier[@]+"${earlier[@]}"}; do
  [[ -f $file ]] || fail "--earlier: there is no file $file; expected the methods.json of other runs"
done
if [[ -e $work_dir ]]; then take_lock; fi
prepare_runs
export WITHOUT_BASE=1
if [[ ${#earlier[@]} -gt 0 ]]; then
  coming=()
  for method in "${methods[@]}"; do
    for seed in "${seeds[@]}"; do coming+=("$method:$seed"); done
    [[ ${#rates_of[@]} -gt 0 ]] || coming+=("$method:any") # whose rate may come out otherwise
  done
  "$python" eval/methods_table.py --earlier "${earlier[@]}" --coming "${coming[@]}"
fi
# The budget is what the preset's LoRA takes.
[[ ${#budget[@]} -gt 0 ]] || budget=$("$python" src/count_parameters.py --number --model_card "$CARD" "${LORA[@]}")
n=0 n_runs=0 runs=()
for method in "${methods[@]}"; do
  read -r -a rates <<<"$(rates_of "$method")"
  n_runs=$((n_runs + ${#rates[@]} + ${#seeds[@]} - 1))
done
log=$(mktemp 2>/dev/null) || fail "no temporary file can be made in ${TMPDIR:-/tmp}; set TMPDIR to a folder that can be written"
trap 'rm -f "$log"' EXIT
for method in "${methods[@]}"; do # what is wrong with the last of them is found out before the first is trained
  read -r rate _ <<<"$(rates_of "$method")"
  name_training "$method" "$rate" "${seeds[0]}"
  is_done "$training" || check_training
done
rm "$log"
trap - EXIT
mkdir -p "$work_dir"
take_lock
say "$n_runs trainings in $work_dir, of $budget parameters where a method has a size and no preset of its own"
for method in "${methods[@]}"; do
  tried=() may_diverge=1
  for rate in $(rates_of "$method"); do
    name_training "$method" "$rate" "${seeds[0]}"
    code=0
    train || code=$?
    case $code in
      0) tried+=("$training") ;;
      "$DIVERGED") printf '%-18s rate %s diverges\n' "$method" "$rate" ;;
      *) exit "$code" ;;
    esac
    n=$((n + 1))
  done
  may_diverge=""
  [[ ${#tried[@]} -gt 0 ]] || fail "$method diverges at every rate that was tried: $(rates_of "$method")"
  best=$("$python" eval/methods_table.py --best_of "${tried[@]}")
  rate=${best##*_lr} rate=${rate%_seed*}
  for seed in "${seeds[@]}"; do
    name_training "$method" "$rate" "$seed"
    is_done "$training" || n=$((n + 1))
    train
    [[ ${NODE_RANK:-0} == 0 ]] || continue # the first node has the checkpoint and goes on alone
    run=$training/lp
    score "$(value_of --length_penalty "${DECODE[@]}")"
    runs+=("$run")
  done
  if [[ ${NODE_RANK:-0} == 0 ]]; then printf '%-18s rate %s, of %s\n' "$method" "$rate" "$(rates_of "$method")"; fi
done
if [[ ${NODE_RANK:-0} == 0 ]]; then
  # Each method's outputs against LoRA's of the same, first, seed.
  rm -rf "$work_dir/paired" # those of an earlier call may be of other rates
  mkdir -p "$work_dir/paired"
  of_lora=""
  for run in "${runs[@]}"; do
    [[ $run != */lora_lr*_seed${seeds[0]}/lp ]] || of_lora=$run
  done
  for run in ${of_lora:+"${runs[@]}"}; do
    name=${run#"$work_dir/"} name=${name%%_lr*}
    [[ $run == *_seed${seeds[0]}/lp && $run != "$of_lora" ]] || continue
    log=${run%/lp}/sweep.log
    attended "$python" eval/e2e/measure_scores.py "$run/reference.txt" "$of_lora/prediction.txt" "$run/prediction.txt" --paired \
      --json "$work_dir/paired/$name.json" >>"$log" 2>&1 || fail "the paired test of $name failed: $(last_said)"
  done
  say "The table, which is also in $work_dir/methods.md and methods.json"
  attended "$python" eval/methods_table.py "${runs[@]}" --paired "$work_dir/paired" --output "$work_dir/methods.md" --json "$work_dir/methods.json" \
    ${earlier[@]+--earlier "${earlier[@]}"} ${doc[@]+--doc "${doc[@]}" --of "$preset"}
  first=${of_lora:-${runs[0]}} others=()
  for run in "${runs[@]}"; do [[ $run == "$first" ]] || others+=("$run"); done
  side_by_side "$first" ${others[@]+"${others[@]}"}
fi
