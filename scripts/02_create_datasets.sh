#!/usr/bin/env bash
# Usage: bash scripts/02_create_datasets.sh [e2e|webnlg|dart|mini|FOLDER|FILE] [--source NAME] [--target NAME] [flags of gpt2_encode.py]
#
# Makes data/SET/{train,valid,test}.jsonl, the token ids that training and decoding read, and the *_formatted.jsonl files
# that the decode step reads. The three raw files are downloaded and verified, or taken from a folder that a variable names:
#   e2e (default)   42 061, 4 672 and 4 693 examples; 12 MB; E2E_DATA_DIR
#   webnlg          18 025, 2 258 and 4 928 examples; 29 MB; WEBNLG_DATA_DIR
#   dart            62 659, 6 980 and 12 552 examples; DART_DATA_DIR, which may lack the training file: then so does data/dart
#   mini            the project's own small set, without any download
#   FOLDER or FILE  data of your own (docs/your_data.md), into a folder below data/own
# Time of mini on 2 CPU cores: 1 s (2 s) - in brackets that of e2e.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"

set_name=e2e
if [[ $# -gt 0 && $1 != --* ]]; then
  set_name=$1
  shift
fi
columns=() rest=()
while [[ $# -gt 0 ]]; do
  spell "$1"
  set -- "$spelt" "${@:2}"
  case $1 in
    --source | --target)
      [[ $# -ge 2 ]] || fail "$1 needs a value"
      set -- "$1=$2" "${@:3}"
      ;;
    --source=* | --target=*) columns+=("$1") && shift ;;
    *) rest+=("$1") && shift ;;
  esac
done
check_flags src/gpt2_encode.py
refuse_own_flags src/gpt2_encode.py --input --output
task=$set_name data=data/$set_name raw=(train.txt valid.txt test.txt)
case $set_name in
  mini) task=e2e ;;
  webnlg) raw=(train.json dev.json test.json) ;;
  dart) raw=(dart-v1.1.1-full-{train,dev,test}.json) ;;
esac
if ! known_set "$set_name" && made_by_hand "$set_name"; then
  [[ ${#columns[@]} -eq 0 ]] || fail "${columns[0]} would have no effect; data/$set_name is taken as it was made by hand"
  say "Data set $set_name is as it was made by hand"
  exit 0
elif ! known_set "$set_name"; then
  set_name=$(own_data "$set_name") || exit
  task=own data=$(own_data_made "$set_name")
elif [[ ${#columns[@]} -gt 0 ]]; then
  fail "${columns[0]} would have no effect; it is for data of your own, $set_name is known"
fi
ensure_setup

say "Data set $set_name"
if [[ $set_name != mini && $task != own ]]; then
  attended "$python" src/download.py "$set_name"
fi
mkdir -p "$data"
attended "$python" src/describe_task.py "$task" --output "$data/task.json"
if [[ $task == own ]]; then
  attended "$python" src/format_own_data.py "$set_name" "$data" ${columns[@]+"${columns[@]}"}
fi
splits=(train valid test)
for i in 0 1 2; do
  [[ $set_name != dart || $i != 0 || -f $data/${raw[i]} ]] || continue # the download has said so
  split=$data/${splits[i]}
  if [[ $task != own ]]; then
    attended "$python" "src/format_converting_$task.py" "$data/${raw[i]}" "${split}_formatted.jsonl"
  fi
  attended "$python" src/gpt2_encode.py --add_bos --add_eos --input "${split}_formatted.jsonl" --output "$split.jsonl" \
    ${rest[@]+"${rest[@]}"}
done
