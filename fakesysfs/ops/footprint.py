"""What one step of an operation read and changed, so that a search can tell which steps commute.

A place is a field of an object, `("Zone", (1, "Movable"), "present")`, or a memory block,
`("memory", 70)`. What cannot be recorded place by place is EVERYTHING, which meets every place. So a
doubt makes steps conflict. ops/recording.py records.

The log and the uevents are no place: two steps that both log do not conflict by that, unless
somebody reads in which order they did. `notes` says that a step logged or sent something.
"""

from __future__ import annotations

from collections.abc import Hashable

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
        self.ranges: set[str] = set()
        """The names of ranges of which places are among `writes`. A place (name,) among `reads` is the whole range."""
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
            self.ranges.add(name)

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
            or any((name,) in other.reads for name in self.ranges)
            or any((name,) in self.reads for name in other.ranges)
            or (self.notes and EVERYTHING in other.reads)
            or (other.notes and EVERYTHING in self.reads)
        )

    def __repr__(self) -> str:
        return f"Footprint(reads={self.reads}, writes={self.writes}, notes={self.notes})"


def _meet(some: set[Hashable], others: set[Hashable]) -> bool:
    if not some or not others:
        return False
    return EVERYTHING in some or EVERYTHING in others or not some.isdisjoint(others)
