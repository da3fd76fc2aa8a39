"""What the memory map says is what the machine has, from control/ and from sysfs alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakesysfs.see.memory import BlockRun, Device, FilesBelow, NoMemoryError, read
from fakesysfs.testing import Machine
from tests.see.files import map_of

HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
MEMORY = "/sys/devices/system/memory"


def test_default_machine() -> None:
    with Machine() as machine:
        found = map_of(machine)
    assert found.block_size == 128 << 20
    assert found.nodes == (0, 1, 2)
    assert found.devices == (Device("dax0.0", "kmem", 2, ((64, 95),), readable=True),)
    assert found.runs[-1] == BlockRun(64, 95, (2,), "online", "Movable")
    assert sum(run.last - run.first + 1 for run in found.runs) == 80


def test_after_changes() -> None:
    with Machine() as machine:
        machine.write(f"{MEMORY}/memory70/state", "offline")
        machine.write(f"{MEMORY}/memory71/state", "offline")
        machine.write(f"{MEMORY}/memory71/state", "online_kernel")
        assert [run for run in map_of(machine).runs if run.first >= 64] == [
            BlockRun(64, 69, (2,), "online", "Movable"),
            BlockRun(70, 70, (2,), "offline", ""),
            BlockRun(71, 71, (2,), "online", "Normal"),
            BlockRun(72, 95, (2,), "online", "Movable"),
        ]
        for number in (70, 71):
            machine.write(f"{MEMORY}/memory{number}/state", "online_movable" if number == 70 else "offline")
        machine.write(HOTPLUG, "unplug")
        found = map_of(machine)
        assert found.nodes == (0, 1)
        assert found.runs[-1].last == 63


def test_a_block_that_goes_offline() -> None:
    with Machine() as machine:
        machine.pin(70)
        write = machine.start_write(f"{MEMORY}/memory70/state", "offline")
        assert [run.state for run in map_of(machine).runs if run.first == 70] == ["going-offline"]
        write.kill()


@pytest.mark.parametrize("name", ["default", "tiny", "cxl", "hmem", "pmem"])
def test_sysfs_alone_says_the_same(name: str) -> None:
    with Machine(name) as machine:
        for number in (70, 72, 73):
            if machine.exists(f"{MEMORY}/memory{number}"):
                machine.write(f"{MEMORY}/memory{number}/state", "offline")
        assert map_of(machine, control=False) == map_of(machine)


def test_no_machine(tmp_path: Path) -> None:
    with pytest.raises(NoMemoryError, match=r"no machine is here; name a directory that has sys/"):
        read(FilesBelow(str(tmp_path)), str(tmp_path))


def test_a_kernel_without_memory_blocks(tmp_path: Path) -> None:
    (tmp_path / "sys/devices/system/node/node0").mkdir(parents=True)
    with pytest.raises(NoMemoryError, match=r"^/x/sys/devices/system/memory: this kernel shows no memory blocks"):
        read(FilesBelow(str(tmp_path)), "/x")


def real_machine(root: Path) -> FilesBelow:
    """A directory with the files that a real machine without NUMA has: two blocks, one of them being removed."""
    memory = root / "sys/devices/system/memory"
    for number, state in ((0, "online"), (1, "online"), (3, "")):
        (memory / f"memory{number}").mkdir(parents=True)
        if state:
            (memory / f"memory{number}/state").write_text(f"{state}\n")
            (memory / f"memory{number}/valid_zones").write_text("none\n" if number else "Normal\n")
    (memory / "block_size_bytes").write_text("8000000\n")
    return FilesBelow(str(root))


def test_a_machine_without_numa(tmp_path: Path) -> None:
    found = read(real_machine(tmp_path))
    assert found.runs == (BlockRun(0, 0, (), "online", "Normal"), BlockRun(1, 1, (), "online", "none"))
    assert (found.nodes, found.devices) == ((), ())


def test_ranges_that_only_root_may_read(tmp_path: Path) -> None:
    files = real_machine(tmp_path)
    device = tmp_path / "sys/bus/dax/devices/dax1.0"
    (device / "mapping0").mkdir(parents=True)
    (device / "target_node").write_text("1\n")

    class NotRoot(FilesBelow):
        def text(self, path: str) -> str:
            if path.endswith(("/start", "/end")):
                raise PermissionError(path)
            return files.text(path)

    assert read(NotRoot(str(tmp_path))).devices == (Device("dax1.0", "", 1, (), readable=False),)


@pytest.mark.parametrize(
    ("start", "end", "blocks"),
    [
        (0x8000000, 0xFFFFFFF, ((1, 1),)),
        (0x8000001, 0x17FFFFFF, ((2, 2),)),  # not from its first byte on
        (0x8000000, 0x17FFFFFE, ((1, 1),)),  # not to its last byte
        (0x8000001, 0x17FFFFFE, ()),
    ],
)
def test_only_whole_blocks_of_a_device(
    tmp_path: Path, start: int, end: int, blocks: tuple[tuple[int, int], ...]
) -> None:
    files = real_machine(tmp_path)
    mapping = tmp_path / "sys/bus/dax/devices/dax0.0/mapping0"
    mapping.mkdir(parents=True)
    (mapping / "start").write_text(f"{start:#x}\n")
    (mapping / "end").write_text(f"{end:#x}\n")
    (mapping.parent / "target_node").write_text("0\n")
    assert [device.blocks for device in read(files).devices] == [blocks]
