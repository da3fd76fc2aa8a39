"""The model in this process, and a mount of the same model for the commands of a session.

The server is the main thread's, the session is played in another one; both are in one process because they act on one
Sysroot. They never act at once: while a command runs the player waits for it, and between commands nobody is left who
could ask the server for anything but to close what they had open.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

from fakesysfs.fuse.mount import MountError
from fakesysfs.replay import bash
from fakesysfs.replay.model_target import ModelTarget, boot
from fakesysfs.replay.target import ShellResult
from fakesysfs.sandbox import linux, view

T = TypeVar("T")

_NO_CHANGE = "latency/online_block"
"""A file of control/ to which can be written what it reads."""


class ServedModelTarget(ModelTarget):
    """The model, with real commands on it."""

    def sh(self, command: str, tool: str | None) -> ShellResult:
        """See Target."""
        self._let_the_host_forget()
        try:
            return bash.run(command, tool)
        finally:
            self.tasks.settle()

    def _let_the_host_forget(self) -> None:
        """What the player changed since the last command: the host is told of it when a store ends (fuse/names.py)."""
        descriptor = os.open(f"{view.environment({})['FAKESYSFS_CONTROL']}/{_NO_CHANGE}", os.O_RDWR)
        try:
            os.write(descriptor, os.read(descriptor, 4096))
        finally:
            os.close(descriptor)


class _Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.entries: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See Handler."""
        self.entries.append(self.format(record))


def play_on(profile: str, variant: str, play: Callable[[ServedModelTarget], T]) -> tuple[T, list[str]]:
    """Mount the recorded guest at /sys, /dev and /proc and call `play`. In namespaces of its own, once in a process.

    Returns what that returned and what the server logged. Raises MountError, NotSupportedError.
    """
    from fakesysfs.fuse.session import serve  # noqa: PLC0415  needs pyfuse3

    sysroot = boot(profile, variant)
    log = _Log()
    logging.getLogger().addHandler(log)
    view.prepare()
    results: list[T] = []
    errors: list[BaseException] = []

    def player() -> None:
        try:
            # The server stays in the outer mount namespace (sandbox/__init__.py); this one is the thread's own.
            linux.unshare(linux.CLONE_NEWNS)
            view.show(private_network=False)
            results.append(play(ServedModelTarget(sysroot)))
        except BaseException as error:  # noqa: BLE001  raised again below
            errors.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    serve(sysroot, view.MOUNTPOINT, allow_other=True, ready=threading.Thread(target=player).start, private=True)
    if errors:
        raise MountError("; ".join([repr(errors[0]), *log.entries])) from errors[0]
    if not results:
        raise MountError("the server ended before the session did")
    return results[0], log.entries
