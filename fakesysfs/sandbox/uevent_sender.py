"""Sends the uevents of a machine from the process that serves it.

Runs in the server's event loop. It sends an event when the host has forgotten the names that
changed before it, as on a real kernel the names are there when the event arrives.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.sandbox.netlink import EVENTS_AT_ONCE, LOOK_SECONDS, Injector

log = logging.getLogger(__name__)


class _Sysroot(Protocol):
    @property
    def kernel(self) -> Kernel:
        """The kernel that runs; another one after a reset."""


class UeventSender:
    """Sends the uevents of a machine that this process serves.

    It is a `UeventBarrier` (fakesysfs/fuse/uevent_barrier.py).
    """

    def __init__(self, sysroot: _Sysroot, injector: Injector) -> None:
        self._sysroot = sysroot
        self._injector = injector
        self._sent = 1
        """Events of `_kernel` before this one were sent, or cannot be any more."""
        self._kernel = sysroot.kernel
        self._lagging = False
        """A listener is slow. Writers do not wait for it: one of them may be that listener."""
        self._progress = trio.Event()

    async def run(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Send, for as long as the machine is served. `flush` waits until the host has forgotten changed names."""
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
                    await flush()
                    await self._send(kernel, end)
        except OSError as error:
            log.error("uevents are no longer sent: %s", error)  # noqa: TRY400  the error says it all
        finally:
            self._lagging = True
            self._progress.set()

    async def _send(self, kernel: Kernel, end: int) -> None:
        if self._injector.listens():
            events = itertools.takewhile(lambda event: event[0] < end, kernel.uevents.numbered(self._sent))
            while batch := list(itertools.islice(events, EVENTS_AT_ONCE)):
                while self._injector.must_wait():
                    self._lagging = True
                    self._tell()
                    await trio.sleep(LOOK_SECONDS)
                self._lagging = False
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
        return not self._lagging and (kernel is not self._kernel or self._sent < kernel.uevents.sequence)

    async def caught_up(self) -> None:
        """Wait until all events were sent that there are now."""
        kernel = self._sysroot.kernel
        goal = kernel.uevents.sequence
        while self.behind and kernel is self._sysroot.kernel and (kernel is not self._kernel or self._sent < goal):
            await self._progress.wait()
