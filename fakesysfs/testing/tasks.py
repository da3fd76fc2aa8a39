"""Cooperative tasks over `sched.Request`, with simulated signals and virtual time.

One of the drivers of ops/sched.py: it decides which of many operations goes on. A process that is
stuck in a system call is a `Task` that waits. A signal is a call of `Tasks.signal`. Time passes
when nothing else can happen. So the recorded hour of a hanging unplug replays in a millisecond, in
the same order every time.

This module has no threads, no real time and no knowledge of the operations.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from fakesysfs.ops.sched import Answer, Preempt, Request, Signals, Sleep, Wait, Waiting, advance

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

Value = Any
"""The result of an operation."""


class Signal(enum.Enum):
    """The signals that the model can tell apart."""

    SIGALRM = "SIGALRM"
    """Any handled signal whose handler returns, without SA_RESTART."""
    SIGKILL = "SIGKILL"


class Task:
    """One process inside one system call.

    Exactly one of `result` and `error` is set once it has `finished`. `killed` says that it died
    before it saw either. `operation`, `answer` and `token` belong to the scheduler.
    """

    def __init__(self, operation: Coroutine[Request, Answer, Value], name: str) -> None:
        self.name = name
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self.killed = False
        self.handled_pending = False
        """A handled signal is pending: every interruptible wait of the system call ends at once."""
        self.request: Waiting | None = None
        self.operation = operation
        self.answer: Answer | None = None
        self.token: int | None = None

    @property
    def letter(self) -> str:
        """The state letter of ps(1) as far as the model knows it: D, R, or `finished`.

        A wait that any signal ends stands for repeated page migration (R). All others sleep in D.
        """
        if self.finished:
            return "finished"
        waits_for_any_signal = self.waits(Signals.ANY)
        return "R" if waits_for_any_signal or not isinstance(self.request, Wait) else "D"

    def waits(self, *signals: Signals) -> bool:
        """Whether it is in a wait that such signals end."""
        return isinstance(self.request, Wait | Sleep) and self.request.signals in signals

    def is_pending(self, signals: Signals) -> bool:
        """Whether a signal is pending that ends such a wait."""
        return self.killed if signals is Signals.FATAL else self.killed or self.handled_pending

    def outcome(self) -> Value:
        """The result; raises what the operation raised."""
        if self.error is not None:
            raise self.error
        return self.result


class Tasks:
    """All tasks of one machine.

    `chooser` picks which ready task goes on; without it they go in the order they became ready.
    """

    def __init__(self, chooser: random.Random | None = None) -> None:
        self.now = 0.0
        """Virtual seconds."""
        self.chooser = chooser
        self.tasks: list[Task] = []
        """Those that have not finished."""
        self._ready: deque[Task] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    # Life of a task ------------------------------------------------------------------------------------------------

    def spawn(self, operation: Coroutine[Request, Answer, Value], name: str = "") -> Task:
        """A new task, ready to run; nothing of it runs before `settle`, `finish` or `advance`."""
        task = Task(operation, name)
        self.tasks.append(task)
        self._ready.append(task)
        return task

    def signal(self, task: Task, signal: Signal) -> None:
        """Send a signal. A finished task ignores it.

        A handled signal ends an interruptible wait. A killable wait stands for restarts of the
        system call, which consume a handled signal. In any other state the signal stays pending.
        SIGKILL ends every wait except an uninterruptible one.
        """
        if task.finished:
            return
        if signal is Signal.SIGKILL:
            task.killed = True
            if task.waits(Signals.ANY, Signals.FATAL):
                self._interrupt(task)
        elif not task.waits(Signals.FATAL):
            task.handled_pending = True
            if task.waits(Signals.ANY):
                self._interrupt(task)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` when virtual time reaches `seconds`."""
        heapq.heappush(self._timers, (seconds, next(self._numbers), action))

    # Running -------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Run until every task waits for something or has finished. No time passes."""
        while self._ready:
            self._step(self._next())

    def finish(self, task: Task, *, until: float = float("inf")) -> bool:
        """Run until `task` has finished, and let time pass where nothing else can happen.

        False if the task waits for ever. Time does not pass beyond `until`.
        """
        self.settle()
        while not task.finished and self.tick(until=until):
            pass
        return task.finished

    def tick(self, *, until: float) -> bool:
        """Let time pass to the next timer and run it and what it wakes. False if no timer is left.

        Time does not pass beyond `until`.
        """
        if not self._timers or self._timers[0][0] > until:
            return False
        self.now, _, action = heapq.heappop(self._timers)
        action()
        self.settle()
        return True

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        end = self.now + seconds
        self.settle()
        while self.tick(until=end):
            pass
        self.now = end

    def _next(self) -> Task:
        if self.chooser is not None and len(self._ready) > 1:
            self._ready.rotate(-self.chooser.randrange(len(self._ready)))
        return self._ready.popleft()

    def _step(self, task: Task) -> None:
        answer, task.answer, task.request = task.answer, None, None
        try:
            request = advance(task.operation, answer, lambda: task.is_pending(Signals.ANY))
        except StopIteration as stop:
            self._end(task, stop.value, None)
        except Exception as error:  # noqa: BLE001  it is the task's outcome
            self._end(task, None, error)
        else:
            self._park(task, request)

    def _end(self, task: Task, result: Value, error: BaseException | None) -> None:
        task.result, task.error, task.finished = result, error, True
        self.tasks.remove(task)

    def _park(self, task: Task, request: Waiting) -> None:
        task.request = request
        if isinstance(request, Preempt):
            self._wake(task, Answer.WOKEN)
            return
        if request.signals is Signals.FATAL:
            task.handled_pending = False
        if request.signals is not Signals.NONE and task.is_pending(request.signals):
            self._wake(task, Answer.INTERRUPTED)
        elif isinstance(request, Sleep):
            self.at(self.now + request.seconds, lambda: self._timeout(task, request))
        else:
            task.token = request.queue.add(lambda: self._wake(task, Answer.WOKEN))

    def _timeout(self, task: Task, request: Sleep) -> None:
        if task.request is request:
            self._wake(task, Answer.WOKEN)

    def _interrupt(self, task: Task) -> None:
        if task.token is not None and isinstance(task.request, Wait):
            task.request.queue.discard(task.token)
        self._wake(task, Answer.INTERRUPTED)

    def _wake(self, task: Task, answer: Answer) -> None:
        task.answer, task.token, task.request = answer, None, None
        self._ready.append(task)
