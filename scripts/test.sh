#!/usr/bin/env bash
# Usage: bash scripts/test.sh [arguments of pytest]
#
# Sets up with the developers' tools, checks the style, runs all tests, and then the whole pipeline on the small data set
# in a folder of its own. Takes 11 minutes on 2 CPU cores, plus the set-up on a fresh machine.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
bash scripts/00_setup.sh --dev
bash scripts/install_chromium.sh || say "No Chromium: the tests of the report in a browser will be skipped"

say "Style"
.venv/bin/ruff check .
.venv/bin/ruff format --check .

say "Tests"
"$python" -m pytest "$@"

say "The pipeline, in small"
work_dir=$(mktemp -d)
trap 'rm -rf "$work_dir"' EXIT
bash scripts/run_all.sh --preset mini --work_dir "$work_dir"
"$python" - "$work_dir/scores.json" <<'PYTHON'
import json, sys

base, adapted = (system["scores"]["BLEU"] for system in json.load(open(sys.argv[1]))["systems"])
if not (base <= 0.15 and adapted >= 0.60):
    sys.exit(f"BLEU is {base:.4f} without the adapters and {adapted:.4f} with them; expected at most .15 and at least .60")
PYTHON
say "Everything passed"
