"""A mount: every operation is a real system call, of this process or of a child.

This process is the init of its own namespaces (`isolated`). The server is another process in them,
as in `fakesysfs run`. Messages and uevents come from control/; pins and the like are written there.

No recorded second is waited for. A SIGALRM that the recorded process got after some seconds is sent
once this process waits for it and nothing else happens.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from fakesysfs.fuse.mount import MountError
from fakesysfs.replay import bash
from fakesysfs.replay.isolated import Child
from fakesysfs.replay.model_target import RACE_ROUNDS, MachineAndKernel
from fakesysfs.replay.recording import Value
from fakesysfs.replay.target import (
    BlockedError,
    FileStatus,
    Messages,
    NotRunError,
    NotSupportedError,
    Outcome,
    Process,
    RaceResult,
    RaceWriter,
    ShellResult,
    Target,
)
from fakesysfs.sandbox import linux, server, view
from fakesysfs.testing.tasks import Signal

T = TypeVar("T")

PATIENCE_SECONDS = 20.0
"""A system call of this process that takes longer is blocked."""

QUIET_SECONDS = 0.1
"""A child that sleeps in a system call for so long waits for this process."""

_FLUSH = "/sys/bus/cxl/flush"

_POLL_SECONDS = 0.002
_READ_SIZE = 65536
_LOG_SIZE = 1 << 20
_ENTRY = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", re.MULTILINE)
_SIGNALS = {Signal.SIGALRM: signal.SIGALRM, Signal.SIGKILL: signal.SIGKILL}
_KMSG = re.compile(r"(<\d+>)\[ *\d+\.\d+\] (.*)")


def replay_on(fake: MachineAndKernel, replay: Callable[[MountTarget], T], *, as_root: bool) -> tuple[T, list[str]]:
    """Serve the fake, show it at /sys, /dev and /proc, and call `replay`. Needs its own namespaces.

    Returns what `replay` returned, and the entries of the server's log. Raises MountError.
    """
    view.prepare()
    with _standard_error() as log:
        served = server.start(server.Fake(fake.machine, fake.kernel.name), view.MOUNTPOINT, private=True)
    try:
        status, why = server.read_answer(served)
        if status:
            raise MountError(f"{why} {' '.join(log())}".rstrip(), status)
        linux.unshare(linux.CLONE_NEWNS)
        view.show(private_network=False)
        return replay(MountTarget(owner_is_root=as_root)), log()
    except OSError as error:
        raise MountError("; ".join([str(error), *log()])) from None
    finally:
        os.kill(served.pid, signal.SIGKILL)


@contextmanager
def _standard_error() -> Iterator[Callable[[], list[str]]]:
    """Give processes that start in here another standard error.

    Yields a function that reads its log entries.
    """
    log = os.memfd_create("log")
    before = os.dup(2)
    os.dup2(log, 2)
    try:
        yield lambda: [entry for entry in _ENTRY.split(os.pread(log, _LOG_SIZE, 0).decode(errors="replace")) if entry]
    finally:
        os.dup2(before, 2)
        os.close(before)


class MountProcess(Process):
    """A child that opens and writes.

    It sends a line on a pipe after its open, and another with its result.
    """

    def __init__(self, path: str, data: bytes, alarm: float) -> None:
        self.alarm = alarm
        """Seconds after which it gets a SIGALRM, 0 for never."""
        self._sent = b""
        self._status: int | None = None
        reader, writer = os.pipe2(os.O_NONBLOCK)
        self.pid = os.fork()
        if not self.pid:
            _open_and_write(path, data, writer)
        os.close(writer)
        self._reader = reader

    @property
    def has_opened(self) -> bool:
        """Whether it has reached its write(2), or its end."""
        return bool(self._receive())

    def _receive(self) -> bytes:
        with suppress(BlockingIOError):
            while more := os.read(self._reader, 4096):
                self._sent += more
        return self._sent

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
                self._receive()
                os.close(self._reader)
        return self._status is not None

    def _state(self) -> str:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return ""

    @property
    def asleep(self) -> bool:
        """Whether it waits, in any kind of sleep."""
        return self._state() in {"S", "D"}

    @property
    def letter(self) -> str:
        """See Process. A process that waits for FUSE is in S, and in D from its first signal on."""
        _until(lambda: self.finished, QUIET_SECONDS)
        return "finished" if self.finished else self._state()

    def outcome(self) -> Outcome:
        """See Process."""
        assert self._status is not None
        if os.WIFSIGNALED(self._status):
            return Outcome(killed=True)
        return Outcome(*json.loads(self._sent.split(b"\n")[-2]))


def _open_and_write(path: str, data: bytes, writer: int) -> NoReturn:
    """What a MountProcess does.

    It calls libc, because Python repeats a system call that a signal ended.
    """
    try:
        signal.signal(signal.SIGALRM, lambda _number, _frame: None)
        signal.siginterrupt(signal.SIGALRM, True)  # noqa: FBT003  its own signature
        result: tuple[int | None, int | None, int | None]
        try:
            file = _checked(_libc.open(os.fsencode(path), os.O_WRONLY))
        except OSError as error:
            result = None, None, error.errno
        else:
            os.write(writer, b"\n")
            try:
                result = _write(file, data, None), None, None
            except OSError as error:
                result = None, error.errno, None
        os.write(writer, json.dumps(result).encode() + b"\n")
    finally:
        os._exit(0)


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


class MountTarget(Target):
    """One mounted machine."""

    through_mount = True

    def __init__(self, *, owner_is_root: bool) -> None:
        self.owner_is_root = owner_is_root
        self._control = view.environment({})["FAKESYSFS_CONTROL"]
        self._kmsg = os.open(f"{self._control}/kmsg_follow", os.O_RDONLY | os.O_NONBLOCK)
        self._uevents = os.open(f"{self._control}/uevents_follow", os.O_RDONLY | os.O_NONBLOCK)
        self._processes: list[MountProcess] = []
        signal.signal(signal.SIGALRM, _give_up)

    # System calls --------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        """See Target."""
        with _patience():
            return _checked(_libc.open(os.fsencode(path), flags))

    def close(self, descriptor: int) -> None:
        """See Target."""
        os.close(descriptor)

    def read(self, descriptor: int, size: int, offset: int | None = None) -> bytes:
        """See Target."""
        with _patience():
            return os.read(descriptor, size) if offset is None else os.pread(descriptor, size, offset)

    def write(self, descriptor: int, data: bytes, offset: int | None = None) -> int:
        """See Target."""
        with _patience():
            return _write(descriptor, data, offset)

    def stat(self, path: str) -> FileStatus:
        """See Target."""
        return _status(os.lstat(path))

    def readlink(self, path: str) -> str:
        """See Target."""
        return os.readlink(path)  # noqa: PTH115  the system call itself, as below

    def ls(self, path: str) -> list[str]:
        """See Target."""
        return os.listdir(path)  # noqa: PTH208

    def call(self, name: str, *arguments: Value) -> Value:
        """See Target."""
        call = _CALLS.get(name)
        if call is None:
            raise NotSupportedError(f"system call {name}")
        if name in {"chown", "fchown"} and not bash.has_other_users():
            raise NotRunError(bash.NO_OTHER_USERS)
        with _patience():
            return call(*arguments)

    def sh(self, command: str, tool: str | None) -> ShellResult:
        """See Target."""
        return bash.run(command, tool)

    # Processes -----------------------------------------------------------------------------------------------------

    def spawn(self, path: str, data: bytes, alarm: float = 0) -> MountProcess:
        """See Target. Returns once the process waits in its write, or has ended."""
        process = MountProcess(path, data, alarm)
        self._processes.append(process)
        _until(lambda: process.finished or (process.has_opened and process.asleep), PATIENCE_SECONDS)
        # The server takes requests in order: when it answers this read, it has taken the write.
        # A signal before that would end the write without its effects.
        self.read_file(f"{self._control}/latency/online_block")
        return process

    def signal(self, process: Process, signal: Signal) -> None:
        """See Target."""
        assert isinstance(process, MountProcess)
        if not process.finished:
            os.kill(process.pid, _SIGNALS[signal])
        _until(lambda: process.finished, QUIET_SECONDS)

    def wait(self, process: Process) -> bool:
        """See Target. The alarms come one after the other, each once nothing else happens."""
        assert isinstance(process, MountProcess)
        while not _until(lambda: process.finished, 2 * QUIET_SECONDS):
            waiting = [other for other in self._processes if other.alarm and not other.finished]
            if not waiting:
                return _until(lambda: process.finished, PATIENCE_SECONDS)
            first = min(waiting, key=lambda other: other.alarm)
            first.alarm = 0
            os.kill(first.pid, signal.SIGALRM)
        return True

    def race(self, writers: list[RaceWriter], reads: str) -> RaceResult:
        """See Target. Children that run freely, RACE_ROUNDS rounds each."""
        children = [Child(partial(self._write_rounds, writer)) for writer in writers]
        values: set[bytes] = set()
        end = time.monotonic() + PATIENCE_SECONDS
        while not all(child.reader.poll() for child in children):
            with suppress(OSError):
                values.add(self.read_file(reads))
            if time.monotonic() > end:
                for child in children:
                    child.kill()
                raise BlockedError(f"a race does not end within {PATIENCE_SECONDS:g} seconds")
        return RaceResult(set[tuple[str, bytes, str]]().union(*(child.result() for child in children)), values)

    def _write_rounds(self, writer: RaceWriter) -> set[tuple[str, bytes, str]]:
        return {
            (writer.name, data, self.write_file(writer.path, data, os.O_WRONLY).word)
            for _ in range(RACE_ROUNDS)
            for data in writer.data
        }

    # The rest of the machine ---------------------------------------------------------------------------------------

    def await_quiet(self) -> None:
        """See Target. The machines whose kernel works in the background have a file that waits for it."""
        self.write_file(_FLUSH, b"1", os.O_WRONLY)

    def drain(self) -> Messages:
        """See Target."""
        log = [_KMSG.fullmatch(line) for line in _lines_so_far(self._kmsg)]
        events = [line.split(" ") for line in _lines_so_far(self._uevents)]
        return Messages([found[1] + found[2] for found in log if found], events)

    def fixture(self, what: str, node: int | None) -> None:
        """See Target."""
        if what == "unpin":
            self._write_control("pages/unpin", "1")
        elif what == "pin" and node is not None:
            self._write_control("pages/pin", str(node))
        elif what == "kernel-allocations" and node is not None:
            self._write_control("pages/kernel_allocations", str(node))
        elif what == "pmem-devdax":
            self._write_control("pmem/devdax", "namespace0.0 align=4096")
        elif what != "kernel-allocations-released":  # which changes nothing (KERNEL.md 2)
            raise NotSupportedError(f"fixture {what}")
        for process in self._processes:
            _until(lambda process=process: process.finished, 0 if process.alarm else QUIET_SECONDS)  # type: ignore[misc]

    def _write_control(self, name: str, word: str) -> None:
        outcome = self.write_file(f"{self._control}/{name}", word.encode(), os.O_WRONLY)
        if outcome.ret is None:
            raise NotSupportedError(f"control/{name} refuses {word!r}: {outcome.word}")

    def end(self) -> None:
        """See Target. Processes and mounts end with the namespaces."""
        signal.setitimer(signal.ITIMER_REAL, 0)


# System calls ---------------------------------------------------------------------------------------------


_libc = ctypes.CDLL(None, use_errno=True)
"""os.open and os.write repeat a system call after EINTR, which may be the recorded answer."""

for _name in ("write", "pwrite"):
    getattr(_libc, _name).restype = ctypes.c_ssize_t


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _write(descriptor: int, data: bytes, offset: int | None) -> int:
    count = ctypes.c_size_t(len(data))
    if offset is None:
        return _checked(_libc.write(descriptor, data, count))
    return _checked(_libc.pwrite(descriptor, data, count, ctypes.c_longlong(offset)))


def _status(found: os.stat_result) -> FileStatus:
    return FileStatus(found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size)


def _mmap(descriptor: int) -> None:
    mmap.mmap(descriptor, mmap.PAGESIZE).close()


def _poll(descriptor: int) -> int:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLPRI)
    return poll.poll(0)[0][1]


def _statfs(path: str) -> tuple[int, int, int]:
    found = os.statvfs(path)
    return found.f_bsize, found.f_namemax, found.f_blocks


_CALLS: dict[str, Callable[..., Value]] = {
    "lseek": os.lseek,
    "writev": os.writev,
    "fstat": lambda descriptor: _status(os.fstat(descriptor)),
    "ftruncate": os.ftruncate,
    "fchmod": os.fchmod,
    "fchown": os.fchown,
    "fsync": os.fsync,
    "fdatasync": os.fdatasync,
    "mmap": _mmap,
    "flock": lambda descriptor: fcntl.flock(descriptor, fcntl.LOCK_EX),
    "poll": _poll,
    "access": os.access,
    "stat": lambda path: _status(Path(path).stat()),
    "removexattr": os.removexattr,
    "remove": os.remove,
    "unlink": os.unlink,
    "rename": os.rename,
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "symlink": os.symlink,
    "link": os.link,
    "chmod": os.chmod,
    "chown": os.chown,
    "utime": lambda path, times: os.utime(path, tuple(times)),
    "truncate": os.truncate,
    "setxattr": os.setxattr,
    "getxattr": os.getxattr,
    "listxattr": os.listxattr,
    "statfs": _statfs,
    "readlink": os.readlink,
}


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    raise BlockedError(f"the system call does not return within {PATIENCE_SECONDS:g} seconds")


@contextmanager
def _patience() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# Help -------------------------------------------------------------------------------------------------------------


def _lines_so_far(descriptor: int) -> list[str]:
    """The new lines of a `_follow` file."""
    parts = []
    with suppress(BlockingIOError):
        while part := os.read(descriptor, _READ_SIZE):
            parts.append(part)
    return b"".join(parts).decode("utf-8", "surrogateescape").split("\n")[:-1]
