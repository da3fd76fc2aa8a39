"""How the mount waits for the next request: never for long in read(2), and cheaply in a burst of requests.

A request may be gone between trio's word that it is there and read(2): its caller was killed. /dev/fuse is open without
O_NONBLOCK, for pyfuse3 takes EAGAIN for an error, so read(2) would wait for the next request, and no task of trio's
would run until it comes. So a timer ticks from that word on until trio waits again; its signal interrupts read(2).

pyfuse3 waits for each request with `trio.lowlevel.wait_readable`. With the turn through trio's scheduler this takes
three system calls and most of the time of a request. In a burst we skip it: pyfuse3 reads at once, and read(2) waits,
as it does in a file system in C. pyfuse3 holds the interpreter's lock meanwhile, so no other thread runs. The timer
interrupts read(2) after `TICK_SECONDS` at most; then trio gets its turn.

Invariant: a task blocks in read(2) only while
 1. no task waits for the descriptor in trio. Trio would schedule that task for a request that the other one takes, and
    it would block outside of a burst. `wait_readable`, where a task begins to wait, ends the burst.
 2. nothing waits for trio or for a thread (`busy`). What `busy` does not know of waits `TICK_SECONDS` at most.

pyfuse3 looks the names `trio` (its asyncio mode relies on that) and `_wait_fuse_readable` up in its own module. We put
others there, which is no documented interface (`pyfuse3_compat.py`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from time import monotonic
from typing import Any

import pyfuse3
import trio

from fakesysfs.fuse.fast import pyfuse3_compat

BURST_SECONDS = 0.0005
"""Two requests that follow one another within this time begin a burst."""

TICK_SECONDS = 0.02
"""How often trio gets its turn in a burst, and how long read(2) waits at its end."""

UNKNOWN_TICK_SECONDS = 0.5
"""How long read(2) waits for a request that is gone where pyfuse3's insides are unknown: the timer always ticks."""

_stock_wait: Any = getattr(pyfuse3, "_wait_fuse_readable", None)
"""What pyfuse3 itself does before each request: a coroutine function."""


class _LowLevel:
    """`trio.lowlevel` for pyfuse3, and what pyfuse3 awaits before each request."""

    def __init__(self, busy: Callable[[], bool], *, bursts: bool) -> None:
        self._busy = busy
        self._bursts = bursts
        self._bursting = False
        self._ticking = False
        """The timer runs."""
        self._idle = 0
        """Tasks in `_stock_wait`. pyfuse3 starts another task for each request that finds none there."""
        self._waited_at = 0.0

    async def wait_for_request(self) -> bool:
        """Return when pyfuse3 shall read a request; False when there are to be no more."""
        if self._bursting and not self._busy():
            return True
        self._idle += 1
        try:
            more: bool = await _stock_wait()
        finally:
            self._idle -= 1
        self._ticking = True
        # It ticks again and again: a tick just before read(2) interrupts nothing.
        signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS, TICK_SECONDS)
        passed, self._waited_at = monotonic() - self._waited_at, monotonic()
        if self._bursts and passed < BURST_SECONDS and self._idle and not self._busy():
            self._bursting = True
        return more

    async def wait_readable(self, descriptor: int) -> None:
        """Wait in trio. pyfuse3 calls this within `_stock_wait`, in one task at a time."""
        if self._ticking:
            end()
        self._bursting = self._ticking = False
        await trio.lowlevel.wait_readable(descriptor)

    def end_burst(self, *_signal: object) -> None:
        """The timer's signal: trio gets its turn before the next request."""
        self._bursting = False

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    """`trio` with another `lowlevel`."""

    def __init__(self, lowlevel: _LowLevel) -> None:
        self.lowlevel = lowlevel

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def end() -> None:
    """Stop the timer."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def install(busy: Callable[[], bool], *, bursts: bool) -> bool:
    """Have the timer tick, and give pyfuse3 the cheaper wait where its insides are known; returns whether they are.

    `busy` says whether a task of trio's, or a thread, has something to do without a request. Without `bursts` trio
    waits for each request. To be called in the main thread: the signal SIGALRM is the loop's.
    """
    lowlevel = _LowLevel(busy, bursts=bursts)
    signal.signal(signal.SIGALRM, lowlevel.end_burst)
    if _stock_wait is None or not pyfuse3_compat.use_internals():
        signal.setitimer(signal.ITIMER_REAL, UNKNOWN_TICK_SECONDS, UNKNOWN_TICK_SECONDS)
        return False
    # not among its declared names
    setattr(pyfuse3, "trio", _Trio(lowlevel))  # noqa: B010
    setattr(pyfuse3, "_wait_fuse_readable", lowlevel.wait_for_request)  # noqa: B010
    return True
