#!/usr/bin/env bash
# Usage: bash scripts/01_download_pretrained_checkpoints.sh [CARD ...] [--folder FOLDER]
#
# Downloads OpenAI's GPT-2 from the Hugging Face Hub into pretrained_checkpoints/ and verifies it. CARD is gpt2.sm (0.5 GB),
# gpt2.md (1.5 GB, the default and the paper's), gpt2.lg (3.2 GB), gpt2.xl (6.4 GB) or all; gpt2.mini is part of the project.
# An interrupted download goes on where it stopped; what is there costs nothing.
# HF_ENDPOINT=https://... names a mirror of the Hub.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
ensure_setup

if [[ $# -eq 0 || $1 == --* ]]; then
  set -- gpt2.md "$@"
fi
say "Pretrained checkpoints"
attended "$python" src/download.py checkpoint "$@"
