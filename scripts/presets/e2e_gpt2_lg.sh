# shellcheck shell=bash disable=SC2034
# The recipe of e2e_gpt2_md on GPT-2 Large.
source scripts/presets/e2e_gpt2_md.sh
CARD=gpt2.lg
BASE=pretrained_checkpoints/gpt2-large
