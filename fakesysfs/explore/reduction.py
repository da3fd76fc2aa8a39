"""The reduced search: one order of each class of orders that differ in commuting steps only.

Two steps commute unless their footprints conflict (ops/footprint.py). Orders that differ by swaps
of neighbouring steps that commute end in the same machine, with the same results. The search
explores at least one of each such class, with source sets and sleep sets (Abdulla, Aronis, Jonsson and
Sagonas, "Optimal dynamic partial order reduction", POPL 2014, algorithm 1). It knows a step's
footprint only once the step was taken. So it runs an order, looks for its races, and adds to each
step before a race the process that reverses it.

A process that was not runnable before a step and is after it was enabled by that step. This orders
them, and cannot be reversed. A process that waits for a lock has taken a step before, in which it
asked for it: that one can. So whatever a runner's process waits for, its step before must conflict
with the step that made it wait. Steps of two processes of one program always conflict: a shell waits
for its children, which nobody records.

With a bound on preemptions that is not enough: the order that stands for its class may have more
preemptions than the bound, and another one of the class may not. So a bounded search (Coons, Musuvathi and
McKinley, "Bounded partial-order reduction", OOPSLA 2013) uses no sleep sets, and lets the later step of each
conflict come first in two places: right before the earlier step, and where the program of that
began to run without interruption, which costs no preemption. It searches the orders without preemptions
first, then those with one, and so on.

The orders form a tree. Several workers may run orders of it side by side: each takes the deepest place
where something is left to be tried. A worker does not know yet what a step that another one is
just taking has read and changed. So it may explore an order that a single worker would leave out.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fakesysfs.explore.order import AsleepError, Guide, Order, Step, is_preemption, program_of
from fakesysfs.explore.search import LONGEST, WHOLE, Branch, Found, Runner, follow
from fakesysfs.ops.footprint import EVERYTHING, Footprint

UNKNOWN = Footprint()
"""The footprint of a step of which nothing is known."""
UNKNOWN.write(EVERYTHING)


def conflict(one: str, its: Footprint, other: str, others: Footprint, *, order_matters: int) -> bool:
    """Whether steps of two processes, with these footprints, may have another outcome in the other order."""
    return program_of(one) == program_of(other) or its.conflicts(others, order_matters=order_matters)


class SleepingGuide(Guide):
    """A guide of the reduced search. After the end of the schedule it chooses only processes that do not sleep.

    `sleep` has the processes whose next step is explored elsewhere, with the footprints of these steps, at the
    place before the schedule's last step. `order_matters` is that of `Footprint.conflicts`.
    """

    def __init__(
        self,
        schedule: Sequence[str],
        *,
        expected: Sequence[Step] = (),
        longest: int | None,
        sleep: Mapping[str, Footprint],
        order_matters: int,
        recorded_from: int = 0,
    ) -> None:
        super().__init__(schedule, expected=expected, longest=longest)
        self.recorded_from = recorded_from
        self.sleeps: list[dict[str, Footprint]] = []
        """After the schedule: who slept before each step."""
        self.sleep = dict(sleep)
        self.order_matters = order_matters
        self._begins = len(schedule)

    def _unscheduled(self, runnable: Sequence[str]) -> str:
        awake = [name for name in runnable if name not in self.sleep]
        if not awake:
            raise AsleepError
        self.sleeps.append(dict(self.sleep))
        return super()._unscheduled(awake)

    def took(self, step: Step, footprint: Footprint | None = None) -> None:
        """As before; who conflicts with the step wakes up."""
        position = len(self.order.steps)
        super().took(step, footprint)
        if position >= self._begins - 1:
            taken = footprint or UNKNOWN
            self.sleep = {
                name: theirs
                for name, theirs in self.sleep.items()
                if not conflict(name, theirs, step.process, taken, order_matters=self.order_matters)
            }


@dataclass(slots=True, eq=False)
class _Place:
    """A place in the tree of orders: who can go on there, and who was tried."""

    runnable: tuple[str, ...]
    sleep: dict[str, Footprint]
    """Processes whose next step is explored elsewhere, with that step's footprint."""
    above: _Taken | None
    """The step that leads here; None at the root."""
    depth: int
    preemptions: int = 0
    """Of the steps that lead here, if they are bounded."""
    fixed: bool = False
    """Other searches try the other processes."""
    backtrack: set[str] = field(default_factory=set)
    """The processes to be tried here, those that were tried among them."""
    taken: dict[str, _Taken] = field(default_factory=dict)
    unfinished: int = 0
    """How many of those tried have something left to be tried after them, or run now."""

    queued: int | None = None
    """With how many preemptions it waits for its turn."""
    bound: int | None = None
    """The most preemptions of an order."""

    @property
    def left(self) -> list[str]:
        """Who is still to be tried, those that preempt nobody first."""
        if len(self.backtrack) == len(self.taken):
            return []
        left = [
            name
            for name in self.runnable
            if name in self.backtrack and name not in self.taken and name not in self.sleep
        ]
        if self.bound is None:
            return left
        return sorted((name for name in left if self.cost(name) <= self.bound), key=self.cost)

    def cost(self, name: str) -> int:
        """The preemptions of an order in which this process goes on here."""
        last = self.above.process if self.above is not None else ""
        return self.preemptions + is_preemption(last, name, self.runnable)

    @property
    def bounded(self) -> int:
        """How many were to be tried and have too many preemptions."""
        return sum(self.bound is not None and self.cost(name) > self.bound for name in self.backtrack)


@dataclass(slots=True, eq=False)
class _Taken:
    """A step from a place."""

    place: _Place
    process: str
    step: Step | None = None
    footprint: Footprint | None = None
    """None until it was taken."""
    before: int = 0
    """The earlier steps that happened before it, as bits."""


class ReducedSearch:
    """A search that leaves out orders whose outcome is that of another one. Any number of workers share it.

    `preemptions`, `limit`, `seconds`, `longest` and `told` are as in `Search`; `first` is the one branch to search. An
    order that is stopped because the rest of it is explored elsewhere counts as `reduced`. When an
    order turns out to have somebody who reads the order of messages, uevents or refused calls, the search
    begins anew, with these in `order_matters`.
    """

    def __init__(
        self,
        *,
        preemptions: int | None = None,
        limit: int | None = None,
        seconds: float | None = None,
        longest: int = LONGEST,
        order_matters: int = 0,
        first: Branch = WHOLE,
        told: Callable[[ReducedSearch], None] | None = None,
    ) -> None:
        self.began = time.monotonic()
        self._preemptions = preemptions
        self._limit = limit
        self._seconds = seconds
        self._longest = longest
        self._first = first
        self._told = told
        self._stopped = False
        self._changed = threading.Condition()
        self._begin(order_matters=order_matters)

    def _begin(self, *, order_matters: int) -> None:
        self.order_matters = order_matters
        self.found = Found(reduces=True)
        self._open: dict[_Place, None] = {}
        """The places at which something is left to be tried, or after which something is or runs."""
        self._queue: list[tuple[int, int, int, _Place]] = []
        """A heap of places: by preemptions, if they are bounded, then the deepest first, then the last one."""
        self._queued = 0
        self._running = 0
        self._started = 0
        self._beginning = object()
        """Another one after each beginning."""

    @property
    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self.began

    @property
    def pending(self) -> int:
        """Branches that are known and were not taken yet."""
        return sum(len(place.left) for place in list(self._open))

    def work(self, runner: Runner) -> None:
        """Search until no branch is left, or a limit is reached. Any exception of the runner ends the search."""
        while self.work_once(runner):
            pass

    def work_once(self, runner: Runner) -> bool:
        """Run one order; returns whether there was one to run."""
        try:
            taken = self._take()
            if taken is None:
                return False
            begun, path, guide = taken
            order = follow(runner, guide)
            self._add(begun, path, guide, order)
        except BaseException:
            self.stop()
            raise
        return True

    def stop(self) -> None:
        """End the search after the orders that run now."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # One order ------------------------------------------------------------------------------------------------------

    def _take(self) -> tuple[object, list[_Taken], SleepingGuide] | None:
        """What to run next: the steps that lead there, and the guide. None: nothing is left, or a limit is reached."""
        with self._changed:
            while not self._stopped:
                place = self._next()
                if place is not None or not self._started:
                    if self._is_at_a_limit():
                        break
                    self._running += 1
                    self._started += 1
                    return self._start(place)
                if not self._running:
                    return None
                self._changed.wait()
            self._note_interruption()
            return None

    def _note_interruption(self) -> None:
        left = [place for place in self._open if place.left]
        self.found.interrupted |= bool(left) or not self._started
        if self._preemptions is not None:
            self.found.fewest = min((place.cost(place.left[0]) for place in left), default=0)

    def _next(self) -> _Place | None:
        """The place with the fewest preemptions, if they are bounded; the deepest one of those."""
        while self._queue:
            preemptions, _, _, place = self._queue[0]
            if place.left and self._rank(place) == preemptions:
                return place
            heapq.heappop(self._queue)
            place.queued = None
            self._enqueue(place)
        return None

    def _rank(self, place: _Place) -> int:
        return 0 if self._preemptions is None else place.cost(place.left[0])

    def _enqueue(self, place: _Place) -> None:
        """Have a place taken at which something is left to be tried."""
        if not place.left:
            return
        rank = self._rank(place)
        if place.queued is None or rank < place.queued:
            place.queued = rank
            self._queued += 1
            heapq.heappush(self._queue, (rank, -place.depth, -self._queued, place))

    def _is_at_a_limit(self) -> bool:
        too_many = self._limit is not None and self._started >= self._limit
        return too_many or (self._seconds is not None and self.elapsed >= self._seconds)

    def _start(self, place: _Place | None) -> tuple[object, list[_Taken], SleepingGuide]:
        path: list[_Taken] = []
        sleep: dict[str, Footprint] = {}
        if place is not None:
            if self._preemptions is None:
                tried = place.taken.items()
                sleep = place.sleep | {name: taken.footprint for name, taken in tried if taken.footprint is not None}
            name = place.left[0]
            path = _path_to(_Taken(place, name))
            place.taken[name] = path[-1]
            place.unfinished += 1
        guide = SleepingGuide(
            [taken.process for taken in path] or self._first.prefix,
            expected=[taken.step for taken in path[:-1] if taken.step is not None] or self._first.expected,
            longest=self._longest,
            sleep=sleep,
            order_matters=self.order_matters,
            recorded_from=max(len(path) - 1, 0),
        )
        return self._beginning, path, guide

    def _add(self, begun: object, path: list[_Taken], guide: SleepingGuide, order: Order) -> None:
        with self._changed:
            if begun is not self._beginning:
                return
            self._running -= 1
            matters = self.order_matters | order.order_is_read
            if matters != self.order_matters:
                self._begin(order_matters=matters)
            else:
                self.found.count(order)
                if not order.diverged:
                    self._grow(path, guide, order)
                elif path:
                    path[-1].footprint = UNKNOWN
                if path:
                    self._finish(path[-1].place)
                if self._stopped:
                    self._note_interruption()
            self._changed.notify_all()
            if self._told is not None:
                self._told(self)

    def _grow(self, path: list[_Taken], guide: SleepingGuide, order: Order) -> None:
        """Add the steps of an order to the tree, and look for their races."""
        begins = len(guide.schedule)
        known = len(path)
        for position in range(max(known - 1, 0), len(order.steps)):
            if position >= known:
                chosen = order.steps[position].process
                sleep = guide.sleeps[position - begins] if position >= begins else {}
                above = path[-1] if path else None
                place = _Place(order.runnable[position], sleep, above, position, bound=self._preemptions)
                place.fixed = position < begins
                if above is not None and self._preemptions is not None:
                    place.preemptions = above.place.cost(above.process)
                place.backtrack.add(chosen)
                path.append(_Taken(place, chosen))
                place.taken[chosen] = path[-1]
                place.unfinished = 1
                self._open[place] = None
            path[position].step = order.steps[position]
            path[position].footprint = order.footprints[position] or UNKNOWN
            self._look_for_races(path, position)
        for taken in path:
            if len(taken.place.backtrack) > len(taken.place.taken):
                self._enqueue(taken.place)

    def _finish(self, place: _Place) -> None:
        """An order that was run from this place, or after it, has ended: forget what is done."""
        place.unfinished -= 1
        while not (place.unfinished or place.left):
            del self._open[place]
            self.found.bounded += place.bounded
            place.backtrack.clear()
            place.taken.clear()  # they refer to the place: only the garbage collector would free it
            if place.above is None:
                return
            place = place.above.place
            place.unfinished -= 1

    # Races ----------------------------------------------------------------------------------------------------------

    def _look_for_races(self, path: Sequence[_Taken], later: int) -> None:
        """Note what happened before a step, and reverse the races that it has with earlier steps.

        Two steps race if they conflict, and no step between them is after one and before the other. With a
        bound the step comes before all with which it conflicts.
        """
        taken = path[later]
        is_bounded = self._preemptions is not None
        before = 0
        races = []
        for earlier in range(later - 1, -1, -1):
            is_before = before >> earlier & 1
            if is_before and not is_bounded:
                continue
            other = path[earlier]
            if other.process != taken.process:
                conflicts = self._conflict(other, taken)
                if conflicts and is_bounded:
                    _let_come_first(path[earlier].place, taken.process)
                    _let_come_first(path[_beginning_of(path, earlier)].place, taken.process)
                if is_before:
                    continue
                runnable_then, runnable_next = other.place.runnable, path[earlier + 1].place.runnable
                if taken.process in runnable_then or taken.process not in runnable_next:  # it did not enable the step
                    if not conflicts:
                        continue
                    races.append(earlier)
            before |= 1 << earlier | other.before
        taken.before = before
        for earlier in races:
            self.found.note_pair(path[earlier].step, taken.step)
            if not is_bounded:
                _reverse(path, earlier, later)

    def _conflict(self, one: _Taken, other: _Taken) -> bool:
        assert one.footprint is not None
        assert other.footprint is not None
        return conflict(one.process, one.footprint, other.process, other.footprint, order_matters=self.order_matters)


def _path_to(taken: _Taken) -> list[_Taken]:
    """The steps from the root to this one."""
    path = [taken]
    while (above := path[-1].place.above) is not None:
        path.append(above)
    return path[::-1]


def _beginning_of(path: Sequence[_Taken], position: int) -> int:
    """Where the program of this step began to run without interruption."""
    program = program_of(path[position].process)
    while position and program_of(path[position - 1].process) == program and not path[position - 1].place.fixed:
        position -= 1
    return position


def _let_come_first(place: _Place, process: str) -> None:
    if not place.fixed:
        place.backtrack.update((process,) if process in place.runnable else place.runnable)


def _reverse(path: Sequence[_Taken], earlier: int, later: int) -> None:
    """See that an order is explored in which the later step comes first."""
    place = path[earlier].place
    if place.fixed:
        return
    between = 0
    initials: set[str] = set()
    seen: set[str] = set()
    for position in range(earlier + 1, later + 1):
        taken = path[position]
        if position < later and taken.before >> earlier & 1:
            continue
        if taken.process not in seen and not taken.before & between:
            initials.add(taken.process)
        seen.add(taken.process)
        between |= 1 << position
    if initials & place.backtrack:
        return
    possible = [name for name in place.runnable if name in initials]
    if path[later].process in possible:
        possible = [path[later].process]
    place.backtrack.update(possible[:1] or place.runnable)
