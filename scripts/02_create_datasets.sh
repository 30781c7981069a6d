#!/usr/bin/env bash
# Usage: bash scripts/02_create_datasets.sh [e2e|mini] [flags of gpt2_encode.py]
#
# Makes data/SET/{train,valid,test}.jsonl, the token ids that training and decoding read, and the *_formatted.jsonl files
# that the decode step reads. e2e (default): 42 061, 4 672 and 4 693 examples; the three raw files are downloaded (12 MB)
# and verified, or taken from E2E_DATA_DIR=/a/folder. mini: the project's own small set, without any download.
# Takes seconds.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"

set_name=e2e
if [[ $# -gt 0 && $1 != --* ]]; then
  set_name=$1
  shift
fi
case $set_name in
  e2e | mini) ;;
  *) fail "unknown data set $set_name; expected e2e or mini" ;;
esac
ensure_setup

say "Data set $set_name"
if [[ $set_name == e2e ]]; then
  attended "$python" src/download.py e2e
fi
data=data/$set_name
mkdir -p "$data"
attended "$python" src/describe_task.py e2e --output "$data/task.json"
for split in train valid test; do
  attended "$python" src/format_converting_e2e.py "$data/$split.txt" "$data/${split}_formatted.jsonl"
  attended "$python" src/gpt2_encode.py --add_bos --add_eos \
    --input "$data/${split}_formatted.jsonl" --output "$data/$split.jsonl" "$@"
done
