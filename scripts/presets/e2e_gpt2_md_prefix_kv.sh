# shellcheck shell=bash disable=SC2034
# Prefix tuning of GPT-2 Medium on E2E: the recipe's settings but for its method.
# Its rate is open in the papers. Needs a GPU.
# shellcheck source=scripts/presets/e2e_gpt2_md.sh
source scripts/presets/e2e_gpt2_md.sh
LORA=(--method prefix_kv --prefix_length 7)
TRAIN+=(--lr 0.002)
CURVE="" # which is LoRA's
