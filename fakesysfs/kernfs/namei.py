"""From a path to an inode number (fs/namei.c).

In a mount the host walks. This is for callers in process.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from collections.abc import Set as AbstractSet
from typing import Protocol

from fakesysfs.kernfs.inode import ROOT
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.recording import Recorder, current

MAXSYMLINKS = 40
"""Links that the walk of one path may follow."""


class Names(Protocol):
    """What a walk asks the tree."""

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode number of a name in a directory."""
        ...

    def is_link(self, ino: int) -> bool:
        """Whether a node that exists is a symbolic link."""
        ...

    def readlink(self, ino: int) -> bytes:
        """The target of a link."""
        ...


def path_walk(names: Names, path: str, *, follow_last: bool) -> int:
    """The inode number of an absolute path. Links are followed, in the last component if wanted.

    Raises KernelError: ENOENT, ENOTDIR, ELOOP.
    """
    ino, links = ROOT, 0
    above: list[int] = []
    left = _components(path)
    while left:
        component = left.pop()
        if component == "..":
            ino = above.pop() if above else ROOT
            continue
        child = names.lookup(ino, os.fsencode(component))
        if (left or follow_last) and names.is_link(child):
            links += 1
            if links > MAXSYMLINKS:
                raise KernelError(errno.ELOOP, "too many levels of symbolic links", "step_into")
            target = os.fsdecode(names.readlink(child))
            if target.startswith("/"):
                ino, above = ROOT, []
            left += _components(target)
            continue
        above.append(ino)
        ino = child
    return ino


def _components(path: str) -> list[str]:
    """The components of a path, the last one first."""
    return [component for component in reversed(path.split("/")) if component not in {"", "."}]


class ResolvedPaths:
    """Remembers what paths led to, until something comes or goes.

    An open in process takes a tenth of its time with it (benchmarks/run.py --only machines).
    """

    _MOST = 256

    def __init__(self, names: Names) -> None:
        self._names = names
        self._found: dict[str, tuple[int, AbstractSet[Hashable] | None]] = {}
        """Path -> inode number, and what the walk read, if that was recorded."""
        self._state: object = None

    def resolve(self, path: str, state: object) -> int:
        """As `path_walk`, with the last link followed.

        Another `state` than before says that something came or went. What the walk reads is recorded each time.
        """
        if state != self._state or len(self._found) == self._MOST:
            self._found.clear()
            self._state = state
        footprint = current()
        found = self._found.get(path)
        if found is None or (footprint is not None and found[1] is None):
            found = self._found[path] = self._walk(path)
        if footprint is not None:
            footprint.reads.update(found[1] or ())
        return found[0]

    def _walk(self, path: str) -> tuple[int, AbstractSet[Hashable] | None]:
        if current() is None:
            return path_walk(self._names, path, follow_last=True), None
        with Recorder() as recorder:
            ino = path_walk(self._names, path, follow_last=True)
        footprint = recorder.footprint
        return ino, None if footprint.writes else footprint.reads
