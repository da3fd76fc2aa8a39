"""From a path to an inode number (fs/namei.c).

In a mount the host walks. This is for callers in process.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from fakesysfs.kernfs.declare import DirectoryKind, Indexed, Link, Place, Subdirectories
from fakesysfs.kernfs.inode import ROOT
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.footprint import EVERYTHING, Footprint

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


def record_lookup(footprint: Footprint, kind: DirectoryKind[Any], around: int, place: Place | None) -> None:
    """Record what decides whether a name exists. Indexed families record that themselves."""
    if place is not None:
        if place.condition is not None or place.owner is not None or isinstance(place.entry, Link):
            footprint.read(EVERYTHING)
    elif not all(
        isinstance(family.entry, Indexed) or (isinstance(family.entry, Subdirectories) and family.entry.of is None)
        for family in kind.families(around)
    ):
        footprint.read(EVERYTHING)


class _Recorder(Protocol):
    footprint: Footprint | None


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

    def resolve(self, path: str, state: object, recorder: _Recorder) -> int:
        """As `path_walk`, with the last link followed.

        Another `state` than before says that something came or went. What the walk reads is recorded in
        the footprint of `recorder`, each time.
        """
        if state != self._state or len(self._found) == self._MOST:
            self._found.clear()
            self._state = state
        footprint = recorder.footprint
        found = self._found.get(path)
        if found is None or (footprint is not None and found[1] is None):
            found = self._found[path] = self._walk(path, recorder)
        if footprint is not None:
            footprint.reads.update(found[1] or ())
        return found[0]

    def _walk(self, path: str, recorder: _Recorder) -> tuple[int, AbstractSet[Hashable] | None]:
        outer = recorder.footprint
        if outer is None:
            return path_walk(self._names, path, follow_last=True), None
        inner = recorder.footprint = Footprint()
        try:
            return path_walk(self._names, path, follow_last=True), inner.reads
        finally:
            recorder.footprint = outer
            outer.reads.update(inner.reads)
