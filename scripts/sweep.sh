#!/usr/bin/env bash
# Usage: bash scripts/sweep.sh [--ranks R ...] [--targets T ...] [--seeds S ...] [--length_penalties P ...]
#                              [--preset NAME] [--work_dir DIR] [flags of gpt2_ft.py]
#
# Trains with every combination of ranks, targets and seeds, decodes and scores each training with every length penalty, and
# prints a line a run, then the table: as the paper's Table 18, its row below each rank, several seeds with mean ± deviation.
#   bash scripts/sweep.sh --ranks 1 2 4 8 64 --targets q,v q,k,v --seeds 110 111 --length_penalties 0.8 0.9
# What is not given is the preset's. A training is in DIR/r4_q,v_seed110, what is decoded from it in lp0.8 and so on below
# (DIR: trained_models/NAME by default); the table is in DIR/sweep.md and sweep.json. What was trained or decoded with the same
# preset and flags is not done again; interrupted, the same command goes on. Base and data are made once, and the base alone is not
# decoded. Before the first training, what all of them need is checked. Takes as long as run_all.sh for each training, and as its
# steps 4 to 7 for each further length penalty.
# NPROC, NNODES, NODE_RANK and MASTER_ADDR as in 03_train.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"

ranks=() targets=() seeds=() penalties=() others=() axis=""
while [[ $# -gt 0 ]]; do
  spell "$1"
  set -- "$spelt" "${@:2}"
  case $1 in
    --ranks | --targets | --seeds | --length_penalties)
      axis=$1
      [[ $# -ge 2 && $2 != --* ]] || fail "$1 needs a value"
      ;;
    -[a-z-]*) axis="-" && others+=("$1") ;;
    *)
      case $axis in
        --ranks) ranks+=("$1") ;;
        --targets) targets+=("$1") ;;
        --seeds) seeds+=("$1") ;;
        --length_penalties) penalties+=("$1") ;;
        "") fail "unknown argument $1; expected flags" ;;
        *) others+=("$1") ;;
      esac
      ;;
  esac
  shift
done
take_preset ${others[@]+"${others[@]}"}
instead() { fail "$1 is what $2 is for"; }
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

check() { # FLAG PATTERN WHAT VALUES…
  local flag=$1 pattern=$2 what=$3 value
  shift 3
  for value in "$@"; do
    [[ $value =~ $pattern ]] || fail "$flag must be $what, but has $value"
  done
  [[ -z $(printf '%s\n' "$@" | sort | uniq -d) ]] || fail "$flag has a value twice: $*"
}
[[ ${#LORA[@]} -eq 0 ]] || check --ranks '^[1-9][0-9]*$' "whole numbers from 1" "${ranks[@]}"
[[ ${#LORA[@]} -eq 0 ]] || check --targets '^[a-z]+(,[a-z]+)*$' "names with commas between them, such as q,v" "${targets[@]}"
check --seeds '^[0-9]+$' "whole numbers" "${seeds[@]}"
check --length_penalties '^-?[0-9]+(\.[0-9]+)?$' "numbers such as 0.8" "${penalties[@]}"
check_flags src/gpt2_ft.py --ranks --targets --seeds --length_penalties

# Two at once would write into each other's runs. A step that outlives a killed sweep still holds this.
lock=$work_dir/.sweep${NODE_RANK:-0}.lock locked=""
take_lock() {
  local code=0
  [[ -z $locked ]] && command -v flock >/dev/null || return 0
  locked=1
  exec 9>>"$lock"
  flock --nonblock 9 || code=$?
  case $code in
    0) echo "sweep.sh, process $$ on $(uname -n) since $(date '+%F %T')" >"$lock" ;;
    1) fail "another sweep, or a step that one has left, is at work in $work_dir ($(cat "$lock")); wait for it or end it" ;;
    *) echo "warning: the file system of $work_dir has no locks, so nothing keeps a second sweep out; start no other one there" >&2 ;;
  esac
}

# What all runs are made with, beside what is swept over.
made_with() {
  printf '%s\n' "$DATA" "$CARD" "$BASE" ${PRETRAIN[@]+"${PRETRAIN[@]}"} ${LORA[@]+"${LORA[@]}"} "${TRAIN[@]}" "${DECODE[@]}" \
    ${rest[@]+"${rest[@]}"}
}
is_done() { [[ -f $1/made_with.txt && $(made_with) == "$(cat "$1/made_with.txt")" ]]; }

# Run a step, with what it says in the log alone, and what it is doing on the last line of a terminal.
step() {
  if [[ -t 1 ]]; then printf '\r\033[Krun %d of %d: %s %s' "$((n + 1))" "$n_runs" "$1" "$training"; fi
  if attended bash scripts/"$@" >>"$log" 2>&1; then
    if [[ -t 1 ]]; then printf '\r\033[K'; fi
    return
  fi
  fail "$1 failed for $training: $(last_said); all it said is in $log, and the same command goes on from there"
}

# What a step said at last, without the name that errors begin with.
last_said() {
  local said
  said=$(tail -n 1 "$log")
  printf '%s' "${said#"$LORA_TYPED: error: "}"
}

# Find out what is wrong with a training before any is begun, and leave nothing behind.
check_training() {
  CHECK_ONLY=1 attended bash scripts/03_train.sh "${flags[@]}" >"$log" 2>&1 || fail "03_train.sh failed for $training: $(last_said)"
}

# Name the training of RANK TARGETS SEED: its folder and its flags.
name_training() {
  local name=full adapters=()
  if [[ $1 != 0 ]]; then name=r${1}_$2 adapters=(--lora_dim "$1" --lora_targets "$2"); fi
  training=$work_dir/${name}_seed$3
  flags=("${chosen[@]}" --work_dir "$training" ${adapters[@]+"${adapters[@]}"} --random_seed "$3" ${rest[@]+"${rest[@]}"})
}

train() { # where it is not done
  is_done "$training" && return
  mkdir -p "$training"
  log=$training/sweep.log
  rm -f "$training"/made_with.txt "$training"/lp*/made_with.txt
  step 03_train.sh "${flags[@]}"
  made_with >"$training/made_with.txt"
}

score() { # PENALTY: where it is not done, in a folder that has the training's files by links
  local where=("${chosen[@]}" --work_dir "$run") file next
  is_done "$run" && return
  mkdir -p "$run"
  log=$training/sweep.log
  for file in model.final.pt run.json log.jsonl; do
    ln -sf "../$file" "$run/$file"
  done
  NNODES=1 step 04_beam.sh "${where[@]}" --length_penalty "$1"
  for next in 05_decode.sh 06_evaluate.sh 07_compare.sh; do
    step "$next" "${where[@]}"
  done
  made_with >"$run/made_with.txt"
}

if [[ -e $lock ]]; then take_lock; fi
prepare
export WITHOUT_BASE=1
n=0 n_runs=$((${#ranks[@]} * ${#targets[@]} * ${#seeds[@]} * ${#penalties[@]})) runs=()
log=$(mktemp)
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
        "$python" eval/sweep.py "$run" | sed -n "$((n ? 2 : 1)),2p"
        n=$((n + 1))
      done
    done
  done
done
if [[ ${NODE_RANK:-0} == 0 ]]; then
  say "The table, which is also in $work_dir/sweep.md and sweep.json"
  attended "$python" eval/sweep.py "${runs[@]}"
  attended "$python" eval/sweep.py "${runs[@]}" --format md --output "$work_dir/sweep.md"
  attended "$python" eval/sweep.py "${runs[@]}" --format json --output "$work_dir/sweep.json"
fi
