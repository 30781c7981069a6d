# shellcheck shell=bash disable=SC2034
# The public recipe on GPT-2 Medium: LoRA on q and v, five epochs of E2E. This is the paper's main run. Needs a GPU.
DATA=e2e
CARD=gpt2.md
BASE=pretrained_checkpoints/gpt2-medium
LORA=(--lora_dim 4 --lora_alpha 32 --lora_dropout 0.1)
TRAIN=(--train_batch_size 8 --valid_batch_size 4 --grad_acc 1 --seq_len 512 --max_epoch 5 --lr 0.0002 --scheduler linear
  --warmup_step 500 --weight_decay 0.01 --correct_bias --adam_beta2 0.999 --label_smooth 0.1
  --log_interval 100 --eval_interval 2000 --save_interval 1000 --random_seed 110)
DECODE=(--seq_len 512 --eval_len 64 --batch_size 64 --beam 10 --length_penalty 0.8 --no_repeat_ngram_size 4
  --repetition_penalty 1.0 --eos_token_id 628)
CURVE=data/curves/gpt2_md_seed110.tsv
