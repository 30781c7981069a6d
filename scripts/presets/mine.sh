# shellcheck shell=bash disable=SC2034
# Data of your own, given by --data, on the bundled base. All of it is trained: the base knows one subject, and LoRA cannot teach it another.
DATA=""
CARD=gpt2.mini
BASE=pretrained_checkpoints/gpt2.mini
LORA=()
TRAIN=(--train_batch_size 16 --valid_batch_size 16 --seq_len 256 --max_epoch 20 --lr 1e-3 --scheduler linear
  --warmup_step 40 --weight_decay 0.01 --correct_bias --adam_beta2 0.999
  --log_interval 50 --eval_interval 200 --save_interval 200 --random_seed 110)
DECODE=(--seq_len 256 --eval_len 80 --batch_size 16 --beam 10 --length_penalty 0.8 --no_repeat_ngram_size 4 --eos_token_id 628)
COMPARE_WITH_BASE=1
