# shellcheck shell=bash disable=SC2034
# The other side of e2e_small_lora: the same base, but every parameter is trained, at half the rate.
source scripts/presets/e2e_small_lora.sh
LORA=()
TRAIN+=(--lr 1e-3)
COMPARE_WITH_BASE=""
