# shellcheck shell=bash disable=SC2034
# DoRA of GPT-2 Medium on E2E: the recipe's settings but for its method. Needs a GPU.
# shellcheck source=scripts/presets/e2e_gpt2_md.sh
source scripts/presets/e2e_gpt2_md.sh
LORA=(--method dora --lora_dim 3 --lora_alpha 24 --lora_dropout 0.1)
CURVE="" # which is LoRA's
