"""What every machine for tests has in common, in process or mounted."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from fakesysfs.testing import records
from fakesysfs.testing.records import LogMessage, Refusal, Uevent, Write

StrPath = str | os.PathLike[str]
"""A path inside the fake: `/sys/devices/system/memory/memory64/state`."""


_LISTS: Mapping[str, tuple[str, Callable[[records.Fields], Any]]] = {
    "log": ("/control/kmsg.jsonl", records.log_message),
    "uevents": ("/control/uevents.jsonl", records.uevent),
    "refused": ("/control/refused.jsonl", records.refusal),
    "writes": ("/control/writes.jsonl", records.write),
}
"""A list's file, and what makes a record of one of its lines."""


class Controls(ABC):
    """What a machine remembers, and what is done to it from outside. None of this ever waits.

    Paths are those of the fake: `/sys/...`, `/dev/...`, `/proc/...`, `/control/...`.
    """

    _resets = 0
    """How often `reset` was called."""

    @abstractmethod
    def _show(self, path: str) -> str:
        """The whole text of a file of control/."""

    @abstractmethod
    def _store(self, path: str, data: str) -> None:
        """Write a file of control/ that answers at once."""

    @abstractmethod
    def ls(self, path: StrPath) -> list[str]:
        """The names in a directory, in the kernel's order. Raises OSError."""

    @abstractmethod
    def stat(self, path: StrPath, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat. Raises OSError."""

    @abstractmethod
    def readlink(self, path: StrPath) -> str:
        """The target of a symbolic link. Raises OSError."""

    def exists(self, path: StrPath) -> bool:
        """Whether there is such a file or directory."""
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True

    def _numbered(self, name: str) -> tuple[int, list[tuple[int, Any]]]:
        """How often the machine was reset, and the entries of a list with their numbers."""
        path, record = _LISTS[name]
        return self._resets, [(fields["seq"], record(fields)) for fields in records.fields_of(self._show(path))]

    def _list(self, name: str) -> list[Any]:
        return [record for _, record in self._numbered(name)[1]]

    # What it remembers ---------------------------------------------------------------------------------------------

    @property
    def log(self) -> list[LogMessage]:
        """The kernel log since boot."""
        return self._list("log")

    @property
    def uevents(self) -> list[Uevent]:
        """The uevents since boot, in order."""
        return self._list("uevents")

    @property
    def refused(self) -> list[Refusal]:
        """Operations that were refused since boot, and why; the last 1,024."""
        return self._list("refused")

    @property
    def writes(self) -> list[Write]:
        """Writes since `trace_writes`, in the order in which they began."""
        return self._list("writes")

    def trace_writes(self, *, on: bool = True) -> None:
        """Note all writes from now on in `writes`, which is emptied; or no longer."""
        self._store("/control/writes", str(int(on)))

    # What is done to it --------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Boot again: everything is as at the start, files that are open are dead (ENODEV).

        What was remembered is forgotten; a trace of writes goes on.
        """
        self._store("/control/reset", "1")
        self._resets += 1

    def pin(self, block: int) -> None:
        """A page of memory block `block` does not migrate: to offline the block waits until `unpin` or a signal."""
        self._store(f"/control/blocks/memory{block}/pinned", "1")

    def unpin(self, block: int) -> None:
        """The opposite of `pin`."""
        self._store(f"/control/blocks/memory{block}/pinned", "0")

    def set_unmovable(self, block: int, *, unmovable: bool = True) -> None:
        """A page of memory block `block` cannot be moved: to offline the block fails with EBUSY. Or no longer."""
        self._store(f"/control/blocks/memory{block}/unmovable", str(int(unmovable)))

    def set_latency(self, *, online_block: float | None = None, offline_block: float | None = None) -> None:
        """Seconds that it takes to online or offline a block; None leaves it as it is."""
        for name, seconds in (("online_block", online_block), ("offline_block", offline_block)):
            if seconds is not None:
                self._store(f"/control/latency/{name}", repr(seconds))
