#!/usr/bin/env bash
# Usage: bash scripts/06_evaluate.sh [--preset NAME] [--work_dir DIR] [flags of measure_scores.py]
#
# Scores prediction.txt (and base.txt) of the work dir against the references of step 5, with the scorer of the preset's task:
# scores.json, with 95 % intervals over the choice of inputs, and segments.tsv with every input's own scores (base_segments.tsv);
# WebNLG and DART by the protocol of the recipe's README, WebNLG's unseen and seen categories by themselves, too. Ends with the
# summary of the run.
# Time of mini on 2 CPU cores: 3 s.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
take_preset "$@"
for name in ${COMPARE_WITH_BASE:+base} prediction; do from_step "$work_dir/$name.txt" 05; done
ensure_setup
scorer=$(of_task scorer) references=$(of_task references) protocols=$(of_task protocols)
check_flags "$scorer"
refuse_own_flags "$scorer" --json -l --seg_level --categories
from_step "$work_dir/$references" 05

say "Scores"
read -ra protocols <<<"$protocols"
systems=("$work_dir/prediction.txt") segments=(-l "$work_dir/segments.tsv")
if [[ -n $COMPARE_WITH_BASE ]]; then
  systems=("$work_dir/base.txt" "${systems[@]}") segments=(-l "$work_dir/base_segments.tsv" "${segments[@]}")
fi
how=(-p)
if [[ ${#protocols[@]} -gt 0 ]]; then how=(--protocol "${protocols[@]}" --categories "$data/test_formatted.jsonl"); fi
how+=(--bootstrap "${segments[@]}")
attended "$python" "$scorer" "$work_dir/$references" "${systems[@]}" "${how[@]}" --json "$work_dir/scores.json" ${rest[@]+"${rest[@]}"}
attended "$python" eval/summary.py "$work_dir" --data "$data/test_formatted.jsonl"
