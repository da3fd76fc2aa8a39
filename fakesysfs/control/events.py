"""Uevents as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from fakesysfs.kernel.uevent import UeventRange


def uevent_line(number: int, lines: list[str]) -> str:
    """An event on one line, with its number."""
    return f"{' '.join(lines)} SEQNUM={number}\n"


class EventLines:
    """The events of one record, a line each (see `transcript.Piece`).

    They differ in two numbers only, so nothing is written out to know how long they are.
    """

    __slots__ = ("_fixed", "_record")

    def __init__(self, record: UeventRange) -> None:
        self._record = record
        self._fixed = 0
        self._fixed = len(next(self.lines(0))) - self.length(1)
        """Bytes of a line but for its numbers."""

    @property
    def first(self) -> int:
        """See Piece."""
        return self._record.sequence

    @property
    def count(self) -> int:
        """See Piece."""
        return self._record.events

    def length(self, count: int) -> int:
        """See Piece."""
        record = self._record
        length = count * self._fixed + _digits(record.sequence, count)
        if record.first >= 0:
            length += 2 * _digits(record.first, count)  # in the first word and in DEVPATH
        return length

    def lines(self, skip: int) -> Iterator[bytes]:
        """See Piece."""
        for number, lines in self._record.expand(self._record.sequence + skip):
            yield uevent_line(number, lines).encode("utf-8", "surrogateescape")


def _digits(first: int, count: int) -> int:
    """Decimal digits of `first` and the numbers after it, `count` in all."""
    end, total, shortest = first + count, count, 10
    while shortest < end:
        total += end - max(first, shortest)
        shortest *= 10
    return total
