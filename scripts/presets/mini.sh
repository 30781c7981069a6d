# shellcheck shell=bash disable=SC2034
# The default: the bundled base learns the bundled data's layout, on any machine, without a download.
DATA=mini
CARD=gpt2.mini
BASE=pretrained_checkpoints/gpt2.mini
LORA=(--lora_dim 4 --lora_alpha 32)
TRAIN=(--train_batch_size 12 --valid_batch_size 16 --seq_len 256 --max_step 400 --lr 2e-3 --scheduler linear
  --warmup_step 40 --weight_decay 0.01 --correct_bias --adam_beta2 0.999
  --log_interval 50 --eval_interval 200 --save_interval 200 --random_seed 110)
DECODE=(--seq_len 256 --eval_len 80 --batch_size 16 --beam 10 --length_penalty 0.8 --no_repeat_ngram_size 4 --eos_token_id 628)
COMPARE_WITH_BASE=1
