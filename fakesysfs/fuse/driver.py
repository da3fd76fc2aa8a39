"""Drives kernel operations (ops/sched.py): what they ask for becomes waits in trio.

An operation that asks for nothing ends in its first step, without a turn of the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from fakesysfs.fuse.callers import SignalWatch
from fakesysfs.ops.sched import Answer, Operation, Preempt, Signals, Sleep, Waiting, advance

T = TypeVar("T")

_FIRST_LOOK_SECONDS = 0.01
_LAST_LOOK_SECONDS = 0.05
_LONGER = 1.5
_LOOK_EVERY_SECONDS = 0.005
"""However many operations wait, their callers are looked at no more often than this, all together."""


class OperationDriver:
    """Runs operations to their end.

    `stepped` is called after each step of an operation: names may have changed.
    """

    def __init__(self, stepped: Callable[[], None]) -> None:
        self._stepped = stepped
        self.asleep = 0
        """Operations that wait for something now."""
        self.blocked_operations = 0
        """Those among them that nothing but another operation, or a signal to their caller, will wake."""
        self.device: str | None = None
        """The mount's device number, once it is mounted."""

    async def drive(
        self,
        operation: Operation[T],
        opener: int,
        ino: int,
        about_to_sleep: Callable[[], None] | None = None,
        request: Waiting | None = None,
    ) -> T:
        """The result of `operation` on the file `ino`, opened by thread `opener` (0: not visible from here).

        `about_to_sleep` is called once, before the first wait. The operation is closed when this is cancelled. One that
        was started already asked for `request`.
        """
        answer: Answer | None = None
        caller = Caller(opener, SignalWatch(opener, ino, self.device) if opener else None)
        try:
            while True:
                if request is None:
                    try:
                        request = advance(operation, answer, caller.signal_pending)
                    except StopIteration as stop:
                        return stop.value  # type: ignore[no-any-return]
                    finally:
                        self._stepped()
                if about_to_sleep is not None:
                    about_to_sleep()
                    about_to_sleep = None
                self.asleep += 1
                try:
                    answer = await self._grant(request, caller)
                finally:
                    self.asleep -= 1
                request = None
        finally:
            operation.close()

    async def _grant(self, request: Waiting, caller: Caller) -> Answer:
        if isinstance(request, Preempt):
            # Twice: tasks that were woken just now run in the same round as this one. We go on after all of them.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            return Answer.WOKEN
        caller.waited = True
        woken = trio.Event()
        if isinstance(request, Sleep):
            with trio.move_on_after(request.seconds):
                return await self._wait(woken, request.signals, caller)
            return Answer.WOKEN

        def wake() -> None:
            self.blocked_operations -= 1
            woken.set()

        token = request.queue.add(wake)
        self.blocked_operations += 1
        try:
            return await self._wait(woken, request.signals, caller)
        finally:
            if not woken.is_set():
                self.blocked_operations -= 1
            request.queue.discard(token)

    async def _wait(self, woken: trio.Event, signals: Signals, caller: Caller) -> Answer:
        """Until it is woken, or a signal came: the caller is looked at now and then."""
        if signals is Signals.NONE:
            await woken.wait()
            return Answer.WOKEN
        seconds = _FIRST_LOOK_SECONDS
        while True:
            with trio.move_on_after(seconds):
                await woken.wait()
            if woken.is_set():
                caller.resumed(signals)
                return Answer.WOKEN
            if caller.interrupted(signals):
                return Answer.INTERRUPTED
            seconds = min(seconds * _LONGER, max(_LAST_LOOK_SECONDS, self.asleep * _LOOK_EVERY_SECONDS))


class Caller:
    """What is known of the signals of an operation's caller; of one that is not visible from here, nothing."""

    __slots__ = ("_interrupted", "_watch", "opener", "waited")

    def __init__(self, opener: int, watch: SignalWatch | None) -> None:
        self.opener = opener
        """The thread that opened the file."""
        self._watch = watch
        self._interrupted = False
        self.waited = False
        """It has waited: before that there was no time for a signal to come."""

    def interrupted(self, signals: Signals) -> bool:
        """Does a signal end such a wait?"""
        self._interrupted = self._watch is not None and self._watch.interrupted(signals)
        return self._interrupted

    def signal_pending(self) -> bool:
        """Is any pending? What ended a wait still is."""
        return self._interrupted or (self.waited and self.interrupted(Signals.ANY))

    def resumed(self, signals: Signals) -> None:
        """A wait is over; a killable one stands for restarts of the system call, between which handlers run."""
        if self._watch is not None and signals is Signals.FATAL:
            self._watch.consume()
