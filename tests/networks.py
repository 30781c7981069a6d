"""Two machines' networks on one: for tests of several nodes."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator

# Two networks with nothing but a cable between them; prints a process of each, and keeps them until its input ends.
TWO_NETWORKS = """
set -e
ip link set lo up
unshare --net sleep 1000 & other=$!
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add node0 type veth peer name node1 netns $other
ip addr add 10.0.0.1/24 dev node0 && ip link set node0 up
nsenter --target $other --net sh -c 'ip link set lo up; ip addr add 10.0.0.2/24 dev node1 && ip link set node1 up'
echo $$ $other
read -r _ || kill $other
"""
FIRST = "10.0.0.1"  # the address of the first, whose interface is called node0; the other's is node1


@contextlib.contextmanager
def two_networks() -> Iterator[list[str]]:
    """Yield the id of a process in each network; of none if this machine lets its users make no network."""
    command = ["unshare", "--map-root-user", "--net", "--", "bash", "-c", TWO_NETWORKS]
    try:
        holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        yield []
        return
    yield holder.stdout.readline().split()
    holder.communicate()


def entering(process: str) -> list[str]:
    """Return the beginning of a command that runs in the network of a process."""
    return ["nsenter", "--preserve-credentials", "--user", "--net", "--target", process]


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
