"""Reads which memory blocks there are, in which state, zone and node, and which dax devices they belong to.

All of it is in sysfs, so a real machine can be read too. A fake also has control/blocks.jsonl, with a line for each run
of equal blocks: of half a million blocks, sysfs has a million files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

MEMORY = "/sys/devices/system/memory"
NODES = "/sys/devices/system/node"
DEVICES = "/sys/bus/dax/devices"
BLOCKS = "/control/blocks.jsonl"

ONLINE = "online"
SEVERAL_ZONES = "none"
"""What valid_zones says of an online block that spans several zones."""

_BLOCK = re.compile(r"memory(\d+)")
_NODE = re.compile(r"node(\d+)")
_MAPPING = re.compile(r"mapping(\d+)")


class Files(Protocol):
    """Where the files are read. Paths begin with /sys or /control; all methods raise OSError."""

    def text(self, path: str) -> str:
        """The whole text of a file."""

    def names(self, path: str) -> list[str]:
        """The names in a directory."""

    def target(self, path: str) -> str:
        """Where a symbolic link leads."""


class FilesBelow:
    """The files below a directory of the host: a mountpoint, or "/" for this machine itself.

    `control` is where the fake's control/ is; None where there is none.
    """

    def __init__(self, root: str, control: str | None = None) -> None:
        self._root = root.rstrip("/")
        self._control = control

    def _outside(self, path: str) -> str:
        if path.startswith("/control/") and self._control is not None:
            return self._control + path.removeprefix("/control")
        return self._root + path

    def text(self, path: str) -> str:
        """See Files."""
        # Not Path.read_text: there may be half a million of them.
        with open(self._outside(path), "rb", buffering=0) as file:  # noqa: PTH123
            return file.readall().decode("utf-8", "surrogateescape")

    def names(self, path: str) -> list[str]:
        """See Files."""
        return os.listdir(self._outside(path))  # noqa: PTH208  names are wanted

    def target(self, path: str) -> str:
        """See Files."""
        return os.readlink(self._outside(path))  # noqa: PTH115  a string is wanted


class BlockRun(NamedTuple):
    """Neighbouring memory blocks in the same state, by the numbers of the first and the last."""

    first: int
    last: int
    nodes: tuple[int, ...]
    state: str
    """As in memoryN/state: `online`, `offline`, `going-offline`."""
    zone: str
    """The zone of online blocks; "none" if they span several, "" if they are not online."""


class Device(NamedTuple):
    """A dax device."""

    name: str
    driver: str
    """`kmem`, `device_dax`, ...; "" if it has none."""
    node: int
    """Its target_node; -1 if it has none."""
    blocks: tuple[tuple[int, int], ...]
    """The whole memory blocks in its ranges, as first and last numbers."""
    readable: bool
    """Whether this user may read its ranges: on a real machine only root may."""


class MemoryMap(NamedTuple):
    """The memory of a machine at one moment."""

    block_size: int
    """Bytes."""
    runs: tuple[BlockRun, ...]
    """In ascending order."""
    nodes: tuple[int, ...]
    """The nodes that there are, those without memory too."""
    devices: tuple[Device, ...]


class NoMemoryError(Exception):
    """There is no memory map. The text says why, and what to do."""


def read(files: Files, where: str = "/") -> MemoryMap:
    """Read the memory map. `where` names the place in errors.

    Raises NoMemoryError where there are no memory blocks, and OSError.
    """
    try:
        block_size = int(files.text(f"{MEMORY}/block_size_bytes"), 16)
    except FileNotFoundError:
        raise NoMemoryError(_why_missing(files, where)) from None
    nodes = tuple(sorted(_numbers(_NODE, _names(files, NODES))))
    try:
        runs = tuple(_runs_in(files.text(BLOCKS)))
    except FileNotFoundError:
        runs = tuple(_runs_of(files, nodes))
    return MemoryMap(block_size, runs, nodes, tuple(_devices(files, block_size)))


def _why_missing(files: Files, where: str) -> str:
    place = f"{where.rstrip('/')}{MEMORY}"
    try:
        files.names("/sys")
    except FileNotFoundError:
        return f"{where}: no machine is here; name a directory that has sys/, such as a mountpoint"
    return f"{place}: this kernel shows no memory blocks (it was built without CONFIG_MEMORY_HOTPLUG)"


def _names(files: Files, path: str) -> list[str]:
    try:
        return files.names(path)
    except FileNotFoundError:
        return []


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> Iterator[int]:
    return (int(found[1]) for name in names if (found := pattern.fullmatch(name)))


# Blocks -----------------------------------------------------------------------------------------------------------


def _runs_in(lines: str) -> Iterator[BlockRun]:
    """From the lines of control/blocks.jsonl."""
    for line in lines.splitlines():
        fields = json.loads(line)
        yield BlockRun(
            fields["first"], fields["last"], tuple(fields["nodes"]), fields["state"], _zone(fields["state"], fields)
        )


def _zone(state: str, fields: dict[str, str | None]) -> str:
    return (fields["zone"] or SEVERAL_ZONES) if state == ONLINE else ""


def _runs_of(files: Files, nodes: Iterable[int]) -> Iterator[BlockRun]:
    """From the directories of the blocks. A block may go meanwhile."""
    nodes_of: dict[int, list[int]] = {number: [] for number in _numbers(_BLOCK, files.names(MEMORY))}
    for node in nodes:
        for number in _numbers(_BLOCK, _names(files, f"{NODES}/node{node}")):
            if number in nodes_of:
                nodes_of[number].append(node)
    run: BlockRun | None = None
    for number in sorted(nodes_of):
        try:
            state = files.text(f"{MEMORY}/memory{number}/state").strip()
            zone = files.text(f"{MEMORY}/memory{number}/valid_zones").strip() if state == ONLINE else ""
        except OSError:
            continue
        block = BlockRun(number, number, tuple(nodes_of[number]), state, zone)
        if run is not None and run[1:] == (number - 1, *block[2:]):
            run = run._replace(last=number)
            continue
        if run is not None:
            yield run
        run = block
    if run is not None:
        yield run


# Devices ----------------------------------------------------------------------------------------------------------


def _devices(files: Files, block_size: int) -> Iterator[Device]:
    names = _names(files, DEVICES)
    for name in sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)]):
        directory = f"{DEVICES}/{name}"
        try:
            driver = Path(files.target(f"{directory}/driver")).name
        except OSError:
            driver = ""
        node = -1
        try:
            node = int(files.text(f"{directory}/target_node"))
            mappings = sorted(_numbers(_MAPPING, files.names(directory)))
            ranges = [_range(files, f"{directory}/mapping{number}") for number in mappings]
        except FileNotFoundError:
            continue  # it is gone
        except PermissionError:
            yield Device(name, driver, node, (), readable=False)
            continue
        blocks = tuple(sorted(inside for one in ranges if (inside := _whole_blocks(*one, block_size)) is not None))
        yield Device(name, driver, node, blocks, readable=True)


def _range(files: Files, mapping: str) -> tuple[int, int]:
    """The addresses of the first and the last byte."""
    return int(files.text(f"{mapping}/start"), 16), int(files.text(f"{mapping}/end"), 16)


def _whole_blocks(start: int, end: int, block_size: int) -> tuple[int, int] | None:
    """The blocks that lie wholly in a range: kmem adds no others."""
    first, last = -(-start // block_size), (end + 1) // block_size - 1
    return (first, last) if first <= last else None
