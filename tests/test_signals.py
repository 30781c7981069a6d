"""Signals: the first is heard once, a second Ctrl-C ends at once, and what a lost terminal takes away is not missed."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from lora_nlg import signals
from lora_nlg.errors import Stopped, ending_signals

SRC = Path(__file__).resolve().parents[1] / "src"
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_is_noted_and_said_once(number, capfd):
    with signals.requests() as request:
        for _ in range(3):  # the terminal's, a script's and a launcher's
            os.kill(os.getpid(), number)
        assert request.number == number
    assert capfd.readouterr().err.count(f"{number.name}: saving after this step") == 1


@pytest.mark.parametrize("first", [(), (signal.SIGTERM,), (signal.SIGHUP,)])
def test_a_second_ctrl_c_ends_at_once(first, monkeypatch, capfd):
    now = 100.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    with signals.requests() as request:
        for number in (*first, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert request.number == (*first, signal.SIGINT)[0]
        now += signals.ONE_PRESS + 0.1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", ENDING)
def test_a_second_signal_does_not_end_the_cleaning_up(number):
    cleaned = False
    with (
        pytest.raises(Stopped, match="go on with --resume") as stopped,
        signals.stopped_by_signals("go on with --resume"),
    ):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert cleaned and stopped.value.number == number


def test_a_lost_terminal_is_nothing_to_what_nohup_started():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ending_signals() == (signal.SIGTERM,)
        with signals.requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


# Says all the time that it works, as training does, and what came of it in a file.
WORKER = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from lora_nlg import signals
with signals.requests() as request:
    while request.number is None:
        print("working", flush=True)
        time.sleep(0.01)
    for stream in (sys.stdout, sys.stderr):
        print("saving", file=stream, flush=True)
    pathlib.Path(sys.argv[2]).write_text(f"saved at {request.number}")
"""


def wait_for(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)


def test_a_run_saves_when_its_terminal_is_lost(tmp_path):
    """The terminal is gone when the signal comes: fails when printing to it is an error."""
    ours, theirs = pty.openpty()
    take_it = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # noqa: E731
    files = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    command = [sys.executable, "-c", WORKER, str(SRC), str(tmp_path / "saved")]
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=take_it, **files)
    try:
        os.close(theirs)
        assert os.read(ours, 7) == b"working"
        os.close(ours)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert (tmp_path / "saved").read_text() == "saved at 1"


def test_a_run_saves_when_the_reader_of_its_output_is_lost(tmp_path):
    """As `python gpt2_ft.py … | tee log` on a line that breaks: tee ends a moment after the signal, or before it."""
    command = [sys.executable, "-c", WORKER, str(SRC), str(tmp_path / "saved")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"working\n"
        process.send_signal(signal.SIGHUP)
        process.stdout.close()
        process.stderr.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert (tmp_path / "saved").read_text() == "saved at 1"
