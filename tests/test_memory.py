"""How much memory is left: the machine's, or what a container's limit leaves."""

import pytest

from lora_nlg import memory

MIB = 2**20


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A system with 8 GiB left whose process is in the control group /job/step; its groups' files are given."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {8192 * 1024} kB\n")
    (tmp_path / "proc/self/cgroup").write_text("1:name=systemd:/\n0::/job/step\n")

    def group(name: str, limit: str, used: int = 0, cached: int = 0) -> None:
        folder = tmp_path / "groups" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")

    return group


def test_a_machine_without_limits(machine):
    assert memory.available() == 8192 * MIB
    machine("job/step", "max")
    assert memory.available() == 8192 * MIB


@pytest.mark.parametrize("name", ["job/step", "job", ""])
def test_a_limit_of_its_own_group_or_of_one_above(name, machine):
    """What files are cached in is given back when it is needed."""
    machine("job/step", "max")
    machine(name, str(4096 * MIB), used=1000 * MIB, cached=300 * MIB)
    assert memory.available() == (4096 - 700) * MIB


def test_a_limit_that_is_reached_and_one_that_is_wider_than_the_machine(machine):
    machine("job", str(10**15))
    assert memory.available() == 8192 * MIB
    machine("job/step", str(MIB), used=2 * MIB)
    assert memory.available() == 0


def test_other_systems(machine, tmp_path):
    (tmp_path / "proc/self/cgroup").unlink()
    assert memory.available() == 8192 * MIB
    (tmp_path / "proc/meminfo").unlink()
    assert memory.available() is None
