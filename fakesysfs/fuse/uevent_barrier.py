"""Uevents are sent before the write that caused them is answered, as a real kernel does.

`UeventBarrier` is what a write waits for. `RemoteUevents` is for a machine whose uevents other
processes send: those that have its `control/uevents_announce` open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import trio

PATIENCE_SECONDS = 10.0
"""How long one write waits for the processes that send its uevents."""


class UeventBarrier(Protocol):
    """Sends uevents, or knows whether they were sent."""

    async def run(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Run for as long as the mount lives. `flush` waits until the host has forgotten changed names."""

    @property
    def behind(self) -> bool:
        """Whether there are events that a write, before it is answered, waits for."""

    async def caught_up(self) -> None:
        """Wait until all events were sent that there are now."""


class UeventSenders(Protocol):
    """The open control/uevents_announce (fakesysfs.control.uevent_readers)."""

    readers: list[Any]
    progress: Any
    """Woken when a reader got further, went, or is no longer waited for."""

    def now(self) -> tuple[Any, int]:
        """The point until which events are there."""

    def missing(self, kernel: Any, end: int) -> Iterable[object]:
        """Readers that have not sent the events before that point."""

    def give_up(self, kernel: Any, end: int) -> None:
        """Wait for these readers no longer."""


class RemoteUevents:
    """For a machine whose uevents are sent by processes in other network namespaces: by all runs on one mount."""

    def __init__(self, readers: UeventSenders) -> None:
        self._readers = readers

    async def run(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Do nothing: the senders read `control/uevents_announce`, and a read flushes the names."""

    @property
    def behind(self) -> bool:
        """Whether there are events that a store, before it is answered, waits for."""
        # Asked for each write, and mostly nobody is there.
        return bool(self._readers.readers) and any(self._readers.missing(*self._readers.now()))

    async def caught_up(self) -> None:
        """Wait until all events that there are now were sent, for PATIENCE_SECONDS at most."""
        now = self._readers.now()
        with trio.move_on_after(PATIENCE_SECONDS) as waiting:
            while any(self._readers.missing(*now)):
                progress = trio.Event()
                token = self._readers.progress.add(progress.set)
                try:
                    await progress.wait()
                finally:
                    self._readers.progress.discard(token)
        if waiting.cancelled_caught:
            self._readers.give_up(*now)
