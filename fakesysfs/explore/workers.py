"""Runs with programs in them, fed by the explorer.

Each worker is a `fakesysfs run` of its own with a mount that holds, and a controller in it
(`controller.py`). The runs end when the explorer ends, however that happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import asdict
from functools import partial

from fakesysfs.explore import controller
from fakesysfs.explore.messages import READY, Line, Ran, Request, Task
from fakesysfs.explore.order import AsleepError, DivergedError, Guide, TooLongError
from fakesysfs.explore.reduction import SleepingGuide
from fakesysfs.ops.footprint import Footprint
from fakesysfs.sandbox import launcher
from fakesysfs.sandbox.server import Fake


class CannotRunError(Exception):
    """The programs cannot be run: why, and the exit status of the command."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Worker:
    """Runs orders of a task in a run of its own. A `Runner` of the search.

    To be made while this process has one thread. `until` and `shown` are those of `Request`.
    """

    def __init__(self, fake: Fake, task: Task, *, until: int | None = None, shown: bool = False) -> None:
        self._until = until
        self._shown = shown
        self.describes = False
        """Whether the steps of an order say what they changed."""
        self.records = False
        """Whether the steps of an order have footprints."""
        ours, line = socket.socketpair()
        at_controller, at_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._launcher = os.fork()
        if not self._launcher:
            try:
                if task.directory:
                    os.chdir(task.directory)
                fake = fake._replace(gate=at_server.fileno())
                launcher.run(
                    partial(controller.main, line, at_controller),
                    fake,
                    network=True,
                    point=None,
                    rules=list(task.rules) if task.udev else None,
                    starts_udevd=False,
                )
            finally:
                os._exit(1)
        for end in (line, at_controller, at_server):
            end.close()
        self._line = Line(ours)
        self._task = task

    def wait_until_ready(self) -> None:
        """Raises CannotRunError if it cannot be started; the launcher has said why."""
        try:
            self._line.say(asdict(self._task))
            assert self._line.hear() == READY
        except (EOFError, OSError):
            raise self._ended() from None

    def run(self, guide: Guide) -> None:
        """Run one order. Raises AsleepError, DivergedError, TooLongError, CannotRunError."""
        request = Request(
            guide.schedule,
            guide.loosely,
            guide.longest,
            self._until,
            self._shown,
            self.describes,
            self.records and not self.describes,
        )
        if isinstance(guide, SleepingGuide):
            sleep = {name: footprint.packed() for name, footprint in guide.sleep.items()}
            request = request._replace(
                sleep=sleep, order_matters=guide.order_matters, recorded_from=guide.recorded_from
            )
        try:
            self._line.say(request)
            ran = self._line.hear_ran()
        except (EOFError, OSError):
            raise self._ended() from None
        if ran.error:
            raise CannotRunError(ran.error, 2)
        _follow(guide, ran)

    def _ended(self) -> CannotRunError:
        _, status = os.waitpid(self._launcher, 0)
        code = os.waitstatus_to_exitcode(status)
        self._launcher = 0
        if code > 0:
            return CannotRunError("", code)  # the launcher has said why
        how = "was killed" if code else "has ended"
        return CannotRunError(f"a run {how}, so the search was ended", 1)

    def close(self) -> None:
        """End the run, and wait until it has ended."""
        with contextlib.suppress(OSError):
            self._line.close()
        if self._launcher:
            os.waitpid(self._launcher, 0)
            self._launcher = 0

    def kill(self) -> None:
        """End the run at once, also in the middle of an order."""
        if self._launcher:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._launcher, signal.SIGKILL)


def _follow(guide: Guide, ran: Ran) -> None:
    """Have the guide see the order that a controller has run. It raises what it finds."""
    footprints = [None if said is None else Footprint.unpacked(said) for said in ran.footprints]
    guide.order.order_is_read = ran.order_is_read
    for names, step, footprint in zip(ran.runnable, ran.steps, footprints, strict=False):
        guide.choose(names)
        guide.took(step, footprint)
    if ran.asleep:
        raise AsleepError
    if ran.diverged is not None:
        raise DivergedError(len(ran.steps), *ran.diverged)
    if ran.too_long:
        raise TooLongError
    guide.order.why, guide.order.kind = ran.why, ran.kind
