"""The launcher of a run: the process that the user started.

To its parent and its terminal it looks like the command: it stops when the command stops, ends as the command ended,
and hands on the signals that it gets. Those of the terminal go to the whole process group, and so to the command too:
they are not handed on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
from typing import NoReturn

from fakesysfs.fuse import limits, mount, mount_table
from fakesysfs.fuse.descriptors import close_all_but, have_standard_descriptors, point_at_null
from fakesysfs.fuse.mount import MountError
from fakesysfs.sandbox import linux, namespaces, refusals, server, udev, view
from fakesysfs.sandbox.init import Command, Run, be_init, kill_descendants

_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


def run(
    command: Command,
    fake: server.Fake,
    *,
    network: bool,
    point: str | None,
    at: str | None = None,
    rules: list[str] | None = None,
    explain: bool = False,
    starts_udevd: bool = True,
) -> NoReturn:
    """Run `command` with `fake` around it and end as it ends; [] is a shell.

    `point`: show the sysroot there too. `at`: use the fake that is mounted there. `rules`: with a udevd that has these
    (`udev.find`); the command starts it itself unless `starts_udevd`. `explain`: say at the end what was refused.
    """
    # Python opens them for this process alone: the command finds them closed.
    have_standard_descriptors()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, linux.all_signals())
    launcher = _Launcher(fake, point, at, explain=explain)
    try:
        launcher.udev = None if rules is None else udev.find(rules)
        launcher.starts_udevd = starts_udevd
        status = launcher.launch(command, set(mask), network=network)
    except MountError as error:
        launcher.clean_up()
        say(str(error))
        os._exit(error.status)
    except OSError as error:
        launcher.clean_up()
        say(limits.reached(error) or str(error))
        os._exit(1)
    launcher.clean_up()
    if explain:
        say(refusals.explanation(launcher.refused))
    end_like(status)


def say(text: str) -> None:
    """Tell the user, on standard error."""
    with contextlib.suppress(OSError):
        os.write(2, f"fakesysfs: {text}\n".encode())


def end_like(status: int) -> NoReturn:
    """End as the command did; `status` is from waitpid(2)."""
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


class Terminal:
    """The terminal's foreground process group.

    A shell in the run takes it, and cannot give it back: in there our group has no number.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        with contextlib.suppress(OSError):
            descriptor = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
            if os.tcgetpgrp(descriptor) == os.getpgrp():
                self._descriptor = descriptor
            else:
                os.close(descriptor)

    def descriptors(self) -> set[int]:
        """What must stay open."""
        return {self._descriptor} - {-1}

    def take_back(self) -> None:
        """Take it back if its foreground group has ended. A shell outside that put us into the background keeps it."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                try:
                    os.killpg(os.tcgetpgrp(self._descriptor), 0)
                except ProcessLookupError:
                    os.tcsetpgrp(self._descriptor, os.getpgrp())


class _Launcher:
    def __init__(self, fake: server.Fake, point: str | None, at: str | None, *, explain: bool) -> None:
        self.refused: list[str] = []
        """With `explain`: what was refused, a line of control/refused.jsonl each."""
        self._explain = explain
        self._fake = fake
        self._point = point
        self._at = at
        self.udev: udev.Udev | None = None
        self.starts_udevd = True
        self._server: server.Server | None = None
        self._init = 0
        self._init_reaps = True
        self._ended: int | None = None
        self._error: MountError | None = None
        self._heard = b""
        self._started = False
        self._terminal = Terminal()

    def launch(self, command: Command, mask: set[int], *, network: bool) -> int:
        """Start everything, wait; returns the command's status as from waitpid(2). Raises MountError."""
        if self._at is None:
            mount.check_library()
        mount.check_device()
        plan = self._plan = namespaces.plan(network=network)
        if self._point is not None:
            self._serve_outside(self._point)
        at = None if self._at is None else _mounted(self._at)
        point = self._point or at
        run = Run(
            command,
            self._fake,
            plan,
            point,
            self.udev,
            self.starts_udevd,
            mask,
            working_directory(),
            explain=self._explain,
        )
        if not plan.pid:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
            self._init_reaps = False
        self._signals = linux.SignalFile(linux.all_signals())
        namespaces.enter_as_launcher(plan)
        orders, self._orders = os.pipe()
        self._reports, reports = os.pipe()
        self._init = os.fork()
        if not self._init:
            os.close(self._orders)
            os.close(self._reports)
            be_init(run, orders, reports)
        self._leave_the_command_alone()
        return self._wait()

    def _serve_outside(self, point: str) -> None:
        mount.check(point)
        self._server = server.start(self._fake, os.path.realpath(point), private=False)
        status, why = server.read_answer(self._server)
        if status:
            raise MountError(why, status)

    def _leave_the_command_alone(self) -> None:
        """Its pipes must end when it closes them; standard error is kept for what we have to say."""
        point_at_null(0, 1)
        answer = () if self._server is None else (self._server.answer.fileno(),)
        close_all_but({self._orders, self._reports, self._signals.fileno(), *self._terminal.descriptors(), *answer})

    # While it runs ------------------------------------------------------------------------------------------------

    def _wait(self) -> int:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        poll.register(self._reports, select.POLLIN)
        while self._init:
            for descriptor, _ in poll.poll():
                if descriptor == self._signals.fileno():
                    for arrived in self._signals.take():
                        self._take_signal(arrived)
                elif not self._hear():
                    poll.unregister(descriptor)
        while self._hear():
            pass
        if self._error is not None:
            raise self._error
        assert self._ended is not None
        return self._ended

    def _take_signal(self, arrived: linux.Arrived) -> None:
        if arrived.number == signal.SIGCHLD:
            self._reap()
        # The terminal hangs up on the leader of its session alone; everything else it tells the whole group.
        elif arrived.code != linux.SI_KERNEL or arrived.number == signal.SIGHUP or not self._started:
            self._order(f"signal {arrived.number}")

    def _give_users(self) -> None:
        try:
            namespaces.give_users(self._init)
        except OSError as error:
            self._error = namespaces.refused(error, self._plan)
            os.kill(self._init, signal.SIGKILL)
        else:
            self._order("users")

    def _order(self, order: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, f"{order}\n".encode())

    def _hear(self) -> bool:
        """What the init reports; False after the last."""
        heard = os.read(self._reports, select.PIPE_BUF)
        self._heard += heard
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            # The command can write into this pipe, by the init's /proc/PID/fd: what makes no sense is not obeyed.
            with contextlib.suppress(ValueError):
                self._take_report(line.decode(errors="replace"))
        return bool(heard)

    def _take_report(self, report: str) -> None:
        word, _, rest = report.partition(" ")
        if word == "users" and self._init and not self._started:
            self._give_users()
        elif word == "started":
            self._started = True
        elif word == "stopped":
            stop(int(rest))
        elif word == "refused":
            self.refused.append(rest)
        elif word == "ended":
            self._ended = int(rest)
        elif word == "error":
            status, _, why = rest.partition(" ")
            self._error = MountError(why.replace("\0", "\n"), int(status))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._init:
                self._init = 0
                if status and self._error is None:
                    self._error = MountError(
                        f"the init of the run {linux.how_it_ended(status)}, so the command was ended"
                    )
            elif self._server is not None and pid == self._server.pid:
                ended, self._server = self._server, None
                # The init may have noticed before we did.
                if self._init or self._error is not None:
                    why = server.why_it_ended(ended, status)
                    self._error = MountError(f"{why}, so the command was ended")
                    if self._init:
                        os.kill(self._init, signal.SIGKILL)

    def clean_up(self) -> None:
        """Leave nothing behind."""
        if self._server is not None:
            os.kill(self._server.pid, signal.SIGTERM)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._server.pid, 0)
        if not self._init_reaps:
            kill_descendants()
        self._terminal.take_back()


def _mounted(point: str) -> str:
    real = os.path.realpath(point)
    argument = mount.as_argument(point)
    if not mount_table.mounted_at(real):
        raise MountError(f"{point}: no fakesysfs is mounted here; `fakesysfs run --mount {argument}` mounts one", 2)
    try:
        has_whole_dev = os.stat(f"{real}/dev/.fakesysfs") is not None  # noqa: PTH116  the launcher does without pathlib
    except FileNotFoundError:
        has_whole_dev = False
    except PermissionError:
        why = "only the user who mounted it may enter it: run this as that user"
        raise MountError(f"{point}: {why}, or have root mount it with `fakesysfs run --mount {argument}`", 2) from None
    except OSError as error:  # its server has ended
        why = f"this mount does not answer ({error.strerror}); `fakesysfs umount {argument}` takes it away"
        raise MountError(f"{point}: {why}", 2) from None
    if not has_whole_dev:
        raise MountError(f"{point}: this mount has no usable /dev; mount with `fakesysfs run --mount {argument}`", 2)
    return real


def working_directory() -> str:
    """Its path, or "" if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109  a string is wanted
    except OSError:
        # In a directory that was removed the command stays, but not in one that shows the host's kernel: from there the
        # way up leads to the rest of it.
        device = os.stat(".").st_dev  # noqa: PTH116  the launcher does without pathlib
        covered = {os.stat(path).st_dev for path in ("/sys", "/dev", "/proc")}  # noqa: PTH116
        number = f"{os.major(device)}:{os.minor(device)}"
        here = [mount for mount in mount_table.mounts() if mount.device == number]
        shows_kernel = any(mount.type in view.OF_THE_KERNEL for mount in here)
        return "/" if device in covered or shows_kernel else ""


def stop(number: int) -> None:
    """Stop as the command did; returns when the process group gets SIGCONT."""
    if number not in _STOPS:
        number = signal.SIGSTOP
    os.kill(os.getpid(), number)
    if number != signal.SIGSTOP:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})
