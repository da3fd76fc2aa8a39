"""What machines in process and mounted machines have in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from fakesysfs.testing import records
from fakesysfs.testing.records import LogMessage, Refusal, Uevent, Write

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

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
    """What a machine remembers, and what a test does to it. No call waits.

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
        """Whether the file or directory exists."""
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
        """System calls that were refused since boot, and why; the last 1,024."""
        return self._list("refused")

    @property
    def writes(self) -> list[Write]:
        """Writes since `trace_writes`, in the order in which they began."""
        return self._list("writes")

    def trace_writes(self, *, on: bool = True) -> None:
        """Empty `writes` and trace all writes from now on. `on=False` ends the trace."""
        self._store("/control/writes", str(int(on)))

    # What is done to it --------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Boot again. All is as at the start; open files are dead (ENODEV).

        The lists are empty after it. A trace of writes goes on.
        """
        self._store("/control/reset", "1")
        self._resets += 1

    def pin(self, block: int) -> None:
        """Pin a page of memory block `block`: offlining the block waits for `unpin` or a signal."""
        self._store(f"/control/blocks/memory{block}/pinned", "1")

    def unpin(self, block: int) -> None:
        """Release the page that `pin` pinned."""
        self._store(f"/control/blocks/memory{block}/pinned", "0")

    def set_unmovable(self, block: int, *, unmovable: bool = True) -> None:
        """Give memory block `block` an unmovable page, or take it away.

        Offlining a block with an unmovable page fails with EBUSY.
        """
        self._store(f"/control/blocks/memory{block}/unmovable", str(int(unmovable)))

    def set_latency(self, *, online_block: float | None = None, offline_block: float | None = None) -> None:
        """Set the seconds that onlining or offlining a block takes; None keeps the value."""
        for name, seconds in (("online_block", online_block), ("offline_block", offline_block)):
            if seconds is not None:
                self._store(f"/control/latency/{name}", repr(seconds))
