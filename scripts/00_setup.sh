#!/usr/bin/env bash
# Usage: bash scripts/00_setup.sh [--dev]
#
# Creates .venv with everything in requirements.txt (--dev: requirements-dev.txt), puts GPT-2's vocabulary into vocab/, tries
# the Java runtime that the scores need, and indexes METEOR's paraphrases. Interrupted? Run it again.
# Time on 2 CPU cores: 52 s on a fast network, then none.
#
# PYTHON=/path/to/python chooses the Python (3.10 to 3.13) that .venv is made from.
# On Linux without an NVIDIA driver torch comes from its CPU index, 0.2 GB instead of 3. WITH_CUDA=1 takes the one for GPUs even so, for
# a cluster whose GPUs are in other machines, and so does CUDA_VERSION, which NVIDIA's images set: they see a driver only when they are run.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"

requirements="requirements.txt"
case "${1:-}" in
  "") ;;
  --dev) requirements="requirements-dev.txt" ;;
  *) fail "unknown argument $1$(did_you_mean "$1" --dev); expected nothing or --dev" ;;
esac
[[ $# -le 1 ]] || fail "unknown argument $2; expected nothing or --dev"

torch_cpu_index=https://download.pytorch.org/whl/cpu
stamp=.venv/installed-    # + requirements file: what the last complete set-up installed
paraphrases=eval/metrics/phrases.npz
unfinished=.venv/unfinished # there while packages are being installed

# What a complete set-up has installed for the file $1: this Python and these requirements.
wanted() { "$python" --version && cat requirements.txt "$1"; }

# Whether torch is to have CUDA.
wants_cuda() { [[ -n ${WITH_CUDA:-}${CUDA_VERSION:-} ]] || nvidia-smi >/dev/null 2>&1; }

# It is, but was installed without, on a machine without a driver.
lacks_cuda() {
  compgen -G ".venv/lib/python*/site-packages/torch-*+cpu.dist-info" >/dev/null && wants_cuda
}

# Whether .venv's Python installs into .venv: one whose making was killed is the system's own, by another name.
is_environment() { "$python" -c 'import os, sys; sys.exit(not os.path.samefile(sys.prefix, ".venv"))' 2>/dev/null; }

is_complete() {
  [[ -f $stamp$requirements && ! -e $unfinished && -s vocab/encoder.json && -s vocab/vocab.bpe ]] && ! lacks_cuda &&
    is_environment &&
    [[ $(wanted "$requirements" 2>/dev/null) == "$(cat "$stamp$requirements")" ]]
}

# Whether $1 runs, has a supported version and can make virtual environments.
is_usable_python() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
    if is_usable_python "$candidate"; then
      echo "$candidate"
      return
    fi
    [[ -z ${PYTHON:-} ]] || fail "PYTHON=$PYTHON does not run, is not 3.10 to 3.13, or lacks the modules venv and ensurepip"
  done
  fail "found no Python 3.10 to 3.13 with the modules venv and ensurepip; install one (Debian: apt install python3-venv)" \
    "or name it with PYTHON=/path/to/python"
}

make_environment() {
  local base
  if [[ -e $unfinished ]] || lacks_cuda || ! is_usable_python "$python" || ! is_environment ||
    ! "$python" -m pip --version >/dev/null 2>&1; then
    base=$(find_python)
    say "Creating .venv with $("$base" --version)"
    "$base" -m venv --clear .venv
  fi
}

# Whether torch's builds without CUDA are what this machine needs and can be had.
wants_cpu_torch() {
  [[ $(uname -s) == Linux ]] && ! wants_cuda &&
    "$python" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' "$torch_cpu_index/torch/" 2>/dev/null
}

# Turn pip's output into one line that is rewritten on a terminal, and one line a downloaded package elsewhere.
show_pip() {
  local first second third fourth rest name="" clear=""
  if [[ -t 1 ]]; then clear=$'\r\033[K'; fi
  while read -r first second third fourth rest; do
    case $first in
      Collecting) name=$second ;;
      Downloading) [[ -n $clear ]] || echo "  $second $third $fourth" ;; # a wheel's name, its size and unit
      Progress) # 1234 of 5678, in bytes
        [[ -z $clear || $fourth -eq 0 ]] ||
          printf '%s  %s %d %% of %d MB' "$clear" "$name" $((100 * second / fourth)) $((fourth / 1000000))
        ;;
      Installing) printf '%s  unpacking %d packages (a minute or two)\n' "$clear" "$(wc -w <<<"$fourth $rest")" ;;
    esac
  done
}

install_and_show() { "$python" -m pip install --disable-pip-version-check "$@" | show_pip; }

install_packages() {
  local index=()
  say "Installing $requirements"
  refuse_other_folders
  touch "$unfinished"
  # Before 24.1 pip cannot report its progress to a program.
  attended "$python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24.1' || give_up_installing
  if wants_cpu_torch; then
    index=(--extra-index-url "$torch_cpu_index")
  fi
  attended install_and_show --progress-bar raw ${index[@]+"${index[@]}"} -r "$requirements" || give_up_installing
  rm "$unfinished"
}

# A pip.conf may send packages elsewhere, where this Python does not look.
refuse_other_folders() {
  local named
  named=$("$python" -m pip config list 2>/dev/null | grep -E '\.(target|prefix|root|no-deps|dry-run)=' || true)
  [[ -z $named ]] || fail "pip's configuration has ${named//$'\n'/ and }, and .venv would stay empty; take that out of its file" \
    "(.venv/bin/pip config debug shows which it is), or name a file without it in PIP_CONFIG_FILE"
}

# pip ended by itself and left the environment as it was, so the next run need not start from nothing.
give_up_installing() {
  rm -f "$unfinished"
  fail "pip could not install $requirements (its message is above); check the network and the free disk space, then run this again"
}

# Scores are the same without it, and take longer.
index_paraphrases() {
  [[ ! -s $paraphrases ]] || return 0
  rm -f eval/metrics/paraphrases.npz # of another form, which earlier versions made
  say "METEOR's paraphrases, indexed once (half a minute)"
  attended "$python" eval/e2e/measure_scores.py --index_paraphrases || echo "warning: not indexed; scores will take longer" >&2
}

# In a launcher's process Python then runs src/lora_nlg/launcher.py, which says why.
quiet_launchers() {
  local folder
  for folder in .venv/lib/python*/site-packages; do
    [[ ! -d $folder ]] || cmp -s scripts/launcher.pth "$folder/lora_nlg_launcher.pth" ||
      cp scripts/launcher.pth "$folder/lora_nlg_launcher.pth"
  done
}

if is_complete; then
  quiet_launchers
  index_paraphrases
  exit 0
fi
if command -v flock >/dev/null; then # two set-ups at once would each empty the other's .venv
  exec 8<scripts
  flock --nonblock 8 || {
    say "Another set-up is at work here; waiting for it"
    attended flock 8
  }
  if is_complete; then exit 0; fi
fi
make_environment
rm -f "$stamp"* "$paraphrases"
install_packages
say "GPT-2's vocabulary"
attended "$python" src/download.py vocab
say "Java, for METEOR and the tokenizer of the scores"
attended "$python" eval/e2e/measure_scores.py --check_java
index_paraphrases
quiet_launchers
for file in requirements.txt "$requirements"; do # the developers' set-up is a user's as well
  wanted "$file" >"$stamp$file"
done
say "Set-up is complete"
