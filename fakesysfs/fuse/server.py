"""Serves one mount until it ends.

It ends when the server gets a signal to end, and when the mount is taken out of the table of mounts, by whomever and
whatever is still open or asleep in it: operations that sleep are closed then.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyfuse3
import trio

from fakesysfs.fuse import loop
from fakesysfs.fuse.mount import IN_A_CONTAINER, MountError, mounted_at, mounts
from fakesysfs.fuse.operations import Announcer, Operations, Sysroot

MAX_TASKS = 100_000
"""Requests in flight. With pyfuse3's default of 99 a hundred sleeping writers would stop every reader."""

SWITCH_SECONDS = 0.0002


def serve(
    sysroot: Sysroot,
    point: str,
    *,
    allow_other: bool,
    ready: Callable[[], None],
    private: bool = False,
    announcer: Announcer | None = None,
) -> None:
    """Mount `sysroot` at `point` and serve it until it ends; `ready` is called once it answers.

    `private`: in a mount namespace that ends with this process, so that nobody need unmount what a killed server
    leaves. `announcer` runs beside it. May be called once in a process: pyfuse3 has one session. Raises MountError.
    """
    operations = Operations(sysroot, ready, announcer)
    # The thread that tells the host what to forget would else wait 5 ms for the interpreter while the loop is busy.
    sys.setswitchinterval(SWITCH_SECONDS)
    loop.install(operations)
    try:
        trio.run(_serve, operations, os.path.realpath(point), allow_other, private)
    finally:
        loop.end()


async def _serve(operations: Operations, point: str, allow_other: bool, private: bool) -> None:  # noqa: FBT001
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        _mount(operations, point, allow_other, private)
        mount = mounted_at(point)
        device = operations.driver.device = mount.device if mount else None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_signal, signals, nursery.cancel_scope)
                if device is not None:
                    nursery.start_soon(_until_detached, device, nursery.cancel_scope)
                nursery.start_soon(operations.names.tell)
                if operations.announcer is not None:
                    nursery.start_soon(operations.announcer.run, operations.names.settled)
                await pyfuse3.main(max_tasks=MAX_TASKS)
                nursery.cancel_scope.cancel()
        finally:
            # From here on nothing may go by the mount's path: another may be mounted there once this one is gone.
            _end_helpers()
            pyfuse3.close(unmount=device is None or _is_mounted(device))


def _mount(operations: Operations, point: str, allow_other: bool, private: bool) -> None:  # noqa: FBT001
    options = {"fsname=fakesysfs", "subtype=fakesysfs", "default_permissions"}
    if allow_other:
        options.add("allow_other")
    # fusermount3 looks, as root, whether the mount is dead: another user's must let root in.
    if not private and shutil.which("fusermount3") and (allow_other or os.geteuid() == 0):
        options.add("auto_unmount")
    said: list[str] = []
    try:
        with _standard_error(said):
            pyfuse3.init(operations, point, options)
    except RuntimeError as error:
        why = said[0] or str(error)
        if "Operation not permitted" in why:
            why = f"{why}; {IN_A_CONTAINER}"
        raise MountError(f"{point}: cannot mount: {why}") from None


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


async def _until_signal(signals: AsyncIterator[int], ending: trio.CancelScope) -> None:
    async for _ in signals:
        ending.cancel()


def _is_mounted(device: str) -> bool:
    return any(mount.device == device for mount in mounts())


async def _until_detached(device: str, ending: trio.CancelScope) -> None:
    """Cancel `ending` when the mount is no longer in the table.

    poll(2) of the table reports each change once, which trio's epoll could miss; so a thread waits.
    """
    with open("/proc/self/mountinfo", "rb") as table:  # noqa: ASYNC230, PTH123  opened before the first look
        while _is_mounted(device):
            await trio.to_thread.run_sync(_table_changed, table, abandon_on_cancel=True)
    ending.cancel()


def _table_changed(table: BinaryIO) -> None:
    changes = select.poll()
    changes.register(table, select.POLLPRI | select.POLLERR)
    changes.poll()
