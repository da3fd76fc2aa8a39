"""A pool of numbers that always gives the lowest free one (lib/idr.c, ida_alloc)."""

from __future__ import annotations


class Ida:
    """struct ida."""

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def __len__(self) -> int:
        """How many numbers are given out."""
        return len(self._taken)

    def take(self) -> int:
        """Take the lowest free number."""
        number = next(number for number in range(len(self._taken) + 1) if number not in self._taken)
        self._taken.add(number)
        return number

    def take_number(self, number: int) -> int:
        """Take this number if it is free, else the lowest free one."""
        if number in self._taken:
            return self.take()
        self._taken.add(number)
        return number

    def release(self, number: int) -> None:
        """Give a number back."""
        self._taken.discard(number)
