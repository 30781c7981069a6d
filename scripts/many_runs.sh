# shellcheck shell=bash disable=SC2154
# Sourced by the scripts that make many runs (sweep.sh, methods.sh), after common.sh: each run is made once, and is found again.
# They set work_dir, and before each run `training` (its folder), `flags` (of 03_train.sh) and `own` (what tells it from the others).

own=() own_texts=""

# Read the lists of FLAGS out of the arguments, FLAGS… -- ARGUMENTS…, each into the array that its flag is named for; the other
# arguments are left in `others`.
take_lists() {
  local lists=" " axis="" spelt
  while [[ $1 != -- ]]; do
    lists+="$1 "
    eval "${1#--}=()"
    shift
  done
  shift
  others=()
  while [[ $# -gt 0 ]]; do
    spell "$1"
    set -- "$spelt" "${@:2}"
    if [[ $1 == --*=* && $lists == *" ${1%%=*} "* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
    if [[ $lists == *" $1 "* ]]; then
      axis=${1#--}
      [[ $# -ge 2 && $2 != --* ]] || fail "$1 needs a value"
    elif [[ $1 == -[a-z-]* ]]; then
      axis="-" && others+=("$1")
    elif [[ -z $axis ]]; then
      fail "unknown argument $1; expected flags"
    elif [[ $axis == - ]]; then
      others+=("$1")
    else
      eval "$axis+=(\"\$1\")"
    fi
    shift
  done
}

# Stop because a flag is given that another one is for.
instead() { fail "$1 is what $2 is for"; }

check() { # FLAG PATTERN WHAT VALUES…
  local flag=$1 pattern=$2 what=$3 value
  shift 3
  for value in "$@"; do
    [[ $value =~ $pattern ]] || fail "$flag must be $what, but has $value"
  done
  [[ -z $(for value in "$@"; do one_spelling "$value"; done | sort | uniq -d) ]] || fail "$flag has a value twice: $*"
}

largest_seed=9223372036854775807 # as training has it

# Check the seeds, and write each as all are that mean the same: a folder is named for it, which another call is to find again.
check_seeds() {
  local seed bare alike=()
  check --seeds '^[0-9]+$' "whole numbers" "$@"
  for seed in "$@"; do
    bare=$(one_spelling "$seed")
    alike+=("$bare")
    [[ ${#bare} -lt ${#largest_seed} || (${#bare} -eq ${#largest_seed} && ! $bare > $largest_seed) ]] ||
      fail "--seeds must be from 0 to $largest_seed, but has $seed"
  done
  seeds=("${alike[@]}")
}

every_target=q,k,v,o,fc,proj,wte # which --targets all stands for; a test holds it against LoRA's own list

# Print a value as all are printed that mean the same: 0.8 for 00.80, 0 for -0.0, q,v for v,q.
one_spelling() {
  local value=$1
  if [[ $value =~ ^-?[0-9.]+$ ]]; then
    sed -E 's/^(-?)0+([0-9])/\1\2/; /[.]/ s/[.]?0+$//; s/^-0$/0/' <<<"$value"
  else
    [[ $value != all ]] || value=$every_target
    tr , '\n' <<<"$value" | sort -u | paste -s -d , -
  fi
}

# Two at once would write into each other's runs. A step that outlives a killed sweep still holds this.
locked=""
take_lock() {
  local code=0 lock=$work_dir/.sweep${NODE_RANK:-0}.lock
  [[ -z $locked ]] && command -v flock >/dev/null || return 0
  locked=1
  exec 9>>"$lock"
  flock --nonblock 9 || code=$?
  case $code in
    0) echo "${0##*/}, process $$ on $(uname -n) since $(date '+%F %T')" >"$lock" ;;
    1) fail "another sweep, or a step that one has left, is at work in $work_dir ($(cat "$lock")); wait for it or end it" ;;
    *) echo "warning: the file system of $work_dir has no locks, so nothing keeps a second sweep out; start no other one there" >&2 ;;
  esac
}

# Make base and data ready. Of data of the user's own, remember the folder, which columns have a part in, and what came into it: the
# same file may hold other texts by now.
prepare_runs() {
  local file
  prepare
  if known_set "$DATA"; then return; fi
  own_texts=$data
  for file in "$data"/{train,valid,test,test_formatted}.jsonl; do
    [[ ! -f $file ]] || own_texts+=$'\n'$(cksum "$file")
  done
}

# What a run is made with, beside what its folder is named for. For a preset's own data and one process these are the lines of
# earlier versions, whose runs are still found.
made_with() {
  printf '%s\n' "$DATA" "$CARD" "$BASE" ${PRETRAIN[@]+"${PRETRAIN[@]}"} ${LORA[@]+"${LORA[@]}"} "${TRAIN[@]}" "${DECODE[@]}" \
    ${rest[@]+"${rest[@]}"} ${own[@]+"${own[@]}"}
  [[ -z $own_texts ]] || printf '%s\n' "$own_texts"
  [[ ${NPROC:-1} == 1 && ${NNODES:-1} == 1 ]] || printf '%s\n' "${NPROC:-1} processes on each of ${NNODES:-1} nodes"
}
is_done() { [[ -f $1/made_with.txt && $(made_with) == "$(cat "$1/made_with.txt")" ]]; }

# Run a step, with what it says in the log alone, and what it is doing on the last line of a terminal.
step() {
  local code=0
  if [[ -t 1 ]]; then printf '\r\033[Krun %d of %d: %s %s' "$((n + 1))" "$n_runs" "$1" "$training"; fi
  attended bash scripts/"$@" >>"$log" 2>&1 || code=$?
  if [[ $code == 0 ]]; then
    if [[ -t 1 ]]; then printf '\r\033[K'; fi
    return
  fi
  if [[ $1 == 03_train.sh && -n $may_diverge ]] && diverged "$code"; then return "$DIVERGED"; fi
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

# Whether what a training said at last is that its loss or its weights are no numbers. The first node says it for the others.
diverged() { # EXIT_CODE
  if [[ ${NODE_RANK:-0} != 0 ]]; then
    [[ $1 == 2 ]]
    return
  fi
  [[ $(last_said) =~ (^|': ')('the loss of step '[0-9]+' is '|'the weights after step '[0-9]+' are no numbers') ]]
}

may_diverge="" # 1 while rates are tried
DIVERGED=3     # what a training returns that diverged

# Train where it is not done. A rate that diverged is not tried again.
train() {
  is_done "$training" && return
  local mark=$training/diverged.txt
  [[ -z $may_diverge || ! -f $mark || $(made_with) != "$(cat "$mark")" ]] || return "$DIVERGED"
  mkdir -p "$training"
  log=$training/sweep.log
  rm -f "$mark" "$training"/made_with.txt "$training"/lp*/made_with.txt
  if ! step 03_train.sh "${flags[@]}"; then
    made_with >"$mark" || true # it will be tried again
    return "$DIVERGED"
  fi
  made_with >"$training/made_with.txt" || fail "cannot write $training/made_with.txt; see its rights and the free space"
}

# Put several runs on one page, the first as the one that the others are tested against.
side_by_side() {
  [[ $# -gt 1 ]] || return 0
  say "The runs side by side, with paired tests against the first"
  attended "$python" eval/report.py "$@" "${test_data[@]}" --output "$work_dir/side_by_side.html"
}

score() { # PENALTY: where it is not done, in a folder that has the training's files by links
  local where=("${chosen[@]}" --work_dir "$run") file next
  is_done "$run" && return
  [[ -e ${run%/*}/model.final.pt ]] || fail "there is no ${run%/*}/model.final.pt any more; remove that folder, and the same command makes it again"
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
