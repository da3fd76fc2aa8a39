"""Makes `EntryAttributes`, which the host gets for a node, from `Stat`."""

from __future__ import annotations

from pyfuse3 import EntryAttributes

from fakesysfs.kernfs import Stat

FOREVER = 1_000_000
"""Seconds for which the host may keep a name and its attributes."""

_KEPT = 256
"""The most `EntryAttributes` that `Entries` keeps."""


def entry_of(found: Stat, seconds: int = FOREVER) -> EntryAttributes:
    """A new answer; the host may keep the name for `seconds`."""
    entry = EntryAttributes()
    entry.st_ino = found.ino
    entry.entry_timeout = seconds
    entry.attr_timeout = 0 if found.grows else FOREVER
    entry.st_mode = found.mode
    entry.st_nlink = found.nlink
    entry.st_uid = found.uid
    entry.st_gid = found.gid
    entry.st_rdev = found.rdev
    entry.st_size = found.size
    entry.st_atime_ns = found.atime_ns
    entry.st_mtime_ns = found.mtime_ns
    entry.st_ctime_ns = found.ctime_ns
    return entry


class Entries:
    """Answers that are made once for all nodes that differ in nothing but their inode numbers.

    The caller sets the inode number. pyfuse3 copies an answer before the next one is asked for.
    """

    def __init__(self, seconds: int = FOREVER) -> None:
        self._seconds = seconds
        self._made: dict[tuple[int, ...], EntryAttributes] = {}

    def __call__(self, found: Stat) -> EntryAttributes:
        """The answer; its inode number is `found`'s, until somebody sets another one."""
        form = found[1:]
        entry = self._made.get(form)
        if entry is None:
            if len(self._made) == _KEPT:
                self._made.clear()
            entry = self._made[form] = entry_of(found, self._seconds)
        entry.st_ino = found.ino
        return entry
