"""What the benchmarks share: real examples, random models, interleaved timing, and how a result is told.

Importing it makes the project's packages importable; torch is imported when it is needed, so that --help answers at once.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "eval")]

E2E, MINI = ROOT / "data" / "e2e", ROOT / "data" / "mini"
SEED = 110
TOY_VOCAB = 500  # the toy's; it reads the real examples' ids modulo this
MIB = 1 << 20


def parser(doc: str, repeats: int = 5) -> argparse.ArgumentParser:
    """Return the flags that every benchmark has; the script's docstring is the help."""
    p = argparse.ArgumentParser(
        description=doc, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--repeats", type=int, default=repeats, help="timed rounds; default: %(default)s")
    p.add_argument("--threads", type=int, default=2, help="torch's threads; default: %(default)s")
    p.add_argument("--smoke", action="store_true", help="a toy model, bundled data, one round: shows only that it runs")
    return p


def start(args: argparse.Namespace) -> None:
    """Make this process compute as the flags say."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    if args.smoke:
        args.repeats, args.model_card = 1, "toy"


def run(main: Callable) -> int:
    """Call main(None); a person's mistake becomes one sentence and an exit code."""
    from lora_nlg import errors

    return errors.run(main)


def say(text: str) -> None:
    """Tell progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def model_config(args: argparse.Namespace):
    """Return the shape that --model_card names; with --smoke a toy's."""
    from lora_nlg import config

    toy = config.ModelConfig(n_embd=64, n_layer=2, n_head=2, vocab_size=TOY_VOCAB)
    return toy if args.smoke else config.model_config(args.model_card)


def random_model(shape):
    """Return a GPT-2 of GPT-2's random start, in float32."""
    import torch

    from lora_nlg.model import gpt2

    model = gpt2.empty_model(shape)
    gpt2.init_weights(model, torch.Generator().manual_seed(SEED))
    return model


def examples(split: str, smoke: bool):
    """Return (encoded examples of `split`, what they are): E2E where it was made, else the bundled mini data."""
    from lora_nlg.data import bpe
    from lora_nlg.data.examples import Example, read_examples
    from lora_nlg.tasks import e2e

    if (E2E / f"{split}.jsonl").is_file() and not smoke:
        return read_examples(E2E / f"{split}.jsonl", bpe.END_OF_TEXT_ID + 1), f"E2E, {split}"
    encoding, vocab = bpe.load_encoding(ROOT / "vocab"), TOY_VOCAB if smoke else bpe.END_OF_TEXT_ID + 1
    pairs = e2e.read_raw(MINI / f"{split}.txt")

    def encode(text: str) -> list[int]:
        return [token % vocab for token in [*encoding.encode_ordinary(text), bpe.END_OF_TEXT_ID]]

    encoded = [Example(encode(mr), encode(f" {reference}")) for mr, reference in pairs]
    return encoded, f"NOT E2E but the bundled mini data, {split}; for E2E: bash scripts/02_create_datasets.sh e2e"


def batch(chosen, seq_len: int):
    """Return examples as this project's training takes them."""
    from lora_nlg.data.batches import collate

    return collate([[example] for example in chosen], seq_len, "clm")


def interleave(modes: dict[str, Callable[[int], object]], rounds: dict[str, int]) -> dict[str, list[float]]:
    """Call every mode with the number of the round, in turn, and return its seconds in each round.

    A B A B rather than A A B B, so that a machine that becomes slower does so for all. `rounds` may be fewer for some modes.
    """
    seconds = {name: [] for name in modes}
    for number in range(max(rounds.values())):
        for name, run in modes.items():
            if number < rounds[name]:
                started = time.perf_counter()
                run(number)
                seconds[name].append(time.perf_counter() - started)
                say(f"round {number + 1}: {name} {seconds[name][-1]:.3f} s")
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least, most, and of how many."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
    }


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Return the median over the rounds that both have of slower / faster, each within its round."""
    return round(statistics.median(a / b for a, b in zip(slower, faster, strict=False)), 3)


def require(holds: bool, what: str) -> None:
    """End the benchmark unless the compared outputs agree; a time of something else would mean nothing."""
    if not holds:
        sys.exit(f"{Path(sys.argv[0]).name}: error: the outputs do not agree, so nothing is timed: {what}")
    say(f"agree: {what}")


def in_own_process(script: str, *arguments: str, launcher: Sequence[str] = ()) -> dict:
    """Run a benchmark script with `arguments` in a fresh process and return the JSON of its last line."""
    command = [sys.executable, *launcher, str(ROOT / "benchmarks" / script), *arguments]
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # as scripts/common.sh has it, and says why
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {shlex.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    """Return the most memory that this process had resident so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would begin with the parent's
        return round(int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024, 1)
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return round(usage / (1024 if sys.platform != "darwin" else MIB), 1)


def table(header: Sequence, rows: Sequence[Sequence]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(args: argparse.Namespace, results: dict, tables: str) -> None:
    """Print the Markdown table on stderr, and the results with all that can change them as one JSON line on stdout."""
    from lora_nlg.record import Record

    known = Record(Path(os.devnull), sys.argv[1:]).fields  # never written: only asked what it knows
    command = shlex.join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]])
    machine = {"cpu": _cpu(), "cores": os.cpu_count(), "threads": args.threads, "load": os.getloadavg()}
    about = dict(command=command, smoke=args.smoke, commit=known["commit"], machine=machine, versions=known["versions"])
    say(f"\n{machine['cpu']}, {args.threads} threads, commit {known['commit']}: `{command}`\n\n{tables}")
    print(json.dumps({**about, **results}))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
