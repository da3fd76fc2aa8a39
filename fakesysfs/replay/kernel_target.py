"""A real kernel in a guest of the lab: every operation is a system call of the agent in it.

Commands run in the guest's bash with Debian's tools. The newest daxctl stands in for a recorded
older one, as everywhere in the replayer.
"""

from __future__ import annotations

import functools
import os
import re
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from fakesysfs.lab import guest, images
from fakesysfs.lab.agent import (
    BLOCKED,
    CHUNK,
    REPEAT,
    Agent,
    Answer,
    Argument,
    Call,
    Child,
    InOut,
    Iovec,
    Memory,
    Out,
    Result,
    Strings,
    call,
)
from fakesysfs.lab.images import KernelImage
from fakesysfs.lab.machines import GUESTS, Guest
from fakesysfs.replay import bash, daxctl_versions
from fakesysfs.replay.model_target import RACE_ROUNDS
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
    errno_name,
    errno_number,
)
from fakesysfs.testing.tasks import Signal

T = TypeVar("T")

PATIENCE_SECONDS = 20
"""A system call that takes longer is blocked. Offlining a full block takes seconds under TCG."""

QUIET_SECONDS = 1.0
"""A child that has not ended by then waits."""

MESSAGES_SECONDS = 6.0
"""For messages of processes in the background. Reports of pages that cannot be migrated come every 5 seconds."""

_SHELL_SECONDS = 300
_SIGALRM, _SIGKILL = 14, 9
_SIGNALS = {Signal.SIGALRM: _SIGALRM, Signal.SIGKILL: _SIGKILL}
_WNOHANG = 1
_STAT = struct.Struct("<QQQIIIIQq")
"""struct stat of x86-64 up to st_size."""
_STATFS = struct.Struct("<qqqqqqqqqq")
_DIRENT = struct.Struct("<QqHB")


def guest_of(variant: str) -> Guest:
    """The guest that a session's variant names. Raises NotSupportedError."""
    found = GUESTS.get(variant)
    if found is None:
        raise NotSupportedError(f"the lab has no guest {variant!r} (choose from {', '.join(GUESTS)})")
    return found


SERIES = {f"{series}{suffix}": series for series in images.SERIES for suffix in ("", "-distribution", "-cxl")}
"""The series whose kernel a profile's recordings are replayed on."""


def image_of(profile: str, name: str | None = None) -> KernelImage:
    """The kernel for a profile, or the one that `name` names. Raises NotSupportedError and LabError."""
    if name is None and profile not in SERIES:
        raise NotSupportedError(f"Debian has no kernel {profile}")
    return images.kernel_image(name or SERIES[profile])


def replay_on(profile: str, variant: str, replay: Callable[[KernelTarget], T], image: str | None = None) -> T:
    """Boot the guest and call `replay`. Raises NotSupportedError and LabError."""
    with guest.boot(guest_of(variant), image_of(profile, image)) as booted:
        return replay(KernelTarget(booted.agent))


# Processes --------------------------------------------------------------------------------------------------------


class KernelProcess(Process):
    """A child of the agent that opens and writes."""

    def __init__(self, target: KernelTarget, child: Child, alarm: float) -> None:
        self.child = child
        self.alarm = alarm
        """Seconds after which it gets a SIGALRM, 0 for never."""
        self._target = target

    @property
    def has_opened(self) -> bool:
        """Whether it has reached its write(2), or its end."""
        return bool(self._target.agent.answers_of(self.child))

    def state(self) -> str:
        """The letter in its stat: Z once it has ended."""
        try:
            text = self._target.read_text(f"/proc/{self.child.pid}/stat")
        except OSError:
            return "Z"
        return text.rpartition(")")[2].split()[0]

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.state() in {"Z", "X"}

    @property
    def letter(self) -> str:
        """See Process. One that tries again and again to take a lock sleeps between."""
        _until(lambda: self.finished, QUIET_SECONDS)
        _until(lambda: self.state() != "R", QUIET_SECONDS)
        letter = self.state()
        return "finished" if letter in {"Z", "X"} else letter

    def outcome(self) -> Outcome:
        """See Process."""
        answers = self._target.agent.answers_of(self.child)
        return _outcome(answers) if len(answers) > 1 else Outcome(killed=True)


def _outcome(answers: Sequence[Answer]) -> Outcome:
    """The outcome of open and write, the first two answers."""
    opened, written = answers[:2]
    if opened.result < 0:
        return Outcome(open_errno=-opened.result)
    if written.status == BLOCKED:
        raise BlockedError(f"the write does not return within {PATIENCE_SECONDS} seconds")
    return Outcome(errno=-written.result) if written.result < 0 else Outcome(ret=written.result)


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
    return True


# The target -------------------------------------------------------------------------------------------------------


class KernelTarget(Target):
    """One booted guest."""

    through_mount = False
    real_kernel = True
    owner_is_root = True

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._processes: list[KernelProcess] = []
        self._pins: list[Child] = []
        self._received = Messages()
        self._kmsg = self._done(call("open", "/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
        self._done(call("lseek", self._kmsg, 0, os.SEEK_END))
        self._uevents = self._open_uevents()

    def _open_uevents(self) -> int:
        family, kind, protocol = 16, 3 | os.O_NONBLOCK, 15  # AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT
        sol_socket, so_rcvbufforce = 1, 33
        descriptor = self._done(call("socket", family, kind, protocol))
        self._done(call("setsockopt", descriptor, sol_socket, so_rcvbufforce, struct.pack("<i", 16 << 20), 4))
        self._done(call("bind", descriptor, struct.pack("<HHII", family, 0, 0, 1), 12))
        return descriptor

    # System calls --------------------------------------------------------------------------------------------------

    def _answer(self, one: Call) -> Answer:
        return _checked(self.agent.run([one], PATIENCE_SECONDS)[0])

    def _done(self, one: Call) -> int:
        return self._answer(one).result

    def open(self, path: str, flags: int) -> int:
        """See Target."""
        return self._done(call("open", path, flags, 0o666))

    def close(self, descriptor: int) -> None:
        """See Target."""
        self._done(call("close", descriptor))

    def read(self, descriptor: int, size: int, offset: int | None = None) -> bytes:
        """See Target."""
        return self._answer(_read(descriptor, size, offset)).data

    def write(self, descriptor: int, data: bytes, offset: int | None = None) -> int:
        """See Target."""
        return self._done(_write(descriptor, data, offset))

    def stat(self, path: str) -> FileStatus:
        """See Target."""
        return _status(self._answer(call("lstat", path, Out(144, all=True))))

    def readlink(self, path: str) -> str:
        """See Target."""
        return self._answer(call("readlink", path, Out(4096), 4096)).data.decode("utf-8", "surrogateescape")

    def ls(self, path: str) -> list[str]:
        """See Target."""
        (names,) = self.ls_all([path])
        if isinstance(names, OSError):
            raise names
        return names

    def ls_all(self, paths: Sequence[str]) -> list[list[str] | OSError]:
        """See Target. One batch."""
        calls: list[Call] = []
        for path in paths:
            opened = Result(len(calls))
            entries = call("getdents64", opened, Out(CHUNK), CHUNK, flags=REPEAT)
            calls += [call("open", path, os.O_RDONLY | os.O_DIRECTORY), entries, call("close", opened)]
        answers = self._run(calls)
        return [
            _names(entries.data) if entries.result >= 0 else _error(entries if opened.result >= 0 else opened)
            for opened, entries, _ in zip(*[iter(answers)] * 3, strict=True)
        ]

    def readlinks(self, paths: Sequence[str]) -> list[str]:
        """See Target. One batch."""
        answers = self._run([call("readlink", path, Out(4096), 4096) for path in paths])
        return [_checked(answer).data.decode("utf-8", "surrogateescape") for answer in answers]

    def stats(self, paths: Sequence[str]) -> list[FileStatus]:
        """See Target. One batch."""
        answers = self._run([call("lstat", path, Out(144, all=True)) for path in paths])
        return [_status(_checked(answer)) for answer in answers]

    def read_results(self, paths: Sequence[str], size: int = CHUNK) -> list[tuple[str, bytes | str]]:
        """See Target. One batch."""
        calls: list[Call] = []
        for path in paths:
            opened = Result(len(calls))
            calls += [call("open", path, os.O_RDONLY), _read(opened, size, None), call("close", opened)]
        answers = self._run(calls)
        return [_result(opened, read) for opened, read, _ in zip(*[iter(answers)] * 3, strict=True)]

    def _run(self, calls: list[Call]) -> list[Answer]:
        """A batch of any length."""
        answers: list[Answer] = []
        for start in range(0, len(calls), _BATCH):
            part = calls[start : start + _BATCH]
            moved = [
                Call(number, tuple(_moved(argument, start) for argument in arguments), flags)
                for number, arguments, flags in part
            ]
            answers += self.agent.run(moved, PATIENCE_SECONDS)
        return answers

    def read_result(self, path: str, size: int | None, offset: int | None = None) -> tuple[str, bytes | str]:
        """See Target. One batch."""
        wanted = _read(Result(0), CHUNK, None, REPEAT) if size is None else _read(Result(0), size, offset)
        opened, read, _ = self.agent.run(
            [call("open", path, os.O_RDONLY), wanted, call("close", Result(0))], PATIENCE_SECONDS
        )
        return _result(opened, read)

    def read_text(self, path: str) -> str:
        """See Target. One batch."""
        kind, data = self.read_result(path, None)
        if isinstance(data, bytes):
            return data.decode("latin-1")
        raise OSError(errno_number(data), f"{kind} {path}")

    def write_file(self, path: str, data: bytes, flags: int, offset: int | None = None) -> Outcome:
        """See Target. One batch."""
        calls = [call("open", path, flags, 0o666), _write(Result(0), data, offset), call("close", Result(0))]
        if path.endswith("/delete"):
            calls += _GRACE_PERIODS
        return _outcome(self.agent.run(calls, PATIENCE_SECONDS))

    def call(self, name: str, *arguments: Value) -> Value:
        """See Target."""
        by_name = _CALLS.get(name)
        if by_name is None:
            raise NotSupportedError(f"system call {name}")
        one, value = by_name(*arguments)
        return value(self._answer(one))

    # Processes -----------------------------------------------------------------------------------------------------

    def sh(self, command: str, tool: str | None) -> ShellResult:
        """See Target."""
        names = bash.command_names(command)
        for selftest in bash.SELFTESTS:
            if selftest in names:
                self._install(selftest)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        out, err = "/run/stdout", "/run/stderr"
        calls = [
            call("open", "/dev/null", os.O_RDONLY), call("dup2", Result(0), 0),
            call("open", out, flags, 0o644), call("dup2", Result(2), 1),
            call("open", err, flags, 0o644), call("dup2", Result(4), 2),
            call("execve", "/bin/bash", Strings(("bash", "-c", command)), Strings(_ENVIRONMENT)),
        ]  # fmt: skip
        (child,) = self.agent.start([calls])
        waited = self.agent.run([call("wait4", child.pid, Out(4, all=True), 0, 0)], _SHELL_SECONDS)[0]
        if waited.status == BLOCKED:
            self.agent.run([call("kill", -child.pid, _SIGKILL)])
            raise BlockedError(f"does not end within {_SHELL_SECONDS} seconds")
        status = os.waitstatus_to_exitcode(struct.unpack("<i", waited.data)[0])
        stdout, stderr = (
            self.read_text(path).encode("latin-1").decode("utf-8", "surrogateescape") for path in (out, err)
        )
        stands_in = _daxctl() if tool and "daxctl" in names else None
        return ShellResult(
            status if status >= 0 else 128 - status, stdout, stderr, stands_in if stands_in != tool else None
        )

    def _install(self, selftest: str) -> None:
        """Copy a selftest of the kernel into the guest. Raises NotRunError where this system has none."""
        found = daxctl_versions.which(selftest)
        if found is None:
            raise NotRunError(f"the kernel's selftest {selftest} is not installed", rest=True)
        path, flags = f"/usr/bin/{selftest}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self.write_file(path, Path(found).read_bytes(), flags)
        self.call("chmod", path, 0o755)

    def spawn(self, path: str, data: bytes, alarm: float = 0) -> KernelProcess:
        """See Target. Returns once the process waits in its write, or has ended."""
        (child,) = self.agent.start([[call("open", path, os.O_WRONLY), _write(Result(0), data, None)]])
        process = KernelProcess(self, child, alarm)
        self._processes.append(process)
        _until(lambda: process.finished or (process.has_opened and process.state() in {"S", "D"}), QUIET_SECONDS)
        return process

    def signal(self, process: Process, signal: Signal) -> None:
        """See Target."""
        assert isinstance(process, KernelProcess)
        self.agent.run([call("kill", process.child.pid, _SIGNALS[signal])])
        _until(lambda: process.finished, QUIET_SECONDS)

    def wait(self, process: Process) -> bool:
        """See Target. The alarms come one after the other, each once nothing else happens."""
        assert isinstance(process, KernelProcess)
        while not _until(lambda: process.finished, 2 * QUIET_SECONDS):
            before = len(self._received.uevents)
            self._receive()
            if len(self._received.uevents) > before:
                continue
            waiting = [other for other in self._processes if other.alarm and not other.finished]
            if not waiting:
                return _until(lambda: process.finished, PATIENCE_SECONDS)
            first = min(waiting, key=lambda other: other.alarm)
            first.alarm = 0
            self.agent.run([call("kill", first.child.pid, _SIGALRM)])
        return True

    def race(self, writers: list[RaceWriter], reads: str) -> RaceResult:
        """See Target. Children of the agent, RACE_ROUNDS rounds each."""
        batches = [
            [
                one
                for number, data in enumerate(writer.data)
                for one in (
                    call("open", writer.path, os.O_WRONLY),
                    _write(Result(3 * number), data, None),
                    call("close", Result(3 * number)),
                )
            ]
            for writer in writers
        ]
        children = self.agent.start(batches, RACE_ROUNDS)
        processes = [KernelProcess(self, child, 0) for child in children]
        values: set[bytes] = set()
        end = time.monotonic() + _SHELL_SECONDS
        while not all(process.finished for process in processes):
            kind, data = self.read_result(reads, CHUNK)
            if kind == "data" and isinstance(data, bytes):
                values.add(data)
            if time.monotonic() > end:
                raise BlockedError(f"a race does not end within {_SHELL_SECONDS} seconds")
        outcomes: set[tuple[str, bytes, str]] = set()
        for writer, child in zip(writers, children, strict=True):
            answers = self.agent.answers_of(child)
            for at in range(0, len(answers) - 2, 3):
                data = writer.data[at // 3 % len(writer.data)]
                outcomes.add((writer.name, data, _outcome(answers[at : at + 2]).word))
        return RaceResult(outcomes, values)

    # The rest of the machine ---------------------------------------------------------------------------------------

    def drain(self) -> Messages:
        """See Target."""
        self._receive()
        messages, self._received = self._received, Messages()
        return messages

    def _receive(self) -> None:
        log, events = self.agent.run(
            [
                call("read", self._kmsg, Out(8192), 8192, flags=REPEAT),
                call("recvfrom", self._uevents, Out(8192), 8192, 0, 0, 0, flags=REPEAT),
            ]
        )
        self._received.dmesg += relevant(map(_log_line, log.buffers))
        self._received.uevents += [data.decode("latin-1").rstrip("\0").split("\0") for data in events.buffers]

    def await_quiet(self) -> None:
        """See Target."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        seen = -1
        while seen != len(self._received.uevents) and time.monotonic() < deadline:
            seen = len(self._received.uevents)
            time.sleep(QUIET_SECONDS * 2)
            self._receive()

    def await_messages(self, uevents: int, lines: int) -> None:
        """See Target. The kernel limits the rate of some lines: one of them is enough."""

        def have_come() -> bool:
            self._receive()
            return len(self._received.uevents) >= uevents and len(self._received.dmesg) >= min(lines, 1)

        if self._processes:
            _until(have_come, MESSAGES_SECONDS)

    def fixture(self, what: str, node: int | None) -> None:
        """See Target."""
        if what == "unpin":
            for child in self._pins:
                self.agent.run([call("kill", child.pid, _SIGKILL), call("wait4", child.pid, 0, 0, 0)])
            self._pins = []
        elif what == "pin" and node is not None:
            self._pins += self._start_fixture(_pin(node))
        elif what == "kernel-allocations" and node is not None:
            self._start_fixture(_kernel_allocations(node))
        elif what == "pmem-devdax":
            command = "ndctl create-namespace -f -e namespace0.0 -m devdax -a 4096"
            if self.sh(command, None).rc:
                raise NotSupportedError("ndctl create-namespace fails in the guest")
        elif what != "kernel-allocations-released":  # which changes nothing (KERNEL.md 2)
            raise NotSupportedError(f"fixture {what}")
        for process in self._processes:
            if not process.alarm:
                _until(lambda process=process: process.finished, QUIET_SECONDS)  # type: ignore[misc]

    def _start_fixture(self, calls: list[Call]) -> list[Child]:
        children = self.agent.start([calls])
        if not _until(lambda: len(self.agent.answers_of(children[0])) == len(calls) - 1, PATIENCE_SECONDS):
            raise NotSupportedError(f"the fixture fails: {self.agent.answers_of(children[0])}")
        return children

    def end(self) -> None:
        """See Target. The guest ends with `replay_on`."""


_BATCH = 3000
_ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb")


_GRACE_PERIODS = [call("membarrier", 1, 0, 0)] * 2
"""MEMBARRIER_CMD_GLOBAL waits for RCU, in whose callback a deleted device gives its minor back.

Recorders were slow enough for it.
"""


def _moved(argument: Argument, start: int) -> Argument:
    """A reference in a later part of a batch."""
    return Result(argument.position - start) if isinstance(argument, Result) else argument


@functools.cache
def _daxctl() -> str:
    """The guest's daxctl, as sessions name it."""
    tools = images.guest_tools()
    command = [*images.by_own_loader(tools), str(tools / "usr/bin/daxctl"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"daxctl-{done.stdout.strip()}"


# Fixtures ---------------------------------------------------------------------------------------------------------

_PAGES = 200
_MPOL_BIND = 2
_PROT_READ_WRITE, _PRIVATE_ANONYMOUS_POPULATE = 3, 0x8022


def _on_node(node: int) -> Call:
    return call("set_mempolicy", _MPOL_BIND, struct.pack("<Q", 1 << node), 65)


def _pin(node: int) -> list[Call]:
    """Pages of a node that a pipe holds: they cannot be migrated."""
    size, f_setpipe_sz = _PAGES * 4096, 1031
    return [
        _on_node(node),
        call("mmap", 0, size, _PROT_READ_WRITE, _PRIVATE_ANONYMOUS_POPULATE, -1, 0),
        call("mknod", "/run/pin", _S_IFIFO, 0),
        call("open", "/run/pin", os.O_RDWR),
        call("fcntl", Result(3), f_setpipe_sz, 256 * 4096),
        call("vmsplice", Result(3), Iovec((Memory(Result(1), size),)), 1, 0),
        call("pause"),
    ]


def _kernel_allocations(node: int) -> list[Call]:
    """Data in pipes, in pages that the kernel has allocated on a node."""
    calls = [_on_node(node)]
    for number in range(_PIPES):
        path, opened = f"/run/allocations.{number}", Result(len(calls) + 1)
        calls += [
            call("mknod", path, _S_IFIFO, 0),
            call("open", path, os.O_RDWR),
            call("write", opened, bytes(CHUNK), CHUNK),
        ]
    return [*calls, call("pause")]


_PIPES = 16
_S_IFIFO = 0o010600


# Calls by name ----------------------------------------------------------------------------------------------------


def _checked(answer: Answer) -> Answer:
    if answer.status == BLOCKED:
        raise BlockedError(f"the system call does not return within {PATIENCE_SECONDS} seconds")
    if answer.result < 0:
        raise _error(answer)
    return answer


def _error(answer: Answer) -> OSError:
    return OSError(-answer.result, os.strerror(-answer.result))


def _result(opened: Answer, read: Answer) -> tuple[str, bytes | str]:
    if opened.result < 0:
        return "open_errno", _name(opened)
    if read.status == BLOCKED:
        raise BlockedError(f"the read does not return within {PATIENCE_SECONDS} seconds")
    return ("errno", _name(read)) if read.result < 0 else ("data", read.data)


def _name(answer: Answer) -> str:
    return errno_name(-answer.result)


def _read(descriptor: int | Result, size: int, offset: int | None, flags: int = 0) -> Call:
    if offset is None:
        return call("read", descriptor, Out(size), size, flags=flags)
    return call("pread64", descriptor, Out(size), size, offset, flags=flags)


def _write(descriptor: int | Result, data: bytes, offset: int | None) -> Call:
    if offset is None:
        return call("write", descriptor, data, len(data))
    return call("pwrite64", descriptor, data, len(data), offset)


def _status(answer: Answer) -> FileStatus:
    _, _, nlink, mode, uid, gid, _, _, size = _STAT.unpack_from(answer.data)
    return FileStatus(mode, nlink, uid, gid, size)


def _names(data: bytes) -> list[str]:
    """The names in what getdents64 returned, without `.` and `..`."""
    names = []
    at = 0
    while at < len(data):
        _, _, length, _ = _DIRENT.unpack_from(data, at)
        name = data[at + _DIRENT.size : at + length].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        if name not in {".", ".."}:
            names.append(name)
        at += length
    return names


def _poll_events(answer: Answer) -> int:
    return int(struct.unpack("<ihh", answer.data)[2])


def _statfs(answer: Answer) -> tuple[int, int, int]:
    found = _STATFS.unpack_from(answer.data)
    return found[1], found[8], found[2]


Calls = dict[str, Callable[..., tuple[Call, Callable[[Answer], Value]]]]


def _nothing(_answer: Answer) -> None:
    return None


def _number(answer: Answer) -> int:
    return answer.result


_CALLS: Calls = {
    "lseek": lambda fd, offset, whence: (call("lseek", fd, offset, whence), _number),
    "writev": lambda fd, parts: (call("writev", fd, Iovec(tuple(parts)), len(parts)), _number),
    "fstat": lambda fd: (call("fstat", fd, Out(144, all=True)), _status),
    "stat": lambda path: (call("stat", path, Out(144, all=True)), _status),
    "ftruncate": lambda fd, size: (call("ftruncate", fd, size), _nothing),
    "truncate": lambda path, size: (call("truncate", path, size), _nothing),
    "fsync": lambda fd: (call("fsync", fd), _nothing),
    "fdatasync": lambda fd: (call("fdatasync", fd), _nothing),
    "fchmod": lambda fd, mode: (call("fchmod", fd, mode), _nothing),
    "fchown": lambda fd, uid, gid: (call("fchown", fd, uid, gid), _nothing),
    "chmod": lambda path, mode: (call("chmod", path, mode), _nothing),
    "chown": lambda path, uid, gid: (call("chown", path, uid, gid), _nothing),
    "mmap": lambda fd: (call("mmap", 0, 4096, _PROT_READ_WRITE, 1, fd, 0), _nothing),
    "flock": lambda fd: (call("flock", fd, 2), _nothing),
    "poll": lambda fd: (call("poll", InOut(struct.pack("<ihh", fd, 3, 0)), 1, 0), _poll_events),
    "access": lambda path, mode: (call("access", path, mode), lambda _answer: True),
    "unlink": lambda path: (call("unlink", path), _nothing),
    "remove": lambda path: (call("unlink", path), _nothing),
    "rename": lambda old, new: (call("rename", old, new), _nothing),
    "mkdir": lambda path, mode=0o777: (call("mkdir", path, mode), _nothing),
    "rmdir": lambda path: (call("rmdir", path), _nothing),
    "symlink": lambda target, path: (call("symlink", target, path), _nothing),
    "link": lambda old, new: (call("link", old, new), _nothing),
    "utime": lambda path, times: (call("utime", path, struct.pack("<qq", *map(int, times))), _nothing),
    "setxattr": lambda path, name, value: (call("setxattr", path, name, value, len(value), 0), _nothing),
    "getxattr": lambda path, name: (call("getxattr", path, name, Out(CHUNK), CHUNK), lambda answer: answer.data),
    "listxattr": lambda path: (
        call("listxattr", path, Out(CHUNK), CHUNK),
        lambda answer: [name.decode() for name in answer.data.split(b"\0") if name],
    ),
    "removexattr": lambda path, name: (call("removexattr", path, name), _nothing),
    "statfs": lambda path: (call("statfs", path, Out(120, all=True)), _statfs),
    "readlink": lambda path: (call("readlink", path, Out(4096), 4096), lambda answer: answer.data.decode()),
}


# The log ----------------------------------------------------------------------------------------------------------

_NOISE = re.compile(
    r"<\d>(?:page: refcount:|head: |flags: |raw: |page_type: |memcg:|anon flags|aops:|index:"
    r"|hrtimer: interrupt took|clocksource: |page last |page_owner|perf: interrupt took"
    r"|tsc: |TSC found|sched_clock: |workqueue: |random: |rcu: |sched: |systemd|memfd_create)"
)
"""Lines that say what else the guest does, or dump a page: recordings do not have them (FORMAT.md)."""

_CUT, _END = "------------[ cut here ]------------", "---[ end trace"
_WARNING = re.compile(r"<\d>WARNING: ")


def _log_line(record: bytes) -> str:
    """A record of /dev/kmsg as `<level>text`."""
    head, _, rest = record.decode("utf-8", "surrogateescape").partition(";")
    return f"<{int(head.split(',')[0]) & 7}>{rest.split(chr(10))[0]}"


def relevant(lines: object) -> list[str]:
    """The log lines that a recording keeps: of a WARN only its first line, and no dump of a page."""
    kept: list[str] = []
    within = False
    for line in lines:  # type: ignore[attr-defined]
        if _CUT in line:
            within = True
        elif _END in line:
            within = False
        elif (not within and not _NOISE.match(line)) or _WARNING.match(line):
            kept.append(line)
    return kept
