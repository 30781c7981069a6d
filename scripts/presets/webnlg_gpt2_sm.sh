# shellcheck shell=bash disable=SC2034
# The recipe of webnlg_gpt2_md on GPT-2 Small.
source scripts/presets/webnlg_gpt2_md.sh
CARD=gpt2.sm
BASE=pretrained_checkpoints/gpt2
