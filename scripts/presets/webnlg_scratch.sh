# shellcheck shell=bash disable=SC2034
# WebNLG without a pretrained base: 4 layers of width 256 from a random start, every parameter trained, two epochs, on a CPU. What it
# shows is the machinery, and that a model which has seen nothing else can say nothing of categories that it has not seen.
# shellcheck source=scripts/presets/e2e_scratch.sh
source scripts/presets/e2e_scratch.sh
DATA=webnlg
TASK=webnlg
TRAIN+=(--max_epoch 2)
