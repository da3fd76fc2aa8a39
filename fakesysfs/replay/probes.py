"""Probes: what sessions record of the whole machine (blocks, iomem, MemTotal, tiers)."""

from __future__ import annotations

import re
from typing import Any

from fakesysfs.replay.target import Target

_MEMORY = "/sys/devices/system/memory"
_NODES = "/sys/devices/system/node"
_TIERS = "/sys/devices/virtual/memory_tiering"
_BLOCK = re.compile(r"memory(\d+)")
_NODE = re.compile(r"node\d+")

BlockTable = dict[str, list[str]]
"""Block number (text) -> [state, online, valid_zones, "nodeA[,nodeB]"], as in `blocks`."""


_ATTRIBUTES = ("state", "online", "valid_zones")


def blocks(target: Target) -> BlockTable:
    """The table of all memory blocks."""
    numbers = [found[1] for name in target.ls(_MEMORY) if (found := _BLOCK.fullmatch(name))]
    directories = [f"{_MEMORY}/memory{number}" for number in numbers]
    listed = target.ls_all(directories)
    read = target.read_results([f"{directory}/{name}" for directory in directories for name in _ATTRIBUTES])
    values = iter([got.decode("latin-1").rstrip("\n") if isinstance(got, bytes) else f"E:{got}" for _, got in read])
    table: BlockTable = {}
    for number, names in zip(numbers, listed, strict=True):
        if isinstance(names, OSError):
            raise names
        nodes = sorted(name for name in names if _NODE.fullmatch(name))
        table[number] = [*(next(values) for _ in _ATTRIBUTES), ",".join(nodes)]
    return table


def block_differences(expected: BlockTable, got: BlockTable) -> list[str]:
    """One line for each run of blocks that differ in the same way.

    An attribute that vanished while the recorder read it may have any value.
    """
    differing: list[tuple[int, list[str] | None, list[str] | None]] = []
    for number in sorted({*expected, *got}, key=int):
        left, right = expected.get(number), got.get(number)
        if left is not None and right is not None:
            right = [ours if not theirs.startswith("E:") else theirs for theirs, ours in zip(left, right, strict=True)]
        if left != right:
            differing.append((int(number), left, right))
    lines: list[str] = []
    start = 0
    for position in range(1, len(differing) + 1):
        run = differing[start:position]
        follows = (
            position < len(differing)
            and differing[position][0] == run[-1][0] + 1
            and differing[position][1:] == run[-1][1:]
        )
        if not follows:
            lines.append(f"blocks {run[0][0]} to {run[-1][0]}: expected {run[0][1]}, got {run[0][2]}")
            start = position
    return lines


def iomem(target: Target) -> list[str]:
    """The lines of /proc/iomem."""
    return target.read_text("/proc/iomem").split("\n")[:-1]


def memtotal(target: Target) -> int:
    """MemTotal of /proc/meminfo in kB."""
    found = re.search(r"^MemTotal: +(\d+) kB$", target.read_text("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) if found else -1


def tiers(target: Target) -> dict[str, Any]:
    """The fields of a `tiers` operation."""
    names = [name for name in target.ls(_TIERS) if name.startswith("memory_tier")]
    masks = ("online", "has_memory", "has_normal_memory")
    return {
        "tiers": {name: target.read_text(f"{_TIERS}/{name}/nodelist") for name in names},
        "nodes": {name: target.read_text(f"{_NODES}/{name}") for name in masks},
        "nodedirs": sorted(name for name in target.ls(_NODES) if _NODE.fullmatch(name)),
    }


def tainted(target: Target) -> str:
    """/proc/sys/kernel/tainted."""
    return target.read_text("/proc/sys/kernel/tainted").strip()
