"""What the scripts share: signals that reach what they run, and nothing of the user's environment that reaches it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = 'set -euo pipefail; source scripts/common.sh; attended "$0" -c "$1" "$2"; echo "went on"'
# Takes a moment to save at a signal, as training does.
WORKER = """
import os, signal, sys, time
def save(number, frame):
    time.sleep(0.3)
    open(sys.argv[1], "w").write(f"saved at {number}")
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, save)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def start(saved: Path, *before: str) -> subprocess.Popen:
    command = [*before, "bash", "-c", SCRIPT, sys.executable, WORKER, saved]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("whole_group", [False, True], ids=["the script alone", "its whole group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_to_a_script_ends_what_it_runs_and_waits_for_it(number, whole_group, tmp_path):
    """Fails when the script ends at once: what it ran would be left, and the same command would start a second one beside it."""
    process = start(tmp_path / "saved")
    worker = int(process.stdout.readline())
    (os.killpg if whole_group else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (tmp_path / "saved").read_text() == f"saved at {number}"
    assert not is_alive(worker)
    assert "went on" not in said


@pytest.mark.slow
def test_a_script_that_nohup_started_outlives_its_terminal(tmp_path):
    process = start(tmp_path / "saved", "nohup")
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGHUP)
    os.kill(worker, signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert (tmp_path / "saved").read_text() == "saved at 15"


def test_the_exit_code_of_what_runs_is_the_scripts():
    done = subprocess.run(
        ["bash", "-c", SCRIPT, sys.executable, "import sys; sys.exit(7)", "x"], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 7 and done.stdout == b""


SETTINGS = "CDPATH=/tmp:/ PYTHONSAFEPATH=1 PYTHONHOME=/nowhere PYTHONOPTIMIZE=2 PYTHONWARNINGS=error PYTHONPATH={folder} PIP_USER=1"


@pytest.mark.parametrize("setting", SETTINGS.split())
def test_a_users_environment_does_not_reach_a_step(setting, tmp_path):
    """A folder with modules of our names on PYTHONPATH, and others. Fails for each that common.sh does not undo, but for PIP_USER."""
    for name in ("lora_nlg", "regex", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    name, value = setting.format(folder=tmp_path).split("=")
    (tmp_path / "raw.txt").write_text("name : The Tall Jar||It is a pub .\n")
    step = 'source scripts/common.sh; "$0" src/format_converting_e2e.py "$1" "$2"; pwd; echo ${PIP_USER-}'
    command = ["bash", "-c", step, sys.executable, tmp_path / "raw.txt", tmp_path / "formatted.jsonl"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, name: value}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [str(ROOT), "0"]
