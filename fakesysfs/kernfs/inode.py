"""The parts of an inode number, and what lstat(2) shows of a node.

serial of the object (20 bits) | alias (12) | index among objects of one serial (24) | slot in the
table (8)
"""

from __future__ import annotations

from typing import Any, NamedTuple

ROOT = 1
"""The inode number of the root directory, as FUSE demands."""

SLOT_BITS, INDEX_BITS, ALIAS_BITS = 8, 24, 12
INDEX_SHIFT = SLOT_BITS
ALIAS_SHIFT = INDEX_SHIFT + INDEX_BITS
SERIAL_SHIFT = ALIAS_SHIFT + ALIAS_BITS
SLOT_MASK = (1 << SLOT_BITS) - 1
INDEX_MASK = (1 << INDEX_BITS) - 1
ALIAS_MASK = (1 << ALIAS_BITS) - 1
NO_ALIAS = ~(ALIAS_MASK << ALIAS_SHIFT)


class Stat(NamedTuple):
    """What lstat(2) shows. Times in nanoseconds since the epoch."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    grows: bool = False
    """Whether the size changes without an operation on the file."""


def kobj_of(kobject: Any) -> Any:
    """The object that functions of a directory's entries get: its `kobj`, or the object itself."""
    return getattr(kobject, "kobj", kobject)
