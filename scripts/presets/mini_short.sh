# shellcheck shell=bash disable=SC2034
# The mini preset in an eighth of its steps, decoded with two beams: for many runs that are compared with each other.
source scripts/presets/mini.sh
TRAIN+=(--max_step 50 --warmup_step 5)
DECODE+=(--beam 2)
