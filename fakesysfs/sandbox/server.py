"""The FUSE server of a run, as a child of the init or, with --mount, of the launcher.

The server's imports take most of the time in which a run starts. Meanwhile the parent reads and checks the machine,
which takes other imports, and sends the server what a kernel boots with.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, NoReturn

from fakesysfs.fuse import limits, mount, mount_table
from fakesysfs.fuse.descriptors import close_all_but, point_at_null
from fakesysfs.sandbox import linux

if TYPE_CHECKING:
    from fakesysfs.fuse.gate import Gate
    from fakesysfs.kernel.setup import Setup
    from fakesysfs.sysroot import Sysroot
    from fakesysfs.trace import Target


class Fake(NamedTuple):
    """What is served: the name or file of a machine, the name of a kernel.

    `gate`: the server's end of the socket on which an explorer says whom to hold (`fuse/gate.py`), -1 without.
    `traces`: open files that get the trace.
    """

    machine: str
    kernel: str
    gate: int = -1
    traces: tuple[Target, ...] = ()

    @property
    def descriptors(self) -> set[int]:
        """Those that the server needs, and the command must not have."""
        return {self.gate, *(target.descriptor for target in self.traces)} - {-1}


_LOOK_MS = 1000
"""How often the guardian looks whether its server was killed and cannot end.

A thread of it may wait for the lock of a directory, which a client holds that waits for this server. That process ends
only after its mount has been taken away, and no descriptor tells: since Linux 6.15 a pidfd of its first thread does not
either.
"""


class Server(NamedTuple):
    """The started server: its process, the pipe on which it gets its machine, the pipe on which it answers.

    See `read_answer` and `last_words`.
    """

    pid: int
    fake: Fake
    machine: BinaryIO
    answer: BinaryIO


class _CheckedMachine(NamedTuple):
    """A machine as the parent sends it: its name, its file, and what a kernel boots with."""

    name: str
    text: str
    ready: Setup

    def setup(self) -> Setup:
        """What a kernel boots with."""
        return self.ready


class _Pipes(NamedTuple):
    """The server's ends: the machine comes on one, it answers on the other.

    The answer is a line with an exit status; 0 means that the server has mounted. The text after it says why the
    server ends, if there is a reason.
    """

    machine: int
    answer: int


def start(fake: Fake, point: str, *, private: bool, outside: int | None = None) -> Server:
    """Start it. The caller must call `read_answer` next, which sends the machine and waits for the mount.

    `outside`: the number of the user's network namespace; the server sends uevents in its own, which is another.
    None: other processes send them.

    `private`: the mount namespace ends with the run. Else a guardian process takes the mount away when the server was
    killed, and ends the server when the launcher was killed.
    """
    reader, answer = os.pipe()
    machine, writer = os.pipe()
    pipes = _Pipes(machine, answer)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _leave_the_command_alone({*pipes, *fake.descriptors})
            if private:
                _be_server(fake, point, pipes, private=True, outside=outside)
            _be_guardian(fake, point, pipes, parent)
        except BaseException as error:  # noqa: BLE001  nothing may get out of the fork
            _say(pipes, 1, limits.reached(error) or f"bug: {traceback.format_exc()}")
        finally:
            os._exit(1)
    for descriptor in pipes:
        os.close(descriptor)
    # descriptors, which outlive this function
    return Server(pid, fake, open(writer, "wb"), open(reader, "rb"))  # noqa: PTH123


def read_answer(server: Server, directory: str = "") -> tuple[int, str]:
    """Send it its machine; wait until it serves or gives up. Returns 0, or an exit status and the reason.

    `directory`: where the user is, if the caller has left it; the name of a machine's file may be relative to it.
    """
    from fakesysfs import machine  # noqa: PLC0415  while the server starts there is time for it

    # The server may be dead already; then there is no answer either.
    with contextlib.suppress(BrokenPipeError), server.machine as to_server:
        try:
            loaded = machine.load(server.fake.machine, directory)
        except machine.MachineError as error:
            return 2, str(error)
        pickle.dump(_CheckedMachine(loaded.name, loaded.text, loaded.setup()), to_server)
    status = int(server.answer.readline() or 1)
    return (status, last_words(server) or "the server ended before it answered") if status else (0, "")


def last_words(server: Server) -> str:
    """Wait until the server has ended; returns why, if it said so."""
    return server.answer.read().decode()


def why_it_ended(server: Server, status: int) -> str:
    """In words; `status` is from waitpid(2)."""
    said = last_words(server)
    return f"the server {linux.how_it_ended(status)}" + (f" ({said})" if said else "")


def _be_guardian(fake: Fake, point: str, pipes: _Pipes, parent: int) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = os.fork()
    if server == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _be_server(fake, point, pipes, private=False)
    for descriptor in pipes:
        os.close(descriptor)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(server, signal.SIGTERM)
    os._exit(guard(server, point))


def guard(server: int, point: str) -> int:
    """Wait for this child, and take its mount at `point` away if it did not; returns an exit status.

    SIGTERM, which the caller has blocked, is handed on to the child.
    """
    signals = linux.SignalFile({signal.SIGTERM})
    ended = os.pidfd_open(server)
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_LOOK_MS)]
        for arrived in signals.take():
            os.kill(server, arrived.number)
        if ended in ready or (not ready and mount.is_zombie(server)):
            break
    if mount_table.mounted_at(point):
        mount.take_away_dead(point)
    _, status = os.waitpid(server, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _be_server(fake: Fake, point: str, pipes: _Pipes, *, private: bool, outside: int | None = None) -> NoReturn:
    has_answered = False

    def ready() -> None:
        nonlocal has_answered
        has_answered = True
        os.write(pipes.answer, b"0\n")

    try:
        status, text = _serve(fake, point, pipes.machine, ready, private=private, outside=outside)
    except mount.MountError as error:
        status, text = error.status, str(error)
    except BaseException as error:  # noqa: BLE001  nothing may get out of the fork
        status, text = 1, limits.reached(error) or f"bug: {traceback.format_exc()}"
    if text:
        _say(pipes, None if has_answered else status, text)
    os._exit(status)


def _say(pipes: _Pipes, status: int | None, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent has ended
        os.write(pipes.answer, (text if status is None else f"{status}\n{text}").encode())


def _leave_the_command_alone(kept: set[int]) -> None:
    """Its pipes must end when it closes them, and its terminal's signals are not for the server."""
    os.setsid()
    point_at_null(0, 1)
    close_all_but(kept)
    linux.unblock_signals()


def _serve(
    fake: Fake, point: str, machine_pipe: int, ready: Callable[[], None], *, private: bool, outside: int | None
) -> tuple[int, str]:
    gc.disable()  # nothing that is imported becomes garbage
    mount.import_pyfuse3()
    from fakesysfs.fuse.daemon import log_to_standard_error  # noqa: PLC0415  only the server needs these
    from fakesysfs.fuse.session import serve  # noqa: PLC0415
    from fakesysfs.fuse.uevent_barrier import RemoteUevents  # noqa: PLC0415
    from fakesysfs.kernel.profile import UnknownKernelError, find_profile  # noqa: PLC0415
    from fakesysfs.sandbox.netlink import Injector  # noqa: PLC0415
    from fakesysfs.sandbox.uevent_sender import UeventSender  # noqa: PLC0415
    from fakesysfs.sysroot import Sysroot  # noqa: PLC0415

    try:
        profile = find_profile(fake.kernel)
    except UnknownKernelError as error:
        return 2, str(error)
    os.chdir("/")
    log_to_standard_error()
    try:
        with open(machine_pipe, "rb") as from_parent:
            machine: _CheckedMachine = pickle.load(from_parent)  # noqa: S301  from our own parent
    except EOFError:
        return 1, "there is no machine"  # the parent died, or prints the reason itself
    sysroot = Sysroot.boot(machine, profile, uid=os.getuid(), gid=os.getgid(), whole_dev=True)
    if fake.traces:
        from fakesysfs.trace import attach  # noqa: PLC0415  few runs are traced

        attach(sysroot, fake.traces, fake.machine, at_once=False)
    gc.freeze()
    gc.enable()

    uevents: UeventSender | RemoteUevents = (
        RemoteUevents(sysroot.uevent_readers) if outside is None else UeventSender(sysroot, Injector(outside))
    )

    # All users see sysfs on a real machine. Here those of the mount namespace do.
    allow_other = private or os.getuid() == 0

    gate = None if fake.gate < 0 else _gate(fake.gate, sysroot)
    serve(sysroot, point, allow_other=allow_other, ready=ready, private=private, uevents=uevents, gate=gate)
    return 0, ""


def _gate(descriptor: int, sysroot: Sysroot) -> Gate:
    from fakesysfs.fuse.gate import Gate  # noqa: PLC0415  only an explorer's run needs these
    from fakesysfs.kernel.recorded import hooks  # noqa: PLC0415
    from fakesysfs.sysfs.state import Watcher  # noqa: PLC0415
    from fakesysfs.sysfs.takedown import Takedown  # noqa: PLC0415

    def watch(on: bool) -> None:  # noqa: FBT001
        sysroot.kernel.preempt.watched = on

    def notes() -> tuple[int, int]:
        return sysroot.kernel.printk.sequence, sysroot.kernel.uevents.sequence

    takedown = Takedown()
    return Gate(
        descriptor,
        watch,
        lambda: Watcher(sysroot.tree).changes,
        hooks,
        notes,
        lambda: takedown.left(sysroot.tree, sysroot.kernel),
    )
