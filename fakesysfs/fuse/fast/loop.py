"""A cheaper event loop for pyfuse3.

pyfuse3's loop waits for each request with `trio.lowlevel.wait_readable`: with the turn through trio's scheduler that is
three system calls and most of the time of a request. While a client is busy the next request is there within
microseconds, so here the descriptor is polled once, for a moment, before the task is parked.

In the middle of a burst of requests, while no handler and no other thread has anything to do, not even that: where
there are several processors the next request is looked for during a moment in which this one would else fall asleep and
have to be woken, which takes longer than to answer. Then pyfuse3 reads, and read(2) waits, as it does in a file system
in C. pyfuse3 holds the interpreter's lock meanwhile; so a timer's signal interrupts the read (`TICK_SECONDS`), upon
which trio gets its turn, and goes on if the burst does.

pyfuse3 looks the names `trio` (its asyncio mode relies on that) and `_wait_fuse_readable` up in its own module; so the
loop is exchanged by putting others there. That is no documented interface (`insides.py`).

Rejected: moving to the client's processor (the scheduler then moves the client away), a loop without trio (operations
that sleep need one).
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Awaitable, Callable
from itertools import repeat
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import pyfuse3
import trio

from fakesysfs.fuse.fast import pyfuse3_compat
from fakesysfs.fuse.fast.completed import completed

FAIRNESS = 32
"""After this many requests in a row the other tasks get their turn."""

PATIENCE_MILLISECONDS = 2
"""How long to look for the next request while nothing else can happen in this process but a signal or an unmount."""

BURST_SECONDS = 0.0005
"""Requests that follow one another within this time are a burst."""

SPIN_SECONDS = 0.0001
"""How long the next request of a burst is looked for before this thread goes to sleep, where others need not run on its
processor meanwhile: the time in which a client that has its answer asks for more.
"""

SPIN_TRIES, SPIN_SKIPS = 8, 64
"""After so many looks in a row that found a request at once so many requests are taken without a look."""

TICK_SECONDS = 0.02
"""How often trio gets its turn in a burst, and so how long at most a read waits at its end."""


class Work(Protocol):
    """What else goes on: while there is anything the loop must not linger."""

    maybe_busy: bool
    """Whether `has_work` must be asked again."""

    def has_work(self) -> bool:
        """Whether any handler or other thread has something to do."""


_YES: Awaitable[bool] = completed(StopIteration(True))  # noqa: FBT003  a value


_stock_wait: Any = getattr(pyfuse3, "_wait_fuse_readable", None)
"""What pyfuse3 itself does before each request: a coroutine function."""

_DONE: Awaitable[None] = completed(StopIteration())
"""Awaiting this takes no turn of any loop."""


def _at_once(*_exception: object) -> Awaitable[None]:
    return _DONE


class _Lock:
    """What pyfuse3 takes for `trio.Lock`, around each wait for a request and no more; `wait_readable` sees to it."""

    __aenter__ = staticmethod(repeat(_DONE).__next__)
    __aexit__ = staticmethod(_at_once)


class _LowLevel:
    """What pyfuse3 does before each request, and `trio.lowlevel` with an eager `wait_readable` for that.

    In the latter one task waits and the others for that one.

    A task that comes by may go before one that waits for its turn: it has a request at hand, the other does not.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._poll: Callable[[int], object] | None = None
        self._requests = 0
        self._asked_at = 0.0
        self._bursting = False
        self._ticking = False
        self._looks = 0
        self._allowed = processors_allowed()
        self._waits = False
        self._queue = trio.lowlevel.ParkingLot()
        self._called = False

    def tick(self, _number: int, _frame: object) -> None:
        """The timer's signal: trio gets its turn before the next request."""
        self._bursting = False

    def wait_for_request(self) -> Awaitable[bool]:
        """What pyfuse3 does before each request: false when there are to be no more."""
        if self._bursting and not (self._work.maybe_busy and self._work.has_work()):
            if self._looks:
                self._look()
            return _YES
        return _stock_wait()  # type: ignore[no-any-return]  # as this

    def wait_readable(self, descriptor: int) -> Awaitable[None]:
        return self._wait_turn(descriptor) if self._waits else self._wait_readable(descriptor)

    def _look(self) -> None:
        """Look for the next request. With many clients there is always one, and looking is left for a while."""
        assert self._poll is not None
        if self._looks < 0:
            self._looks = self._looks + 1 or SPIN_TRIES
        elif self._poll(0):
            self._looks = self._looks - 1 or -SPIN_SKIPS
        else:
            self._looks = SPIN_TRIES
            end = monotonic() + SPIN_SECONDS
            while not self._poll(0) and self._bursting and monotonic() < end:
                pass

    async def _wait_turn(self, descriptor: int) -> None:
        while self._waits:
            try:
                await self._queue.park()
            finally:
                self._called = False
        await self._wait_readable(descriptor)

    def _wait_readable(self, descriptor: int) -> Awaitable[None]:
        if self._ticking:
            self._ticking = self._bursting = False
            end()
            return self._wait(descriptor)
        if self._poll is None:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            self._poll = poll.poll
        now = monotonic()
        passed, self._asked_at = now - self._asked_at, now
        self._requests += 1
        busy = self._work.has_work()
        if self._requests % FAIRNESS and self._poll(0 if busy else PATIENCE_MILLISECONDS):
            if passed < BURST_SECONDS and not busy:
                self._bursting = self._ticking = True
                self._looks = SPIN_TRIES if min(len(os.sched_getaffinity(0)), self._allowed) > 1 else 0
                signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS, TICK_SECONDS)
            self._call_next()
            return _DONE
        return self._wait(descriptor)

    async def _wait(self, descriptor: int) -> None:
        self._waits = True
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            self._waits = False
            self._call_next()

    def _call_next(self) -> None:
        """Who has a request at hand may be kept by it: another one waits for the next then."""
        if self._queue and not self._called:
            self._called = True
            self._queue.unpark()

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    """`trio` with these two."""

    Lock = _Lock

    def __init__(self, work: Work) -> None:
        self.lowlevel = _LowLevel(work)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def processors_allowed(own: str = "/proc/self/cgroup", groups: str = "/sys/fs/cgroup") -> int:
    """How many processors this process's control group may keep busy at a time; a great many if it is not limited."""
    try:
        group = Path(own).read_text(encoding="ascii").rpartition("0::/")[2].strip()
        quota, period = Path(groups, group, "cpu.max").read_text(encoding="ascii").split()
        return sys.maxsize if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError):
        return sys.maxsize


def end() -> None:
    """No more interruptions: there are no requests, or not so many."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def install(work: Work) -> bool:
    """Give pyfuse3 the faster loop where that is known to work; returns whether it was.

    To be called in the main thread: the signal SIGALRM is the loop's.
    """
    if _stock_wait is None or not pyfuse3_compat.use_internals():
        return False
    trio_with_these = _Trio(work)
    signal.signal(signal.SIGALRM, trio_with_these.lowlevel.tick)
    # not among its declared names
    setattr(pyfuse3, "trio", trio_with_these)  # noqa: B010
    setattr(pyfuse3, "_wait_fuse_readable", trio_with_these.lowlevel.wait_for_request)  # noqa: B010
    return True
