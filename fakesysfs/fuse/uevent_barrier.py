"""Announces the uevents of a machine that is served in this process: the loop's side of `uevents.py`.

`Announcer` sends them from here, `RemoteUevents` waits until others have (`uevents.follow` does it in runs).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from fakesysfs.control.uevent_readers import Announced
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.sandbox.netlink import EVENTS_AT_ONCE, LOOK_SECONDS, PATIENCE_SECONDS, Injector

log = logging.getLogger(__name__)


class _Sysroot(Protocol):
    @property
    def kernel(self) -> Kernel:
        """The kernel that runs; another one after a reset."""


class Announcer:
    """Sends the uevents of a machine that is served in this process."""

    def __init__(self, sysroot: _Sysroot, injector: Injector) -> None:
        self._sysroot = sysroot
        self._injector = injector
        self._sent = 1
        """Events of `_kernel` before this one were sent, or cannot be any more."""
        self._kernel = sysroot.kernel
        self._on_their_own = False
        """A listener lags behind; whoever writes is not to wait for it, it may be the listener itself."""
        self._progress = trio.Event()

    async def run(self, settled: Callable[[], Awaitable[None]]) -> None:
        """Announce, for as long as the machine is served. `settled` waits until the host knows all names."""
        try:
            while True:
                kernel = self._kernel = self._sysroot.kernel
                self._sent = 1
                while self._sysroot.kernel is kernel:
                    arrived = trio.Event()
                    token = kernel.uevents.arrived.add(arrived.set)
                    try:
                        if self._sent == kernel.uevents.sequence and not kernel.gone:
                            await arrived.wait()
                    finally:
                        kernel.uevents.arrived.discard(token)
                    end = kernel.uevents.sequence
                    await settled()
                    await self._send(kernel, end)
        except OSError as error:
            log.error("uevents are no longer sent: %s", error)  # noqa: TRY400  the error says it all
        finally:
            self._on_their_own = True
            self._progress.set()

    async def _send(self, kernel: Kernel, end: int) -> None:
        if self._injector.listens():
            events = itertools.takewhile(lambda event: event[0] < end, kernel.uevents.numbered(self._sent))
            while batch := list(itertools.islice(events, EVENTS_AT_ONCE)):
                while self._injector.must_wait():
                    self._on_their_own = True
                    self._tell()
                    await trio.sleep(LOOK_SECONDS)
                self._on_their_own = False
                for _, lines in batch:
                    self._injector.send(lines)
                self._sent = batch[-1][0] + 1
                await trio.lowlevel.checkpoint()
        self._sent = end
        self._tell()

    def _tell(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()

    @property
    def behind(self) -> bool:
        """Whether there are events that a store, before it is answered, waits for."""
        kernel = self._sysroot.kernel
        return not self._on_their_own and (kernel is not self._kernel or self._sent < kernel.uevents.sequence)

    async def caught_up(self) -> None:
        """Wait until all events were sent that there are now."""
        kernel = self._sysroot.kernel
        goal = kernel.uevents.sequence
        while self.behind and kernel is self._sysroot.kernel and (kernel is not self._kernel or self._sent < goal):
            await self._progress.wait()


class RemoteUevents:
    """For a machine whose uevents are sent by processes in other network namespaces: by all runs on one mount."""

    def __init__(self, announced: Announced) -> None:
        self._announced = announced

    async def run(self, settled: Callable[[], Awaitable[None]]) -> None:
        """Nothing: they have the names settled when they read."""

    @property
    def behind(self) -> bool:
        """Whether there are events that a store, before it is answered, waits for."""
        # Asked for each write, and mostly nobody is there.
        return bool(self._announced.readers) and any(self._announced.missing(*self._announced.now()))

    async def caught_up(self) -> None:
        """Wait until all events that there are now were sent, for PATIENCE_SECONDS at most."""
        now = self._announced.now()
        with trio.move_on_after(PATIENCE_SECONDS) as waiting:
            while any(self._announced.missing(*now)):
                progress = trio.Event()
                token = self._announced.progress.add(progress.set)
                try:
                    await progress.wait()
                finally:
                    self._announced.progress.discard(token)
        if waiting.cancelled_caught:
            self._announced.give_up(*now)
