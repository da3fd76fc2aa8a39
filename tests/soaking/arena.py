"""The machine that is attacked, its names, and the one mount that all rounds but the kills share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from tests.soaking import host

BLOCK_SIZE = 128 << 20
BLOCKS_PER_DEVICE = 16
FIRST_BLOCK = 128
DEVICES = 5
BOOT_BLOCKS = (*range(16), *range(32, 48))
DAX_BLOCKS = range(FIRST_BLOCK, FIRST_BLOCK + DEVICES * BLOCKS_PER_DEVICE)
MEMORY = "sys/devices/system/memory"
DAX = "sys/bus/dax/devices"
KMEM = "sys/bus/dax/drivers/kmem"

_HEAD = """
title = "two nodes of DRAM, five CXL regions of 2 GiB, each a dax device on a node of its own"
block_size = "128M"
modules = ["device_dax", "dax_cxl", "kmem"]
[memory_hotplug]
online_type = "online_movable"
[kernel]
kernel_allocations_on_hotplugged_nodes = false
[[node]]
id = 0
cpus = "0-1"
memory = [{ start = "0", size = "2G" }]
[[node]]
id = 1
cpus = "2-3"
memory = [{ start = "4G", size = "2G" }]
"""
_DEVICE = """
[[node]]
id = {node}
[[dax_region]]
kind = "cxl"
start = "{start}G"
size = "2G"
target_node = {node}
"""
MACHINE = _HEAD + "".join(_DEVICE.format(node=2 + number, start=16 + 2 * number) for number in range(DEVICES))


def blocks_of(device: int) -> range:
    """The memory blocks of daxN.0."""
    first = FIRST_BLOCK + device * BLOCKS_PER_DEVICE
    return range(first, first + BLOCKS_PER_DEVICE)


class Arena(NamedTuple):
    """Where a soak takes place: its directory, and the shared mount with its server."""

    base: Path
    point: str
    server: int

    def read(self, path: str, size: int = 1 << 20) -> str:
        """One open(2), one pread(2), as text."""
        return self.read_at(path, size, 0).decode()

    def read_at(self, path: str, size: int, offset: int) -> bytes:
        """One open(2), one pread(2)."""
        descriptor = os.open(f"{self.point}/{path}", os.O_RDONLY)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def write(self, path: str, data: bytes | str, offset: int = 0) -> int:
        """One open(2), one write(2)."""
        descriptor = os.open(f"{self.point}/{path}", os.O_WRONLY)
        try:
            return os.pwrite(descriptor, data.encode() if isinstance(data, str) else data, offset)
        finally:
            os.close(descriptor)

    def names(self, path: str) -> list[str]:
        """The names in a directory."""
        return os.listdir(f"{self.point}/{path}")

    def exists(self, path: str) -> bool:
        """Whether the name is there, whatever it leads to."""
        return os.path.lexists(f"{self.point}/{path}")


class Usage(NamedTuple):
    """What a server holds."""

    resident_kib: int
    descriptors: int


def usage(pid: int) -> Usage:
    """What a process holds now."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    assert resident is not None, f"process {pid} has ended"
    return Usage(int(resident[1]), len(os.listdir(f"/proc/{pid}/fd")))


class Flatness:
    """Whether the server holds no more after each round than after the first ones."""

    WARM_UP = 2
    """Rounds of each kind after which everything that is bounded has been filled."""
    SLACK_KIB = 24 << 10

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._first: Usage | None = None
        self._last = usage(pid)

    def look(self, cycle: int) -> list[str]:
        """What has grown since the first rounds; `cycle` counts from 0."""
        first = self._first
        if first is not None:
            # It closes what a client left open after that client has gone.
            host.wait_until(lambda: usage(self._pid).descriptors <= first.descriptors)
        now = self._last = usage(self._pid)
        if cycle < self.WARM_UP or first is None:
            kept = first or now
            self._first = Usage(*map(max, kept, now))
            return []
        found = []
        if now.descriptors > first.descriptors:
            found.append(f"the server has {now.descriptors} descriptors, {first.descriptors} at first")
        if now.resident_kib > first.resident_kib + self.SLACK_KIB:
            found.append(f"the server has {now.resident_kib} KiB, {first.resident_kib} KiB at first")
        return found

    def now(self) -> str:
        """What the server holds, for people."""
        try:
            return _shown(usage(self._pid))
        except OSError:
            return "has ended"

    def summary(self) -> str:
        """What it held at first and at last."""
        first = self._first or self._last
        return f"server after the first rounds {_shown(first)}, after the last {_shown(self._last)}"


def _shown(held: Usage) -> str:
    return f"{held.resident_kib:,} KiB, {held.descriptors} descriptors"
