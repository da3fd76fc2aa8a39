"""The readers of control/uevents_announce, and which uevents each of them has sent.

A real kernel has sent a uevent when the write that caused it returns. A server outside the network
namespace of the listeners cannot send it. A process inside reads it from control/uevents_announce
and sends it. A reader that asks for more has sent all that it read before. So a write can wait for
its uevents, as it does for the kernel's own broadcast.

A reader hears of every event after its opening. After a reset it goes on with the new kernel.

A reader that stops reading must not stop the writers. A write waits for all readers together, up to
a limit. A reader that a write waited for in vain delays no other write until it has caught up. A
newcomer has opened the file and not read yet. After a write waited for a newcomer in vain, no write
waits for any newcomer until one of them reads.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Protocol

from fakesysfs.control.events import uevent_line
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernfs.declare import Stream
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Signals, Wait, WaitQueue, ask


class KernelOwner(Protocol):
    """A machine that runs a kernel, another one after each reset."""

    kernel: Kernel


class Reader(Stream):
    """One open control/uevents_announce."""

    def __init__(self, machine: KernelOwner, all_readers: UeventReaders) -> None:
        self._machine = machine
        self._all = all_readers
        self._kernel = machine.kernel
        self._place = self._kernel.uevents.sequence
        self._left = b""
        self._sent = self._kernel, self._place
        """A kernel and a number: all its events before that number were sent."""
        self.has_read = False
        self.on_its_own = False
        """A write waited for it in vain. No other write waits for it until it has caught up."""

    def has_sent(self, kernel: Kernel, end: int) -> bool:
        """Whether the events of `kernel` before number `end` were sent; true of a dead kernel."""
        mine, before = self._sent
        return kernel.gone or (mine is kernel and before >= end)

    def waits_on(self) -> WaitQueue | None:
        """See Stream."""
        uevents = self._kernel.uevents
        moved_on = self._machine.kernel is not self._kernel
        return None if self._left or moved_on or self._place < uevents.sequence else uevents.arrived

    def close(self) -> None:
        """No write waits for it any more."""
        self._all.leave(self)

    async def read(self, size: int, *, wait: bool) -> bytes:
        """At least one byte, at most `size`. A line may be cut; the next read goes on there.

        Raises KernelError: EAGAIN if there is nothing and `wait` is false, EINTR for a signal.
        """
        if not self.has_read:
            self._all.has_read(self)
        while not self._left:
            if self._machine.kernel is not self._kernel:
                self._kernel, self._place = self._machine.kernel, 1
            self._sent = self._kernel, self._place
            uevents = self._kernel.uevents
            if self._place == uevents.sequence:
                self.on_its_own = False
            self._all.progress.wake_all()
            parts: list[str] = []
            length = 0
            for number, lines in uevents.numbered(self._place):
                parts.append(uevent_line(number, lines))
                self._place = number + 1
                length += len(parts[-1])
                if length >= size:
                    break
            self._left = "".join(parts).encode("utf-8", "surrogateescape")
            if not self._left and not self._kernel.gone:
                if not wait:
                    raise KernelError(errno.EAGAIN, "there is nothing more yet", "announce")
                if await ask(Wait("announce", uevents.arrived, Signals.ANY)) is Answer.INTERRUPTED:
                    raise KernelError(errno.EINTR, "a signal ended the wait", "announce")
        data, self._left = self._left[:size], self._left[size:]
        return data


class UeventReaders:
    """All readers of one machine's control/uevents_announce."""

    def __init__(self, machine: KernelOwner) -> None:
        self._machine = machine
        self.readers: list[Reader] = []
        self.progress = WaitQueue()
        """Woken when a reader has sent more, was closed, or no longer delays writes."""
        self._trusts_newcomers = True
        """Whether a write waits for a reader that has not read yet."""

    def open(self) -> Reader:
        """A new reader."""
        reader = Reader(self._machine, self)
        reader.on_its_own = not self._trusts_newcomers
        self.readers.append(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """A reader was closed."""
        self.readers.remove(reader)
        self.progress.wake_all()

    def now(self) -> tuple[Kernel, int]:
        """The running kernel and the number of its next event, for `missing`."""
        return self._machine.kernel, self._machine.kernel.uevents.sequence

    def missing(self, kernel: Kernel, end: int) -> Iterator[Reader]:
        """The readers that a write waits for: they have not sent all events of `kernel` before `end`."""
        return (reader for reader in self.readers if not reader.on_its_own and not reader.has_sent(kernel, end))

    def give_up(self, kernel: Kernel, end: int) -> None:
        """A write waited in vain for the `missing` readers. They delay no other write."""
        missing = list(self.missing(kernel, end))
        if not all(reader.has_read for reader in missing):
            self._trusts_newcomers = False
            missing += [reader for reader in self.readers if not reader.has_read]
        for reader in missing:
            reader.on_its_own = True
        self.progress.wake_all()

    def has_read(self, reader: Reader) -> None:
        """A reader reads for the first time."""
        reader.has_read = self._trusts_newcomers = True
