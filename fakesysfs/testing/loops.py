"""Drives operations (ops/sched.py) under the running event loop: trio or asyncio.

Neither is imported unless it runs already.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol, TypeVar

from fakesysfs.ops.sched import Answer, Preempt, Request, Signals, Sleep, Waiting, WaitQueue, advance

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

T = TypeVar("T")


class EventLoop(Protocol):
    """The parts of an event loop that `drive` uses."""

    cancelled: type[BaseException]
    """The exception of a cancelled task."""

    def time(self) -> float:
        """Its clock."""

    async def checkpoint(self) -> None:
        """Let other tasks run, and raise a cancellation."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    async def woken(self, add: Callable[[Callable[[], None]], object]) -> None:
        """Pass a callback to `add` and wait until it is called."""

    async def to_the_end(self, wait: Callable[[], Awaitable[None]]) -> BaseException | None:
        """Wait, even if the task is cancelled. Returns a cancellation that must be raised again."""


class _TrioLoop:
    def __init__(self) -> None:
        import trio  # noqa: PLC0415  it runs

        self._trio = trio
        self.cancelled: type[BaseException] = trio.Cancelled

    def time(self) -> float:
        return self._trio.current_time()

    async def checkpoint(self) -> None:
        await self._trio.lowlevel.checkpoint()

    async def sleep(self, seconds: float) -> None:
        await self._trio.sleep(seconds)

    async def woken(self, add: Callable[[Callable[[], None]], object]) -> None:
        event = self._trio.Event()
        add(event.set)
        await event.wait()

    async def to_the_end(self, wait: Callable[[], Awaitable[None]]) -> BaseException | None:
        with self._trio.CancelScope(shield=True):
            await wait()
        return None


class _AsyncioLoop:
    def __init__(self) -> None:
        import asyncio  # noqa: PLC0415  it runs

        self._asyncio = asyncio
        self.cancelled: type[BaseException] = asyncio.CancelledError

    def time(self) -> float:
        return self._asyncio.get_running_loop().time()

    async def checkpoint(self) -> None:
        await self._asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        await self._asyncio.sleep(seconds)

    async def woken(self, add: Callable[[Callable[[], None]], object]) -> None:
        event = self._asyncio.Event()
        add(event.set)
        await event.wait()

    async def to_the_end(self, wait: Callable[[], Awaitable[None]]) -> BaseException | None:
        task = self._asyncio.ensure_future(wait())
        cancelled: BaseException | None = None
        while not task.done():
            try:
                await self._asyncio.shield(task)
            except self._asyncio.CancelledError as error:
                cancelled = error
        return cancelled


def event_loop() -> EventLoop:
    """The running event loop. Raises RuntimeError if none runs."""
    if "trio" in sys.modules and _runs(sys.modules["trio"].lowlevel.current_task):
        return _TrioLoop()
    if "asyncio" in sys.modules and _runs(sys.modules["asyncio"].get_running_loop):
        return _AsyncioLoop()
    raise RuntimeError("neither trio nor asyncio runs here: use `with`, not `async with`")


def _runs(current: Callable[[], object]) -> bool:
    try:
        current()
    except RuntimeError:
        return False
    return True


async def drive(operation: Coroutine[Request, Answer, T]) -> T:
    """The result of an operation. A cancellation acts as SIGKILL to the program in Linux."""
    loop = event_loop()
    try:
        await loop.checkpoint()
    except BaseException:
        operation.close()
        raise
    answer: Answer | None = None
    killed: BaseException | None = None

    def was_killed() -> bool:
        return killed is not None

    while True:
        try:
            request = advance(operation, answer, was_killed)
        except StopIteration as stop:
            if killed is not None:
                raise killed from None
            return stop.value  # type: ignore[no-any-return]
        except OSError:
            if killed is not None:
                raise killed from None
            raise
        if not isinstance(request, Preempt) and request.signals is not Signals.NONE:
            if killed is not None:
                answer = Answer.INTERRUPTED
                continue
            try:
                await _grant(loop, request)
                answer = Answer.WOKEN
            except loop.cancelled as error:
                killed, answer = error, Answer.INTERRUPTED
        else:
            cancelled = await loop.to_the_end(lambda request=request: _grant(loop, request))  # type: ignore[misc]
            killed = killed or cancelled
            answer = Answer.WOKEN


async def _grant(loop: EventLoop, request: Waiting) -> None:
    if isinstance(request, Sleep):
        await loop.sleep(request.seconds)
    elif isinstance(request, Preempt):
        await loop.checkpoint()
    else:
        await _woken(loop, request.queue)


async def wait(*queues: WaitQueue) -> None:
    """Wait until one of the queues is woken."""
    await _woken(event_loop(), *queues)


async def _woken(loop: EventLoop, *queues: WaitQueue) -> None:
    tokens: list[tuple[WaitQueue, int]] = []
    try:
        await loop.woken(lambda wake: tokens.extend((queue, queue.add(wake)) for queue in queues))
    finally:
        for queue, token in tokens:
            queue.discard(token)
