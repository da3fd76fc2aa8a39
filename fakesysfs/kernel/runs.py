"""Runs of equal things: a map from whole numbers to values that costs by the run, not by the number.

Memory blocks that were added together and are in the same state are one entry, so that 64 TiB cost what one block does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class Runs(Generic[V]):
    """Disjoint ascending runs (first, last, value), neighbours with equal values joined."""

    __slots__ = ("_firsts", "_lasts", "_values")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._values: list[V] = []

    def get(self, number: int) -> V | None:
        """The value of one number, None if it has none."""
        position = bisect_right(self._firsts, number) - 1
        if position >= 0 and number <= self._lasts[position]:
            return self._values[position]
        return None

    def run(self, number: int) -> tuple[int, int, V] | None:
        """The whole run around a number."""
        position = bisect_right(self._firsts, number) - 1
        if position >= 0 and number <= self._lasts[position]:
            return self._firsts[position], self._lasts[position], self._values[position]
        return None

    def between(self, first: int, last: int) -> Iterator[tuple[int, int, V]]:
        """The runs in first..last, cut at its ends. The map may change between two steps: each step looks again."""
        at = first
        while at <= last:
            position = bisect_right(self._firsts, at) - 1
            if position < 0 or at > self._lasts[position]:
                position += 1
                if position >= len(self._firsts) or self._firsts[position] > last:
                    return
                at = self._firsts[position]
            end = min(last, self._lasts[position])
            yield at, end, self._values[position]
            at = end + 1

    def backwards(self, first: int, last: int) -> Iterator[tuple[int, int, V]]:
        """The runs in first..last from the highest down, cut at its ends; the map must not change meanwhile."""
        position = bisect_right(self._firsts, last) - 1
        while position >= 0 and self._lasts[position] >= first:
            yield max(first, self._firsts[position]), min(last, self._lasts[position]), self._values[position]
            position -= 1

    def set(self, first: int, last: int, value: V) -> None:
        """Give first..last this value."""
        self._put(first, last, [value])

    def clear(self, first: int, last: int) -> None:
        """Take the values of first..last away."""
        self._put(first, last, [])

    def _put(self, first: int, last: int, value: list[V]) -> None:
        firsts, lasts, values = self._firsts, self._lasts, self._values
        low = bisect_right(firsts, first) - 1
        if low < 0 or lasts[low] < first:
            low += 1
        high = bisect_right(firsts, last)
        new: list[tuple[int, int, V]] = []
        if low < high and firsts[low] < first:
            new.append((firsts[low], first - 1, values[low]))
        new += [(first, last, single) for single in value]
        if low < high and lasts[high - 1] > last:
            new.append((last + 1, lasts[high - 1], values[high - 1]))
        if low > 0 and lasts[low - 1] == first - 1:
            low -= 1
            new.insert(0, (firsts[low], lasts[low], values[low]))
        if high < len(firsts) and firsts[high] == last + 1:
            new.append((firsts[high], lasts[high], values[high]))
            high += 1
        joined: list[tuple[int, int, V]] = []
        for run in new:
            if joined and joined[-1][1] + 1 == run[0] and joined[-1][2] == run[2]:
                joined[-1] = (joined[-1][0], run[1], run[2])
            else:
                joined.append(run)
        firsts[low:high] = [run[0] for run in joined]
        lasts[low:high] = [run[1] for run in joined]
        values[low:high] = [run[2] for run in joined]

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        return iter(list(zip(self._firsts, self._lasts, self._values, strict=True)))

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._firsts)
