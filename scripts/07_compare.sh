#!/usr/bin/env bash
# Usage: bash scripts/07_compare.sh [--preset NAME] [--work_dir DIR]
#
# Holds the scores of the work dir against the paper's and those of public runs, or says why they cannot be compared; counts the
# slots that the outputs get wrong, if the task has any; and puts everything on one page. Leaves comparison.json, slots.json and
# report.html.
# Time of mini on 2 CPU cores: seconds.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
take_preset "$@"
[[ ${#rest[@]} -eq 0 ]] || fail "unknown argument ${rest[0]}$(did_you_mean "${rest[0]%%=*}" --preset --work_dir --data); expected --preset or --work_dir"
ensure_setup

say "This run, the paper and public runs"
attended "$python" eval/compare.py "$work_dir" "${test_data[@]}"
attended "$python" eval/compare.py "$work_dir" "${test_data[@]}" --format json --output "$work_dir/comparison.json"
say "Slots"
attended "$python" eval/slots.py "$work_dir" "${test_data[@]}" --if_any
say "Report"
attended "$python" eval/report.py "$work_dir" "${test_data[@]}"
