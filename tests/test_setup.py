"""scripts/00_setup.sh with a Python that only writes down how it was called."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What 00_setup.sh asks of a Python; each call goes to the file `calls`, and fails if it contains $FAIL_ON.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
[[ -z ${FAIL_ON:-} || "$*" != *"$FAIL_ON"* ]] || exit 1
case "$*" in
  --version) echo "Python ${FAKE_VERSION:-3.11.1}" ;;
  *urllib*) exit "${NO_CPU_INDEX:-1}" ;;
  "-m venv --clear .venv") rm -rf .venv && mkdir -p .venv/bin .venv/lib/python3.11/site-packages && cp "$0" .venv/bin/python ;;
  *--index_paraphrases) mkdir -p eval/metrics && echo x >eval/metrics/phrases.npz ;;
  *"download.py vocab") echo x | tee vocab/encoder.json >vocab/vocab.bpe ;;
esac
"""


class Checkout:
    """A folder with the set-up script and the fake Python."""

    def __init__(self, folder: Path):
        self.folder, self.calls_file = folder / "checkout", folder / "calls"
        for (
            name
        ) in "scripts/00_setup.sh scripts/common.sh scripts/launcher.pth requirements.txt requirements-dev.txt".split():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        (self.folder / "vocab").mkdir()
        self.python = folder / "python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run the script from another folder, and keep the calls of this run in `calls`."""
        self.calls_file.write_text("")
        environment = {**os.environ, "PYTHON": str(self.python), "CALLS": str(self.calls_file), **environment}
        command = ["bash", str(self.folder / "scripts/00_setup.sh"), *arguments]
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
        self.calls = self.calls_file.read_text()
        return done

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_first_run_installs_and_second_does_nothing(checkout):
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    assert "-m venv --clear .venv" in checkout.calls
    assert "-r requirements.txt" in checkout.calls
    assert "download.py vocab" in checkout.calls
    assert "--check_java" in checkout.calls
    assert "--index_paraphrases" in checkout.calls
    assert not checkout.has(".venv/unfinished")

    done = checkout.setup()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "-m " not in checkout.calls and checkout.calls.endswith("--version\n")


def test_a_python_that_is_not_in_its_environment_is_made_again(checkout):
    """As kill -9 leaves it: .venv/bin is there, pyvenv.cfg is gone, and pip installs into the system. Seen to fail before."""
    checkout.setup()
    assert checkout.setup(FAIL_ON="sys.prefix").returncode == 0
    assert "-m venv --clear .venv" in checkout.calls and "-m pip install" in checkout.calls


def test_torch_without_cuda_is_for_machines_without_a_driver_but_not_for_an_image_of_nvidias(checkout):
    """Whose driver is there when it runs, not when it is built."""
    (checkout.folder / "nvidia-smi").write_text("#!/bin/sh\nexit 1\n")
    (checkout.folder / "nvidia-smi").chmod(0o755)
    found_first = f"{checkout.folder}:{os.environ['PATH']}"
    checkout.setup(NO_CPU_INDEX="0", CUDA_VERSION="", PATH=found_first)
    assert "--extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt" in checkout.calls
    (checkout.folder / ".venv/unfinished").touch()
    checkout.setup(NO_CPU_INDEX="0", CUDA_VERSION="13.0.1", PATH=found_first)
    assert "-r requirements.txt" in checkout.calls and "--extra-index-url" not in checkout.calls


def test_a_machine_without_gpus_can_be_set_up_for_those_that_have_some(checkout):
    """A cluster's login node: what it installs must not be installed anew on a node, which may have no network."""
    driver = checkout.python.with_name("nvidia-smi")
    path = {"PATH": f"{driver.parent}:{os.environ['PATH']}"}
    driver.write_text("#!/bin/sh\nexit 9\n")
    driver.chmod(0o755)
    checkout.setup(NO_CPU_INDEX="0", **path)
    assert "--extra-index-url" in checkout.calls
    (checkout.folder / ".venv/lib/python3.11/site-packages/torch-2+cpu.dist-info").mkdir()
    checkout.setup(NO_CPU_INDEX="0", WITH_CUDA="1", **path)
    assert "-m venv --clear .venv" in checkout.calls and "--extra-index-url" not in checkout.calls
    driver.write_text("#!/bin/sh\n")
    checkout.setup(**path)
    assert "-m " not in checkout.calls


def test_launchers_are_made_quiet_also_where_all_else_is_complete(checkout):
    """Fails when an environment that is there already is left without the file."""
    checkout.setup()
    file = checkout.folder / ".venv/lib/python3.11/site-packages/lora_nlg_launcher.pth"
    assert file.read_bytes() == (ROOT / "scripts/launcher.pth").read_bytes()
    file.unlink()
    assert checkout.setup().returncode == 0
    assert file.exists() and "pip" not in checkout.calls


def test_a_missing_index_of_paraphrases_is_made_without_pip_and_may_fail(checkout):
    checkout.setup()
    (checkout.folder / "eval/metrics/phrases.npz").unlink()
    done = checkout.setup(FAIL_ON="--index_paraphrases")
    assert done.returncode == 0 and "warning: not indexed" in done.stderr
    assert "pip" not in checkout.calls
    checkout.setup()
    assert checkout.has("eval/metrics/phrases.npz") and "pip" not in checkout.calls


def test_the_developers_set_up_is_a_users_as_well(checkout):
    checkout.setup()
    assert "-r requirements-dev.txt" not in checkout.calls
    checkout.setup("--dev")
    assert "-r requirements-dev.txt" in checkout.calls
    for arguments in ((), ("--dev",)):
        checkout.setup(*arguments)
        assert "-m " not in checkout.calls and checkout.calls.endswith("--version\n")


def test_changed_requirements_are_installed_into_the_same_environment(checkout):
    checkout.setup()
    with open(checkout.folder / "requirements.txt", "a") as file:
        file.write("another==1\n")
    assert checkout.setup().returncode == 0
    assert "-r requirements.txt" in checkout.calls
    assert "-m venv" not in checkout.calls


def test_requirements_changed_back_after_a_failure_are_installed_again(checkout):
    checkout.setup()
    requirements = checkout.folder / "requirements.txt"
    before = requirements.read_text()
    requirements.write_text(before + "another==1\n")
    checkout.setup(FAIL_ON="-r requirements.txt")
    requirements.write_text(before)
    checkout.setup()
    assert "-r requirements.txt" in checkout.calls


def test_another_python_or_a_missing_vocabulary_is_noticed(checkout):
    checkout.setup()
    checkout.setup(FAKE_VERSION="3.12.0")
    assert "-r requirements.txt" in checkout.calls
    (checkout.folder / "vocab/vocab.bpe").unlink()
    checkout.setup(FAKE_VERSION="3.12.0")
    assert "download.py vocab" in checkout.calls


def test_two_set_ups_at_once_wait_for_one_another(checkout):
    """Each would empty the other's .venv. Fails when the second begins while the lock is held."""
    environment = {**os.environ, "PYTHON": str(checkout.python), "CALLS": str(checkout.calls_file)}
    command = ["bash", str(checkout.folder / "scripts/00_setup.sh")]
    held = os.open(checkout.folder / "scripts", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as second:
        lines = [second.stdout.readline() for _ in range(2)]
        waited = lines[1] == "== Another set-up is at work here; waiting for it\n" and not checkout.has(".venv")
        os.close(held)
        said, _ = second.communicate(timeout=60)
    assert waited
    assert second.returncode == 0 and "Set-up is complete" in said


def test_an_interrupted_installation_begins_anew(checkout):
    checkout.setup()
    (checkout.folder / ".venv/unfinished").touch()
    assert checkout.setup().returncode == 0
    assert "-m venv --clear .venv" in checkout.calls
    assert not checkout.has(".venv/unfinished")


@pytest.mark.parametrize("step", ["-r requirements.txt", "--upgrade pip", "download.py vocab", "--check_java"])
def test_a_failed_step_is_not_taken_for_a_complete_set_up(checkout, step):
    assert checkout.setup(FAIL_ON=step).returncode != 0
    assert not checkout.has(".venv/installed-requirements.txt")
    assert not checkout.has(".venv/unfinished")  # pip ended by itself, so .venv can stay
    done = checkout.setup()
    assert done.returncode == 0
    assert "Set-up is complete" in done.stdout
    assert "-m venv" not in checkout.calls


def test_a_python_that_does_not_serve_is_an_error(checkout):
    done = checkout.setup(FAIL_ON="import sys, venv, ensurepip")
    assert done.returncode == 2
    assert f"PYTHON={checkout.python} does not run" in done.stderr
    assert not checkout.has(".venv")


@pytest.mark.parametrize("arguments", [("--devel",), ("--dev", "more")])
def test_an_unknown_argument_is_an_error(checkout, arguments):
    done = checkout.setup(*arguments)
    assert done.returncode == 2
    assert f"unknown argument {arguments[-1]}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("mini_short",), "unknown argument mini_short; a preset is given as --preset NAME"),
        (("--preset", "no"), "unknown preset no; expected one of: "),
        (("--work_dir",), "--work_dir needs a value"),
    ],
)
@pytest.mark.parametrize("script", ["run_all.sh", "03_train.sh", "07_compare.sh"])
def test_a_wrong_preset_is_an_error_before_anything_is_done(script, arguments, says):
    done = subprocess.run(["bash", str(ROOT / "scripts" / script), *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: error: {says}") and done.stderr.count("\n") == 1


def test_help_prints_the_header_only(checkout):
    done = checkout.setup("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: bash scripts/00_setup.sh")
    assert "pipefail" not in done.stdout
    assert checkout.calls == ""
