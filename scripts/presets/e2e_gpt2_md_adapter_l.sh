# shellcheck shell=bash disable=SC2034
# Adapter-L of GPT-2 Medium on E2E (the paper's Table 3), .37M: the recipe's settings but for its method.
# Its rate is open in the papers. Needs a GPU.
# shellcheck source=scripts/presets/e2e_gpt2_md.sh
source scripts/presets/e2e_gpt2_md.sh
LORA=(--method adapter_l --adapter_dim 6)
TRAIN+=(--lr 0.001)
CURVE="" # which is LoRA's
