"""A file that grows like a log file, for `tail -f` and other readers.

The position of a byte never changes: st_size counts all bytes that the log ever had. A full log
drops its oldest lines. A reader whose position was dropped, or that starts at 0, gets a notice of
how many lines are missing in all, then the oldest line that is kept. From there on its position
counts the bytes that it has read.
"""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """A text that grows at its end and, when it is full, loses its beginning (`control/kmsg`)."""

    @property
    def size(self) -> int:
        """All bytes that the log ever had."""
        ...

    @property
    def dropped(self) -> int:
        """How many bytes were dropped from its beginning."""
        ...

    def notice(self) -> bytes:
        """The line that stands for the dropped ones."""
        ...

    def text(self, position: int, size: int) -> bytes:
        """`size` bytes from `position`, which is not dropped; fewer at the end."""
        ...


class LogReader:
    """One reader's place in a log. A read goes on where the last one ended, even at the end."""

    __slots__ = ("_cut", "_end", "_log", "_notice", "_place")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._end = 0
        """The reader's position after its last read."""
        self._place = 0
        """The position in the log that belongs to `_end`."""
        self._notice = b""
        """The rest of the last notice, to be read before `_place`."""
        self._cut = False
        """The last read ended within a line."""

    @property
    def size(self) -> int:
        """The st_size in bytes."""
        return self._log.size

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`; fewer only at the end."""
        log = self._log
        if position != self._end or not position:
            self._place, self._notice, self._cut = position, b"", False
        dropped = log.dropped
        if self._place < dropped:
            # The rest of a line that was dropped is lost: the next line must not be glued to its beginning.
            self._place, self._notice = dropped, (b"\n" if self._cut else b"") + log.notice()
        data, self._notice = self._notice[:size], self._notice[size:]
        more = log.text(self._place, size - len(data))
        self._place += len(more)
        self._end = position + len(data) + len(more)
        read = data + more
        if read:
            self._cut = not read.endswith(b"\n")
        return read
