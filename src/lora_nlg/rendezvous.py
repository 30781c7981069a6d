"""Where the processes of a run find one another: what a launcher's variables say, and the wait until all are there."""

import importlib
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

from torch import distributed
from torch.distributed.constants import default_pg_timeout

from lora_nlg.errors import UserError

LIMIT_VARIABLE = "RENDEZVOUS_SECONDS"
LIMIT = 60  # seconds without a newcomer
# Where torchrun listens it also watches the ranks, which a slow disk may keep from coming for minutes.
LIMIT_OF_TORCHRUN = 600
UNKNOWN_LIMIT = 10  # seconds for a name that cannot be resolved: a cluster may know it a little later
NOTICE = 5  # seconds until it is said who is waited for
PAUSE = 0.1  # seconds between two looks
MOST_RANKS = 1 << 20
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """This process among those of the run: `rank` of `world_size`, `local_rank` of the `on_this_node` of its machine."""

    rank: int
    world_size: int
    local_rank: int
    on_this_node: int


def place(rank: int, world_size: int, local_rank: int) -> Place:
    """Return what a launcher's variables say, without any the flags `--rank`, `--world_size` and `--local_rank`."""
    given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if len(given) == 1:
        raise UserError(
            f"{given[0]} is in the environment, but not {'WORLD_SIZE' if given == ['RANK'] else 'RANK'}; a launcher such as "
            f"torchrun sets both; {unset()}"
        )
    if given:
        world_size = number("WORLD_SIZE", 1)
        rank = number("RANK", 0, world_size - 1)
        local_rank = number("LOCAL_RANK", 0) if "LOCAL_RANK" in os.environ else local_rank
    for name, value in (("local_rank", local_rank), ("world_size", world_size)):
        if value < 0:
            raise UserError(f"--{name} must be at least 0, but is {value}")
    if world_size > MOST_RANKS:
        raise UserError(f"a run has at most {MOST_RANKS:,} processes, but {world_size} are asked for; {unset()}")
    world_size = max(world_size, 1)
    if not 0 <= rank < world_size:
        raise UserError(f"--rank must be from 0 to --world_size - 1 ({world_size - 1}), but is {rank}")
    if world_size == 1:
        return Place(0, 1, 0, 1)
    on_this_node = number("LOCAL_WORLD_SIZE", 1) if "LOCAL_WORLD_SIZE" in os.environ else world_size
    return Place(rank, world_size, local_rank, on_this_node)


def number(name: str, least: int, most: int | None = None) -> int:
    """Return the whole number in a launcher's variable. Raises UserError if it is none, or out of range."""
    text = os.environ[name].strip()
    if text.isdecimal() and least <= int(text) and (most is None or int(text) <= most):
        return int(text)
    expected = f"from {least}" + ("" if most is None else f" to {most}")
    raise UserError(f"{name} in the environment must be a whole number {expected}, but is {text!r}; {unset()}")


def unset() -> str:
    """Return what to do if there are no others, and the variables are left over from another run."""
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return "if this run is to be alone, leave out --world_size"
    return f"if this run is to be alone, unset {' '.join(name for name in VARIABLES if name in os.environ)}"


def address() -> tuple[str, int]:
    """Return the host and port at which the processes meet."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name, "").strip():
            raise UserError(
                f"{name} is not in the environment; several processes need MASTER_ADDR and MASTER_PORT, which torchrun sets; "
                + unset()
            )
    return os.environ["MASTER_ADDR"].strip(), number("MASTER_PORT", 1, 65535)


@dataclass
class Meeting:
    """How far the wait has come; a thread waits, so that signals reach the process, and the main thread looks on."""

    place: Place
    backend: str
    gpu: str  # which one this process computes on, "" for none
    arrived: int = 0
    listening: bool = False
    store: distributed.Store | None = None  # which all of them see
    unknown_host: bool = False
    error: BaseException | None = None
    host: str = field(init=False)
    port: int = field(init=False)

    def __post_init__(self) -> None:
        self.host, self.port = address()
        # torchrun may listen itself; else the first rank does.
        self.by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)

    def join(self) -> None:
        """Meet the others and form the process group; `error` says why not."""
        try:
            is_host = self.place.rank == 0 and not self.by_torchrun
            self._find(is_host)
            self._form_group(self._meet(is_host))
        except BaseException as error:
            self.error = error

    def _find(self, is_host: bool) -> None:
        """Wait until the host's name is known and, unless this process will, somebody listens there."""
        while True:
            try:
                socket.getaddrinfo(self.host, self.port)
                if not is_host:
                    socket.create_connection((self.host, self.port), timeout=2).close()
                return
            except OSError as error:
                self.unknown_host = isinstance(error, socket.gaierror)
            time.sleep(PAUSE)

    def _meet(self, is_host: bool) -> distributed.Store:
        """Wait until all have come. Raises UserError if two of them have one GPU."""
        rank, size = self.place.rank, self.place.world_size
        try:
            store = distributed.TCPStore(
                self.host,
                self.port,
                size,
                is_host,
                default_pg_timeout,
                wait_for_workers=False,
                multi_tenant=is_host,
            )
        except RuntimeError as error:
            why = "another program may have the port" if is_host else "whoever listens there is none of this run"
            reason = str(error).partition("\n")[0]
            raise UserError(f"cannot meet at {self.host}:{self.port}, {why} ({reason}); {unset()}") from error
        self.listening = True
        # A torchrun that starts its ranks again may keep what it was told.
        self.store = distributed.PrefixStore(f"start/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        self.store.set(f"gpu{rank}", self.gpu)
        self.arrived = self.store.add("number", 1)
        while self.arrived < size:
            time.sleep(PAUSE)
            self.arrived = self.store.add("number", 0)
        gpus = [self.store.get(f"gpu{other}").decode() for other in range(size)]
        if self.gpu and gpus.count(self.gpu) > 1:
            raise UserError(f"{gpus.count(self.gpu)} processes would share the GPU {self.gpu}; give each its own")
        return store

    def _form_group(self, store: distributed.Store) -> None:
        rank, size = self.place.rank, self.place.world_size
        group_store = distributed.PrefixStore("default_pg", store)  # as torch has it without a store of ours
        try:
            distributed.init_process_group(self.backend, store=group_store, rank=rank, world_size=size)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{size} processes met at {self.host}:{self.port} but could not connect to one another ({reason}); see whether one "
                "of them failed, and which network interface GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME should name"
            ) from error

    def state(self) -> str:
        """Return who is waited for."""
        size, where = self.place.world_size, f"at {self.host}:{self.port}"
        if self.arrived == size:
            return f"connecting the {size} processes that have met {where}"
        if self.listening:
            return f"waiting for {size - self.arrived} of {size} processes {where}"
        why = "whose name is unknown here" if self.unknown_host else "where none of this run answers"
        return f"waiting for the first of {size} processes {where}, {why}"

    def limit(self) -> float:
        """Return for how many seconds to wait without news."""
        if LIMIT_VARIABLE in os.environ:
            return number(LIMIT_VARIABLE, 1)
        if self.unknown_host:
            return UNKNOWN_LIMIT
        return LIMIT_OF_TORCHRUN if self.by_torchrun and self.listening else LIMIT


def join(place: Place, backend: str, gpu: str = "") -> distributed.Store:
    """Join the process group, say on stderr who is missing, and return the store that all of them see.

    Raises UserError when nobody comes for a minute.
    """
    # Imported later, as torch's optimisers do, it keeps the process group beyond `stop`: the group's threads then meet an
    # interpreter that ends, and 4 of 60 finished runs were aborted on a busy machine.
    importlib.import_module("torch._dynamo")

    meeting = Meeting(place, backend, gpu)
    thread = threading.Thread(target=meeting.join, daemon=True)
    thread.start()
    known, since, said = 0, time.monotonic(), ""
    while thread.is_alive():
        thread.join(PAUSE)
        now = time.monotonic()
        if meeting.arrived > known:
            known, since = meeting.arrived, now
        if now - since > meeting.limit() and meeting.arrived < place.world_size:
            raise UserError(
                f"gave up after {meeting.limit():.0f} s of {meeting.state()}; start them, set {LIMIT_VARIABLE} to wait longer, or, "
                f"{unset()}"
            )
        if now - since > NOTICE and meeting.state() != said:
            said = meeting.state()
            print(said, file=sys.stderr, flush=True)
    if meeting.error is not None:
        raise meeting.error
    assert meeting.store is not None  # or there is an error
    return meeting.store


def wait_for(store: distributed.Store, key: str) -> None:
    """Wait, however long, until a process has set `key`; a collective would wait ten minutes. Raises UserError if the host dies."""
    pause = 0.001
    try:
        while not store.check([key]):
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)
    except RuntimeError as error:
        raise UserError(
            "the first process has ended, for which this one waited; what that one says is the cause"
        ) from error
