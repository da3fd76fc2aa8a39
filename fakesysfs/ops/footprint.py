"""What one step of an operation read and changed, so that a search can tell which steps commute.

A place is a field of an object, `("Zone", (1, "Movable"), "present")`, or a memory block,
`("memory", 70)`. What cannot be recorded place by place is EVERYTHING, which meets every place. So a
doubt makes steps conflict. ops/recording.py records.

The log and the uevents are no place: two steps that both log do not conflict by that, unless
somebody reads in which order they did. `notes` says that a step logged or sent something.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import Any

EVERYTHING: Hashable = ("everything",)
"""The place that meets all places."""

MACHINE: Hashable = ("machine",)
"""The place that each step reads, so that EVERYTHING meets a step that reads nothing else."""

_MOST_NUMBERS = 256
"""A change of a range of more numbers than this is EVERYTHING."""


class Footprint:
    """The places that a step read and those that it changed."""

    __slots__ = ("notes", "ranges", "reads", "writes")

    def __init__(self) -> None:
        self.reads: set[Hashable] = set()
        self.writes: set[Hashable] = set()
        self.ranges: set[Hashable] = set()
        """Places (name,), if places of that range are among `writes`. Among `reads` such a place is the whole range."""
        self.notes = False
        """The step logged a message, sent a uevent, or was refused."""

    def read(self, place: Hashable) -> None:
        """The step read this place."""
        self.reads.add(place)

    def write(self, place: Hashable) -> None:
        """The step changed this place."""
        self.writes.add(place)

    def read_range(self, name: str, first: int, last: int) -> None:
        """The step read the places (name, first) to (name, last)."""
        if last - first >= _MOST_NUMBERS:
            self.read_all(name)
        else:
            self.reads.update((name, number) for number in range(first, last + 1))

    def read_all(self, name: str) -> None:
        """The step read all places (name, number), or may have."""
        self.reads.add((name,))

    def write_range(self, name: str, first: int, last: int) -> None:
        """The step changed the places (name, first) to (name, last)."""
        if last - first >= _MOST_NUMBERS:
            self.writes.add(EVERYTHING)
        else:
            self.writes.update((name, number) for number in range(first, last + 1))
            self.ranges.add((name,))

    def add(self, other: Footprint) -> None:
        """The step did that too."""
        self.reads |= other.reads
        self.writes |= other.writes
        self.ranges |= other.ranges
        self.notes |= other.notes

    def conflicts(self, other: Footprint, *, order_matters: bool = False) -> bool:
        """Whether the two steps may have another outcome in the other order.

        `order_matters`: somebody reads the order of log messages and uevents.
        """
        if order_matters and self.notes and other.notes:
            return True
        return (
            _meet(self.writes, other.writes)
            or _meet(self.writes, other.reads)
            or _meet(self.reads, other.writes)
            or not self.ranges.isdisjoint(other.reads)
            or not other.ranges.isdisjoint(self.reads)
            or (self.notes and EVERYTHING in other.reads)
            or (other.notes and EVERYTHING in self.reads)
        )

    def packed(self) -> list[Any]:
        """As JSON can hold it. Each place is a number, also when it is packed again. Two may become one: a doubt."""
        return [*(_packed(places) for places in (self.reads, self.writes, self.ranges)), self.notes]

    @classmethod
    def unpacked(cls, said: list[Any]) -> Footprint:
        """Of what `packed` has made. Raises TypeError, ValueError."""
        footprint = cls()
        reads, writes, ranges, footprint.notes = said
        for places, numbers in ((footprint.reads, reads), (footprint.writes, writes), (footprint.ranges, ranges)):
            places.update(EVERYTHING if number == _EVERYTHING_PACKED else number for number in numbers)
        return footprint

    def __repr__(self) -> str:
        return f"Footprint(reads={self.reads}, writes={self.writes}, notes={self.notes})"


_EVERYTHING_PACKED = 0


@lru_cache(maxsize=100_000)
def _number(place: Hashable) -> int:
    return place if isinstance(place, int) else zlib.crc32(repr(place).encode()) or 1


def _packed(places: Iterable[Hashable]) -> list[int]:
    return sorted({_EVERYTHING_PACKED if place == EVERYTHING else _number(place) for place in places})


def _meet(some: set[Hashable], others: set[Hashable]) -> bool:
    if not some or not others:
        return False
    return EVERYTHING in some or EVERYTHING in others or not some.isdisjoint(others)
