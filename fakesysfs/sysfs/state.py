"""What a machine looks like to the programs that race: the states, drivers and policies of its memory.

A report shows what each step changed. It compares two looks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import groupby

from fakesysfs.kernfs import Caller, Tree, names_in, open_file
from fakesysfs.ops.errors import KernelError

MEMORY = "/sys/devices/system/memory"
DAX = "/sys/bus/dax/devices"
NODE = "/sys/devices/system/node"

State = Mapping[str, str]
"""What was seen, by its name in a report: `memory64` -> `online Movable`."""

_LOOKING = Caller(os.getpid(), "explore")
_BLOCK = re.compile(r"memory(\d+)")
_ABSENT = ""


class Watcher:
    """Says what has changed since it looked last."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._seen = look(tree)

    def changes(self) -> tuple[str, ...]:
        """What has changed, in words."""
        before, self._seen = self._seen, look(self._tree)
        return changes(before, self._seen)


def look(tree: Tree) -> State:
    """Look at a machine through its files. This leaves no trace in the machine."""
    return dict(_seen(tree))


def _seen(tree: Tree) -> Iterator[tuple[str, str]]:
    yield "auto_online_blocks", _text(tree, f"{MEMORY}/auto_online_blocks")
    for name in names_in(tree, MEMORY):
        if name.removeprefix("memory").isdigit():
            state = _text(tree, f"{MEMORY}/{name}/state")
            zone = _text(tree, f"{MEMORY}/{name}/valid_zones") if state == "online" else ""
            yield name, f"{state} {zone}".strip()
    for name in names_in(tree, DAX):
        for attribute in ("hotplug", "state", "size"):
            yield f"{name} {attribute}", _text(tree, f"{DAX}/{name}/{attribute}")
        yield f"{name} driver", _target(tree, f"{DAX}/{name}/driver")
    for name in names_in(tree, NODE):
        if name.removeprefix("node").isdigit():
            yield name, "present"


def _text(tree: Tree, path: str) -> str:
    try:
        return open_file(tree, tree.resolve(path), os.O_RDONLY, _LOOKING, None).read(0, 4096).decode().strip()
    except KernelError:
        return _ABSENT


def _target(tree: Tree, path: str) -> str:
    try:
        return os.path.basename(os.fsdecode(tree.readlink(tree.walk(path))))  # noqa: PTH119  a path of the fake
    except KernelError:
        return _ABSENT


def changes(before: State, after: State) -> tuple[str, ...]:
    """What differs, in words; memory blocks that changed alike in one line."""
    found: list[tuple[str, int, str]] = []
    for name in [*before, *(name for name in after if name not in before)]:
        was, now = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if was == now:
            continue
        how = f"{was or 'absent'} -> {now or 'absent'}"
        block = _BLOCK.fullmatch(name)
        found.append((name, -1, how) if block is None else ("memory{}", int(block[1]), how))
    return tuple(_in_runs(sorted(found)))


def _in_runs(found: list[tuple[str, int, str]]) -> Iterator[str]:
    alike = sorted(found, key=lambda change: (change[0], change[2], change[1]))
    for (name, how), group in groupby(alike, key=lambda change: (change[0], change[2])):
        numbers = [number for _, number, _ in group]
        if numbers == [-1]:
            yield f"{name}: {how}"
            continue
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            members = [number for _, number in run]
            which = str(members[0]) if len(members) == 1 else f"{members[0]} to {members[-1]}"
            yield f"{name.format(which)}: {how}"
