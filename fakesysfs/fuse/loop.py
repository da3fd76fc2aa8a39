"""A cheaper event loop for pyfuse3.

pyfuse3's loop waits for each request with `trio.lowlevel.wait_readable`: with the turn through trio's scheduler that is
three system calls and most of the time of a request. While a client is busy the next request is there within
microseconds, so here the descriptor is polled once, for a moment, before the task is parked.

pyfuse3 looks the name `trio` up in its own module, and its asyncio mode relies on that; so the loop is exchanged by
putting a small object there. That is no documented interface: it is done with the versions it was tested with only
(`KNOWN`), with others pyfuse3 keeps its own loop. FAKESYSFS_LOOP=stock keeps it too.

Rejected: busy-waiting (gains nothing), a loop without trio (operations that sleep need one).
"""

from __future__ import annotations

import os
import select
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NoReturn

import pyfuse3
import trio

KNOWN = ("3.4.", "3.5.")
"""Beginnings of the versions of pyfuse3 whose loop this was tested with."""

FAIRNESS = 32
"""After this many requests in a row the other tasks get their turn."""

PATIENCE_MILLISECONDS = 2
"""How long to look for the next request while nothing else can happen in this process but a signal or an unmount."""


class _Done:
    """Awaiting this takes no turn of any loop and makes no coroutine."""

    def __await__(self) -> Generator[NoReturn, None, None]:
        return iter(())  # type: ignore[return-value]  # an iterator is all that `await` needs


_DONE = _Done()


class _Lock:
    """What pyfuse3 needs of `trio.Lock`, without a turn through the scheduler where nobody holds it.

    A task that comes by may take the lock before one that waits: it has a request at hand, the other does not.
    """

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    def __aenter__(self) -> Awaitable[None]:
        if self._held:
            return self._wait()
        self._held = True
        return _DONE

    async def _wait(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    def __aexit__(self, *_exc: object) -> Awaitable[None]:
        self._held = False
        if self._waiting:
            self._waiting.unpark()
        return _DONE


class _LowLevel:
    """`trio.lowlevel` with an eager `wait_readable`."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._poll: Callable[[int], object] | None = None
        self._turn = 0

    def wait_readable(self, descriptor: int) -> Awaitable[None]:
        if self._poll is None:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            self._poll = poll.poll
        self._turn += 1
        if self._turn % FAIRNESS and self._poll(0 if self._busy() else PATIENCE_MILLISECONDS):
            return _DONE
        return trio.lowlevel.wait_readable(descriptor)  # noqa: ASYNC105  pyfuse3 awaits it

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever trio has
        return getattr(trio.lowlevel, name)


class _Trio:
    """`trio` with these two."""

    Lock = _Lock

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.lowlevel = _LowLevel(busy)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever trio has
        return getattr(trio, name)


def install(busy: Callable[[], bool]) -> bool:
    """Give pyfuse3 the faster loop where that is known to work; returns whether it was.

    `busy` says whether any handler waits for something, so that the loop must not linger.
    """
    if os.environ.get("FAKESYSFS_LOOP") == "stock" or not pyfuse3.__version__.startswith(KNOWN):
        return False
    setattr(pyfuse3, "trio", _Trio(busy))  # noqa: B010  not among its declared names
    return True
