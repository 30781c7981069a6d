"""Several ranks: the same step as one rank that accumulates, every input decoded once, and the launchers."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import toy
from lora_nlg import dist, rendezvous
from lora_nlg.config import OptimConfig, TrainConfig
from lora_nlg.data import batches
from lora_nlg.errors import UserError
from lora_nlg.training import optim, train
from lora_nlg.training.losses import masked_loss
from networks import FIRST, entering, free_port, two_networks
from runs import differences, results, write_adapters, write_examples, write_training

SRC = Path(__file__).resolve().parents[1] / "src"
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "four": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"],
    "launch": ["-m", "torch.distributed.launch", "--nproc_per_node=2"],
}


@pytest.fixture
def folder(tmp_path):
    write_training(tmp_path, n_train=24)
    write_adapters(tmp_path / "start.safetensors", b_is_zero=True)
    write_adapters(tmp_path / "adapters.safetensors")
    return tmp_path


def start(
    program: str, folder: Path, flags: str, launcher: list[str], prefix: Sequence[str] = (), interface: str = ""
) -> subprocess.Popen:
    common = (
        f"--model_card {folder}/config.json --init_checkpoint {folder}/base.safetensors --precision fp64 --device cpu"
    )
    command = [*prefix, sys.executable, *launcher, str(SRC / program), *common.split(), *flags.split()]
    environment = {**os.environ, "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as scripts/common.sh has it, and says why
    if interface:
        environment["GLOO_SOCKET_IFNAME"] = interface
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(program: str, folder: Path, flags: str, launcher: list[str]) -> subprocess.CompletedProcess:
    process = start(program, folder, flags, launcher)
    said, complaints = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, said, complaints)


def train_flags(folder: Path, work: str) -> str:
    return (
        f"--train_data {folder}/train.jsonl --valid_data {folder}/valid.jsonl --work_dir {folder}/{work} "
        f"--lora_checkpoint {folder}/start.safetensors --lora_dim 4 --lora_alpha 32 --lr 0.002 --correct_bias "
        "--train_batch_size 4 --random_seed 110 --log_interval 1"
    )


@pytest.mark.slow
def test_more_ranks_than_batches_is_an_error_not_an_endless_search(folder):
    flags = train_flags(folder, "few").replace("--train_batch_size 4", "--train_batch_size 24")
    done = run("gpt2_ft.py", folder, flags + " --max_step 3", LAUNCHERS["torchrun"])
    assert done.returncode != 0
    assert "makes 1 batches of 24, too few for 2 processes" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "world_size", "batch_size"), [("torchrun", 2, 4), ("launch", 2, 4), ("four", 4, 2)]
)
def test_ranks_train_as_one_that_accumulates(folder, launcher, world_size, batch_size):
    """24 items: rank 0 of W takes every Wth item of the same permutation, rank 1 the next ones, and so on. One rank on the
    batches (every rank's first, every rank's second, …) with --grad_acc W takes the same steps, in float64. Fails when
    gradients are summed, or weighted by their numbers of tokens, in place of averaged, and when the validation loss is rank 0's.
    """
    flags = train_flags(folder, "many").replace("--train_batch_size 4", f"--train_batch_size {batch_size}")
    done = run("gpt2_ft.py", folder, flags + " --max_step 3", LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\nsaved /") == 1  # rank 0 alone speaks

    model = toy.model(4, b_is_zero=True)
    config = TrainConfig(batch_size, 4, random_seed=110, precision="fp64")
    ranks = [dist.Ranks(r, world_size, torch.device("cpu")) for r in range(world_size)]
    splits = [batches.Split(toy.examples(24), config, rank) for rank in ranks]
    settings = OptimConfig(0.002, 3, correct_bias=True)
    optimizer = optim.build_optimizer(model, settings)
    for step, together in enumerate(zip(*(split.batches(1) for split in splits), strict=True)):
        for batch in together:
            (masked_loss(model, batch) / world_size).backward()
        optimizer.param_groups[0]["lr"] = optim.learning_rate(settings, step)
        optimizer.step()
        optimizer.zero_grad()
    assert step == 2
    saved = torch.load(folder / "many/model.final.pt", weights_only=True)["model_state_dict"]
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert torch.allclose(saved[f"module.transformer.{name}"], parameter, rtol=1e-9, atol=1e-15)

    shares = [batches.Split(toy.examples(12), config, rank, validation=True) for rank in ranks]
    losses = [train.validation_loss(model, share, dist.Ranks(0, 1, torch.device("cpu"))) for share in shares]
    log = map(json.loads, (folder / "many/log.jsonl").read_text().splitlines())
    [logged] = [line["eval"]["valid_loss"] for line in log if "eval" in line]
    assert logged == pytest.approx(sum(losses) / world_size, rel=1e-9)
    assert losses[0] != pytest.approx(logged, rel=1e-6)


@pytest.mark.slow
def test_two_ranks_resume_bit_for_bit(folder):
    """Each rank has its own random state, dropout's. Fails when both ranks go on with the first one's."""
    flags = train_flags(folder, "whole") + " --lora_dropout 0.3 --grad_acc 2 --max_step 9 --save_interval 3"
    assert run("gpt2_ft.py", folder, flags, LAUNCHERS["torchrun"]).returncode == 0
    shutil.copytree(folder / "whole", folder / "again")
    saves = json.loads((folder / "again/saves.json").read_text())
    (folder / "again/saves.json").write_text(json.dumps(saves | {"saves": saves["saves"][:1], "final": None}))
    done = run("gpt2_ft.py", folder, flags.replace("/whole", "/again") + " --resume", LAUNCHERS["torchrun"])
    assert "going on from step 3" in done.stdout
    assert differences(results(folder / "again"), results(folder / "whole")) == []
    one = run("gpt2_ft.py", folder, flags.replace("/whole", "/again") + " --resume", [])
    assert one.returncode == 2 and "world_size 2, now 1" in one.stderr


@pytest.mark.slow
def test_ranks_start_from_the_main_ones_numbers(tmp_path):
    """Fails when each goes on with what its own processor made of the seed, or of a matrix's singular vectors."""
    script = tmp_path / "start.py"
    script.write_text(
        "import sys, torch\n"
        f"sys.path.insert(0, {str(SRC)!r})\n"
        "from lora_nlg import dist\n"
        "ranks = dist.start('cpu', 0, 0, 0)\n"
        "own = torch.full((2,), 5.0 + ranks.rank, requires_grad=True)\n"
        "dist.take_from_main([own], ranks)\n"
        "open(f'{sys.argv[1]}/{ranks.rank}', 'w').write(str(own.tolist()))\n"  # two lines on one stdout may be mixed
        "dist.stop()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *LAUNCHERS["torchrun"], script, tmp_path], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["[5.0, 5.0]", "[5.0, 5.0]"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "flags"])
@pytest.mark.parametrize("ends", ["well", "badly"])
def test_ranks_wait_for_the_main_one_longer_than_a_collective(launcher, ends, tmp_path):
    """As while it decodes a sample. Fails when the others give up after torch's ten minutes, here two seconds, or wait for ever."""
    script = tmp_path / "start.py"
    script.write_text(
        "import functools, os, sys, time, datetime\n"
        f"sys.path.insert(0, {str(SRC)!r})\n"
        "from torch import distributed\n"
        "from lora_nlg import dist, errors\n"
        "limit = datetime.timedelta(seconds=2)\n"
        "distributed.init_process_group = functools.partial(distributed.init_process_group, timeout=limit)\n"
        "def work():\n"
        "    time.sleep(5)\n"
        "    if sys.argv[2] == 'badly': os._exit(3)\n"
        "    return 7\n"
        "def main(_):\n"
        "    ranks = dist.start('cpu', *map(int, sys.argv[3:5] or (0, 0)), 0)\n"
        "    found = [dist.on_main(work, ranks), dist.on_main(lambda: 8, ranks)]\n"
        "    open(f'{sys.argv[1]}/{ranks.rank}', 'w').write(str(found))\n"
        "    dist.stop()\n"
        "    return 0\n"
        "sys.exit(errors.run(main))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    starts = [LAUNCHERS["torchrun"]] if launcher == "torchrun" else [[], []]
    processes = []
    for rank, words in enumerate(starts):
        command = [sys.executable, *words, script, tmp_path, ends, *([] if words else [str(rank), "2"])]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
    said = [process.communicate(timeout=120)[1] for process in processes]
    if ends == "well":
        assert [process.returncode for process in processes] == [0] * len(starts), said
        assert [(tmp_path / rank).read_text() for rank in "01"] == ["[7, 8]", "[7, 8]"]
    else:
        assert all(process.returncode != 0 for process in processes)
        assert launcher == "torchrun" or "the first process has ended, for which this one waited" in said[1]


def long_run(folder: Path, *launcher: str) -> subprocess.Popen:
    """Start two ranks on a run that lasts until it is stopped."""
    flags = (
        train_flags(folder, "work")
        + " --max_step 100000 --save_interval 20 --log_interval 1000 --eval_interval 1000000 "
    )
    return start("gpt2_ft.py", folder, flags + "--resume auto", [*LAUNCHERS["torchrun"], *launcher])


def wait_for_step(folder: Path, process: subprocess.Popen, step: int) -> None:
    end = time.monotonic() + 120
    while saved_step(folder) < step:
        if time.monotonic() > end or process.poll() is not None:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.05)


def saved_step(folder: Path) -> int:
    path = folder / "work/saves.json"
    return json.loads(path.read_text())["saves"][-1]["step"] if path.exists() else 0


def workers(launcher: subprocess.Popen) -> list[int]:
    """The process ids of a launcher's ranks."""
    children = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in children]


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job(folder):
    """Within a minute, with an error, and without leaving the other rank behind."""
    process = long_run(folder)
    wait_for_step(folder, process, 20)
    ranks = workers(process)
    os.kill(ranks[1], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


@pytest.mark.slow
def test_torchrun_restarts_and_goes_on_by_itself(folder):
    """The second attempt starts from the last save, not from the beginning."""
    process = long_run(folder, "--max_restarts=1")
    wait_for_step(folder, process, 20)
    at = saved_step(folder)
    os.kill(workers(process)[1], signal.SIGKILL)
    wait_for_step(folder, process, at + 100)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    resumed = [
        int(line.split()[-1].replace(",", "")) for line in said.splitlines() if line.startswith("going on from step")
    ]
    assert resumed and resumed[0] >= at


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_on_one_agreed_step(folder):
    """Fails when each rank stops by itself: one would wait for the other's gradients."""
    process = long_run(folder)
    wait_for_step(folder, process, 20)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert f"stopped and saved at step {saved_step(folder)};" in said
    assert said.count("stopped and saved") == 1


@pytest.mark.slow
def test_two_nodes(folder):
    """Two launchers that meet at one address, as on two machines; the first one's rank 0 writes. Each has a network of its own
    where the machine allows that, else they share the loopback interface. Seen to fail with the second node's cable unplugged.
    """
    flags = train_flags(folder, "nodes") + " --max_step 3"
    port = free_port()
    with two_networks() as networks:
        print("two network namespaces" if networks else "one loopback interface")
        nodes = []
        for n in (0, 1):
            launcher = ["-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={n}", "--nproc_per_node=1"]
            launcher += [f"--master_addr={FIRST if networks else '127.0.0.1'}", f"--master_port={port}"]
            enter = entering(networks[n]) if networks else []
            nodes.append(start("gpt2_ft.py", folder, flags, launcher, enter, f"node{n}" if networks else ""))
        try:
            said = [node.communicate(timeout=300) for node in nodes]
        finally:
            for node in nodes:
                node.terminate()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "saved" in said[0][0] and "saved" not in said[1][0]
    alone = run("gpt2_ft.py", folder, train_flags(folder, "one") + " --max_step 3", LAUNCHERS["torchrun"])
    assert alone.returncode == 0
    assert differences(results(folder / "nodes"), results(folder / "one")) == []


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "four"])
def test_ranks_decode_the_golden_ids_each_input_once(launcher, folder):
    """23 distinct inputs over 2 or 4 ranks, three of them on two lines. Fails when another rank's share is lost."""
    lines = toy.examples(23) + toy.examples(23)[5:8]
    write_examples(folder / "test.jsonl", lines)
    flags = f"--data {folder}/test.jsonl --lora_checkpoint {folder}/adapters.safetensors --lora_alpha 32 --seq_len 64 "
    flags += "--eval_len 20 --beam 10 --length_penalty 0.8 --eos_token_id 162 --eos_token_id 46 --batch_size 4 "
    done = run("gpt2_beam.py", folder, flags + f"--work_dir {folder}/work", LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in (folder / "work/beam_prediction.jsonl").read_text().splitlines()]
    golden = next(case for case in toy.golden("beam.json") if case["name"] == "recipe")["predict"]
    assert found == [{"id": i, "predict": ids} for i, ids in enumerate(golden[:23] + golden[5:8])]


LEAVES = """
import pathlib, sys
import torch
from lora_nlg import config, dist
from lora_nlg.training import optim

ranks = dist.start("cpu", 0, 1, 0)
model = torch.nn.Linear(2, 2)
optim.build_optimizer(model, config.OptimConfig(1e-4, 10))
dist.mean_over_ranks(torch.ones(1), ranks.world_size)
dist.stop()
left = [file.read_text().strip() for file in pathlib.Path("/proc/self/task").glob("*/comm")]
print([name for name in left if "gloo" in name or "tcpstore" in name])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_of_the_group_is_left_behind(tmp_path):
    """Fails without the early import: a thread that is left may abort the process at its end, and torchrun calls that a failure."""
    (tmp_path / "leaves.py").write_text(LEAVES)
    environment = {**os.environ, "PYTHONPATH": str(SRC), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, *LAUNCHERS["torchrun"], str(tmp_path / "leaves.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) in [(0, ["[]", "[]"]), (0, ["[][]"])], done.stdout + done.stderr


def test_flags_without_a_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert dist.start("cpu", 0, 0, 0) == dist.Ranks(0, 1, torch.device("cpu"))
    with pytest.raises(UserError, match="--rank must be from 0"):
        dist.start("cpu", 2, 2, 0)
    with pytest.raises(UserError, match="MASTER_ADDR"):
        dist.start("cpu", 0, 2, 0)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="on one GPU"):
        dist.start("cuda:0", 0, 2, 0)
    with pytest.raises(UserError, match="wants GPU 99"):
        dist.start("99", 0, 0, 0)


# What a launcher's variables may say, right or left over


def variables(monkeypatch, given: str) -> None:
    """Set the variables in `given`, NAME=VALUE with spaces between them, and no others of a launcher."""
    for name in (*rendezvous.VARIABLES, "TORCHELASTIC_USE_AGENT_STORE", rendezvous.LIMIT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in (word.split("=") for word in given.split()):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("RANK=0", "RANK is in the environment, but not WORLD_SIZE; .*unset RANK$"),
        ("WORLD_SIZE=2 LOCAL_RANK=1", "WORLD_SIZE is in the environment, but not RANK; .*unset WORLD_SIZE LOCAL_RANK$"),
        ("RANK= WORLD_SIZE=2", "RANK in the environment must be a whole number from 0 to 1, but is ''"),
        ("RANK=0 WORLD_SIZE=", "WORLD_SIZE in the environment must be a whole number from 1, but is ''"),
        ("RANK=0 WORLD_SIZE=0", "WORLD_SIZE .* from 1, but is '0'"),
        ("RANK=one WORLD_SIZE=2", "RANK .* from 0 to 1, but is 'one'"),
        ("RANK=2 WORLD_SIZE=2", "RANK .* from 0 to 1, but is '2'"),
        ("RANK=-1 WORLD_SIZE=2", "RANK .* from 0 to 1, but is '-1'"),
        ("RANK=0.0 WORLD_SIZE=1", "RANK .* from 0 to 0, but is '0.0'"),
        ("RANK=0 WORLD_SIZE=1 LOCAL_RANK=-1", "LOCAL_RANK .* from 0, but is '-1'"),
        ("RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=x", "LOCAL_WORLD_SIZE .* from 1, but is 'x'"),
        ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR is not in the environment; .*unset RANK WORLD_SIZE$"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR= MASTER_PORT=1", "MASTER_ADDR is not in the environment"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost", "MASTER_PORT is not in the environment"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=http", "MASTER_PORT .* from 1 to 65535, but is 'http'"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=65536", "MASTER_PORT .* from 1 to 65535"),
        (
            "RANK=1 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=1 RENDEZVOUS_SECONDS=x",
            "RENDEZVOUS_SECONDS .* from 1",
        ),
    ],
)
def test_variables_that_say_no_place_are_one_sentence(given, says, monkeypatch):
    variables(monkeypatch, given)
    with pytest.raises(UserError, match=says):
        dist.start("cpu", 0, 0, 0)


@pytest.mark.parametrize(
    "given", ["SLURM_PROCID=3 SLURM_NTASKS=4", "LOCAL_RANK=3 MASTER_ADDR=x", "RANK=0 WORLD_SIZE=1"]
)
def test_what_is_no_launchers_leaves_a_process_alone(given, monkeypatch):
    variables(monkeypatch, given)
    assert dist.start("cpu", 0, 0, 0) == dist.Ranks(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("rank", "host", "says"),
    [
        (0, "127.0.0.1", "1 of 2 processes at 127.0.0.1:"),
        (1, "127.0.0.1", "the first of 2 processes at 127.0.0.1:.* where none of this run answers"),
        (1, "no-such-host.invalid", "the first of 2 processes at no-such-host.invalid:.* whose name is unknown here"),
    ],
)
@pytest.mark.slow
def test_who_is_waited_for_is_said_and_not_for_ever(rank, host, says, monkeypatch, capsys):
    variables(
        monkeypatch, f"RANK={rank} WORLD_SIZE=2 MASTER_ADDR={host} MASTER_PORT={free_port()} RENDEZVOUS_SECONDS=2"
    )
    monkeypatch.setattr(rendezvous, "NOTICE", 0.5)
    with pytest.raises(UserError, match=f"gave up after 2 s of waiting for {says}.*unset RANK WORLD_SIZE MASTER_ADDR"):
        dist.start("cpu", 0, 0, 0)
    assert re.search(f"(?m)^waiting for {says}", capsys.readouterr().err)


def test_the_limit_is_a_minute_unless_torchrun_watches(monkeypatch):
    variables(monkeypatch, "RANK=0 WORLD_SIZE=2 MASTER_ADDR=x MASTER_PORT=1")
    place = rendezvous.place(0, 0, 0)
    assert rendezvous.Meeting(place, "gloo", "").limit() == 60
    assert rendezvous.Meeting(place, "gloo", "", unknown_host=True).limit() == 10
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert rendezvous.Meeting(place, "gloo", "").limit() == 60  # left over from a torchrun that has ended
    assert rendezvous.Meeting(place, "gloo", "", listening=True).limit() == 600
    monkeypatch.setenv("RENDEZVOUS_SECONDS", "5")
    assert rendezvous.Meeting(place, "gloo", "", listening=True).limit() == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.slow
def test_a_signal_ends_the_wait_for_a_stranger_that_never_answers(number, code, folder):
    """Something else has the port, takes the call and says nothing: torch waits for ever, and hears no signal."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(stranger.getsockname()[1])}
        command = [sys.executable, str(SRC / "gpt2_ft.py"), "--model_card", f"{folder}/config.json", "--device", "cpu"]
        command += [
            *train_flags(folder, "work").split(),
            "--init_checkpoint",
            f"{folder}/base.safetensors",
            "--max_step",
            "1",
        ]
        environment = {**os.environ, "RANK": "1", "WORLD_SIZE": "2", **at}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr.readline().startswith("waiting for the first of 2 processes at 127.0.0.1:")
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_said_at_once(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        variables(monkeypatch, f"RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={other.getsockname()[1]}")
        with pytest.raises(
            UserError, match=r"cannot meet at .*, another program may have the port .*address already in use"
        ):
            dist.start("cpu", 0, 0, 0)


def one_gpu(monkeypatch, visible: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "0"])
def test_a_rank_with_one_gpu_of_its_own_takes_that(device, monkeypatch):
    """As `srun --gpus-per-task=1` starts rank 3 of a node: it sees one GPU, number 0."""
    variables(monkeypatch, "RANK=3 WORLD_SIZE=4 LOCAL_RANK=3 LOCAL_WORLD_SIZE=4 MASTER_ADDR=x MASTER_PORT=1")
    one_gpu(monkeypatch, "3")
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(dist, "_name_of", str)
    monkeypatch.setattr(rendezvous, "join", lambda *arguments: taken.append(arguments[1:]))
    assert dist.start(device, 0, 0, 0) == dist.Ranks(3, 4, torch.device("cuda:0"), on_this_node=4)
    assert taken == [torch.device("cuda:0"), ("nccl", "cuda:0")]


@pytest.mark.parametrize(
    ("device", "says"), [("cuda", "wants GPU 3, but this machine has 1"), ("cuda:0", "on one GPU")]
)
def test_ranks_that_all_see_the_only_gpu_are_refused(device, says, monkeypatch):
    variables(monkeypatch, "RANK=3 WORLD_SIZE=4 LOCAL_RANK=3 LOCAL_WORLD_SIZE=4 MASTER_ADDR=x MASTER_PORT=1")
    one_gpu(monkeypatch, None)
    with pytest.raises(UserError, match=says):
        dist.start(device, 0, 0, 0)


@pytest.mark.parametrize(("gpus", "refused"), [(("a", "a"), True), (("a", "b"), False), (("", ""), False)])
def test_two_ranks_on_one_gpu_are_refused_when_they_meet(gpus, refused, monkeypatch):
    """CUDA_VISIBLE_DEVICES=0 for all of them looks like one for each."""
    variables(monkeypatch, f"RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={free_port()}")
    formed = []
    monkeypatch.setattr(rendezvous.Meeting, "_form_group", lambda self, store: formed.append(store))
    meetings = [rendezvous.Meeting(rendezvous.Place(i, 2, i, 2), "nccl", gpu) for i, gpu in enumerate(gpus)]
    threads = [threading.Thread(target=meeting.join, daemon=True) for meeting in meetings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    errors = [str(meeting.error) for meeting in meetings if meeting.error]
    assert (len(errors), len(formed)) == ((2, 0) if refused else (0, 2))
    assert all("2 processes would share the GPU a" in error for error in errors)


@pytest.mark.slow
def test_ranks_are_kept_out_of_a_work_dir_in_use(folder):
    (folder / "work").mkdir()
    with open(folder / "work/run.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run("gpt2_ft.py", folder, train_flags(folder, "work") + " --max_step 3", LAUNCHERS["torchrun"])
    assert done.returncode != 0
    assert "work is in use by another process" in done.stderr
    assert [path.name for path in (folder / "work").iterdir()] == ["run.lock"]


@pytest.mark.slow
def test_an_error_of_the_main_rank_is_said_once(folder):
    """Here that there is nothing to go on with. Fails when the other rank waits for what the first will never send."""
    done = run("gpt2_ft.py", folder, train_flags(folder, "work") + " --max_step 3 --resume", LAUNCHERS["torchrun"])
    assert done.returncode != 0
    assert done.stderr.count("gpt2_ft.py: error: ") == 1
    assert "lora_nlg/dist.py" not in done.stderr  # no rank's traceback


def test_auto_takes_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dist.start("auto", 0, 0, 0).device == torch.device("cpu")


def test_more_ranks_than_a_run_has_are_one_sentence(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3000000000")
    with pytest.raises(
        UserError, match="a run has at most 1,048,576 processes, but 3000000000 are asked for; if this run"
    ):
        rendezvous.place(0, 1, 0)


def test_a_restart_is_one_of_ranks(monkeypatch):
    """A count that another run has left must not make a run of one process go on with what it finds."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.delenv("RANK", raising=False)
    assert not dist.restarted()
    monkeypatch.setenv("RANK", "0")
    assert dist.restarted()
