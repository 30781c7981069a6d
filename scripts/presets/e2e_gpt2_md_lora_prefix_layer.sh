# shellcheck shell=bash disable=SC2034
# LoRA with a prefix of GPT-2 Medium on E2E: the recipe's settings but for its method. Needs a GPU.
# shellcheck source=scripts/presets/e2e_gpt2_md.sh
source scripts/presets/e2e_gpt2_md.sh
LORA=(--method lora+prefix_layer --lora_dim 4 --lora_alpha 32 --lora_dropout 0.1 --prefix_length 14)
CURVE="" # which is LoRA's
