"""What one step of an operation read and changed, so that a search can tell which steps commute.

A place is a field of an object, `("Zone", (1, "Movable"), "present")`, or a memory block,
`("memory", 70)`. What cannot be recorded place by place is EVERYTHING, which meets every place. So a
doubt makes steps conflict. ops/recording.py records.

What only shows the order of things is no place: the log, the uevents, the refusals. `notes` says what
a step has added there, `hears` what it has read there. Two steps that both log do not conflict by
that, unless somebody reads in which order they did. Who reads the log conflicts with those who log.
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

LOG, UEVENTS, REFUSALS, PROCESSED = 1, 2, 4, 8
"""Bits: messages, uevents, refused calls, and the uevents that udevd says it has processed."""
ALL_NOTES = LOG | UEVENTS | REFUSALS | PROCESSED

_MOST_NUMBERS = 256
"""A change of a range of more numbers than this is EVERYTHING."""


class Footprint:
    """The places that a step read and those that it changed."""

    __slots__ = ("hears", "notes", "ranges", "reads", "writes")

    def __init__(self) -> None:
        self.reads: set[Hashable] = set()
        self.writes: set[Hashable] = set()
        self.ranges: set[Hashable] = set()
        """Places (name,), if places of that range are among `writes`. Among `reads` such a place is the whole range."""
        self.notes = 0
        """What the step has added to: it logged a message, sent a uevent, was refused. Bits as above."""
        self.hears = 0
        """What it has read of that, or waits for. Bits as above."""

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
        self.hears |= other.hears

    def conflicts(self, other: Footprint, *, order_matters: int = 0) -> bool:
        """Whether the two steps may have another outcome in the other order.

        `order_matters`: of which notes somebody reads the order. Bits as above.
        """
        if self.notes & (other.hears | (other.notes & order_matters)) or self.hears & other.notes:
            return True
        return (
            _meet(self.writes, other.writes)
            or _meet(self.writes, other.reads)
            or _meet(self.reads, other.writes)
            or not self.ranges.isdisjoint(other.reads)
            or not other.ranges.isdisjoint(self.reads)
            or (self.notes != 0 and EVERYTHING in other.reads)
            or (other.notes != 0 and EVERYTHING in self.reads)
        )

    def packed(self) -> list[Any]:
        """As JSON can hold it. Each place is a number, also when it is packed again. Two may become one: a doubt."""
        return [*(_packed(places) for places in (self.reads, self.writes, self.ranges)), self.notes, self.hears]

    @classmethod
    def unpacked(cls, said: list[Any]) -> Footprint:
        """Of what `packed` has made. Raises TypeError, ValueError."""
        footprint = cls()
        reads, writes, ranges, footprint.notes, footprint.hears = said
        for places, numbers in ((footprint.reads, reads), (footprint.writes, writes), (footprint.ranges, ranges)):
            places.update(EVERYTHING if number == _EVERYTHING_PACKED else number for number in numbers)
        return footprint

    def __repr__(self) -> str:
        return f"Footprint(reads={self.reads}, writes={self.writes}, notes={self.notes}, hears={self.hears})"


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
