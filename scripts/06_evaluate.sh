#!/usr/bin/env bash
# Usage: bash scripts/06_evaluate.sh [--preset NAME] [--work_dir DIR] [flags of measure_scores.py]
#
# Scores prediction.txt (and base.txt) of the work dir against reference.txt, writes scores.json, and ends with the summary
# of the run. The 630 test inputs of E2E take about 11 s on 2 CPU cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
take_preset "$@"
ensure_setup

say "Scores"
if [[ " ${rest[*]-} " == *" -l "* ]]; then
  COMPARE_WITH_BASE="" # segment scores are of one system
fi
systems=(${COMPARE_WITH_BASE:+"$work_dir/base.txt"} "$work_dir/prediction.txt")
"$python" eval/e2e/measure_scores.py "$work_dir/reference.txt" "${systems[@]}" -p --json "$work_dir/scores.json" \
  ${rest[@]+"${rest[@]}"}
"$python" eval/summary.py "$work_dir" --data "$data/test_formatted.jsonl" ${ROWS:+--rows "$ROWS"}
