"""Drives kernel operations (kernel/sched.py): what they ask for becomes waits of trio.

An operation that asks for nothing is run to its end in the first step, without a turn of the event loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import trio

from fakesysfs.kernel.sched import Answer, Operation, Preempt, Request, Signals, Sleep, Wait

T = TypeVar("T")

_FIRST_LOOK_SECONDS = 0.01
_LAST_LOOK_SECONDS = 0.05
_SIGKILL_BIT = 1 << 8


class Driver:
    """Runs operations to their end.

    `stepped` is called after each step of an operation: names may have changed.
    """

    def __init__(self, stepped: Callable[[], None]) -> None:
        self._stepped = stepped
        self.asleep = 0
        """Operations that wait for something now."""

    async def drive(self, operation: Operation[T], pid: int, about_to_sleep: Callable[[], None] | None = None) -> T:
        """The result of `operation`, called for by process `pid` (0: unknown, its signals cannot be seen).

        `about_to_sleep` is called once, before the first wait. The operation is closed when this is cancelled.
        """
        answer: Answer | None = None
        try:
            while True:
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
                    answer = await _grant(request, pid)
                finally:
                    self.asleep -= 1
        finally:
            operation.close()


async def _grant(request: Request, pid: int) -> Answer:
    if isinstance(request, Sleep):
        await trio.sleep(request.seconds)
        return Answer.WOKEN
    if isinstance(request, Preempt):
        await trio.lowlevel.checkpoint()
        return Answer.WOKEN
    return await _wait(request, pid)


async def _wait(request: Wait, pid: int) -> Answer:
    woken = trio.Event()
    token = request.queue.add(woken.set)
    try:
        if request.signals is Signals.NONE or pid == 0:
            await woken.wait()
            return Answer.WOKEN
        seconds = _FIRST_LOOK_SECONDS
        while True:
            with trio.move_on_after(seconds):
                await woken.wait()
            if woken.is_set():
                return Answer.WOKEN
            if interrupted(pid, request.signals):
                return Answer.INTERRUPTED
            seconds = min(seconds * 1.5, _LAST_LOOK_SECONDS)
    finally:
        request.queue.discard(token)


def interrupted(pid: int, signals: Signals) -> bool:
    """Whether thread `pid` has a signal that ends such a wait (include/linux/sched/signal.h, signal_pending_state).

    A thread that waits for the answer to a FUSE request leaves its signals pending; ignored ones never get that far,
    and one that ends the process is pending as SIGKILL (kernel/signal.c, complete_signal). A thread that is gone was
    killed.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123  a dozen times a second: no detours
            lines = file.read().split(b"\n")
    except OSError:
        return True
    masks = {b"SigPnd": 0, b"ShdPnd": 0, b"SigBlk": 0}
    for line in lines:
        name, _, value = line.partition(b":")
        if name in masks:
            masks[name] = int(value, 16)
        elif name == b"State" and value.strip()[:1] in {b"Z", b"X"}:
            return True
    pending = (masks[b"SigPnd"] | masks[b"ShdPnd"]) & ~masks[b"SigBlk"]
    return bool(pending & _SIGKILL_BIT if signals is Signals.FATAL else pending)


def command_of(pid: int) -> str:
    """The name of a process's command, "" when it cannot be known."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:  # noqa: PTH123
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return ""
