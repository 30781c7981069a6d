#!/usr/bin/env bash
# Usage: bash scripts/run_all.sh [--preset NAME] [--data DIR] [--work_dir DIR] [--checkpoint best|final] [flags of gpt2_ft.py]
#
# The whole pipeline: set-up, base, data, training, decoding, text, scores, a summary of
# them, and how they compare with the paper's. What steps 4 to 7 say is in run_all.log of the work dir. Presets:
#   mini            the bundled base and data, no download; minutes on 2 CPU cores, the README says how many (the default)
#   e2e_gpt2_md     the paper's run: GPT-2 Medium on E2E; a GPU node (also e2e_gpt2_sm, e2e_gpt2_lg)
#   webnlg_gpt2_md, dart_gpt2_md  the paper's runs on its two other data sets (also _sm, _lg)
#   mine            the bundled base on data of your own: --data FOLDER or FILE (docs/your_data.md), minutes on a CPU
#   e2e_scratch     the real data without a pretrained base, on a CPU
#   e2e_small_lora  a small base pretrained on the real texts, adapted with LoRA (e2e_small_full: whole), on a CPU
# --data takes the place of any preset's data, e.g. --preset e2e_gpt2_md --data FOLDER; --source and --target name its columns.
# --checkpoint best decodes with the best validation's weights in place of the last ones (04_beam.sh).
# NPROC, NNODES, NODE_RANK, MASTER_ADDR and CHECK_ONLY as in 03_train.sh. All nodes train; the first decodes and scores. If they share
# this folder, run steps 00 to 02 once before.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
take_preset "$@"
take_checkpoint
check_flags src/gpt2_ft.py --checkpoint
refuse_flags_of_all_steps
where=("${chosen[@]}" --work_dir "$work_dir")

prepare
attended bash scripts/03_train.sh "${where[@]}" ${rest[@]+"${rest[@]}"}
[[ -z ${CHECK_ONLY:-} ]] || exit 0
if [[ ${NODE_RANK:-0} != 0 ]]; then
  exit 0 # the first node has the checkpoint and goes on alone
fi
# Progress, warnings and errors are shown, all else that these steps say is in the log.
log=$work_dir/run_all.log
: >"$log"
say "Texts of the test inputs, their scores, how they compare, a report"
NNODES=1 attended bash scripts/04_beam.sh "${where[@]}" --checkpoint "$checkpoint" >>"$log"
for step in 05_decode.sh 06_evaluate.sh 07_compare.sh; do
  attended bash "scripts/$step" "${where[@]}" >>"$log"
done
attended "$python" eval/closing.py "$work_dir" --data "$data/test_formatted.jsonl" --log "$log"
