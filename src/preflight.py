"""Check, before hours of training, what it and the steps after it will need: data, base, vocabulary, Java, disk and memory.

Takes the flags of gpt2_ft.py, and after -- those of gpt2_beam.py for the decoding that is to follow, if one is. --world_size is the
number of processes on this machine. Prints one line a check and exits with 2 if any of them fails.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

import gpt2_beam
import gpt2_ft
from lora_nlg import errors

ROOT = Path(__file__).resolve().parents[1]
SCORER = ROOT / "eval/e2e/measure_scores.py"


def java() -> str:
    """Run the scorer's two Java programs."""
    done = subprocess.run([sys.executable, str(SCORER), "--check_java"], capture_output=True, text=True)
    if done.returncode:
        raise errors.UserError(done.stderr.strip().removeprefix("measure_scores.py: error: "))
    return done.stdout.strip()


def vocabulary() -> str:
    """Check GPT-2's vocabulary, which the text step needs."""
    from lora_nlg.data import bpe

    bpe.check_files(ROOT / "vocab")
    return "GPT-2's, by its sha256"


def decoding(args: argparse.Namespace, processes: int) -> str:
    """Compare what the decoding's largest batch takes with the memory of every device that its processes take."""
    from lora_nlg import config, dist, memory
    from lora_nlg.decoding import needs

    gpt2_beam.check_lengths(args, config.model_config(args.model_card))
    need = gpt2_beam.needed_memory(args, gpt2_beam.read_contexts(args)[1], processes)
    return memory.check(need, dist.devices_of(args.device, processes), f"{needs.REMEDY}, in the preset's DECODE")


def checks(args: argparse.Namespace, of_decoding: argparse.Namespace | None) -> dict[str, Callable[[], str]]:
    """Return the checks by name: each says what it found, or raises UserError."""
    from lora_nlg import config, flags
    from lora_nlg.training import needs

    steps = (args, of_decoding) if of_decoding is not None else (args,)
    for fitted in {flags.fit_seq_len(one, config.model_config(one.model_card)): None for one in steps}:
        if fitted:
            print(fitted, file=sys.stderr)
    processes = max(args.world_size, 1)
    of_run = needs.Run(args, processes)
    found = {
        "data": of_run.data,
        "base": of_run.base,
        "vocabulary": vocabulary,
        "java": java,
        "work dir": of_run.work_dir,
        "disk": of_run.disk,
        "memory": of_run.memory,
    }
    if of_decoding is not None:
        found["decoding"] = lambda: decoding(of_decoding, processes)
    return found


def _split(argv: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return what is before the first --, that itself, and what is after it."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at : at + 1], argv[at + 1 :]


def main(argv: list[str] | None = None) -> int:
    """Run all checks, also after one has failed."""
    of_training, separator, of_beam = _split(sys.argv[1:] if argv is None else argv)
    args = gpt2_ft.parser().parse_args(of_training)
    failed = []
    for name, check in checks(args, gpt2_beam.parser().parse_args(of_beam) if separator else None).items():
        try:
            print(f"{name:<10} ok  {check()}", flush=True)
        except errors.UserError as error:
            failed.append(f"{name}: {error}")
            print(f"{name:<10} NO  {error}", flush=True)
    if failed:
        raise errors.UserError(f"{len(failed)} of the checks above failed, the first is {failed[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main))
