#!/usr/bin/env bash
# Usage: bash scripts/02_create_datasets.sh [e2e|mini|FOLDER|FILE] [--source NAME] [--target NAME] [flags of gpt2_encode.py]
#
# Makes {train,valid,test}.jsonl, the token ids that training and decoding read, and the *_formatted.jsonl files that the decode
# step reads. e2e (default): 42 061, 4 672 and 4 693 examples in data/e2e; the three raw files are downloaded (12 MB) and
# verified, or taken from E2E_DATA_DIR=/a/folder. mini: the project's own small set, without any download. FOLDER or FILE: data of
# your own (docs/your_data.md), into a folder below data/own. Takes seconds.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"

set_name=e2e
if [[ $# -gt 0 && $1 != --* ]]; then
  set_name=$1
  shift
fi
columns=() encoding=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --source | --target)
      [[ $# -ge 2 ]] || fail "$1 needs a value"
      set -- "$1=$2" "${@:3}"
      ;;
    --source=* | --target=*) columns+=("$1") && shift ;;
    *) encoding+=("$1") && shift ;;
  esac
done
task=e2e data=data/$set_name
if ! known_set "$set_name"; then
  set_name=$(own_data "$set_name") || exit
  task=own data=$(own_data_made "$set_name")
elif [[ ${#columns[@]} -gt 0 ]]; then
  fail "${columns[0]} would have no effect; it is for data of your own, $set_name is known"
fi
ensure_setup

say "Data set $set_name"
if [[ $set_name == e2e ]]; then
  attended "$python" src/download.py e2e
fi
mkdir -p "$data"
attended "$python" src/describe_task.py "$task" --output "$data/task.json"
if [[ $task == own ]]; then
  attended "$python" src/format_own_data.py "$set_name" "$data" ${columns[@]+"${columns[@]}"}
fi
for split in train valid test; do
  if [[ $task != own ]]; then
    attended "$python" src/format_converting_e2e.py "$data/$split.txt" "$data/${split}_formatted.jsonl"
  fi
  attended "$python" src/gpt2_encode.py --add_bos --add_eos \
    --input "$data/${split}_formatted.jsonl" --output "$data/$split.jsonl" ${encoding[@]+"${encoding[@]}"}
done
