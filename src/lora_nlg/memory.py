"""Memory: how much is free where the processes of a run compute, and a sentence where that is too little."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lora_nlg.errors import UserError

GB = 1e9
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
RUNTIME = 0.6 * GB  # of a process: Python, torch and the data; on a GPU its CUDA context


def check(need: float, devices: Sequence[torch.device], remedy: str) -> str:
    """Compare `need`, in bytes a process, with what is free on `devices`, that of every process of this machine.

    Return what was found. Raises UserError, with the `remedy`, where a GPU or the machine's memory has too little.
    """
    if devices[0].type == "cuda":
        return "; ".join([compare(need, free_on(gpu), f"free on {gpu}", remedy) for gpu in dict.fromkeys(devices)])
    n, free = len(devices), available()
    if free is None:
        return f"about {size(n * need)} on {devices[0]}; how much is available is not known here"
    of_all = f" for {n} processes" if n > 1 else ""
    return compare(n * need, free, "of memory available", remedy, of_all)


def compare(need: float, free: float, where: str, remedy: str, what_for: str = "") -> str:
    """Return both in words. Raises UserError if `need` bytes are more than `free`."""
    text = f"needs about {size(need)}{what_for}, {size(free)} {where}"
    if need > free:
        raise UserError(f"{text}; {remedy}")
    return text


def size(n_bytes: float) -> str:
    """Return "1.6 GB" or "12 MB"."""
    return f"{n_bytes / GB:,.1f} GB" if n_bytes >= GB else f"{n_bytes / 1e6:,.0f} MB"


def free_on(gpu: torch.device) -> int:
    """Return the bytes that are free on a GPU. Raises UserError if it does not say, as one that another process has to itself."""
    try:
        return torch.cuda.mem_get_info(gpu)[0]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{gpu} does not say how much of its memory is free ({reason}); choose another GPU") from error


def available() -> int | None:
    """Return the bytes that Linux says can still be had, the machine's or those of the container; None on other systems."""
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
        of_machine = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    except (OSError, StopIteration):
        return None
    return min([of_machine, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """Return what a container's or a scheduler's limit leaves, of each control group that this process is in and that has one."""
    try:
        path = next(line for line in (PROC / "self/cgroup").read_text().splitlines() if line.startswith("0::"))[3:]
    except (OSError, StopIteration):  # a system with the first version of control groups
        return []
    own = GROUPS / path.lstrip("/")
    left = []
    for group in (own, *own.parents):
        if not group.is_relative_to(GROUPS):
            break
        try:
            limit, used = ((group / f"memory.{what}").read_text().strip() for what in ("max", "current"))
            cached = next(
                int(line.split()[1])
                for line in (group / "memory.stat").read_text().splitlines()
                if line.startswith("inactive_file ")
            )
        except (OSError, StopIteration):
            continue  # the root has no limit, and a container may hide what is above it
        if limit != "max":
            left.append(max(0, int(limit) - int(used) + cached))
    return left
