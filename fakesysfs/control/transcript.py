"""The lines of a bounded record as a log (kernfs/log.py), without keeping their text.

Half a million uevents may be one entry of their record, so lines are counted and measured by the
piece.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

_UNSEEN = 64
"""Bytes by which st_size grows for a line that was dropped before anybody measured it.

More than the notice takes: `tail -f` reads no more bytes than st_size has grown by.
"""


class Piece(Protocol):
    """Lines that follow one another."""

    @property
    def first(self) -> int:
        """The number of its first line."""
        ...

    @property
    def count(self) -> int:
        """The number of its lines."""
        ...

    def length(self, count: int) -> int:
        """Bytes of its first `count` lines."""
        ...

    def lines(self, skip: int) -> Iterator[bytes]:
        """Its lines after the first `skip`."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """A piece of one line."""

    first: int
    data: bytes

    @classmethod
    def of(cls, number: int, text: str) -> Line:
        """The line with that number."""
        return cls(number, text.encode("utf-8", "surrogateescape"))

    @property
    def count(self) -> int:
        """See Piece."""
        return 1

    def length(self, count: int) -> int:
        """See Piece."""
        return len(self.data) * count

    def lines(self, skip: int) -> Iterator[bytes]:
        """See Piece."""
        return iter((self.data,)[skip:])


class _Mark(NamedTuple):
    """A piece and the position of its first byte."""

    position: int
    piece: Piece


class Transcript:
    """The log of one record.

    `kept` gives the number of the oldest line that is kept and that of the next line. `pieces` gives
    the kept pieces, beginning with the piece of a given line. The last piece may grow. `notice` gives
    the line that stands for dropped lines, "" if none does.
    """

    def __init__(
        self,
        kept: Callable[[], tuple[int, int]],
        pieces: Callable[[int], Iterable[Piece]],
        notice: Callable[[], str],
        first: int = 0,
    ) -> None:
        self._kept = kept
        self._pieces = pieces
        self._notice = notice
        self._marks: list[_Mark] = []
        self._seen = first, first
        self._size = 0

    @property
    def size(self) -> int:
        """See Log."""
        self._look()
        return self._size

    @property
    def dropped(self) -> int:
        """See Log."""
        self._look()
        return self._marks[0].position if self._marks else self._size

    def notice(self) -> bytes:
        """See Log."""
        return self._notice().encode()

    def text(self, position: int, size: int) -> bytes:
        """See Log."""
        self._look()
        marks, left = self._marks, size
        parts: list[bytes] = []
        index = bisect_right(marks, position, key=_position_of) - 1
        while left > 0 and position < self._size:
            start, piece = marks[index]
            skip = bisect_right(range(1, piece.count + 1), position - start, key=piece.length)
            cut = position - start - piece.length(skip)
            for line in piece.lines(skip):
                part = line[cut : cut + left]
                parts.append(part)
                position += len(part)
                left -= len(part)
                cut = 0
                if not left:
                    break
            index += 1
        return b"".join(parts)

    def _look(self) -> None:
        """Take over what came and went since the last look."""
        first, end = now = self._kept()
        if now == self._seen:
            return
        marks, following = self._marks, self._seen[1]
        self._seen = now
        if marks and marks[-1].piece.first >= first:
            self._size, following = marks[-1].position, marks.pop().piece.first
        if following < first:
            self._size += (first - following) * _UNSEEN
            following = first
        del marks[: bisect_right(marks, first - 1, key=_first_of)]
        for piece in self._pieces(following) if following < end else ():
            marks.append(_Mark(self._size, piece))
            self._size += piece.length(piece.count)


def _position_of(mark: _Mark) -> int:
    return mark.position


def _first_of(mark: _Mark) -> int:
    return mark.piece.first
