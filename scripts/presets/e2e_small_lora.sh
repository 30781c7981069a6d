# shellcheck shell=bash disable=SC2034
# LoRA's claim in small: a base pretrained on the real training texts in other layouts learns the recipe's layout.
DATA=e2e
CARD=gpt2.mini
BASE=pretrained_checkpoints/e2e_small
PRETRAIN=(--texts data/e2e/train.txt --steps 1400)
LORA=(--lora_dim 4 --lora_alpha 32)
TRAIN=(--train_batch_size 16 --valid_batch_size 24 --seq_len 256 --max_step 800 --lr 2e-3 --scheduler linear
  --warmup_step 80 --weight_decay 0.01 --correct_bias --adam_beta2 0.999
  --log_interval 100 --eval_interval 800 --save_interval 400 --random_seed 110)
DECODE=(--seq_len 256 --eval_len 64 --batch_size 32 --beam 10 --length_penalty 0.8 --no_repeat_ngram_size 4 --eos_token_id 628)
COMPARE_WITH_BASE=1
