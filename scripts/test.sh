#!/usr/bin/env bash
# Usage: bash scripts/test.sh [--quick] [arguments of pytest]
#
# Sets up with the developers' tools, checks the style, runs all tests on all cores, and then the whole pipeline on the small
# data set in a folder of its own. README says how long that takes on 2 CPU cores.
# --quick checks the style and runs the tests that are not marked slow, for after each change.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
unset LORA_TYPED # what the tests start is what they type
quick="" rest=()
for argument in "$@"; do
  if [[ $argument == --quick ]]; then
    quick=1
    continue
  fi
  if [[ $argument == --* ]]; then
    meant=$(did_you_mean "$argument" --quick --quiet) # the second is pytest's
    [[ $meant != *--quick* ]] || fail "unknown flag $argument$meant"
  fi
  rest+=("$argument")
done

work_dir=""
trap 'rm -rf "$work_dir"' EXIT

bash scripts/00_setup.sh --dev
if [[ -z $quick ]]; then
  bash scripts/install_chromium.sh || say "No Chromium: the tests of pages in a browser will be skipped"
fi

say "Style, types, and who imports whom"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
PYTHONPATH=src:eval .venv/bin/lint-imports

say "Tests"
workers=(-n logical --maxprocesses 8)
attended "$python" -m pytest "${workers[@]}" ${quick:+-m "not slow"} ${rest[@]+"${rest[@]}"}
if [[ -n $quick ]]; then
  exit
fi

say "The pipeline, in small"
work_dir=$(mktemp -d)
attended bash scripts/run_all.sh --preset mini_short --work_dir "$work_dir"
"$python" - "$work_dir/scores.json" <<'PYTHON'
import json, sys

base, adapted = (system["scores"]["BLEU"] for system in json.load(open(sys.argv[1]))["systems"])
if not (base <= 0.15 and adapted >= 0.60):
    sys.exit(f"BLEU is {base:.4f} without the adapters and {adapted:.4f} with them; expected at most .15 and at least .60")
PYTHON
text=$(echo "name : Blue Spice | Type : coffee shop | area : riverside" | "$python" src/gpt2_generate.py --alternatives 0 \
  --init_checkpoint pretrained_checkpoints/gpt2.mini --lora_checkpoint "$work_dir/model.final.pt")
[[ $text == *"Blue Spice "* && $text == *"coffee shop"* && $text == *riverside* ]] || fail "the README's first example became: $text"
say "Everything passed"
