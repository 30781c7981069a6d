# shellcheck shell=bash disable=SC2034
# No pretrained base at all: 4 layers of width 256 from a random start, every parameter trained, one epoch of the real data.
DATA=e2e
CARD=gpt2.mini
BASE=random
LORA=()
TRAIN=(--train_batch_size 24 --valid_batch_size 24 --seq_len 256 --max_epoch 1 --lr 2e-3 --scheduler linear
  --warmup_step 100 --weight_decay 0.01 --correct_bias --adam_beta2 0.98 --clip 1
  --log_interval 100 --eval_interval 500 --save_interval 500 --random_seed 110)
DECODE=(--seq_len 256 --eval_len 64 --batch_size 32 --beam 10 --length_penalty 0.8 --no_repeat_ngram_size 4 --eos_token_id 628)
