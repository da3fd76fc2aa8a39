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
with the step that made it wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fakesysfs.explore.order import AsleepError, Guide, Step
from fakesysfs.explore.search import LONGEST, Found, Runner, follow
from fakesysfs.ops.footprint import EVERYTHING, Footprint

UNKNOWN = Footprint()
"""The footprint of a step of which nothing is known."""
UNKNOWN.write(EVERYTHING)


@dataclass(slots=True)
class _Node:
    """A place in the tree of orders: what was chosen there, and what is still to be tried."""

    runnable: tuple[str, ...]
    chosen: str
    sleep: dict[str, Footprint]
    """Processes whose next step is explored elsewhere, with that step's footprint."""
    backtrack: set[str]
    """The processes to be tried here, those that were tried among them."""
    done: set[str] = field(default_factory=set)
    step: Step | None = None
    footprint: Footprint = UNKNOWN


class _SleepingGuide(Guide):
    """After the end of the schedule it chooses only processes that do not sleep."""

    def __init__(
        self,
        schedule: Sequence[str],
        *,
        expected: Sequence[Step],
        longest: int,
        sleep: dict[str, Footprint],
        order_matters: bool,
    ) -> None:
        super().__init__(schedule, expected=expected, longest=longest)
        self.sleeps: list[dict[str, Footprint]] = []
        """After the schedule: who slept before each step."""
        self._sleep = sleep
        self._order_matters = order_matters
        self._begins = len(schedule)

    def _unscheduled(self, runnable: Sequence[str]) -> str:
        awake = [name for name in runnable if name not in self._sleep]
        if not awake:
            raise AsleepError
        self.sleeps.append(dict(self._sleep))
        return super()._unscheduled(awake)

    def took(self, step: Step, footprint: Footprint | None = None) -> None:
        """As before; who conflicts with the step wakes up."""
        position = len(self.order.steps)
        super().took(step, footprint)
        if position >= self._begins - 1:  # `sleep` is of the place before the schedule's last step
            taken = footprint or UNKNOWN
            self._sleep = {
                name: theirs
                for name, theirs in self._sleep.items()
                if name != step.process and not theirs.conflicts(taken, order_matters=self._order_matters)
            }


class ReducedSearch:
    """A search that leaves out orders whose outcome is that of another one. For one worker.

    `limit`, `seconds`, `longest` and `told` are as in `Search`. An order that is stopped because
    the rest of it is explored elsewhere counts as `reduced`.
    """

    def __init__(
        self,
        *,
        limit: int | None = None,
        seconds: float | None = None,
        longest: int = LONGEST,
        order_matters: bool = False,
        told: Callable[[ReducedSearch], None] | None = None,
    ) -> None:
        self.found = Found(reduces=True)
        self.began = time.monotonic()
        self._limit = limit
        self._seconds = seconds
        self._longest = longest
        self.order_matters = order_matters
        self._told = told
        self._nodes: list[_Node] = []
        self._before: list[int] = []
        """For each step the steps that happened before it, as bits."""
        self._started = False

    @property
    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self.began

    @property
    def pending(self) -> int:
        """Branches that are known and were not taken yet."""
        return sum(len(node.backtrack - node.done - node.sleep.keys()) for node in self._nodes)

    def work(self, runner: Runner) -> None:
        """Search until no branch is left, or a limit is reached."""
        while self.work_once(runner):
            pass

    def work_once(self, runner: Runner) -> bool:
        """Run one order; returns whether there was one to run."""
        if self._started and not self._go_back():
            return False
        too_many = self._limit is not None and self.found.explored + self.found.cut >= self._limit
        if too_many or (self._seconds is not None and self.elapsed >= self._seconds):
            self.found.interrupted = True
            return False
        self._started = True
        self._run(runner)
        if self._told is not None:
            self._told(self)
        return True

    # One order ------------------------------------------------------------------------------------------------------

    def _run(self, runner: Runner) -> None:
        nodes = self._nodes
        guide = _SleepingGuide(
            [node.chosen for node in nodes],
            expected=[node.step for node in nodes[:-1] if node.step is not None],
            longest=self._longest,
            sleep=dict(nodes[-1].sleep) if nodes else {},
            order_matters=self.order_matters,
        )
        order = follow(runner, guide)
        self.found.count(order)
        if order.diverged:
            return
        known = len(nodes)
        for position in range(max(known - 1, 0), len(order.steps)):
            if position >= known:
                chosen = order.steps[position].process
                nodes.append(_Node(order.runnable[position], chosen, guide.sleeps[position - known], {chosen}))
            nodes[position].step = order.steps[position]
            nodes[position].footprint = order.footprints[position] or UNKNOWN
            self._look_for_races(position)

    def _go_back(self) -> bool:
        """Go to the deepest place where another process is to be tried, and choose it."""
        nodes = self._nodes
        while nodes:
            node = nodes[-1]
            if node.chosen not in node.done:
                node.done.add(node.chosen)
                node.sleep[node.chosen] = node.footprint
            left = [name for name in node.runnable if name in node.backtrack and name not in node.sleep]
            if left:
                node.chosen, node.step, node.footprint = left[0], None, UNKNOWN
                del self._before[len(nodes) - 1 :]
                return True
            nodes.pop()
            del self._before[len(nodes) :]
        return False

    # Races ----------------------------------------------------------------------------------------------------------

    def _look_for_races(self, later: int) -> None:
        """Note what happened before a step, and reverse the races that it has with earlier steps.

        Two steps race if they conflict, and no step between them is after one and before the other.
        """
        nodes = self._nodes
        node = nodes[later]
        before = 0
        races = []
        for earlier in range(later - 1, -1, -1):
            if before >> earlier & 1:
                continue
            other = nodes[earlier]
            enabled = node.chosen not in other.runnable and node.chosen in nodes[earlier + 1].runnable
            if other.chosen != node.chosen and not enabled:
                if not other.footprint.conflicts(node.footprint, order_matters=self.order_matters):
                    continue
                races.append(earlier)
            before |= 1 << earlier | self._before[earlier]
        self._before.append(before)
        for earlier in races:
            self._reverse(earlier, later)

    def _reverse(self, earlier: int, later: int) -> None:
        """See that an order is explored in which the later step comes first."""
        nodes = self._nodes
        between = 0
        initials: set[str] = set()
        seen: set[str] = set()
        for position in range(earlier + 1, later + 1):
            if position < later and self._before[position] >> earlier & 1:
                continue
            process = nodes[position].chosen
            if process not in seen and not self._before[position] & between:
                initials.add(process)
            seen.add(process)
            between |= 1 << position
        node = nodes[earlier]
        if initials & node.backtrack:
            return
        possible = [name for name in node.runnable if name in initials]
        if nodes[later].chosen in possible:
            possible = [nodes[later].chosen]
        node.backtrack.update(possible[:1] or node.runnable)
