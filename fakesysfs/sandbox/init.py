"""The init of a run: mounts the view, starts the server and the command, and waits for them.

The kernel kills all processes of the PID namespace when it ends. It reports to the launcher on a pipe, one line each:

    users               it is in its user namespace, which has no users yet
    refused LINE        a line of control/refused.jsonl, at the end, if the launcher wants to explain it
    started             the command is there: from now on the terminal's signals reach it
    error STATUS TEXT   what kept the command from being started, or ended it
    stopped SIGNAL      the command was stopped (Ctrl-Z)
    ended STATUS        the command ended; STATUS as from waitpid(2)

and is told on another: `users` (they are there), `signal NUMBER` (for the command). The end of that pipe is the
end of the launcher.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from fakesysfs.fuse import limits
from fakesysfs.fuse.descriptors import close_all_but, point_at_null
from fakesysfs.fuse.mount import MountError
from fakesysfs.sandbox import linux, namespaces, netlink, refusals, server, shell, udev, view
from fakesysfs.sandbox.known import HOLDS
from fakesysfs.sandbox.namespaces import Plan
from fakesysfs.sandbox.udev import Udev

_NOT_FOUND, NOT_EXECUTABLE = 127, 126


Command = list[str] | Callable[[], NoReturn]
"""A command line, or what the command's process does instead of one; [] is the user's shell."""


class Run(NamedTuple):
    """The command, and what it would inherit without a run."""

    command: Command
    fake: server.Fake
    plan: Plan
    mounted_at: str | None
    """The mountpoint of the launcher's server (--mount), or of the mount to use (--at)."""
    udev: Udev | None
    starts_udevd: bool
    """Whether the init starts udevd; else the command may."""
    signal_mask: set[int]
    directory: str
    """Its path; "" is that of the launcher, which was removed."""
    explain: bool
    """Report what was refused."""


_NOT_COVERED = (
    "a sysfs or proc of the host is mounted where it cannot be covered (below another mount, or outside of this root): "
    "the command could change the host; unmount it first"
)


def execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the command, or the user's shell if it is []. Raises OSError."""
    if not command:
        command = shell.prepare(environment)
    os.environ["PATH"] = environment["PATH"]
    if not command[0]:  # which Python refuses in its own way
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606  no shell is wanted
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        # A script without #!, which execvp(3) and so every other program that starts commands gives to sh.
        os.execve("/bin/sh", ["sh", os.fsdecode(error.filename), *command[1:]], environment)  # noqa: S606


def cannot_execute(name: str, error: OSError) -> int:
    """Say so; returns the exit status that a shell would have."""
    os.write(2, f"fakesysfs: {name}: {error.strerror}\n".encode())
    return _NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE


class _EndedError(Exception):
    """The run is over; `message` is what the launcher is told last."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def be_init(run: Run, orders: int, reports: int) -> NoReturn:
    """The whole life of the init. `orders` and `reports` are its ends of the two pipes."""
    message = ""
    try:
        _Init(run, orders, reports).live()
    except _EndedError as ended:
        message = ended.message
    except MountError as error:
        message = f"error {error.status} {error}"
    except BaseException as error:  # noqa: BLE001  nothing may get out of the fork
        message = f"error 1 {limits.reached(error) or f'bug: {traceback.format_exc()}'}"
    finally:
        with contextlib.suppress(OSError):
            if not run.plan.pid:
                kill_descendants()
            one_line = message.replace("\n", "\0")
            os.write(reports, f"{one_line}\n".encode())
        os._exit(0)


class _Init:
    def __init__(self, run: Run, orders: int, reports: int) -> None:
        self._run = run
        self._orders = orders
        self._reports = reports
        self._children = linux.SignalFile([signal.SIGCHLD])
        self._server: server.Server | None = None
        self._command = 0
        self._udevd = 0
        self._follower = 0
        self._outside = netlink.network_namespace()
        self._kept: set[int] = set()
        """Descriptors that the view takes to be kept open."""
        self._has_users = False
        self._early_signals: list[int] = []
        self._first_refusal = 0

    def live(self) -> NoReturn:
        run = self._run
        plan = run.plan
        if run.fake.gate >= 0:
            linux.set_process_name(HOLDS)
        if not plan.pid:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        namespaces.enter_as_init(plan)
        if plan.as_root:
            self._report("users")
            while not self._has_users:
                self._obey()
        if plan.pid:
            # Only now, for the same reason as below. Without a PID namespace the end of `orders` has to do.
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            self._make_view()
        except OSError as error:
            if self._server is not None and error.errno in {errno.ECONNABORTED, errno.ENOTCONN}:
                raise MountError(server.last_words(self._server) or "the server has ended") from None
            raise namespaces.refused(error, plan) from None
        if run.explain:
            self._first_refusal = refusals.count()
        self._start_command()
        self._leave_the_command_alone()
        self._wait()

    def _report(self, message: str) -> None:
        os.write(self._reports, f"{message}\n".encode())

    def _obey(self) -> None:
        """Wait for orders and carry them out."""
        # They are short and rare: each read(2) gets whole ones.
        orders = os.read(self._orders, select.PIPE_BUF).decode().splitlines()
        if not orders:
            raise _EndedError("")
        for order in orders:
            word, _, number = order.partition(" ")
            if word == "users":
                self._has_users = True
            elif self._command:
                os.kill(self._command, int(number))
            else:
                self._early_signals.append(int(number))

    # The beginning ------------------------------------------------------------------------------------------------

    def _make_view(self) -> None:
        run = self._run
        if run.directory:
            # /proc/1/cwd must not lead below what covers /sys and /dev.
            os.chdir("/")
        namespaces.forbid_cgroup_namespaces()
        namespaces_of_command = namespaces.CommandNamespaces(run.plan)
        if run.mounted_at is None:
            # First of all, it takes longest. It mounts when it has its machine, not before `read_answer`.
            outside = self._outside if run.plan.network else None
            self._server = server.start(run.fake, view.MOUNTPOINT, private=True, outside=outside)
        view.prepare()
        if run.plan.network:
            _loopback_up()
        if self._server is not None:
            status, why = server.read_answer(self._server, run.directory)
            if status:
                raise MountError(why, status)
        else:
            assert run.mounted_at is not None
            view.use_mount(run.mounted_at)
            self._follow_uevents()
        linux.unshare(linux.CLONE_NEWNS)
        self._kept |= view.show(private_network=run.plan.network)
        if run.udev is not None:
            udev.prepare(run.udev)
        namespaces_of_command.enter()
        # An ordinary user may read the host's, and can change nothing there.
        if run.plan.as_root and namespaces.shows_the_host(network=run.plan.network):
            raise MountError(_NOT_COVERED, 2)
        if run.plan.pid:
            # A change of credentials takes it back.
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if run.udev is not None and run.starts_udevd:
            try:
                self._udevd = udev.start(run.udev.program, view.environment(os.environ))
            except udev.UdevdError as error:
                raise MountError(str(error)) from None

    def _follow_uevents(self) -> None:
        """Start the helper that injects what a server elsewhere tells, and wait until it misses nothing.

        It ends with that server: without a network namespace of our own that is all that it is for.
        """
        reader, writer = os.pipe()
        self._follower = os.fork()
        if not self._follower:
            status = 1
            try:
                self._be_follower(writer)
                status = 0
            except Exception as error:  # noqa: BLE001  nothing may get out of the fork
                os.write(2, f"fakesysfs: uevents are not sent: {error!r}\n".encode())
            finally:
                os._exit(status)
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)

    def _be_follower(self, writer: int) -> None:
        os.setsid()
        linux.unblock_signals()
        if not self._run.plan.pid:
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        point_at_null(0, 1)
        close_all_but({writer})

        def ready() -> None:
            nonlocal writer
            if writer >= 0:
                os.close(writer)
                writer = -1

        control = f"{view.MOUNTPOINT}/control"
        outside = self._outside if self._run.plan.network else None
        try:
            netlink.follow(control, outside, ready)
        except netlink.NotPermittedError:
            if outside is not None:
                why = "only the user who mounted it may announce its uevents"
                os.write(2, f"fakesysfs: {self._run.mounted_at}: {why}: this run has none\n".encode())
            netlink.wait_for_the_end(control, ready)

    def _start_command(self) -> None:
        self._command = os.fork()
        if not self._command:
            self._be_command()
        for number in self._early_signals:
            os.kill(self._command, number)
        self._report("started")

    def _be_command(self) -> NoReturn:
        command = self._run.command
        status = NOT_EXECUTABLE
        try:
            if not self._run.plan.pid:
                linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            with contextlib.suppress(OSError):
                # A directory below /sys, /dev or /proc may be missing in the view: then the command starts in /.
                os.chdir(self._run.directory or ".")
            # What Python ignores, and its own handler.
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._run.signal_mask)
            environment = view.environment(os.environ)
            if callable(command):
                os.environ.update(environment)
                command()
            execute(command, environment)
        except OSError as error:
            status = cannot_execute("the command" if callable(command) else (command or [shell.name()])[0], error)
        finally:
            os._exit(status)

    def _leave_the_command_alone(self) -> None:
        """Its pipes must end when it closes them."""
        point_at_null(0, 1, 2)
        close_all_but({self._orders, self._reports, self._children.fileno(), *self._kept, *self._of_server()})

    def _of_server(self) -> set[int]:
        return set() if self._server is None else {self._server.answer.fileno()}

    # The rest of its life -----------------------------------------------------------------------------------------

    def _wait(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._children, select.POLLIN)
        poll.register(self._orders, select.POLLIN)
        while True:
            self._reap()
            for descriptor, _ in poll.poll():
                if descriptor == self._orders:
                    self._obey()
                else:
                    self._children.take()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if not pid:
                return
            if os.WIFSTOPPED(status):
                if pid == self._command:
                    self._report(f"stopped {os.WSTOPSIG(status)}")
            elif pid == self._command:
                if self._run.explain:
                    for line in refusals.since(self._first_refusal):
                        self._report(f"refused {line}")
                raise _EndedError(f"ended {status}")
            elif self._server is not None and pid == self._server.pid:
                raise _EndedError(f"error 1 {server.why_it_ended(self._server, status)}, so the command was ended")
            elif pid == self._follower:
                why = (
                    f"what sends its uevents {linux.how_it_ended(status)}"
                    if status
                    else "the fake is no longer mounted"
                )
                raise _EndedError(f"error 1 {why}, so the command was ended")
            elif pid == self._udevd and status:
                raise _EndedError(f"error 1 udevd {linux.how_it_ended(status)}, so the command was ended")


def kill_descendants() -> None:
    """For where there is no PID namespace: end all that descends from this process, which must be a subreaper."""
    with contextlib.suppress(ChildProcessError, PermissionError):
        while True:
            for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split():
                os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)


def _loopback_up() -> None:
    """In a new network namespace even 127.0.0.1 is missing (netdevice(7))."""
    import fcntl  # noqa: PLC0415  while the server starts there is time for these
    import socket  # noqa: PLC0415
    import struct  # noqa: PLC0415

    set_flags, is_up = 0x8914, 0x1
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh22x", b"lo", is_up))
