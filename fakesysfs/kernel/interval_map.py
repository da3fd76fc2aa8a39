"""A map from integers to values that stores runs of equal values.

Memory blocks that were added together and have the same state are one entry. So 64 TiB cost as much
as one block.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class IntervalMap(Generic[V]):
    """Disjoint ascending runs (first, last, value); adjacent runs with equal values are joined."""

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

    def span(self, number: int) -> tuple[int, int] | None:
        """First and last number of the run around a number."""
        found = self.run(number)
        return None if found is None else found[:2]

    def between(self, first: int, last: int) -> Iterator[tuple[int, int, V]]:
        """The runs in first..last, cut at its ends. The map may change between steps."""
        while (run := self.first_between(first, last)) is not None:
            yield run
            first = run[1] + 1

    def backwards(self, first: int, last: int) -> Iterator[tuple[int, int, V]]:
        """The runs in first..last from the highest down, cut at its ends.

        The map must not change during the walk.
        """
        position = bisect_right(self._firsts, last) - 1
        while position >= 0 and self._lasts[position] >= first:
            yield max(first, self._firsts[position]), min(last, self._lasts[position]), self._values[position]
            position -= 1

    def first_between(self, first: int, last: int) -> tuple[int, int, V] | None:
        """The first of the runs in first..last, cut at its ends."""
        position = bisect_left(self._lasts, first)
        if first > last or position == len(self._firsts) or self._firsts[position] > last:
            return None
        return max(first, self._firsts[position]), min(last, self._lasts[position]), self._values[position]

    def set(self, first: int, last: int, value: V) -> None:
        """Give first..last this value."""
        firsts, lasts, values = self._firsts, self._lasts, self._values
        low, high = bisect_left(lasts, first), bisect_right(firsts, last)
        before, after = self._outside(first, last, low, high)
        if before:
            if before[0][2] == value:
                first = before.pop()[0]
        elif low and lasts[low - 1] == first - 1 and values[low - 1] == value:
            low -= 1
            first = firsts[low]
        if after:
            if after[0][2] == value:
                last = after.pop()[1]
        elif high < len(firsts) and firsts[high] == last + 1 and values[high] == value:
            last = lasts[high]
            high += 1
        self._replace(low, high, [*before, (first, last, value), *after])

    def clear(self, first: int, last: int) -> None:
        """Remove the values of first..last."""
        low, high = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        before, after = self._outside(first, last, low, high)
        self._replace(low, high, before + after)

    def _outside(
        self, first: int, last: int, low: int, high: int
    ) -> tuple[list[tuple[int, int, V]], list[tuple[int, int, V]]]:
        """The parts of the runs low..high (exclusive) that lie before first and after last."""
        if low >= high:
            return [], []
        begin, end = self._firsts[low], self._lasts[high - 1]
        return (
            [(begin, first - 1, self._values[low])] if begin < first else [],
            [(last + 1, end, self._values[high - 1])] if end > last else [],
        )

    def _replace(self, low: int, high: int, runs: list[tuple[int, int, V]]) -> None:
        if high - low == len(runs) == 1:
            self._firsts[low], self._lasts[low], self._values[low] = runs[0]
            return
        self._firsts[low:high] = [run[0] for run in runs]
        self._lasts[low:high] = [run[1] for run in runs]
        self._values[low:high] = [run[2] for run in runs]

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        return iter(list(zip(self._firsts, self._lasts, self._values, strict=True)))

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._firsts)
