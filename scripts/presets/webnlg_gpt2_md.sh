# shellcheck shell=bash disable=SC2034
# The recipe of e2e_gpt2_md on WebNLG 2017, with the same settings (paper, Table 11): 11 270 steps. Needs a GPU.
source scripts/presets/e2e_gpt2_md.sh
DATA=webnlg
TASK=webnlg
CURVE="" # E2E's
