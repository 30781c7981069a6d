# shellcheck shell=bash
# Sourced by the numbered scripts: go to the repository's root, say things, have the environment ready.

# What a user's environment may have for other uses, and what it would do here: send cd elsewhere and make it print, leave names out
# of patterns, start every bash with a file, change what the tools mean.
set +o posix +o noclobber +o noglob +o keyword
while read -r _ _ name; do unset -f "$name"; done < <(declare -F)
unset CDPATH GLOBIGNORE BASH_ENV ENV POSIXLY_CORRECT GREP_OPTIONS
# For other Pythons: another standard library, modules of our names, errors for warnings, another folder for what is installed.
for name in ${!PYTHON@} ${!PIP_@}; do
  case $name in
    PYTHON | PYTHONUNBUFFERED | PYTHONDONTWRITEBYTECODE | PYTHONPYCACHEPREFIX | PYTHONFAULTHANDLER | PYTHONHASHSEED) ;;
    PIP_*INDEX* | PIP_FIND_LINKS | PIP_PROXY | PIP_*CERT | PIP_TRUSTED_HOST | PIP_*CACHE* | PIP_*TIMEOUT | PIP_RETRIES) ;;
    PIP_CONFIG_FILE | PIP_KEYRING_PROVIDER | PIP_DISABLE_PIP_VERSION_CHECK) ;; # where packages come from, and how
    *) unset "$name" ;;
  esac
done
[[ ${PYTHONHASHSEED-} =~ ^([0-9]{1,9}|random)?$ ]] || unset PYTHONHASHSEED # with a word no Python starts
export PIP_USER=0   # also against a pip.conf: .venv is where things go
export PYTHONUTF8=1 # what is printed has ×, ≥ and accents, whatever the locale
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
# A cluster leaves these where they say nothing of this run; what they do say is checked here.
if [[ ! ${NPROC:-1} =~ ^([1-9][0-9]{0,5}|gpu|cpu|auto)$ || ! ${NNODES:-1} =~ ^[1-9][0-9]{0,5}$ ]]; then
  printf '%s: error: %s\n' "${LORA_TYPED:-${0##*/}}" "NPROC=${NPROC:-} and NNODES=${NNODES:-} must be whole numbers of at least 1" >&2
  exit 2
fi
if [[ ${NNODES:-1} == 1 ]]; then
  unset NODE_RANK
elif [[ -n ${NODE_RANK:-} && (! $NODE_RANK =~ ^[0-9]+$ || 10#$NODE_RANK -ge 10#$NNODES) ]]; then
  printf '%s: error: %s\n' "${LORA_TYPED:-${0##*/}}" "NODE_RANK must be from 0 to $((NNODES - 1)), but is $NODE_RANK" >&2
  exit 2
fi
called_from=$OLDPWD # what a user types is seen from there
# shellcheck disable=SC2034  # used by the scripts that source this file
python=.venv/bin/python
export LORA_TYPED=${LORA_TYPED:-${0##*/}} # what errors are named by, also those of the steps and programs that a script runs

say() {
  local said=$*
  { printf '\n== %s\n' "${said//[[:cntrl:]]/?}"; } 2>/dev/null || true # to nobody, or to a full disk: the programs go on, too
}

fail() {
  local said=$*
  printf '%s: error: %s\n' "${LORA_TYPED:-${0##*/}}" "${said//[[:cntrl:]]/?}" >&2
  exit 2
}

# Print the leading comment of the script that runs, and stop, if one of its arguments is -h or --help.
help_if_asked() {
  local argument
  for argument in "$@"; do
    if [[ $argument == -h || $argument == --help ]]; then
      sed -n '2,/^[^#]/ { s/^# \{0,1\}//p; }' "scripts/${0##*/}"
      exit 0
    fi
  done
}

# Run the line $1 in a Python, with the folder $2 in its path. Before the set-up that is the system's.
in_python() {
  local candidate
  for candidate in "$python" python3; do
    if command -v "$candidate" >/dev/null; then
      "$candidate" -c "import sys; sys.path.insert(0, sys.argv[1]); $1" "${@:2}"
      return
    fi
  done
  return 1
}

# Print " (did you mean X?)" with the nearest to the word $1 among the others, as the programs do; nothing if none is near.
did_you_mean() {
  in_python 'from lora_nlg.mistakes import did_you_mean; print(did_you_mean(sys.argv[2], sys.argv[3:]), end="")' src "$@" 2>/dev/null || true
}

# Set `spelt` to the argument $1, in which a flag's name has _ for -.
spell() {
  local name=${1%%=*}
  spelt=$1
  if [[ $name == --* ]]; then
    spelt=${name:2}
    spelt=--${spelt//-/_}${1#"$name"}
  fi
}

# Stop with a sentence if the program $1 does not take the flags in `rest`, before anything is made. The other arguments are
# flags of the script's own, beside those of `take_preset`.
check_flags() {
  local said code=0 name=${1##*/} own="--preset --work_dir --data --source --target ${*:2}"
  said=$(in_python 'import importlib; importlib.import_module(sys.argv[2]).parser().check_flags(sys.argv[3].split(), sys.argv[4:])' \
    "${1%/*}" "${name%.py}" "$own" ${rest[@]+"${rest[@]}"} 2>&1) || code=$?
  if [[ $code == 2 ]]; then # anything else is no mistake in a flag
    printf '%s\n' "$said" >&2
    exit 2
  fi
}

# Stop if FILE, which a step before this one leaves, is not there: FILE STEP [what the step is called with].
from_step() {
  local script=(scripts/"$2"_*.sh) with=${3-"${chosen[*]}"}
  if [[ $2 == 02 && ${#columns[@]} -gt 0 ]]; then with+=$(printf ' %q' "${columns[@]}"); fi # which make another folder
  if [[ $# -lt 3 && $work_dir != "trained_models/$preset" ]]; then with+=" --work_dir $work_dir"; fi
  [[ -e $1 ]] || fail "there is no $1; run step $2 first: bash ${script[0]} $with"
}

# Instant when the environment is complete.
ensure_setup() { attended bash scripts/00_setup.sh; }

# The data sets that step 2 makes by name; any other word is a folder or file of the user's own.
known_set() { [[ " e2e webnlg dart mini " == *" $1 "* ]]; }

# A folder of data/ where a user has put formatted and encoded files by hand.
made_by_hand() { [[ $1 != */* && -f data/$1/test_formatted.jsonl ]]; }

# Print the whole path of a folder or file of the user's own data, seen from where the script was called, from here or from data/.
own_data() {
  local place
  for place in "$called_from/$1" "$1" "data/$1"; do
    if [[ $1 == /* ]]; then place=$1; fi
    if [[ -e $place ]]; then
      realpath -- "$place"
      return
    fi
  done
  fail "no data set, folder or file $1$(did_you_mean "$1" e2e webnlg dart mini); expected e2e, webnlg, dart, mini, or a folder with train.txt (or .jsonl, .csv, .tsv)"
}

# Print where step 2 puts what it makes of that data: by name, and told apart by path and by the `columns` that were named, in
# whichever order.
own_data_made() {
  local LC_ALL=C name=${1##*/} told=$1 flag column # a letter is one byte or two in other locales
  name=${name%.*}
  for flag in --source --target; do
    column=$(value_of "$flag" ${columns[@]+"${columns[@]}"})
    [[ -z $column ]] || told+=" $flag=$column"
  done
  printf 'data/own/%s-%s' "${name//[^A-Za-z0-9_-]/_}" "$(printf '%s' "$told" | cksum | cut -d' ' -f1)"
}

presets() { basename -s .sh scripts/presets/*.sh; }

# Read --preset NAME (default: mini), --work_dir DIR and --data, --source, --target of own data out of "$@"; the other arguments are
# left in `rest`, and `chosen` is what tells another step the same.
take_preset() {
  local given_data="" spelt
  preset=mini work_dir="" rest=() columns=()
  while [[ $# -gt 0 ]]; do
    spell "$1"
    set -- "$spelt" "${@:2}"
    case $1 in
      --preset | --work_dir | --data | --source | --target)
        [[ $# -ge 2 ]] || fail "$1 needs a value"
        set -- "$1=$2" "${@:3}"
        ;;
      --work_dir= | --data=) fail "${1%=} is empty; name a place, or leave it out" ;; # as a variable may be that nobody has set
      --preset=*) preset=${1#*=} && shift ;;
      --work_dir=*) work_dir=${1#*=} && shift ;;
      --data=*) given_data=${1#*=} && shift ;;
      --source=* | --target=*) columns+=("$1") && shift ;;
      *) rest+=("$1") && shift ;;
    esac
  done
  [[ ${rest[0]--} == -* ]] || fail "unknown argument ${rest[0]}; a preset is given as --preset NAME"
  [[ $preset =~ ^[A-Za-z0-9_.-]+$ && -f scripts/presets/$preset.sh ]] ||
    fail "unknown preset $preset$(did_you_mean "$preset" $(presets)); expected one of: $(presets | tr '\n' ' ')"
  DATA="" CARD="" LORA=() DECODE=() TASK=e2e PRETRAIN=() COMPARE_WITH_BASE="" CURVE="" # what a preset may leave out
  # shellcheck source=scripts/presets/mini.sh
  source "scripts/presets/$preset.sh"
  if [[ -n ${WITHOUT_BASE:-} ]]; then COMPARE_WITH_BASE=""; fi
  # Another method than the preset's does without its adapters' rank.
  case $(value_of --method ${rest[@]+"${rest[@]}"}) in
    "" | lora* | dora) ;;
    *) LORA=() CURVE="" ;;
  esac
  # A budget is in place of the preset's rank.
  if [[ ${#LORA[@]} -gt 0 && " ${rest[*]-}" =~ \ --(trained|lora)_budget ]]; then LORA+=(--lora_dim 0) CURVE=""; fi
  work_dir=${work_dir:-trained_models/$preset}
  if [[ $work_dir == -* ]]; then work_dir=./$work_dir; fi # no flag
  chosen=(--preset "$preset")
  DATA=${given_data:-${DATA:-}}
  [[ -n $DATA ]] || fail "preset $preset is for data of your own; give --data FOLDER or --data FILE"
  if known_set "$DATA"; then
    [[ ${#columns[@]} -eq 0 ]] || fail "${columns[0]} would have no effect; it is for data of your own, $DATA is known"
    data=data/$DATA
    if [[ -n $given_data ]]; then TASK=$DATA CURVE=""; fi
    if [[ $TASK == mini ]]; then TASK=e2e; fi
  elif made_by_hand "$DATA"; then
    [[ ${#columns[@]} -eq 0 ]] || fail "${columns[0]} would have no effect; data/$DATA is taken as it was made by hand"
    data=data/$DATA
  else
    DATA=$(own_data "$DATA") || exit
    data=$(own_data_made "$DATA")
    TASK=own CURVE=""
  fi
  if [[ -n $given_data ]]; then chosen+=(--data "$DATA"); fi
  chosen+=(${columns[@]+"${columns[@]}"})
  # shellcheck disable=SC2034  # used by the scripts that source this file
  test_data=(--data "$data/test_formatted.jsonl") # by which eval/ knows the task
  # shellcheck disable=SC2034
  decoding=(--model_card "$CARD" --data "$data/test.jsonl" ${DECODE[@]+"${DECODE[@]}"})
}

# Take --checkpoint best|final out of `rest`: which of the training's weights is decoded. `checkpoint` is final where it is not given.
take_checkpoint() {
  local left=()
  checkpoint=final
  set -- ${rest[@]+"${rest[@]}"}
  while [[ $# -gt 0 ]]; do
    case $1 in
      --checkpoint)
        [[ $# -ge 2 ]] || fail "$1 needs a value"
        checkpoint=$2 && shift 2
        ;;
      --checkpoint=*) checkpoint=${1#*=} && shift ;;
      *) left+=("$1") && shift ;;
    esac
  done
  rest=(${left[@]+"${left[@]}"})
  [[ $checkpoint == best || $checkpoint == final ]] ||
    fail "--checkpoint must be best or final, but is $checkpoint$(did_you_mean "$checkpoint" best final)"
}

# Print a field of the row of the preset's task.
of_task() { "$python" src/describe_task.py "$TASK" --field "$1"; }

# Stop if `rest` has a flag that steps beside the training would have to know.
refuse_flags_of_all_steps() {
  local argument
  for argument in ${rest[@]+"${rest[@]}"}; do
    case $argument in
      --init_checkpoint* | --model_card*) fail "${argument%%=*} belongs to all steps, not to training alone; put it into a preset" ;;
    esac
  done
}

# Stop if one of the FLAGS…, which the step gives the program itself, is in `rest`; PROGRAM is for those who want another.
refuse_own_flags() { # PROGRAM FLAGS…
  local argument
  for argument in ${rest[@]+"${rest[@]}"}; do
    [[ " ${*:2} " != *" ${argument%%=*} "* ]] || fail "${argument%%=*} is this step's own, by its work dir and data; use $1 for others"
  done
}

# Print the value of the flag $1 in the arguments after it: the last one, as the programs take it; nothing if it is not there.
value_of() {
  local flag=$1 value=""
  while shift && [[ $# -gt 0 ]]; do
    case $1 in
      "$flag") value=${2:-} ;;
      "$flag"=*) value=${1#*=} ;;
    esac
  done
  printf '%s' "$value"
}

# Whether a base is one that step 1 downloads.
is_downloaded() { [[ $1 == pretrained_checkpoints/gpt2* && $1 != pretrained_checkpoints/gpt2.mini ]]; }

# Steps 0 to 2 for the preset: set-up, base, data.
prepare() {
  ensure_setup
  if is_downloaded "$BASE"; then
    attended bash scripts/01_download_pretrained_checkpoints.sh "$CARD"
  fi
  attended bash scripts/02_create_datasets.sh "$DATA" ${columns[@]+"${columns[@]}"}
}

running="" stopping="" stopped=0

# Run a command and wait for it, in a process group of its own: a signal that is to end this script is passed on to the command,
# which saves what it has, and no orphan is left at work. Ends the script if there was one.
attended() {
  local code
  running=starting
  { set -m; } 2>/dev/null # its own group; else Ctrl-C would be ignored in what runs in the background
  "$@" &
  running=$!
  set +m
  [[ -z $stopping ]] || tell "$stopping" # it came before the number was known
  while :; do # a signal ends the wait before the command has ended
    code=0
    wait "$running" || code=$?
    kill -0 "$running" 2>/dev/null || break
  done
  if [[ -n $stopping ]]; then
    wait "$running" 2>/dev/null && code=0 || code=$? # the command's own code, should a signal have ended the last wait
    exit "$((code && code != 127 ? code : stopped))"
  fi
  running=""
  return "$code"
}

# Pass the signal NAME, of NUMBER, on to what runs; end where nothing does.
pass_on() {
  stopping=$1 stopped=$((128 + $2))
  case $running in
    "") exit "$stopped" ;;
    starting) ;;
    *) tell "$1" ;;
  esac
}

# Send the signal NAME to what runs. A srun that is told to end kills its tasks: so they are told, by Slurm, until they have heard it,
# and by HUP, for after TERM Slurm would leave them no more than half a minute. No `return` here: in a trap it is one of an error.
tell() {
  if [[ -n ${by_srun:-} ]]; then
    while kill -0 "$running"; do
      scancel --signal=HUP "$SLURM_JOB_ID" || true
      sleep 5
    done >/dev/null 2>&1 &
  else
    kill "-$1" -- "-$running" 2>/dev/null || true
  fi
}
trap 'pass_on HUP 1' HUP # stays ignored where nohup has it ignored
trap 'pass_on INT 2' INT
trap 'pass_on TERM 15' TERM

# Run one of the programs on NPROC tasks of each of NNODES nodes of this job of Slurm.
launch_by_srun() {
  local by_srun=1 tasks=$((NNODES * NPROC)) how=(--export=ALL --input=none)
  # A job's own settings of these would not fit a step on fewer nodes, or are no longer taken over from it.
  how+=(--nodes="$NNODES" --ntasks="$tasks" --ntasks-per-node="$NPROC" ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"})
  [[ ${SLURM_GPUS_ON_NODE:-0} == 0 ]] || how+=(--gpus-per-task=1)
  how+=(--kill-on-bad-exit=0 --wait=300) # the first task may still be saving when another has ended
  # shellcheck disable=SC2016  # a task's own values
  attended srun "${how[@]}" bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$1 LOCAL_WORLD_SIZE=$2 \
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1) MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) \
    exec "${@:3}"' task "$tasks" "$NPROC" "$python" "$@"
}

# Run one of the programs on NPROC processes of each of NNODES nodes; the other nodes find the first by MASTER_ADDR.
launch() {
  if [[ ${LAUNCHER:-} == srun ]]; then
    launch_by_srun "$@"
    return
  fi
  # Else ranks that torchrun restarts read where the killed ones listened, and cannot connect (pytorch/pytorch issue 135712).
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  # torchrun would take the signal of a lost terminal even where nohup has it ignored.
  [[ $(trap -p HUP) != "trap -- '' "* ]] || export TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGQUIT
  if [[ ${NPROC:-1} == 1 && ${NNODES:-1} == 1 ]]; then
    attended "$python" "$@"
  elif [[ ${NNODES:-1} == 1 ]]; then
    attended "$python" -m torch.distributed.run --standalone --nproc_per_node="$NPROC" "$@"
  else
    [[ -n ${MASTER_ADDR:-} && -n ${NODE_RANK:-} ]] ||
      fail "NNODES=$NNODES needs MASTER_ADDR (the first node) and NODE_RANK (0 to $((NNODES - 1))) in the environment"
    [[ ${MASTER_PORT:-29500} =~ ^[1-9][0-9]{0,4}$ && ${MASTER_PORT:-29500} -lt 65536 ]] ||
      fail "MASTER_PORT must be a port, from 1 to 65535, but is $MASTER_PORT"
    attended "$python" -m torch.distributed.run --nproc_per_node="${NPROC:-1}" --nnodes="$NNODES" --node_rank="$NODE_RANK" \
      --master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-29500}" "$@"
  fi
}
