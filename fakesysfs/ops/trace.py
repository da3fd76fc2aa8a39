"""What a trace wants to know: system calls, their waits, locks, changes of memory blocks.

The model and the files call a `Tracer` if there is one. Usually there is not, and then each of these
places costs a comparison with None. The package `trace` has the one that writes files.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, NamedTuple, Protocol, TypeVar

from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Request, SignalPending, Waiting, WaitQueue

T = TypeVar("T")


class Process(NamedTuple):
    """Who makes a system call."""

    pid: int
    """The thread, as in control/*.jsonl."""
    tgid: int
    """The process that the thread belongs to."""
    comm: str
    """The name of its command."""
    program: str
    """The program or script that it runs, without directories."""
    uid: int = 0


class Tracer(Protocol):
    """Gets every event of one machine.

    A system call that never waits is told once, by `did`. Another one begins: `begin` returns the call
    that the methods after it take.
    """

    held_back: WaitQueue
    """Woken when an event is not written at once. Call `flush` soon then."""

    def now(self) -> int:
        """Microseconds since the first boot, for `did`."""

    def did(
        self, process: Process, op: str, path: str, began: int, outcome: int | KernelError, data: bytes = b""
    ) -> None:
        """A system call began and ended: a number of bytes, or its refusal. `data` is what a read returned."""

    def flush(self) -> None:
        """Write what was held back."""

    def begin(self, process: Process, op: str, path: str, data: bytes = b"") -> Any:
        """A system call begins."""

    def end(self, call: Any, outcome: int | KernelError, data: bytes = b"") -> None:
        """It ended: a number of bytes, or its refusal. `data` is what a read returned."""

    def waits(self, call: Any, request: Waiting) -> None:
        """The call sleeps in the kernel from now on."""

    def goes_on(self, call: Any) -> None:
        """The call runs in the kernel from now on."""

    def blocks(self, first: int, last: int, status: Any) -> None:
        """Memory blocks changed to `status`, None if they were removed."""


@types.coroutine
def traced(operation: Coroutine[Request, Answer, T], call: Any, tracer: Tracer) -> Generator[Request, Answer, T]:
    """Run the operation of a call, and tell `tracer` when it waits and when it goes on."""
    answer: Answer | None = None
    tracer.goes_on(call)
    try:
        while True:
            try:
                request = operation.send(answer)  # type: ignore[arg-type]  # None starts it
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if isinstance(request, SignalPending):
                answer = yield request
                continue
            tracer.waits(call, request)
            try:
                answer = yield request
            finally:
                tracer.goes_on(call)
    finally:
        operation.close()
