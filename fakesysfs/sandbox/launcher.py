"""The launcher of a run: the process that the user started.

To its parent and its terminal it looks like the command: it stops when the command stops, ends as the command ended, and hands on
the signals that it gets. Those of the terminal go to the whole process group, and so to the command too: they are not
handed on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
from typing import NoReturn

from fakesysfs.fuse import mount
from fakesysfs.fuse.mount import MountError
from fakesysfs.sandbox import linux, namespaces, server
from fakesysfs.sandbox.init import Run, be_init, close_all_but, how_it_ended, kill_descendants

_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


def run(command: list[str], fake: server.Fake, *, network: bool, point: str | None) -> NoReturn:
    """Run `command` with `fake` around it and end as it ends; [] is a shell. `point`: show the sysroot there too."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, linux.all_signals())
    launcher = _Launcher(fake, point)
    try:
        status = launcher.launch(command or [os.environ.get("SHELL") or "sh"], set(mask), network=network)
    except MountError as error:
        launcher.clean_up()
        _say(str(error))
        os._exit(error.status)
    launcher.clean_up()
    _end_like(status)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"fakesysfs: {text}\n".encode())


def _end_like(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        # The command has dumped its core, where it was to.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))


class _Terminal:
    """The terminal's foreground process group, which a shell in the run takes and, for lack of a number, cannot give back."""

    def __init__(self) -> None:
        self._descriptor = -1
        with contextlib.suppress(OSError):
            descriptor = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
            if os.tcgetpgrp(descriptor) == os.getpgrp():
                self._descriptor = descriptor
            else:
                os.close(descriptor)

    def descriptors(self) -> set[int]:
        return {self._descriptor} - {-1}

    def take_back(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._descriptor, os.getpgrp())


class _Launcher:
    def __init__(self, fake: server.Fake, point: str | None) -> None:
        self._fake = fake
        self._point = point
        self._server: server.Server | None = None
        self._init = 0
        self._init_reaps = True
        self._ended: int | None = None
        self._error: MountError | None = None
        self._heard = b""

    def launch(self, command: list[str], mask: set[int], *, network: bool) -> int:
        """Start everything, wait; returns the command's status as from waitpid(2). Raises MountError."""
        mount.check_device()
        plan = namespaces.plan(network=network)
        self._terminal = _Terminal()
        if self._point is not None:
            self._serve_outside(self._point)
        with contextlib.suppress(OSError):
            directory = os.getcwd()  # noqa: PTH109
        run = Run(command, self._fake, plan, self._point, mask, locals().get("directory", "/"))
        if not plan.pid:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
            self._init_reaps = False
        namespaces.enter_as_launcher(plan)
        orders, self._orders = os.pipe()
        self._reports, reports = os.pipe()
        self._signals = linux.SignalFile(linux.all_signals())
        self._init = os.fork()
        if not self._init:
            os.close(self._orders)
            os.close(self._reports)
            be_init(run, orders, reports)
        self._leave_the_command_alone()
        return self._wait()
