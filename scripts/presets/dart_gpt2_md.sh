# shellcheck shell=bash disable=SC2034
# The recipe of e2e_gpt2_md on DART, without weight decay, dropout and label smoothing (paper, Table 11): 39 165 steps. Needs a GPU.
source scripts/presets/e2e_gpt2_md.sh
DATA=dart
TASK=dart
LORA+=(--lora_dropout 0)
TRAIN+=(--weight_decay 0 --label_smooth 0)
CURVE="" # E2E's
