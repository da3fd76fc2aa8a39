"""Serves one mount until it ends.

It ends on SIGTERM, SIGINT and SIGHUP, and when the mount leaves the table of mounts. Open files do not keep it alive;
sleeping operations are closed.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyfuse3
import trio

from fakesysfs.fuse import limits, reach
from fakesysfs.fuse.fast import loop
from fakesysfs.fuse.handler import RESERVE
from fakesysfs.fuse.memory import keep_heap
from fakesysfs.fuse.mount import IN_A_CONTAINER, MountError
from fakesysfs.fuse.mount_table import has_device, mounted_at
from fakesysfs.fuse.operations import Mountable, Operations, WorksInBackground
from fakesysfs.fuse.uevent_barrier import UeventBarrier
from fakesysfs.ops.sched import Operation
from fakesysfs.ops.trace import Tracer

if TYPE_CHECKING:
    from fakesysfs.fuse.gate import Gate

MAX_TASKS = 100_000
"""Requests in flight. With pyfuse3's default of 99 a hundred sleeping writers would stop every reader."""

SWITCH_SECONDS = 0.0002

_FLUSH_SECONDS = 0.01
"""How long the reads of a trace are held back. A burst of requests (`fast/loop.py`) may make it 0.02 more."""


def serve(
    sysroot: Mountable,
    point: str,
    *,
    allow_other: bool,
    ready: Callable[[], None],
    private: bool = False,
    uevents: UeventBarrier | None = None,
    gate: Gate | None = None,
) -> None:
    """Mount `sysroot` at `point` and serve it until it ends; `ready` is called once it answers.

    `private`: the mount namespace ends with this process, so that a killed server leaves no mount. `uevents` runs
    beside it. With a `gate` the mount holds (`gate.py`). A process may call this once: pyfuse3 has one session.
    Raises MountError.
    """
    _reset_signals()
    keep_heap()
    operations = _operations(sysroot, ready, uevents, gate)
    # With Python's 5 ms the invalidation thread would wait that long for the interpreter while the loop is busy.
    sys.setswitchinterval(SWITCH_SECONDS)
    # A mount that holds answers no bursts: its next request takes its time.
    loop.install(operations.busy, bursts=gate is None)
    try:
        trio.run(_serve, operations, os.path.realpath(point), allow_other, private, gate)
    finally:
        loop.end()


def _operations(
    sysroot: Mountable, ready: Callable[[], None], uevents: UeventBarrier | None, gate: Gate | None
) -> Operations:
    if gate is None:
        if sysroot.tree.tracer is None:
            return Operations(sysroot, ready, uevents)
        from fakesysfs.fuse.tracing import TracingOperations  # noqa: PLC0415  few mounts are traced

        return TracingOperations(sysroot, ready, uevents)
    from fakesysfs.fuse.gate import HoldingOperations  # noqa: PLC0415  only an explorer's mount needs it

    return HoldingOperations(sysroot, ready, gate, uevents)


def _reset_signals() -> None:
    """Undo what the process inherited: blocked signals would neither end the server nor its loop's waits.

    An ignored SIGCHLD would keep libfuse from learning how fusermount3 fared.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _signals_that_end() -> list[signal.Signals]:
    """SIGTERM always; the other two unless they were ignored from the start (nohup(1), a shell's `&`)."""
    others = (signal.SIGINT, signal.SIGHUP)
    return [signal.SIGTERM, *(number for number in others if signal.getsignal(number) is not signal.SIG_IGN)]


async def _serve(
    operations: Operations,
    point: str,
    allow_other: bool,  # noqa: FBT001
    private: bool,  # noqa: FBT001
    gate: Gate | None,
) -> None:
    # All descriptors and threads are there before the mount is: a limit that is lowered later refuses requests, and
    # never ends the mount.
    with trio.open_signal_receiver(*_signals_that_end()) as signals, _MountTable() as table:
        try:
            operations.invalidator.start()
            table.watch()
        except RuntimeError as error:
            raise MountError(f"{point}: {limits.reached(error) or error}") from None
        try:
            async with trio.open_nursery() as nursery:
                if gate is not None:
                    nursery.start_soon(gate.run)
                await _serve_mount(operations, point, allow_other, private, signals, table, gate)
                nursery.cancel_scope.cancel()
        finally:
            operations.invalidator.abandon()


async def _serve_mount(
    operations: Operations,
    point: str,
    allow_other: bool,  # noqa: FBT001
    private: bool,  # noqa: FBT001
    signals: AsyncIterator[int],
    table: _MountTable,
    gate: Gate | None,
) -> None:
    _mount(operations, point, allow_other, private)
    mount = mounted_at(point)
    device = operations.driver.device = mount.device if mount else None
    try:
        async with trio.open_nursery() as nursery:

            async def end_after(until: Callable[..., Awaitable[object]], *of: object) -> None:
                await until(*of)
                # Its thread may wait for the lock of a directory, which a client holds that waits for our answer.
                await operations.invalidator.stop()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_after, anext, signals)
            nursery.start_soon(RESERVE.keep)
            if device is not None:
                nursery.start_soon(end_after, table.until_gone, device)
                if not private:
                    nursery.start_soon(end_after, reach.until_unreachable, device)
            if operations.tracer is not None:
                nursery.start_soon(_flush_trace, operations.tracer)
            if gate is None and isinstance(operations.sysroot, WorksInBackground):
                # An explorer steps through programs only: the kernel's own work is part of the write that caused it.
                works, queue = trio.open_memory_channel[Operation[None]](math.inf)
                nursery.start_soon(operations.work_off, queue)
                operations.sysroot.run_in_background(works.send_nowait)
            if operations.uevents is not None:
                nursery.start_soon(operations.uevents.run, operations.invalidator.flush)
            await pyfuse3.main(max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()
    finally:
        # Do not use the mount's path from here on: another file system may be mounted there.
        _end_helpers()
        pyfuse3.close(unmount=device is None or table.has(device))


async def _flush_trace(tracer: Tracer) -> None:
    """Write what the trace held back, a moment later: never for each of many reads."""
    try:
        while True:
            held_back = trio.Event()
            token = tracer.held_back.add(held_back.set)
            try:
                await held_back.wait()
            finally:
                tracer.held_back.discard(token)
            await trio.sleep(_FLUSH_SECONDS)
            tracer.flush()
    finally:
        tracer.flush()


def _mount(operations: Operations, point: str, allow_other: bool, private: bool) -> None:  # noqa: FBT001
    options = {"fsname=fakesysfs", "subtype=fakesysfs", "default_permissions"}
    if allow_other:
        options.add("allow_other")
    # fusermount3 looks, as root, whether the mount is dead: another user's must let root in.
    if not private and shutil.which("fusermount3") and (allow_other or os.geteuid() == 0):
        options.add("auto_unmount")
    said: list[str] = []
    try:
        with _standard_error(said), _without_interrupts():
            pyfuse3.init(operations, point, options)
    except RuntimeError as error:
        why = said[0] or str(error)
        if "Operation not permitted" in why:
            why = f"{why}; {IN_A_CONTAINER}"
        raise MountError(f"{point}: cannot mount: {why}") from None


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT: Ctrl-C reaches fusermount3 too, which would leave a half-made mount."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _standard_error(said: list[str]) -> Iterator[None]:
    """Append to `said` what is written to standard error meanwhile: libfuse says there why it cannot mount."""
    before = os.dup(2)
    taken = os.memfd_create("standard error")
    os.dup2(taken, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        text = os.pread(taken, 4096, 0)
        os.close(taken)
        said.append(" ".join(text.decode(errors="replace").split()))


def _end_helpers() -> None:
    """End fusermount3, our only child: it waits to unmount by path when this process is gone (auto_unmount)."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        for child in map(int, children.read_text().split()):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


class _MountTable:
    """The table of mounts of this process's namespace, and a thread that waits for its changes.

    poll(2) of the table reports each change once, which trio's epoll could miss: so a thread waits. The table stays
    open, so that a limit of descriptors reached later does not hide it.
    """

    def __init__(self) -> None:
        self._file = open("/proc/self/mountinfo", "rb", buffering=0)  # noqa: PTH123, SIM115  closed in __exit__
        self._end = os.eventfd(0)
        self._changed = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._watch, name="mount table", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        # A thread that Python has to end itself needs a descriptor for that (glibc loads libgcc_s).
        os.eventfd_write(self._end, 1)
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._end)
        self._file.close()

    def watch(self) -> None:
        """Start the thread. Raises RuntimeError if it cannot start."""
        self._thread.start()

    def _watch(self) -> None:
        changes = select.poll()
        changes.register(self._file, select.POLLPRI | select.POLLERR)
        changes.register(self._end, select.POLLIN)
        while all(descriptor != self._end for descriptor, _ in changes.poll()):
            self._token.run_sync_soon(self._tell)

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def has(self, device: str) -> bool:
        """Whether a mount with that device number is there."""
        self._file.seek(0)
        return has_device(self._file.readall(), device)

    async def until_gone(self, device: str) -> None:
        """Wait until it is gone."""
        while True:
            changed = self._changed
            if not self.has(device):
                return
            await changed.wait()
