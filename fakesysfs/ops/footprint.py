"""What one step of an operation read and changed, so that a search can tell which steps commute.

The model records places: `("memory", 70)`, `("node", 1)`, `("auto_online_blocks",)`. What is not
recorded place by place is EVERYTHING, which meets every place. So a doubt makes steps conflict, and
no doubt makes them commute.

The log and the uevents are no place: two steps that both log do not conflict by that, unless
somebody reads in which order they did. `notes` says that a step logged or sent something.
"""

from __future__ import annotations

from collections.abc import Hashable

EVERYTHING: Hashable = ("everything",)
"""The place that meets all places."""

_MOST_NUMBERS = 256
"""A range of more numbers than this is EVERYTHING."""


class Footprint:
    """The places that a step read and those that it changed."""

    __slots__ = ("notes", "reads", "writes")

    def __init__(self) -> None:
        self.reads: set[Hashable] = set()
        self.writes: set[Hashable] = set()
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
        self._range(self.reads, name, first, last)

    def write_range(self, name: str, first: int, last: int) -> None:
        """The step changed the places (name, first) to (name, last)."""
        self._range(self.writes, name, first, last)

    @staticmethod
    def _range(places: set[Hashable], name: str, first: int, last: int) -> None:
        if last - first >= _MOST_NUMBERS:
            places.add(EVERYTHING)
        else:
            places.update((name, number) for number in range(first, last + 1))

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
            or (self.notes and EVERYTHING in other.reads)
            or (other.notes and EVERYTHING in self.reads)
        )

    def __repr__(self) -> str:
        return f"Footprint(reads={self.reads}, writes={self.writes}, notes={self.notes})"


def _meet(some: set[Hashable], others: set[Hashable]) -> bool:
    if not some or not others:
        return False
    return EVERYTHING in some or EVERYTHING in others or not some.isdisjoint(others)
