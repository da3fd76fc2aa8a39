"""Files whose readers wait for more: control/kmsg_follow, uevents_follow, uevents_new, calls_new."""

from __future__ import annotations

import errno
from collections.abc import Callable

from fakesysfs.control.events import uevent_line
from fakesysfs.control.history import CallJournal
from fakesysfs.control.kmsg import kmsg_line
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernfs.declare import Stream
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Signals, Wait, WaitQueue, ask


class Follower(Stream):
    """One reader's place in a list that grows.

    `take` gives text from a place on, and the place behind that text. `end` gives the place behind
    the last entry.
    """

    def __init__(
        self,
        kernel: Kernel,
        arrived: WaitQueue,
        take: Callable[[int, int], tuple[str, int]],
        place: int,
        end: Callable[[], int],
    ) -> None:
        self._kernel = kernel
        self._arrived = arrived
        self._take = take
        self._place = place
        self._end = end
        self._left = b""

    def waits_on(self) -> WaitQueue | None:
        """See Stream."""
        return None if self._left or self._kernel.gone or self._place < self._end() else self._arrived

    async def read(self, size: int, *, wait: bool) -> bytes:
        """At least one byte, at most `size`.

        Raises KernelError: EAGAIN if there is nothing and `wait` is false, EINTR for a signal,
        ENODEV after a reset.
        """
        while not self._left:
            text, self._place = self._take(self._place, size)
            self._left = text.encode("utf-8", "surrogateescape")
            if not self._left:
                if self._kernel.gone:
                    raise KernelError(errno.ENODEV, "the machine was reset", "follow")
                if not wait:
                    raise KernelError(errno.EAGAIN, "there is nothing more yet", "follow")
                if await ask(Wait("follow", self._arrived, Signals.ANY)) is Answer.INTERRUPTED:
                    raise KernelError(errno.EINTR, "a signal ended the wait", "follow")
        data, self._left = self._left[:size], self._left[size:]
        return data


def follow_kmsg(kernel: Kernel) -> Follower:
    """The kernel log from its oldest message on."""

    def take(place: int, _size: int) -> tuple[str, int]:
        return "".join(map(kmsg_line, kernel.printk.since(place))), kernel.printk.sequence

    return Follower(kernel, kernel.printk.arrived, take, 0, lambda: kernel.printk.sequence)


def follow_uevents(kernel: Kernel, place: int = 1) -> Follower:
    """The uevents from number `place` on."""

    def take(place: int, size: int) -> tuple[str, int]:
        parts: list[str] = []
        length = 0
        for number, lines in kernel.uevents.numbered(place):
            parts.append(uevent_line(number, lines))
            place = number + 1
            length += len(parts[-1])
            if length >= size:
                break
        return "".join(parts), place

    return Follower(kernel, kernel.uevents.arrived, take, place, lambda: kernel.uevents.sequence)


def follow_new_uevents(kernel: Kernel) -> Follower:
    """The uevents that are sent from now on."""
    return follow_uevents(kernel, kernel.uevents.sequence)


class CallsFollower(Follower):
    """A reader of control/calls_new. While one has it open, writes are noted."""

    def __init__(self, kernel: Kernel, journal: CallJournal) -> None:
        def take(place: int, _size: int) -> tuple[str, int]:
            return "".join(journal.followed.since(place)), journal.followed.count

        super().__init__(kernel, journal.arrived, take, journal.followed.count, lambda: journal.followed.count)
        self._journal = journal
        journal.readers += 1

    def close(self) -> None:
        """See Stream."""
        self._journal.readers -= 1
