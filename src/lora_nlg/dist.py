"""Ranks and devices: the only place that reads what a launcher says."""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed

from lora_nlg import rendezvous
from lora_nlg.errors import EXIT_USER_ERROR, UserError
from lora_nlg.mistakes import did_you_mean

DEVICES = ("auto", "cpu", "cuda")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_meetings = itertools.count()  # numbers the points where all ranks meet, the same in each
_stores: list[distributed.Store] = []  # the one that all ranks see, from `start` to `stop`


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device
    on_this_node: int = 1  # processes of the run on this machine

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0


def start(device: str, rank: int, world_size: int, local_rank: int) -> Ranks:
    """Join the run. torchrun's variables decide; without a launcher the flags `--rank` and `--world_size` do.

    `device` is auto, cpu, cuda, cuda:N or N. With several ranks on a node, rank N of the node takes cuda:N, or the only one that it
    was given. Raises UserError when the others do not come.
    """
    here = rendezvous.place(rank, world_size, local_rank)
    several = here.world_size > 1
    if several and not _has_a_gpu_of_its_own():
        _refuse_one_gpu_for(here.on_this_node, device)
    chosen = device_of(device, 0 if _has_a_gpu_of_its_own() else here.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if several:
        backend, gpu = ("nccl", _name_of(chosen)) if chosen.type == "cuda" else ("gloo", "")
        _stores[:] = [rendezvous.join(here, backend, gpu)]
    return Ranks(here.rank, here.world_size, chosen, here.on_this_node)


def devices_of(name: str, processes: int) -> list[torch.device]:
    """Return the devices that `processes` of one machine will take, each its own. Raises UserError if one is missing."""
    _refuse_one_gpu_for(processes, name)
    return [device_of(name, number) for number in range(processes)]


def _refuse_one_gpu_for(processes: int, name: str) -> None:
    if processes > 1 and name[-1:].isdecimal():
        raise UserError(
            f"--device {name} would put {processes} processes on one GPU; with --device cuda each takes its own"
        )


def _has_a_gpu_of_its_own() -> bool:
    """Return whether this process was given a single GPU, as `srun --gpus-per-task=1` does: it is number 0 whatever the rank."""
    return "CUDA_VISIBLE_DEVICES" in os.environ and torch.cuda.device_count() == 1


def _name_of(gpu: torch.device) -> str:
    return f"{torch.cuda.get_device_properties(gpu).uuid} of {os.uname().nodename}"


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """Return the device that `--device` names; raise UserError if this machine has none such."""
    if name.isdecimal():  # the recipe's --device 0
        name = f"cuda:{name}"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and Path("/dev/nvidia0").exists():
            print(
                "warning: torch cannot use this machine's NVIDIA GPU (no CUDA build, or an old driver)", file=sys.stderr
            )
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, but is {name!r}{did_you_mean(name, DEVICES)}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = local_rank if device.index is None else device.index
        if index >= count:
            raise UserError(
                f"--device {name} wants GPU {index}, but this machine has {count}; use --device cpu or fewer processes"
            )
        device = torch.device("cuda", index)
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a model of `precision` (fp32, bf16, fp16, fp64) computes on `device`."""
    return torch.autocast(device.type, dtype=AUTOCAST.get(precision, torch.bfloat16), enabled=precision in AUTOCAST)


def stop() -> None:
    """Leave the run."""
    _stores.clear()  # its thread would meet an interpreter that ends
    if distributed.is_initialized():
        distributed.destroy_process_group()


def average_gradients(
    parameters: Iterable[torch.nn.Parameter], world_size: int, flags: Sequence[bool] = ()
) -> Tensor | None:
    """Replace each gradient by its mean over the ranks, in one message that also carries every rank's `flags`.

    A missing gradient counts as zero. Return on how many ranks each flag is set, still on the device; None with one rank.
    """
    if world_size == 1:
        return None
    parameters = list(parameters)
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads] + [parameters[0].new_tensor(list(map(float, flags)))])
    distributed.all_reduce(flat)
    *sums, n_set = flat.split([*(grad.numel() for grad in grads), len(flags)])
    # A kernel or two for all of them, not one a parameter.
    torch._foreach_copy_(grads, [total.view_as(grad) for total, grad in zip(sums, grads, strict=True)])
    torch._foreach_div_(grads, world_size)
    return n_set


def sum_over_ranks(value: int, ranks: Ranks) -> int:
    """Return the sum of every rank's `value`."""
    if ranks.world_size == 1:
        return value
    total = torch.tensor(value, device=ranks.device)
    distributed.all_reduce(total)
    return int(total.item())


def mean_over_ranks(value: Tensor, world_size: int) -> Tensor:
    """Return the mean over the ranks of a scalar."""
    if world_size > 1:
        distributed.all_reduce(value)
        value = value / world_size
    return value


def from_main(value, ranks: Ranks):
    """Return the main rank's `value` on every rank."""
    if ranks.world_size == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


@torch.no_grad()
def take_from_main(tensors: Iterable[Tensor], ranks: Ranks) -> None:
    """Overwrite `tensors` with the main rank's: gradients alone are averaged, and processors differ in how they compute a start."""
    if ranks.world_size > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def wait_for_main(ranks: Ranks) -> None:
    """Wait until the main rank is here, too, however long that takes: to decode a sample it may be more than a collective waits."""
    if ranks.world_size == 1 or not _stores:
        return
    [store], key = _stores, f"main is here {next(_meetings)}"
    if ranks.is_main:
        store.set(key, "")
    else:
        rendezvous.wait_for(store, key)


def on_main(work: Callable, ranks: Ranks):
    """Return what `work()` returns on the main rank on every rank. A UserError there ends all of them, with one sentence in all."""
    result, error = None, None
    if ranks.is_main:
        try:
            result = work()
        except UserError as raised:
            error = raised
    wait_for_main(ranks)
    result, failed = from_main((result, error is not None), ranks)
    if error is not None:
        raise error
    if failed:
        raise SystemExit(EXIT_USER_ERROR)
    return result


@contextlib.contextmanager
def within(context: contextlib.AbstractContextManager, ranks: Ranks) -> Iterator[None]:
    """Be within `context` on the main rank, for the block; a UserError of its beginning ends all ranks, as `on_main` says it."""
    with contextlib.ExitStack() as stack:
        on_main(lambda: stack.enter_context(context), ranks)
        yield


def restarted() -> bool:
    """Return whether torchrun started this process again after a failure."""
    return "RANK" in os.environ and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def gather_to_main(value, ranks: Ranks) -> list | None:
    """Return every rank's `value`, in rank order, on the main rank and None on the others."""
    if ranks.world_size == 1:
        return [value]
    gathered = [None] * ranks.world_size if ranks.is_main else None
    distributed.gather_object(value, gathered)
    return gathered
