"""How a modelled kernel operation sleeps, without a clock or an event loop.

An operation that sleeps in Linux is a coroutine here. It never waits by itself: it yields a
`Request` to its driver and gets the answer. Four drivers exist, all on top of `advance`:

- fuse/driver.py turns requests into waits of trio.
- testing/loops.py turns them into waits of the user's event loop.
- testing/tasks.py decides which of many coroutines goes on, in virtual time (tests, the replayer).
- `run` below refuses to sleep (boot, unit tests).

So the model is the same under all of them. An operation that meets no contention, latency or fault
costs no turn of an event loop.

This module knows no time, no threads and no trio.

Models kernel/locking/mutex.c, kernel/sched/wait.c, drivers/base/core.c (device_hotplug_lock) and
fs/kernfs/dir.c (active references), as far as user space can see their order of wake-ups.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


class Signals(enum.Enum):
    """Which signals end a wait."""

    NONE = "uninterruptible"
    """TASK_UNINTERRUPTIBLE: not even SIGKILL."""
    FATAL = "killable"
    """Only SIGKILL. A handled signal stays pending: memoryN/state restarts the system call."""
    ANY = "interruptible"
    """Any signal that is delivered, a handled one too (signal_pending())."""


class Answer(enum.Enum):
    """What a driver sends back for a request."""

    WOKEN = "woken"
    INTERRUPTED = "interrupted"


class WaitQueue:
    """Callbacks to call once when something happens (kernel/sched/wait.c, without the sleeping)."""

    __slots__ = ("_added", "_callbacks")

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._added = 0

    def add(self, callback: Callable[[], None]) -> int:
        """Call `callback` at the next `wake_all`; returns a token for `discard`."""
        self._added += 1
        self._callbacks[self._added] = callback
        return self._added

    def discard(self, token: int) -> None:
        """Forget a callback; one that was called already is no error."""
        self._callbacks.pop(token, None)

    def wake_all(self) -> None:
        """Call and forget every callback, in the order of `add`."""
        if not self._callbacks:
            return
        callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            callback()

    def __len__(self) -> int:
        return len(self._callbacks)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Let `seconds` pass at preemption point `point`. INTERRUPTED if one of `signals` ends it."""

    point: str
    seconds: float
    signals: Signals = Signals.NONE


@dataclass(frozen=True, slots=True)
class Preempt:
    """Let other operations run (asked for only while a scheduler watches)."""

    point: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until `queue` is woken. INTERRUPTED if one of `signals` ends the wait."""

    point: str
    queue: WaitQueue
    signals: Signals = Signals.NONE


@dataclass(frozen=True, slots=True)
class SignalPending:
    """Whether the caller has a signal pending: INTERRUPTED, or WOKEN if not (signal_pending).

    A signal that ended a wait, or came during an uninterruptible one, stays pending until the
    system call returns.
    """

    point: str


Waiting = Sleep | Preempt | Wait
"""What a driver takes its time to answer."""

Request = Waiting | SignalPending
Operation = Coroutine[Request, Answer, T]


class _Ask:
    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def __await__(self) -> Generator[Request, Answer, Answer]:
        return (yield self._request)


def ask(request: Request) -> _Ask:
    """Await this to hand `request` to the driver and get its answer."""
    return _Ask(request)


class WouldSleepError(RuntimeError):
    """An operation that was not allowed to sleep asked to."""

    def __init__(self, request: Request) -> None:
        super().__init__(f"the operation would sleep: {request}")
        self.request = request


def no_signal() -> bool:
    """The `signal_pending` of a caller whom no signal can have reached."""
    return False


def advance(
    operation: Coroutine[Request, Answer, Any],
    answer: Answer | None = None,
    signal_pending: Callable[[], bool] = no_signal,
) -> Waiting:
    """Send the driver's answer and run the operation up to the next request that takes waiting.

    Every driver runs its operations with this function. The first call has no answer.
    `signal_pending` answers `SignalPending`, which takes no waiting. Raises StopIteration with the
    result at the operation's end, and whatever the operation raises.
    """
    request = operation.send(answer)  # type: ignore[arg-type]  # None starts it
    while isinstance(request, SignalPending):
        request = operation.send(Answer.INTERRUPTED if signal_pending() else Answer.WOKEN)
    return request


def run(operation: Coroutine[Any, Any, T]) -> T:
    """Drive an operation that must not sleep and return its result.

    Raises `WouldSleepError` when it asks for anything; the operation is closed then.
    """
    try:
        request = advance(operation)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    operation.close()
    raise WouldSleepError(request)


class LockObservers:
    """Who wants to know when a lock is taken and released."""

    __slots__ = ("observer",)

    def __init__(self) -> None:
        self.observer: Callable[[str, bool], None] | None = None
        """Called with the name of the lock, and whether it is held from now on."""


_NOBODY = LockObservers()


class Mutex:
    """A kernel mutex: first come, first served, uninterruptible (kernel/locking/mutex.c).

    `observers` is shared by the locks of one kernel.
    """

    __slots__ = ("_observers", "_tickets", "locked", "name", "released", "wanted")

    def __init__(self, name: str, observers: LockObservers = _NOBODY) -> None:
        self._observers = observers
        self.name = name
        self.locked = False
        self.released = WaitQueue()
        """Woken when the mutex is free and has no waiter; for callers of `trylock` that restart."""
        self.wanted = False
        """A caller of `trylock` was woken when the mutex was last freed."""
        self._tickets: deque[WaitQueue] = deque()

    def trylock(self) -> bool:
        """Take the mutex if it is free."""
        if self.locked:
            return False
        self.locked = True
        self._tell(held=True)
        return True

    async def lock(self) -> None:
        """Take the mutex. Sleeps uninterruptibly until earlier waiters have had it."""
        if self.trylock():
            return
        ticket = WaitQueue()
        self._tickets.append(ticket)
        try:
            await ask(Wait(f"mutex_lock({self.name})", ticket))
        except BaseException:
            # The driver closed the operation (unmount, reset): leave the line or pass it on.
            if ticket in self._tickets:
                self._tickets.remove(ticket)
            else:
                self.unlock()
            raise
        self._tell(held=True)

    def unlock(self) -> None:
        """Hand the mutex to the first in line, or free it."""
        self._tell(held=False)
        if self._tickets:
            self._tickets.popleft().wake_all()
        else:
            self.locked = False
            self.wanted = len(self.released) > 0
            self.released.wake_all()

    def _tell(self, *, held: bool) -> None:
        if self._observers.observer is not None:
            self._observers.observer(self.name, held)

    async def __aenter__(self) -> None:
        await self.lock()

    async def __aexit__(self, *_exc: object) -> None:
        self.unlock()


class ActiveReferences:
    """Running users of an attribute, whose removal waits for them.

    fs/kernfs/dir.c, kernfs_get_active, kernfs_drain.
    """

    __slots__ = ("_count", "_idle")

    def __init__(self) -> None:
        self._count = 0
        self._idle = WaitQueue()

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_exc: object) -> None:
        self._count -= 1
        if not self._count:
            self._idle.wake_all()

    async def drain(self) -> None:
        """Wait uninterruptibly until no user is inside."""
        while self._count:
            await ask(Wait("kernfs_drain", self._idle))


@dataclass(slots=True)
class Preemption:
    """Says at each preemption point how far a loop over equal blocks may go in one step.

    If no point sleeps and no scheduler watches, no other operation can look in between, and a step
    takes the whole run. Otherwise it takes one block, and the loop asks the driver after each.
    """

    latency: dict[str, float] = field(default_factory=dict)
    """Seconds that each block costs, by the name of the point (`online_block`, `offline_block`)."""
    watched: bool = False
    """A scheduler, trace or explorer wants every step."""

    def step(self, point: str, blocks: int) -> int:
        """How many of `blocks` equal blocks the next step at `point` may take (at least 1)."""
        return 1 if self.stops(point) else blocks

    def stops(self, point: str) -> bool:
        """Whether the preemption point asks its driver for anything."""
        return self.watched or bool(self.latency and self.latency.get(point))

    async def __call__(self, point: str, signals: Signals = Signals.NONE) -> Answer:
        """The preemption point itself: free unless latency is set or a scheduler watches.

        INTERRUPTED if one of `signals` cut the latency short.
        """
        seconds = self.latency.get(point)
        if seconds:
            return await ask(Sleep(point, seconds, signals))
        if self.watched:
            return await ask(Preempt(point))
        return Answer.WOKEN
