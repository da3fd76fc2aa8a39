"""A search shared out over several machines: each explores the orders that begin in its own ways.

All shards first search the same few orders without reduction, until there are enough branches; each then takes every
n-th branch. Between branches there is no reduction. So orders of two shards may differ in commuting steps only, and
the shards together may explore more orders than one search. The first shard counts the orders of the beginning.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fakesysfs.explore.messages import step_of
from fakesysfs.explore.order import Order
from fakesysfs.explore.reduction import ReducedSearch
from fakesysfs.explore.search import LONGEST, Branch, Found, Runner, Search

BRANCHES_EACH = 4
"""How many branches each shard gets, at least, if there are so many."""


class Shard(NamedTuple):
    """One of some equal parts of a search."""

    number: int
    """From 1."""
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/3`. Raises ValueError."""
        number, of = map(int, text.split("/"))
        if not 1 <= number <= of:
            raise ValueError(text)
        return cls(number, of)


class ShardedSearch:
    """One shard of a search. Any number of workers share it; all options are those of `Search`."""

    def __init__(
        self,
        shard: Shard,
        *,
        reduction: bool,
        preemptions: int | None = None,
        limit: int | None = None,
        seconds: float | None = None,
        longest: int = LONGEST,
        told: Callable[[ShardedSearch], None] | None = None,
    ) -> None:
        self.began = time.monotonic()
        self.digest = 0
        """Equal for all shards of one search that were split in the same way."""
        self._shard = shard
        self._reduction = reduction
        self._preemptions = preemptions
        self._limit = limit
        self._seconds = seconds
        self._longest = longest
        self._told = told
        self._branches: list[Branch] | None = None
        self._searches: list[Search | ReducedSearch] = []
        self._splitting = threading.Lock()
        self._stopped = False

    @property
    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self.began

    @property
    def pending(self) -> int:
        """Branches that are known and were not taken yet."""
        return sum(search.pending for search in self._searches) + len(self._branches or ())

    @property
    def found(self) -> Found:
        """What all workers have found so far."""
        found = Found(reduces=self._reduction)
        for search in list(self._searches):
            found.merge(search.found)
        found.interrupted |= bool(self._branches)
        return found

    def work(self, runner: Runner) -> None:
        """Search until no branch of this shard is left, or a limit is reached."""
        with self._splitting:
            if self._branches is None:
                self._split(runner)
        position = 0
        while (search := self._search(position)) is not None:
            search.work(runner)
            position += 1

    def stop(self) -> None:
        """End the search after the orders that run now."""
        self._stopped = True
        for search in list(self._searches):
            search.stop()

    def _split(self, runner: Runner) -> None:
        first = Search(preemptions=self._preemptions, longest=self._longest)
        first.work(runner, until_pending=BRANCHES_EACH * self._shard.of)
        branches = first.take_pending()
        self.digest = zlib.crc32(repr([branch.prefix for branch in branches]).encode())
        self._branches = branches[self._shard.number - 1 :: self._shard.of]
        if self._shard.number == 1:
            self._searches.append(first)

    def _search(self, position: int) -> Search | ReducedSearch | None:
        """The search at this position in the order in which they were begun; begins one if there is none."""
        with self._splitting:
            if position < len(self._searches):
                return self._searches[position]
            if not self._branches or self._stopped or self._is_at_a_limit():
                return None
            left = None if self._limit is None else self._limit - self._run
            seconds = None if self._seconds is None else self._seconds - self.elapsed
            told = self._tell if self._told is not None else None
            if self._reduction:
                first = self._branches.pop()
                search: Search | ReducedSearch = ReducedSearch(
                    preemptions=self._preemptions,
                    limit=left,
                    seconds=seconds,
                    longest=self._longest,
                    first=first,
                    told=told,
                )
            else:
                search = Search(
                    preemptions=self._preemptions,
                    limit=left,
                    seconds=seconds,
                    longest=self._longest,
                    first=self._branches,
                    told=told,
                )
                self._branches = []
            self._searches.append(search)
            return search

    @property
    def _run(self) -> int:
        found = self.found
        return found.explored + found.cut

    def _is_at_a_limit(self) -> bool:
        too_many = self._limit is not None and self._run >= self._limit
        return too_many or (self._seconds is not None and self.elapsed >= self._seconds)

    def _tell(self, _search: object) -> None:
        assert self._told is not None
        self._told(self)


# Files of shards ------------------------------------------------------------------------------------------------------


class MergeError(Exception):
    """The files are not the shards of one search: why."""


def as_json(shard: Shard, digest: int, task: dict[str, Any], found: Found) -> dict[str, Any]:
    """What a shard's result says beside the rest, for `merge`."""
    return {
        "number": shard.number,
        "of": shard.of,
        "split": digest,
        "task": task,
        "given_up": found.given_up,
        "reduced": found.reduced,
        "bounded": found.bounded,
        "interrupted": found.interrupted,
        "pairs": sorted(found.pairs),
    }


def merge(results: Sequence[dict[str, Any]]) -> tuple[Found, list[Order]]:
    """What the shards have found together, and the failing orders. Raises MergeError, KeyError, TypeError."""
    shards = [result["shard"] for result in results]
    first = shards[0]
    for shard, result in zip(shards, results, strict=True):
        same = all(shard[key] == first[key] for key in ("of", "split", "task"))
        if not same or result["preemptions"] != results[0]["preemptions"]:
            raise MergeError(f"shard {shard['number']} is not of the same search as shard {first['number']}")
    numbers = sorted(shard["number"] for shard in shards)
    if numbers != list(range(1, first["of"] + 1)):
        given = ", ".join(map(str, numbers))
        raise MergeError(f"a search in {first['of']} shards needs each of them once, and these are {given}")
    found = Found(reduces=results[0]["reduction"])
    orders = []
    for result in results:
        shard = result["shard"]
        counts = {key: shard[key] for key in ("given_up", "reduced", "bounded", "interrupted")}
        part = Found(explored=result["explored"], failed=result["failed"], **counts)
        part.pairs = {(one, other) for one, other in shard["pairs"]}
        found.merge(part)
        orders += [_order_of(failure) for failure in result["failures"]]
    return found, sorted(orders, key=lambda order: order.length)


def _order_of(failure: dict[str, Any]) -> Order:
    runnable = [tuple(names) for names in failure["runnable"]]
    steps = [step_of(step) for step in failure["steps"]]
    return Order(steps, runnable, why=failure["why"], kind=failure["kind"])
