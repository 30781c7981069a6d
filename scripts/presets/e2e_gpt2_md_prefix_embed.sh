# shellcheck shell=bash disable=SC2034
# PreEmbed of GPT-2 Medium on E2E: the recipe's settings but for its method.
# Its rate is open in the papers. Needs a GPU.
# shellcheck source=scripts/presets/e2e_gpt2_md.sh
source scripts/presets/e2e_gpt2_md.sh
LORA=(--method prefix_embed --prefix_length 336)
TRAIN+=(--lr 0.01)
CURVE="" # which is LoRA's
