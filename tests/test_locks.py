"""Locks: who has a place, who is kept out of it and told what, and that none outlives its process."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpt2_beam
import gpt2_ft
import runs
from lora_nlg import locks
from lora_nlg.errors import UserError

SRC = Path(__file__).resolve().parents[1] / "src"
HOLDER = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from lora_nlg import locks
paths = [pathlib.Path(name) for name in sys.argv[3:]]
wanted = locks.of_folder(paths[0]) if sys.argv[2] == "training" else locks.of_outputs(paths)
with locks.held(wanted):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(kind: str, *paths: Path) -> Iterator[subprocess.Popen]:
    """Another process that trains in a folder, or decodes to outputs, as far as locks go."""
    command = [sys.executable, "-c", HOLDER, str(SRC), kind, *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("training", "."), locks.of_folder(Path())),
        (("training", "."), locks.of_outputs([Path("a.jsonl")])),
        (("decoding", "a.jsonl"), locks.of_folder(Path())),
        (("decoding", "b.jsonl", "a.jsonl"), locks.of_outputs([Path("a.jsonl"), Path("c.jsonl")])),
        (("decoding", "a.jsonl"), locks.of_outputs([Path("a.txt")])),  # both keep what is decoded in a.partial.jsonl
    ],
)
@pytest.mark.slow
def test_who_is_kept_out_is_told_by_whom(theirs, ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind, *names = theirs
    with holder(kind, *map(Path, names)) as process:
        before = contents(tmp_path)
        for attempt in (lambda: locks.check(ours), lambda: contextlib.ExitStack().enter_context(locks.held(ours))):
            with pytest.raises(
                UserError, match=rf"in use by -c, process {process.pid} on {os.uname().nodename} since 20"
            ):
                attempt()
        after = contents(tmp_path)
        assert {name: after[name] for name in before} == before
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locks.held(ours):  # the system took the lock back
            pass


@pytest.mark.parametrize("ours", [["b.jsonl"], ["b.jsonl", "other/a.jsonl"]])
def test_two_decodings_write_other_outputs_of_a_folder(ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = locks.of_outputs(map(Path, ours))
    with holder("decoding", Path("a.jsonl")):
        locks.check(wanted)
        with locks.held(wanted):
            pass


def test_a_decoding_is_named_among_the_locks_that_earlier_ones_left(tmp_path):
    with holder("decoding", tmp_path / "a.jsonl"):
        pass  # killed: its name stays in its lock
    with (
        holder("decoding", tmp_path / "b.jsonl") as process,
        pytest.raises(UserError, match=f"process {process.pid} on"),
        locks.held(locks.of_folder(tmp_path)),
    ):
        pass


def test_a_place_that_is_free_is_not_touched_by_a_look_and_as_before_after_use(tmp_path):
    wanted = locks.of_folder(tmp_path / "new")
    locks.check(wanted)
    assert not (tmp_path / "new").exists()
    with locks.held(wanted):
        pass
    before = contents(tmp_path / "new")
    with locks.held(wanted):
        assert f"process {os.getpid()} on".encode() in contents(tmp_path / "new")["run.lock"][0]
    assert contents(tmp_path / "new") == before


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_once(code, tmp_path, monkeypatch, capsys):
    def flock(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    for _ in range(2):
        locks.check(locks.of_folder(tmp_path))
        with locks.held(locks.of_folder(tmp_path)):
            pass
    said = capsys.readouterr().err
    assert said == locks.NO_LOCKS.format(tmp_path) + "\n"


def test_a_lock_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*run\.lock: "), locks.held(locks.of_folder(tmp_path)):
        pass


def test_who_only_looks_at_a_lock_keeps_nobody_out(tmp_path, monkeypatch):
    """A look takes a shared lock for a moment. Fails without a second attempt."""
    shared = locks.Lock(tmp_path / "run.lock", alone=False)
    with open(shared.path, "w") as file:
        assert shared.take(file.fileno())
        monkeypatch.setattr(locks.time, "sleep", lambda seconds: file.close())
        with locks.held(locks.of_folder(tmp_path)):
            pass


@pytest.mark.slow
def test_a_second_training_of_a_work_dir_is_refused_and_changes_nothing(tmp_path, capsys):
    """Also one that would start anew there, or decode into it. Fails when a file is written or deleted before the lock is taken."""
    files = runs.write_training(tmp_path)
    training = (
        f"{files} --lora_dim 4 --lora_alpha 32 --max_step 4 --train_batch_size 4 --precision fp64 --device cpu".split()
    )
    assert gpt2_ft.main(training) == 0
    (tmp_path / "work/.model.4.pt.x1.tmp").write_text("what a save in progress has")
    with holder("training", tmp_path / "work") as process:
        before = {name: content for name, (content, _) in contents(tmp_path / "work").items()}
        for flags in (training, [*training, "--resume"], [*training, "--resume", "never"]):
            with pytest.raises(UserError, match=rf"work is in use by -c, process {process.pid} on"):
                gpt2_ft.main(flags)
        decoding = f"{runs.write_decoding(tmp_path, 3)} --lora_checkpoint {tmp_path}/work/model.final.pt --seq_len 64 --eval_len 4"
        with pytest.raises(UserError, match="work is in use by"):
            gpt2_beam.main([*decoding.split(), "--precision", "fp64", "--device", "cpu"])
        assert {name: content for name, (content, _) in contents(tmp_path / "work").items()} == before
    assert gpt2_ft.main([*training, "--resume", "never"]) == 0
