#!/usr/bin/env bash
# Usage: bash benchmarks/gpu.sh [DIR]
#        GPU=0 bash benchmarks/gpu.sh     the same stages with a small model on the CPU: shows only that the script runs
#
# Measures on one GPU, in one call of less than 8 minutes: GPT-2 Medium with random weights, LoRA r = 4, batch 8, bf16.
#   milliseconds a training step, plain and with --compile, from the log's intervals after the first two (which warm up and compile)
#   decoding the distinct test inputs with 10 beams, plain and with --compile, and how many outputs are the same (bf16 rounds otherwise
#   in other shapes); random weights never end early, so this is the longest it can take
#   peak memory of the GPU, and the tests that need one (pytest -m gpu)
# Does not measure quality, nor downloads. Builds what it needs: the environment, if no Python here has torch; the data, from
# E2E_DATA_DIR or, without it, the bundled ones unless data/e2e is there. The plain and the compiled training must agree on the average
# loss of their first interval before a time is shown. Results stay in DIR (default: a temporary folder). Prints one JSON line and,
# last, the table. A stage that fails or takes too long is a row that says so.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^[^#]/ { s/^# \{0,1\}//p; }' benchmarks/gpu.sh
  exit 0
fi
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS" >&2; }
dir=${1:-}
if [[ -z $dir ]]; then
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
fi
mkdir -p "$dir"

if [[ ${GPU:-1} == 0 ]]; then
  device=cpu card=gpt2.mini precision=fp32 steps=4 interval=1 inputs=4 eval_len=4 seq_len=256 batch=4
else
  device=cuda card=gpt2.md precision=bf16 steps=600 interval=50 inputs=630 eval_len=64 seq_len=512 batch=63
fi

can_run() { "$1" -c 'import torch, loralib, tiktoken, tqdm, safetensors, regex' 2>/dev/null; }
python=""
for candidate in ${PYTHON:+"$PYTHON"} .venv/bin/python python3; do
  if can_run "$candidate"; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  say "Environment"
  bash scripts/00_setup.sh --dev >&2 || exit
  python=.venv/bin/python
fi

say "Data"
set_name=mini
if [[ ${GPU:-1} != 0 ]]; then
  if [[ -n ${E2E_DATA_DIR:-} && ! -f data/e2e/test.txt ]]; then "$python" src/download.py e2e >&2; fi
  if [[ -f data/e2e/test.txt && -f data/e2e/train.txt ]]; then set_name=e2e; fi
fi
for split in train test; do
  if [[ -f data/$set_name/$split.jsonl ]]; then
    cp "data/$set_name/$split.jsonl" "$dir/$split.jsonl"
  else
    "$python" src/format_converting_e2e.py "data/$set_name/$split.txt" "$dir/${split}_formatted.jsonl" >&2 &&
      "$python" src/gpt2_encode.py --add_bos --add_eos --input "$dir/${split}_formatted.jsonl" --output "$dir/$split.jsonl" >&2 || exit
  fi
done
head -n 8 "$dir/test.jsonl" >"$dir/valid.jsonl"
"$python" - "$dir" "$inputs" <<'PYTHON' || exit # the distinct inputs, or some of them
import sys, json
lines = {str(json.loads(line)["context"]): line for line in open(f"{sys.argv[1]}/test.jsonl")}
open(f"{sys.argv[1]}/distinct.jsonl", "w").writelines(list(lines.values())[: int(sys.argv[2])])
PYTHON

base=(--model_card "$card" --init_checkpoint random --random_seed 110 --device "$device" --precision "$precision")
stage() { # NAME SECONDS command…: keep its output and how it ended
  local name=$1 limit=$2 code
  shift 2
  say "$name"
  timeout "$limit" "$@" >"$dir/$name.txt" 2>&1
  code=$?
  echo "$code" >"$dir/$name.code"
  if [[ $code != 0 ]]; then tail -n 5 "$dir/$name.txt" >&2; fi
}
train() { # NAME SECONDS flags…
  stage "$1" "$2" "$python" src/gpt2_ft.py "${base[@]}" --train_data "$dir/train.jsonl" --valid_data "$dir/valid.jsonl" \
    --lora_dim 4 --lora_alpha 32 --lora_dropout 0.1 --label_smooth 0.1 --lr 0.0002 --scheduler constant --correct_bias --adam_beta2 0.999 \
    --train_batch_size 8 --seq_len "$seq_len" --max_step "$steps" --log_interval "$interval" --eval_interval 100000 \
    --save_interval 100000 --work_dir "$dir/$1" "${@:3}"
}
train plain 75
if [[ ${GPU:-1} != 0 ]]; then # a CPU would compile for a minute
  train compiled 180 --compile
fi
decode() { # NAME SECONDS flags…
  stage "$1" "$2" "$python" src/gpt2_beam.py "${base[@]}" --data "$dir/distinct.jsonl" --lora_checkpoint "$dir/plain/model.final.pt" \
    --work_dir "$dir" --output_file "$1.jsonl" --seq_len "$seq_len" --eval_len "$eval_len" --batch_size "$batch" --beam 10 \
    --length_penalty 0.8 --no_repeat_ngram_size 4 "${@:3}"
}
decode decoding 50
if [[ ${GPU:-1} != 0 ]]; then
  decode recorded 45 --compile
  stage tests 75 "$python" -m pytest -m gpu
fi
say "Done"

"$python" - "$dir" "$device" "$card, $set_name" <<'PYTHON'
import json, pathlib, statistics, subprocess, sys
import torch

folder, device, what = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
name = torch.cuda.get_device_name() if device == "cuda" else "CPU: no result"
commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
RECIPE_STEPS, SAME = 26290, 0.02  # dropout and bf16 move the first average by less than this
results, rows = {"benchmark": "gpu", "device": name, "what": what, "commit": commit, "torch": torch.__version__}, []

def failed(stage):
    code = (folder / f"{stage}.code").read_text().strip() if (folder / f"{stage}.code").exists() else "not run"
    said = (folder / f"{stage}.txt").read_text() if (folder / f"{stage}.txt").exists() else ""
    if "unrecognized arguments: --compile" in said:
        return "the flag does not exist yet"
    return {"0": None, "not run": "not run", "124": "took too long"}.get(code, f"failed with exit code {code}")

def gpu_memory(record):
    peak = record["peak_memory"].get("gpu_mib")
    return f"{peak:,.0f} MiB of the GPU" if peak else f"{record['peak_memory']['host_mib']:,.0f} MiB"

averages = {}
for stage in ("plain", "compiled"):
    if problem := failed(stage):
        rows.append((f"training step, {stage}", problem, ""))
        continue
    log = [json.loads(line) for line in (folder / stage / "log.jsonl").read_text().splitlines()]
    intervals = [line for line in log if "ms_per_batch" in line]
    ms = [line["ms_per_batch"] for line in intervals][2:]
    averages[stage] = intervals[0]["avg_loss"]
    if "plain" in averages and abs(averages[stage] - averages["plain"]) > SAME * averages["plain"]:
        rows.append((f"training step, {stage}", f"first average loss {averages[stage]:.3f}, plain {averages['plain']:.3f}: not the same", ""))
        continue
    median = statistics.median(ms)
    memory = gpu_memory(json.loads((folder / stage / "run.json").read_text()))
    results[stage] = {"ms_a_step": {"median": median, "min": min(ms), "max": max(ms)}, "first_average_loss": averages[stage]}
    rows.append((f"training step, {stage}", f"{median:.1f} ms", f"{RECIPE_STEPS * median / 60000:.1f} minutes for {RECIPE_STEPS:,}; {memory}"))
outputs = {}
for stage, how in (("decoding", "plain"), ("recorded", "compiled")):
    if problem := failed(stage):
        rows.append((f"decoding, {how}", problem, ""))
        continue
    record = json.loads((folder / f"{stage}.run.json").read_text())
    outputs[stage] = (folder / f"{stage}.jsonl").read_text().splitlines()
    seconds, same = record["input_seconds"], sum(map(str.__eq__, outputs.get("decoding", []), outputs[stage]))
    results[stage] = {"inputs": len(seconds), "seconds": sum(seconds), "with_loading": record["seconds"], "same_as_plain": same}
    what_else = f"{record['seconds']:.1f} s with loading; {gpu_memory(record)}; {same} outputs as plain decoding has them"
    rows.append((f"decoding {len(seconds)} inputs, {how}", f"{sum(seconds):.1f} s", what_else))
said = (folder / "tests.txt").read_text().strip().splitlines() if (folder / "tests.txt").exists() else []
results["tests"] = said[-1] if said else "not run"
rows.append(("pytest -m gpu", results["tests"], ""))
print(json.dumps(results))
print(f"\n{name}, torch {torch.__version__}, {what}, commit {commit}\n\n| what | result | |\n| --- | --- | --- |")
print("\n".join("| " + " | ".join(row) + " |" for row in rows))
PYTHON
