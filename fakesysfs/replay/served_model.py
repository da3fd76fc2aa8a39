"""The model in this process, and a mount of the same model for the commands of a session.

The server runs in the main thread, the session in another one. Both are in one process because they
share one Sysroot. They never act at the same time: the session waits while a command runs, and
between commands the server only closes the files that ended processes had open.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

from fakesysfs.fuse.mount import MountError, import_pyfuse3
from fakesysfs.replay import bash
from fakesysfs.replay.model_target import MachineAndKernel, ModelTarget, boot
from fakesysfs.replay.target import ShellResult
from fakesysfs.sandbox import linux, view

T = TypeVar("T")

_NO_CHANGE = "latency/online_block"
"""A file of control/ that takes back what it reads."""


class ServedModelTarget(ModelTarget):
    """The model, with bash on a mount of it."""

    def sh(self, command: str, tool: str | None) -> ShellResult:
        """See Target."""
        self._invalidate()
        self.sysroot.run_in_background(None)  # the tasks stand still while the command runs
        try:
            return bash.run(command, tool)
        finally:
            self.sysroot.run_in_background(self._work)
            self.tasks.settle()

    def _invalidate(self) -> None:
        """Have the host drop what it cached before the session changed it.

        The end of a store does that (fuse/invalidate.py).
        """
        descriptor = os.open(f"{view.environment({})['FAKESYSFS_CONTROL']}/{_NO_CHANGE}", os.O_RDWR)
        try:
            os.write(descriptor, os.read(descriptor, 4096))
        finally:
            os.close(descriptor)


class _Log(logging.Handler):
    """Collects log entries."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.entries: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See Handler."""
        self.entries.append(self.format(record))


def replay_on(fake: MachineAndKernel, replay: Callable[[ServedModelTarget], T]) -> tuple[T, list[str]]:
    """Mount the fake at /sys, /dev and /proc and call `replay`. Needs its own namespaces and process.

    Returns what `replay` returned, and the entries of the server's log. Raises MountError, NotSupportedError.
    """
    import_pyfuse3()
    from fakesysfs.fuse.session import serve  # noqa: PLC0415  needs pyfuse3

    sysroot = boot(fake)
    log = _Log()
    logging.getLogger().addHandler(log)
    view.prepare()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            # The server stays in the outer mount namespace (sandbox/__init__.py); this thread gets its own.
            linux.unshare(linux.CLONE_NEWNS)
            view.show(private_network=False)
            results.append(replay(ServedModelTarget(sysroot)))
        except BaseException as error:  # noqa: BLE001  raised again below
            errors.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    serve(sysroot, view.MOUNTPOINT, allow_other=True, ready=threading.Thread(target=run).start, private=True)
    if errors:
        raise MountError("; ".join([repr(errors[0]), *log.entries])) from errors[0]
    if not results:
        raise MountError("the server ended before the session did")
    return results[0], log.entries
