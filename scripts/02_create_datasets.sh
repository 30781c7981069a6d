#!/usr/bin/env bash
# Usage: bash scripts/02_create_datasets.sh [e2e|webnlg|dart|mini] [flags of gpt2_encode.py]
#
# Makes data/SET/{train,valid,test}.jsonl, the token ids that training and decoding read, and the *_formatted.jsonl files
# that the decode step reads. The three raw files are downloaded and verified, or taken from a folder that a variable names:
#   e2e (default)   42 061, 4 672 and 4 693 examples; 12 MB; E2E_DATA_DIR
#   webnlg          18 025, 2 258 and 4 928 examples; 29 MB; WEBNLG_DATA_DIR
#   dart            62 659, 6 980 and 12 552 examples; DART_DATA_DIR, which may lack the training file: then so does data/dart
#   mini            the project's own small set, without any download
# Takes seconds.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"

set_name=e2e
if [[ $# -gt 0 && $1 != --* ]]; then
  set_name=$1
  shift
fi
task=$set_name raw=(train.txt valid.txt test.txt)
case $set_name in
  e2e) ;;
  mini) task=e2e ;;
  webnlg) raw=(train.json dev.json test.json) ;;
  dart) raw=(dart-v1.1.1-full-{train,dev,test}.json) ;;
  *) fail "unknown data set $set_name; expected e2e, webnlg, dart or mini" ;;
esac
ensure_setup

say "Data set $set_name"
if [[ $set_name != mini ]]; then
  attended "$python" src/download.py "$set_name"
fi
data=data/$set_name
mkdir -p "$data"
attended "$python" src/describe_task.py "$task" --output "$data/task.json"
splits=(train valid test)
for i in 0 1 2; do
  [[ $set_name != dart || $i != 0 || -f $data/${raw[i]} ]] || continue # the download has said so
  split=$data/${splits[i]}
  attended "$python" "src/format_converting_$task.py" "$data/${raw[i]}" "${split}_formatted.jsonl"
  attended "$python" src/gpt2_encode.py --add_bos --add_eos --input "${split}_formatted.jsonl" --output "$split.jsonl" "$@"
done
