"""The FUSE server of a run, as a child of the init or, with --mount, of the launcher."""

from __future__ import annotations

import os
import signal
import traceback
from typing import BinaryIO, NamedTuple, NoReturn

from fakesysfs.fuse import mount
from fakesysfs.sandbox import linux


class Fake(NamedTuple):
    """What is served: the name or file of a machine, the name of a kernel."""

    machine: str
    kernel: str


class Server(NamedTuple):
    """The started server: its process, and a file that tells how it fares (see `read_answer`)."""

    pid: int
    answer: BinaryIO


def start(fake: Fake, point: str, *, private: bool, outside: int | None = None) -> Server:
    """Start it; `point` is mounted when `answer` says so.

    `outside`: announce uevents in this network namespace, which is another than the one of that number.

    `private`: in a mount namespace that ends with the run. Else a guardian stands between: it takes the mount away
    when the server was killed, and ends the server when the launcher was.
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _leave_the_command_alone(writer)
            if private:
                _be_server(fake, point, writer, private=True, outside=outside)
            _be_guardian(fake, point, writer, parent)
        except BaseException:  # noqa: BLE001  nothing may get out of the fork
            os.write(2, f"fakesysfs: bug: {traceback.format_exc()}".encode())
        finally:
            os._exit(1)
    os.close(writer)
    return Server(pid, open(reader, "rb"))  # noqa: PTH123  a descriptor, which outlives this function


def read_answer(server: Server) -> tuple[int, str]:
    """Wait until the server answers requests or gives up: 0, or an exit status and why."""
    with server.answer as file:
        status, _, text = file.read().decode().partition("\n")
    return (int(status), text) if status else (1, "the server ended before it answered")


def _be_guardian(fake: Fake, point: str, writer: int, parent: int) -> NoReturn:
    watched = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    server = os.fork()
    if server == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        _be_server(fake, point, writer, private=False)
    os.close(writer)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(server, signal.SIGTERM)
    pid = status = 0
    while not pid:
        if signal.sigwait(watched) == signal.SIGTERM:
            os.kill(server, signal.SIGTERM)
        pid, status = os.waitpid(server, os.WNOHANG)
    if mount.mounted_at(point):
        mount.unmount(point)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _be_server(fake: Fake, point: str, writer: int, *, private: bool, outside: int | None = None) -> NoReturn:
    status, text = _serve(fake, point, writer, private, outside)
    if text:
        os.write(writer, f"{status}\n{text}".encode())
    os._exit(status)


def _leave_the_command_alone(writer: int) -> None:
    """Its pipes must end when it closes them, and its terminal's signals are not for the server."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.closerange(3, writer)
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _serve(fake: Fake, point: str, writer: int, private: bool, outside: int | None) -> tuple[int, str]:  # noqa: FBT001
    from fakesysfs import machine  # noqa: PLC0415  nobody but the server needs these
    from fakesysfs.fuse.daemon import log_to_standard_error  # noqa: PLC0415
    from fakesysfs.fuse.server import serve  # noqa: PLC0415
    from fakesysfs.kernel.profile import PROFILES  # noqa: PLC0415
    from fakesysfs.sandbox.announcer import Announcer, ElsewhereAnnouncer  # noqa: PLC0415
    from fakesysfs.sandbox.uevents import Injector  # noqa: PLC0415
    from fakesysfs.sysroot import Sysroot  # noqa: PLC0415

    if fake.kernel not in PROFILES:
        return 2, f"there is no kernel {fake.kernel!r}; there are {', '.join(PROFILES)}"
    try:
        loaded = machine.load(fake.machine)
    except machine.MachineError as error:
        return 2, str(error)
    os.chdir("/")
    log_to_standard_error()
    sysroot = Sysroot.boot(loaded, PROFILES[fake.kernel], uid=os.getuid(), gid=os.getgid(), whole_dev=True)

    announcer: Announcer | ElsewhereAnnouncer = (
        ElsewhereAnnouncer(sysroot.announced) if outside is None else Announcer(sysroot, Injector(outside))
    )

    def ready() -> None:
        os.write(writer, b"0\n")
        os.close(writer)

    try:
        # On a real machine all users see it: so do those in a namespace of its own.
        allow_other = private or os.getuid() == 0
        serve(sysroot, point, allow_other=allow_other, ready=ready, private=private, announcer=announcer)
    except mount.MountError as error:
        return error.status, str(error)
    return 0, ""
