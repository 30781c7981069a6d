"""Train the mini preset for many minutes, stopped and resumed on the way, and show whether memory stays flat.

Measures: resident memory of the training process every ten seconds, from its 60th second on. Does not measure speed. Exits
with 1 if the last process's mean is more than 5 % above the first one's, or within a process the last half's above the first's.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "--model_card gpt2.mini --init_checkpoint pretrained_checkpoints/gpt2.mini --train_data data/mini/train.jsonl "
    "--valid_data data/mini/valid.jsonl --lora_dim 4 --lora_alpha 32 --lora_dropout 0.1 --train_batch_size 16 "
    "--valid_batch_size 16 --seq_len 256 --max_step 1000000 --lr 1e-4 --scheduler constant --save_interval 50 --eval_interval 200"
)
TOLERANCE = 1.05


def resident_mib(pid: int) -> float:
    """Return a process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> int:
    """Train, sample, report."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=30, help="how long; default: %(default)s")
    parser.add_argument(
        "--resume_every", type=float, default=6, help="minutes between two interruptions; default: %(default)s"
    )
    args = parser.parse_args()
    work_dir = tempfile.mkdtemp()
    command = [sys.executable, "src/gpt2_ft.py", *FLAGS.split(), "--work_dir", work_dir, "--resume", "auto"]
    runs = []
    end = time.monotonic() + 60 * args.minutes
    while time.monotonic() < end - 60:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        stop_at, samples = min(end, time.monotonic() + 60 * args.resume_every), []
        time.sleep(60)
        while time.monotonic() < stop_at:
            samples.append(resident_mib(process.pid))
            time.sleep(10)
        process.send_signal(signal.SIGTERM)
        if process.wait() != 128 + signal.SIGTERM:
            sys.exit(f"the training ended with {process.returncode}, not after the signal")
        step = json.loads((Path(work_dir) / "saves.json").read_text())["saves"][-1]["step"]
        halves = [statistics.mean(part) for part in (samples[: len(samples) // 2], samples[len(samples) // 2 :])]
        runs.append((step, *halves))
        print(
            f"process {len(runs)}: to step {step}, {halves[0]:.0f} MiB in its first half, {halves[1]:.0f} in its second",
            flush=True,
        )
    flat = all(second <= TOLERANCE * first for _, first, second in runs) and runs[-1][2] <= TOLERANCE * runs[0][2]
    print(
        json.dumps(
            {
                "minutes": args.minutes,
                "processes": len(runs),
                "steps": runs[-1][0],
                "mib": [r[1:] for r in runs],
                "flat": flat,
            }
        )
    )
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
