"""From a path to an inode number (fs/namei.c).

In a mount the host walks. This is for callers in process.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from fakesysfs.kernfs.inode import ROOT
from fakesysfs.ops.errors import KernelError

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
