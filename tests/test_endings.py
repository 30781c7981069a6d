"""A signal ends a program wherever it comes: in an import, in a callback, where a process is started."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from lora_nlg import endings, signals
from lora_nlg.errors import Stopped
from metrics.processes import Processes

ROOT = Path(__file__).resolve().parents[1]

SRC = Path(__file__).resolve().parents[1] / "src"


def test_training_and_scorer_have_one_rule():
    """Neither imports the other, so each has the file."""
    assert (ROOT / "eval/metrics/endings.py").read_text() == (ROOT / "src/lora_nlg/endings.py").read_text()


@pytest.fixture
def stop(monkeypatch):
    """Let SIGTERM raise Stopped within the test, and SIGALRM be what it was after it."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    earlier = signal.getsignal(signal.SIGALRM)
    endings.raise_again_if_lost(Stopped)
    with signals.stopped_by_signals("resume"):
        yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    endings.cancel()
    signal.signal(signal.SIGALRM, earlier)


def wait() -> None:
    """Wait, in steps, until something is raised."""
    for _ in range(100):
        time.sleep(0.02)


def test_it_is_raised_at_once(stop):
    with pytest.raises(Stopped, match="resume"):
        stop()


def test_an_import_that_catches_everything_does_not_lose_it(stop, tmp_path, monkeypatch):
    (tmp_path / "greedy.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGTERM)\nexcept:\n    caught = True\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped):
        import greedy  # noqa: F401

        wait()
    assert sys.modules["greedy"].whole
    assert not hasattr(sys.modules.pop("greedy"), "caught")


def test_a_callback_of_a_weak_reference_does_not_lose_it(stop):
    thing = {1}
    reference = weakref.ref(thing, lambda _: stop())
    with pytest.raises(Stopped):
        del thing
        wait()
    assert reference() is None


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_no_signal_to_a_program_is_lost_in_a_finaliser(name):
    """Fails when Ctrl-C is, which Python raises by itself, and the page goes on for ever."""
    code = (
        f"import os, signal, sys, time\nsys.path.insert(0, {str(SRC)!r})\nfrom lora_nlg import errors\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"class Thing:\n    def __del__(self):\n        os.kill(os.getpid(), signal.{name})\n"
        "def main(_):\n    Thing()\n    for _ in range(100):\n        time.sleep(0.1)\n    return 0\n"
        "sys.exit(errors.run(main))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 128 + signal.Signals[name], done.stderr


def test_a_finaliser_does_not_lose_it(stop):
    class Thing:
        def __del__(self):
            stop()

    with pytest.raises(Stopped):
        Thing()
        wait()


def test_other_errors_that_are_dropped_are_still_shown(stop, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    endings.raise_again_if_lost(Stopped)

    class Thing:
        def __del__(self):
            raise ValueError

    Thing()
    assert [one.exc_type for one in shown] == [ValueError]


def test_a_with_block_that_begins_holds_what_it_made(stop):
    held = []

    class Folder:
        def __enter__(self):
            held.append(self)
            stop()
            time.sleep(0.01)  # the signal is here by now

        def __exit__(self, *exception):
            held.remove(self)

    with pytest.raises(Stopped), Folder():
        assert held
        wait()
    assert not held


def test_a_process_that_is_started_is_known(stop, monkeypatch):
    begun = subprocess.Popen._execute_child

    def execute(self, *arguments):
        begun(self, *arguments)
        stop()
        time.sleep(0.01)

    monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    process = None
    with pytest.raises(Stopped):
        process = subprocess.Popen(["sleep", "60"])
        wait()
    assert process is not None
    process.kill()
    process.wait()


def test_patience_has_an_end(stop, monkeypatch):
    monkeypatch.setattr(endings, "PATIENCE", 0.1)
    monkeypatch.setattr(endings, "would_be_lost", lambda frame: True)
    stop()
    with pytest.raises(Stopped):
        wait()


def test_a_program_that_a_thread_has_started_ends_with_the_block():
    found = []

    def work():
        found.append(processes.run(["sleep", "60"], timeout=60))

    with Processes() as processes:
        thread = threading.Thread(target=work)
        thread.start()
        while not processes._running:
            time.sleep(0.01)
    thread.join(60)
    assert found == [-signal.SIGKILL]


def test_a_program_that_takes_too_long_is_ended():
    with Processes() as processes, contextlib.suppress(subprocess.TimeoutExpired):
        processes.run(["sleep", "60"], timeout=0.1)
        pytest.fail("it ended")
    assert processes._running[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("module", ["lora_nlg.errors", "metrics.errors"])
def test_a_signal_after_the_work_is_no_traceback(module, number):
    """Fails when it is raised within a callback of the exit, which prints it and ends with 0, or when a timer is left to kill."""
    program = f"""
import atexit, os, sys, time
from {module} import run
def at_exit():
    os.kill(os.getpid(), {int(number)})
    time.sleep(5)
atexit.register(at_exit)
sys.exit(run(lambda _: 0))
"""
    path = os.pathsep.join(str(ROOT / name) for name in ("src", "eval"))
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (-number, "")
