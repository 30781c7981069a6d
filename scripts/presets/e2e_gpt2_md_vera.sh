# shellcheck shell=bash disable=SC2034
# VeRA of GPT-2 Medium on E2E: the recipe's settings but for its method and the rate of VeRA's paper. Needs a GPU.
# shellcheck source=scripts/presets/e2e_gpt2_md.sh
source scripts/presets/e2e_gpt2_md.sh
LORA=(--method vera --vera_dim 1024)
TRAIN+=(--lr 0.1)
CURVE="" # which is LoRA's
