"""A file that grows like a log file: what a reader, `tail -f` among them, finds at which position.

The position of a byte never changes: st_size counts every byte that the log ever had. When the log
is full it drops its oldest lines. A reader whose position was dropped gets a notice of how many lines
are missing in all, then the oldest line that is kept. So does a reader that starts at 0. From there
on its positions count what it has read.
"""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """A text that grows at its end and, when it is full, loses its beginning (`control/kmsg`)."""

    @property
    def size(self) -> int:
        """Bytes that it ever had, dropped ones too."""
        ...

    @property
    def dropped(self) -> int:
        """Bytes at its beginning that are no longer kept."""
        ...

    def notice(self) -> bytes:
        """The line that stands for what was dropped."""
        ...

    def text(self, position: int, size: int) -> bytes:
        """`size` bytes from a position that is kept on, fewer at the end."""
        ...


class LogReader:
    """One reader's place in a log. It goes on where the last read ended, at the end of the log too."""

    __slots__ = ("_end", "_log", "_notice", "_place")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._end = 0
        """The reader's position after its last read."""
        self._place = 0
        """The position in the log that belongs to `_end`."""
        self._notice = b""
        """What is left of the last notice; it comes before `_place`."""

    @property
    def size(self) -> int:
        """What fstat(2) says."""
        return self._log.size

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes; fewer only where nothing follows."""
        log = self._log
        if position != self._end or not position:
            self._place, self._notice = position, b""
        dropped = log.dropped
        if self._place < dropped:
            self._place, self._notice = dropped, log.notice()
        data, self._notice = self._notice[:size], self._notice[size:]
        more = log.text(self._place, size - len(data))
        self._place += len(more)
        self._end = position + len(data) + len(more)
        return data + more
