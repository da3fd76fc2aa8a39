"""Every order of some programs' steps, depth first, each exactly once.

The search is stateless: it runs the programs again from the start for each order. (A runner may know
a shorter way to the end of a prefix.) A run follows a prefix, and then goes on without further
switches. Each step after the prefix that another process could have taken is a branch: the steps
before it, and that other process. So every order belongs to exactly one branch. The last branch is
taken first, which keeps as many branches in memory as one order has, and workers can take branches
side by side.

With a bound on preemptions the orders without preemptions come first, then those with one, and so
on: a failing order is found with as few as possible, and a search that is ended early has explored all orders
with fewer. That keeps more branches; from MOST_PENDING on the last branch is taken first again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from fakesysfs.explore.order import AsleepError, DivergedError, Guide, Order, Step, TooLongError, is_preemption

LONGEST = 10_000
"""Steps of one order, unless the caller says otherwise."""
MOST_PENDING = 50_000
"""Branches that a bounded search keeps."""
KEPT = 100
"""Failing orders that are kept with their steps."""


class Runner(Protocol):
    """Runs all programs once, from the same beginning, one step at a time."""

    def run(self, guide: Guide) -> None:
        """Run one order: ask `guide` who goes on, tell it each step, set its order's `why`.

        Raises DivergedError and TooLongError of the guide, after the programs have been ended.
        """


class Branch(NamedTuple):
    """The orders that begin with `prefix`."""

    prefix: tuple[str, ...]
    steps: Sequence[Step]
    """Those of the order that has this branch."""
    preemptions: int

    @property
    def expected(self) -> Sequence[Step]:
        """The steps of the prefix that were taken before: all but the last."""
        return self.steps[: max(len(self.prefix) - 1, 0)]


WHOLE = Branch((), (), 0)
"""All orders."""


@dataclass(slots=True)
class Found:
    """What a search has found so far."""

    explored: int = 0
    """Orders that were run to their end."""
    given_up: int = 0
    """Orders that were given up: too long, or different when they were repeated."""
    reduces: bool = False
    """Of orders that differ in commuting steps only, one is explored."""
    reduced: int = 0
    """Orders that were stopped, because an order with the same outcome is explored elsewhere."""
    failed: int = 0
    """Explored orders that fail."""
    bounded: int = 0
    """Branches that were left out, because they have more preemptions than the bound."""
    interrupted: bool = False
    """A limit ended the search."""
    fewest: int = 0
    """If a limit ended a bounded search: all orders with fewer preemptions than this were explored."""
    longest: int = 0
    """Steps of the longest order."""
    failures: list[Order] = field(default_factory=list)
    """The failing orders, at most KEPT."""
    not_finished: list[Order] = field(default_factory=list)
    """Orders that were given up, at most KEPT."""
    pairs: set[tuple[str, str]] = field(default_factory=set)
    """Steps of two programs that conflict, in an order in which they were seen, next to each other but for steps that
    commute."""

    @property
    def complete(self) -> bool:
        """Whether all orders were explored."""
        return not (self.given_up or self.bounded or self.interrupted)

    @property
    def cut(self) -> int:
        """Orders that were begun, and not run to their end."""
        return self.given_up + self.reduced

    @property
    def conflicts(self) -> int:
        """Pairs of steps of two programs that conflict, as far as they were seen."""
        return len({frozenset(pair) for pair in self.pairs})

    @property
    def conflicts_both_ways(self) -> int:
        """Those among them that were seen in both orders. The programs themselves may allow one only."""
        return sum(first < second and (second, first) in self.pairs for first, second in self.pairs)

    def note_pair(self, first: Step | None, second: Step | None) -> None:
        """Two steps that conflict were seen in this order."""
        if first is not None and second is not None and first.program != second.program:
            self.pairs.add((first.what, second.what))

    def count(self, order: Order) -> None:
        """Add an order."""
        self.longest = max(self.longest, len(order.steps))
        if order.asleep:
            self.reduced += 1
        elif order.diverged or order.too_long:
            self.given_up += 1
            if len(self.not_finished) < KEPT:
                self.not_finished.append(order)
        else:
            self.explored += 1
            if order.why is not None:
                self.failed += 1
                if len(self.failures) < KEPT:
                    self.failures.append(order)

    def merge(self, other: Found) -> None:
        """Add what a search of other branches has found."""
        self.reduces |= other.reduces
        self.explored += other.explored
        self.given_up += other.given_up
        self.reduced += other.reduced
        self.failed += other.failed
        self.bounded += other.bounded
        self.interrupted |= other.interrupted
        self.longest = max(self.longest, other.longest)
        self.pairs |= other.pairs
        self.failures = [*self.failures, *other.failures][:KEPT]
        self.not_finished = [*self.not_finished, *other.not_finished][:KEPT]


def run_order(
    runner: Runner,
    schedule: Sequence[str] = (),
    *,
    expected: Sequence[Step] = (),
    longest: int | None = LONGEST,
    loosely: bool = False,
) -> Order:
    """Run one order; see `Guide`. One that cannot be followed is `diverged` or `too_long`."""
    return follow(runner, Guide(schedule, expected=expected, longest=longest, loosely=loosely))


def follow(runner: Runner, guide: Guide) -> Order:
    """Run the order that `guide` wants."""
    order = guide.order
    try:
        runner.run(guide)
        guide.ended()
    except DivergedError as error:
        order.diverged = str(error)
    except TooLongError:
        order.too_long = True
    except AsleepError:
        order.asleep = True
    return order


class Search:
    """A search that any number of workers share.

    `preemptions` bounds the preemptions of an order, `limit` the explored orders, `seconds` the
    time. `longest` is the number of steps after which an order is given up. `first` are the
    branches to search, by default all orders. `told` is called after each order.
    """

    def __init__(
        self,
        *,
        preemptions: int | None = None,
        limit: int | None = None,
        seconds: float | None = None,
        longest: int = LONGEST,
        first: Sequence[Branch] = (WHOLE,),
        told: Callable[[Search], None] | None = None,
    ) -> None:
        self.found = Found()
        self.began = time.monotonic()
        self._preemptions = preemptions
        self._limit = limit
        self._seconds = seconds
        self._longest = longest
        self._told = told
        self._branches: dict[int, list[Branch]] = {}
        """By preemptions; under 0 if there is no bound."""
        for branch in first:
            self._keep(branch)
        self._running = 0
        self._started = 0
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def pending(self) -> int:
        """Branches that were not taken yet."""
        return sum(map(len, self._branches.values()))

    @property
    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self.began

    def take_pending(self) -> list[Branch]:
        """Take all branches that are left, for other searches."""
        branches = [branch for _, some in sorted(self._branches.items()) for branch in some]
        self._branches.clear()
        return branches

    def work(self, runner: Runner, *, until_pending: int | None = None) -> None:
        """Search with `runner` until no branch is left, or a limit is reached.

        With `until_pending`, also until so many branches are left. Any exception of the runner
        ends the search for all workers.
        """
        while self.work_once(runner, until_pending=until_pending):
            pass

    def work_once(self, runner: Runner, *, until_pending: int | None = None) -> bool:
        """As `work`, but run one order at most; returns whether one was run."""
        try:
            branch = self._take(until_pending)
            if branch is None:
                return False
            self._add(branch, run_order(runner, branch.prefix, expected=branch.expected, longest=self._longest))
        except BaseException:
            self.stop()
            raise
        return True

    def stop(self) -> None:
        """End the search after the orders that run now."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _take(self, until_pending: int | None) -> Branch | None:
        with self._changed:
            while not self._stopped:
                if not self._branches and not self._running:
                    return None
                if self._branches:
                    if until_pending is not None and self.pending >= until_pending:
                        return None
                    if self._is_at_a_limit():
                        break
                    self._running += 1
                    self._started += 1
                    return self._pop(first=until_pending is not None)
                self._changed.wait()
            self._note_interruption()
            return None

    def _keep(self, branch: Branch) -> None:
        self._branches.setdefault(0 if self._preemptions is None else branch.preemptions, []).append(branch)

    def _pop(self, *, first: bool) -> Branch:
        """The last branch, or the first one, after which there are more."""
        most = self._preemptions is not None and self.pending > MOST_PENDING
        preemptions = max(self._branches) if most else min(self._branches)
        branches = self._branches[preemptions]
        branch = branches.pop(0 if first else -1)
        if not branches:
            del self._branches[preemptions]
        return branch

    def _note_interruption(self) -> None:
        self.found.interrupted |= bool(self._branches)
        self.found.fewest = min(self._branches, default=0)

    def _is_at_a_limit(self) -> bool:
        too_many = self._limit is not None and self._started >= self._limit
        return too_many or (self._seconds is not None and self.elapsed >= self._seconds)

    def _add(self, branch: Branch, order: Order) -> None:
        with self._changed:
            self._running -= 1
            self.found.count(order)
            if not order.diverged:
                self._branch(branch, order)
            if self._stopped:
                self._note_interruption()
            self._changed.notify_all()
            if self._told is not None:
                self._told(self)

    def _branch(self, branch: Branch, order: Order) -> None:
        schedule = order.schedule
        preemptions = branch.preemptions  # after its prefix a run has none
        for position in range(len(branch.prefix), len(schedule)):
            last = schedule[position - 1] if position else ""
            for other in order.runnable[position]:
                if other == schedule[position]:
                    continue
                cost = preemptions + is_preemption(last, other, order.runnable[position])
                if self._preemptions is not None and cost > self._preemptions:
                    self.found.bounded += 1
                else:
                    self._keep(Branch((*schedule[:position], other), order.steps, cost))
