"""A rank's error is one sentence under torch's launchers as well: no traceback of theirs below it, and its exit code."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_nlg import errors, launcher
from runs import write_training
from test_dist import LAUNCHERS, free_port

pytestmark = pytest.mark.slow  # torch's launchers

ROOT = Path(__file__).resolve().parents[1]
ONE = ["-m", "torch.distributed.launch", "--nproc_per_node=1"]  # the tutorial's
PACKAGES = next(path for path in sys.path if path.endswith("site-packages"))


def error_of(name: str, **fields) -> BaseException:
    """Return an exception as the launchers raise them: they are known by their names."""
    error = type(name, (Exception,), {})()
    vars(error).update(fields)
    return error


def failed(*codes: int) -> BaseException:
    """Return the launchers' error of ranks that ended with these codes, one after the other."""
    ends = {rank: SimpleNamespace(exitcode=code, timestamp=rank) for rank, code in enumerate(codes)}
    return error_of("ChildFailedError", failures=ends)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (failed(2, -15), 2),
        (failed(130), 130),
        (failed(1), None),  # a traceback of ours: all is shown
        (failed(-9, 2), None),  # the first one was killed, and that is news
        (error_of("SignalException", sigval=signal.SIGINT), 130),
        (ValueError(), None),
    ],
)
def test_what_a_rank_has_said_already_ends_the_launcher_with_its_code(error, code):
    assert launcher.exit_code(error) == code


@pytest.mark.parametrize(
    ("message", "arguments", "is_left_out"),
    [
        ("failed (exitcode: %s) local_rank: %s", (2, 0), True),
        ("failed (exitcode: %s) local_rank: %s", (-9, 0), False),
        ("Sending process %s closing signal %s", (7, "SIGTERM"), True),
        ("Unable to shutdown process %s via %s", (7, "SIGTERM"), False),
    ],
)
def test_lines_that_say_nothing_new_are_left_out(message, arguments, is_left_out):
    record = logging.LogRecord("torch", logging.ERROR, "", 1, message, arguments, None)
    assert launcher.leaves_out(record) == is_left_out


def test_the_other_ranks_let_the_first_one_speak(monkeypatch):
    waited = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    monkeypatch.setattr(errors.signal, "signal", lambda *_: None)
    for rank, of_launcher in (("1", False), ("0", True), ("1", True)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        if of_launcher:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        errors.let_the_first_rank_speak()
    assert waited == [errors.FIRST_RANK]


@pytest.fixture
def python(tmp_path) -> str:
    """A Python as set-up leaves it in a checkout's .venv: with the launchers' file, and this one's packages."""
    packages = tmp_path / f".venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    packages.mkdir(parents=True)
    (packages / "others.pth").write_text(PACKAGES + "\n")
    (packages / "lora_nlg_launcher.pth").write_text((ROOT / "scripts/launcher.pth").read_text())
    base = os.path.realpath(sys.executable)
    (tmp_path / ".venv/pyvenv.cfg").write_text(f"home = {os.path.dirname(base)}\n")
    (tmp_path / ".venv/bin").mkdir()
    (tmp_path / ".venv/bin/python").symlink_to(base)
    (tmp_path / "src").symlink_to(ROOT / "src")
    return str(tmp_path / ".venv/bin/python")


def start(python: str, how: list[str], flags: str) -> subprocess.Popen:
    environment = {**os.environ, "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [python, *how, str(ROOT / "src/gpt2_ft.py"), "--platform", "local", *flags.split()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


MISTAKES = [
    ("--lora_dim 0 --lora_alpha 3", "gpt2_ft.py: error: --lora_alpha would have no effect: --lora_dim 0 trains no adapters; leave it "
     "out"),
    ("--lora_dmi 4", "gpt2_ft.py: error: unknown flag --lora_dmi (did you mean --lora_dim?); --help lists all flags"),
    ("--train_batch_size 22", "gpt2_ft.py: error: FOLDER/train.jsonl makes 1 batches of 22, too few for 2 processes; use fewer, or a "
     "smaller --train_batch_size"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "mistake"),
    [(ONE, 0), (LAUNCHERS["launch"], 0), (LAUNCHERS["torchrun"], 1), (LAUNCHERS["torchrun"], 2)],
)
def test_a_mistake_is_one_sentence_under_a_launcher(how, mistake, python, tmp_path):
    """Of all ranks together. Fails when the launcher's traceback is there, or every rank says it."""
    more, says = MISTAKES[mistake]
    process = start(python, how, f"{write_training(tmp_path)} --device cpu --max_step 3 {more}")
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (2, says.replace("FOLDER", str(tmp_path)) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("how", [ONE, LAUNCHERS["launch"]])
def test_ctrl_c_is_one_sentence_under_a_launcher(how, python, tmp_path):
    flags = f"{write_training(tmp_path)} --device cpu --max_step 100000 --save_interval 50 --log_interval 50 --no_keep_epochs"
    process = start(python, how, flags)
    end = time.monotonic() + 120
    while not (tmp_path / "work/saves.json").exists():
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert re.fullmatch(
        r"\nSIGINT: saving after this step; Ctrl-C twice ends at once\n"
        r"gpt2_ft\.py: stopped and saved at step \d+; the same command with --resume goes on\n",
        said,
    ), said


@pytest.mark.slow
def test_a_rank_that_is_killed_is_still_shown_in_full(python, tmp_path):
    code = tmp_path / "dies.py"
    code.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([python, *ONE, str(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ChildFailedError" in done.stderr and "Signal 9" in done.stderr
