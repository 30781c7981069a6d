"""Check, before hours of training, what it and the steps after it will need: data, base, vocabulary, Java, disk and memory.

Takes the flags of gpt2_ft.py. Prints one line a check and exits with 2 if any of them fails.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, __file__.rpartition("/")[0])  # which PYTHONSAFEPATH leaves out

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


def checks(args) -> dict[str, Callable[[], str]]:
    """Return the checks by name: each says what it found, or raises UserError."""
    from lora_nlg.training import needs

    of_run = needs.Run(args)
    return {
        "data": of_run.data,
        "base": of_run.base,
        "vocabulary": vocabulary,
        "java": java,
        "work dir": of_run.work_dir,
        "disk": of_run.disk,
        "memory": of_run.memory,
    }


def main(argv: list[str] | None = None) -> int:
    """Run all checks, also after one has failed."""
    args = gpt2_ft.parser().parse_args(argv)
    failed = []
    for name, check in checks(args).items():
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
