# shellcheck shell=bash disable=SC2034
# DART without a pretrained base, trained on its dev file: for folders of the data that lack the training file. Its validation loss is of what
# it is trained on. It shows that the machinery works, not what a model can learn of DART.
# shellcheck source=scripts/presets/e2e_scratch.sh
source scripts/presets/e2e_scratch.sh
DATA=dart
TASK=dart
TRAIN+=(--train_data data/dart/valid.jsonl --max_epoch 2 --weight_decay 0)
