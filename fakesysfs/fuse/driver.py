"""Drives kernel operations (kernel/sched.py): what they ask for becomes waits of trio.

An operation that asks for nothing is run to its end in the first step, without a turn of the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from fakesysfs.fuse.callers import Watch
from fakesysfs.kernel.sched import Answer, Operation, Preempt, Request, Signals, Sleep, Wait

T = TypeVar("T")

_FIRST_LOOK_SECONDS = 0.01
_LAST_LOOK_SECONDS = 0.05
_LONGER = 1.5
_LOOK_EVERY_SECONDS = 0.001
"""However many operations wait, their callers are looked at no more often than this, all together."""


class Driver:
    """Runs operations to their end.

    `stepped` is called after each step of an operation: names may have changed.
    """

    def __init__(self, stepped: Callable[[], None]) -> None:
        self._stepped = stepped
        self.asleep = 0
        """Operations that wait for something now."""

    async def drive(
        self,
        operation: Operation[T],
        opener: int,
        ino: int,
        about_to_sleep: Callable[[], None] | None = None,
        request: Request | None = None,
    ) -> T:
        """The result of `operation` on the file `ino`, opened by thread `opener` (0: not visible from here).

        `about_to_sleep` is called once, before the first wait. The operation is closed when this is cancelled. One that
        was started already asked for `request`.
        """
        answer: Answer | None = None
        try:
            while True:
                if request is None:
                    try:
                        request = operation.send(answer)  # type: ignore[arg-type]  # None starts it
                    except StopIteration as stop:
                        return stop.value  # type: ignore[no-any-return]
                    finally:
                        self._stepped()
                if about_to_sleep is not None and not isinstance(request, Preempt):
                    about_to_sleep()
                    about_to_sleep = None
                self.asleep += 1
                try:
                    answer = await self._grant(request, opener, ino)
                finally:
                    self.asleep -= 1
                request = None
        finally:
            operation.close()

    async def _grant(self, request: Request, opener: int, ino: int) -> Answer:
        if isinstance(request, Sleep):
            await trio.sleep(request.seconds)
            return Answer.WOKEN
        if isinstance(request, Preempt):
            # Twice: who was woken just now runs in the same round as we do, in any order, and shall have had its turn.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            return Answer.WOKEN
        return await self._wait(request, opener, ino)

    async def _wait(self, request: Wait, opener: int, ino: int) -> Answer:
        """Until it is woken, or a signal came: the caller is looked at now and then."""
        woken = trio.Event()
        token = request.queue.add(woken.set)
        try:
            if request.signals is Signals.NONE or opener == 0:
                await woken.wait()
                return Answer.WOKEN
            watch = Watch(opener, ino)
            seconds = _FIRST_LOOK_SECONDS
            while True:
                with trio.move_on_after(seconds):
                    await woken.wait()
                if woken.is_set():
                    return Answer.WOKEN
                if watch.interrupted(request.signals):
                    return Answer.INTERRUPTED
                seconds = min(seconds * _LONGER, max(_LAST_LOOK_SECONDS, self.asleep * _LOOK_EVERY_SECONDS))
        finally:
            request.queue.discard(token)
