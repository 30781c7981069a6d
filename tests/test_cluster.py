"""scripts/slurm.sbatch: a job saves before its limit, is requeued once, and goes on; anything else ends it.

Slurm's commands are stand-ins that do what Slurm 22.05 was seen to do: sbatch runs a copy of the script that lies elsewhere; a
srun that is told to end kills its tasks at once; scancel --signal reaches the tasks and not the script.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from networks import FIRST, entering, two_networks
from runs import differences, results

ROOT = Path(__file__).resolve().parents[1]

SRUN = """#!PYTHON
import os, pathlib, signal, subprocess, sys

cluster = pathlib.Path(os.environ["CLUSTER"])
end = sys.argv.index("bash")
options = dict(option.removeprefix("--").split("=", 1) for option in sys.argv[1:end])
with open(cluster / "srun", "a") as file:
    print(*sys.argv[1:end], file=file)
on_each, processes = int(options["ntasks-per-node"]), os.environ["NETWORKS"].split()
tasks = []
for rank in range(int(options["ntasks"])):
    node, local = divmod(rank, on_each)
    assert node < int(options["nodes"])
    own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local), "SLURM_STEP_NODELIST": "node[0-1]"}
    enter = []
    if processes:
        own["GLOO_SOCKET_IFNAME"] = f"node{node}"
        enter = [*os.environ["ENTER"].split(), processes[node]]
    tasks.append(subprocess.Popen([*enter, *sys.argv[end:]], env={**os.environ, **own}, start_new_session=True))
(cluster / "tasks").write_text(" ".join(str(task.pid) for task in tasks))

def kill(number, frame):
    for task in tasks:
        os.killpg(task.pid, signal.SIGKILL)

signal.signal(signal.SIGTERM, kill)
signal.signal(signal.SIGHUP, kill)
codes = [task.wait() for task in tasks]
(cluster / "tasks").unlink()
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCANCEL = """#!/usr/bin/env bash
[[ $2 == "$SLURM_JOB_ID" ]] || exit 1
for task in $(cat "$CLUSTER/tasks" 2>/dev/null); do kill -s "${1#--signal=}" -- "-$task"; done
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) printf '%s\\n' "$ADDRESS" other ;;
  requeue) echo "$2" >>"$CLUSTER/requeued"; [[ ! -e $CLUSTER/refuses ]] ;;
esac
"""


class Cluster:
    """A checkout on which Slurm starts jobs."""

    def __init__(self, folder: Path):
        self.folder, self.checkout = folder, folder / "check out"
        shutil.copytree(ROOT / "scripts", self.checkout / "scripts")
        for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace("PYTHON", sys.executable))
            path.chmod(0o755)
        (folder / "spool").mkdir()

    def start(self, *arguments: str, nodes: int = 1, tasks: int = 1, networks: list[str] | None = None, **more: str):
        """Start a job with `tasks` on each of `nodes`, as Slurm does; return its process."""
        script = self.folder / "spool/slurm_script"
        shutil.copy(self.checkout / "scripts/slurm.sbatch", script)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment |= {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "CLUSTER": str(self.folder), "SLURM_JOB_ID": "7",
            "SLURM_SUBMIT_DIR": str(self.checkout), "SLURM_NNODES": str(nodes), "SLURM_NTASKS_PER_NODE": str(tasks),
            "SLURM_NTASKS": str(nodes * tasks), "NETWORKS": " ".join(networks or []), "ENTER": " ".join(entering("")[:-1]),
            "ADDRESS": FIRST if networks else "127.0.0.1", "OMP_NUM_THREADS": "1", **more,
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", script, *arguments],
            env=environment, cwd=self.checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def said(self, name: str) -> list[str]:
        """Return the lines that a stand-in has written down."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


# The script alone: what it does with the pipeline's end

PIPELINE = """source scripts/common.sh
work=trained_models/mini
mkdir -p $work
trap 'AT_SIGNAL' TERM
touch "$CLUSTER/running"
for _ in {1..600}; do sleep 0.1; done
"""
ENDED = (128 + signal.SIGTERM, 128 + signal.SIGHUP)  # exit codes of a pipeline that a signal has ended
SAVES = "echo save >>$work/saves.json; exit 143"


def ended(cluster: Cluster, at_signal: str, number: int = signal.SIGUSR1, times: int = 1) -> tuple[int, str]:
    """Return the exit code of a job whose pipeline does `at_signal`, and what it said."""
    (cluster.checkout / "scripts/run_all.sh").write_text(PIPELINE.replace("AT_SIGNAL", at_signal))
    job = cluster.start()
    end = time.monotonic() + 60
    while not (cluster.folder / "running").exists():
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.01)
    for _ in range(times):
        job.send_signal(number)
        time.sleep(0.05)
    said, _ = job.communicate(timeout=60)
    return job.returncode, said


@pytest.mark.parametrize(
    "at_signal", [SAVES, SAVES.replace("143", "129"), "echo x >$work/beam_x.partial.jsonl; exit 143"]
)
def test_a_job_that_saved_before_its_limit_is_requeued_once(at_signal, cluster):
    code, _ = ended(cluster, f"trap : TERM; sleep 0.3; {at_signal}", times=3)
    assert code in ENDED and cluster.said("requeued") == ["7"]


@pytest.mark.parametrize(
    ("at_signal", "number", "code", "says"),
    [
        ("exit 143", signal.SIGUSR1, 2, "nothing was saved or decoded before the signal, .* more --time"),
        ("echo save >>$work/saves.json; exit 1", signal.SIGUSR1, 1, ""),
        ("echo save >>$work/saves.json; exit 2", signal.SIGUSR1, 2, ""),
        (SAVES, signal.SIGTERM, 143, ""),  # somebody wants it to end
        (SAVES.replace("143", "129"), signal.SIGTERM, 129, ""),
    ],
)
def test_any_other_end_is_one(at_signal, number, code, says, cluster):
    """Fails when a job that gets nowhere, or has failed, starts again for ever."""
    found, said = ended(cluster, at_signal, number)
    assert (found, cluster.said("requeued")) == (code, [])
    assert says.partition(",")[0] in said


def test_a_slurm_that_does_not_requeue_is_said(cluster):
    (cluster.folder / "refuses").touch()
    code, said = ended(cluster, SAVES)
    assert code == 2
    assert "slurm.sbatch: error: Slurm does not requeue this job; the same sbatch goes on from there" in said


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        ("--preset minni", {}, "unknown preset minni (did you mean mini?)"),
        ("--lr much", {}, "argument --lr: invalid float value: 'much'"),
        ("", {"SLURM_JOB_ID": ""}, "this is for a job of Slurm; submit it: sbatch scripts/slurm.sbatch"),
        ("", {"SLURM_SUBMIT_DIR": "/"}, "there is no //scripts/common.sh; submit it from the repository's folder"),
    ],
)
def test_a_mistake_ends_the_job(arguments, environment, says, cluster):
    for name in ("src", "eval"):
        (cluster.checkout / name).symlink_to(ROOT / name)
    job = cluster.start(*arguments.split(), **environment)
    said, _ = job.communicate(timeout=60)
    assert (job.returncode, cluster.said("requeued")) == (2, [])
    assert said.startswith(f"slurm.sbatch: error: {says}") and said.count("\n") == 1


def test_its_help_can_be_read_without_slurm():
    done = subprocess.run(["bash", ROOT / "scripts/slurm.sbatch", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Usage: sbatch ") and "--signal=B:USR1@300" in done.stdout


# Trainings: a small card's, on two processes

STEPS = 12
PRESET = f"""source scripts/presets/mini.sh
TRAIN+=(--train_batch_size 4 --max_step {STEPS} --warmup_step 2 --save_interval 2 --log_interval 2 --eval_interval 100)
DECODE+=(--beam 2 --eval_len 20)
LORA+=(--lora_dropout 0.1)
COMPARE_WITH_BASE=""
"""


@pytest.fixture
def trains(cluster) -> Cluster:
    """The same with the programs, a set-up that is done, little data, and a preset for it."""
    for name in ("src", "eval", "vocab", "pretrained_checkpoints"):
        (cluster.checkout / name).symlink_to(ROOT / name)
    (cluster.checkout / "scripts/00_setup.sh").write_text("")
    (cluster.checkout / "scripts/presets/tiny.sh").write_text(PRESET)
    python = cluster.checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    data = cluster.checkout / "data/mini"
    data.mkdir(parents=True)
    for name, lines in (("train", 200), ("valid", 16), ("test", 16)):
        text = (ROOT / f"data/mini/{name}.txt").read_text(encoding="utf-8")
        (data / f"{name}.txt").write_text("".join(text.splitlines(keepends=True)[:lines]), encoding="utf-8")
    return cluster


def whole_run(cluster: Cluster) -> Path:
    """Train on two processes of torchrun, without an interruption; return the work dir."""
    script = "bash scripts/02_create_datasets.sh mini && bash scripts/03_train.sh --preset tiny --work_dir whole"
    environment = {**os.environ, "NPROC": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", script], cwd=cluster.checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return cluster.checkout / "whole"


def wait_for_step(job: subprocess.Popen, work: Path, step: int) -> None:
    end = time.monotonic() + 300
    while not list(work.glob(f"state.{step}.pt")):
        if time.monotonic() > end or job.poll() is not None:
            job.kill()
            raise AssertionError(job.communicate())
        time.sleep(0.01)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "tasks"), [(1, 2), (2, 1)])
def test_a_job_that_is_requeued_ends_with_the_same_weights(nodes, tasks, trains):
    """Each node in a network of its own where the machine allows that. Fails when srun is told in place of its tasks: they are
    killed before they save, though what is trained again comes out the same."""
    whole, work = whole_run(trains), trains.checkout / "trained_models/tiny"
    with two_networks() as networks:
        print("two network namespaces" if networks else "one loopback interface")
        how = dict(nodes=nodes, tasks=tasks, networks=networks, SLURM_CPUS_PER_TASK="3", SLURM_GPUS_ON_NODE=str(tasks))
        job = trains.start("--preset", "tiny", **how)
        wait_for_step(job, work, 4)
        job.send_signal(signal.SIGUSR1)
        said, _ = job.communicate(timeout=300)
        assert job.returncode in ENDED and trains.said("requeued") == ["7"], said
        assert said.count("stopped and saved at step ") == 1
        assert not (work / "model.final.pt").exists()

        job = trains.start("--preset", "tiny", **how)
        said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    assert "going on from step " in said and trains.said("requeued") == ["7"]
    assert differences(results(work), results(whole)) == []
    assert sha256(work / "model.final.pt") == sha256(whole / "model.final.pt")
    assert (work / "report.html").exists() and (work / "scores.json").exists()
    trained, _, decoded = trains.said("srun")
    shape = "--nodes={} --ntasks={} --ntasks-per-node={} --cpus-per-task=3 --gpus-per-task=1"
    assert shape.format(nodes, nodes * tasks, tasks) in trained and shape.format(1, tasks, tasks) in decoded
