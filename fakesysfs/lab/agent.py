"""The host's side of the agent: requests, answers, and the text of agent.c as a program.

All numbers are little-endian. A request and an answer begin with their length (u32, itself not
counted).

    request   u8 kind
      run     u32 seconds of patience, batch
      fork    u16 count, then for each child: u32 rounds, buffer path, u32 length of the batch, batch
    batch     u16 count of calls, calls
    call      u16 number of the system call, u8 flags, u8 count of arguments, arguments
    argument  u8 type, then
      0 number   i64
      1 in       buffer
      2 out      u32 size: the result is the number of bytes
      3 out all  u32 size: all of it is written
      4 result   u16 index of an earlier call of the batch; the call is skipped if that one failed
      5 iovec    u16 count, then for each: u8 1 and a buffer, or u8 4, u16 index, u32 length
      6 strings  u16 count, buffers
      7 in out   buffer, of which all comes back
    buffer    u32 size, bytes, a null byte that is not counted
    flags     1 repeat until nothing comes, 2 a failure ends the batch
    answer
      run     for each call: i64 result or -errno, u8 status (0 done, 1 skipped, 2 interrupted by
              patience), u32 count of buffers, for each: u32 size, bytes
      fork    for each child: i64 process id or -errno

A child writes its answers, as those of `run`, to the file `path`.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from fakesysfs.lab.archive import LabError

RUN, FORK = 1, 2
REPEAT, STOP = 1, 2
SKIPPED, BLOCKED = 1, 2
CHUNK = 65536


# Arguments --------------------------------------------------------------------------------------------------------


class Out(NamedTuple):
    """A buffer that the call fills. `all`: to its end; else the result says how far."""

    size: int
    all: bool = False


class Result(NamedTuple):
    """The result of an earlier call of the batch."""

    position: int


class Memory(NamedTuple):
    """One part of an iovec: an address that an earlier call returned, and its length."""

    result: Result
    length: int


class Iovec(NamedTuple):
    """An iovec of buffers and addresses."""

    parts: tuple[bytes | Memory, ...]


class Strings(NamedTuple):
    """A null-terminated array of strings: arguments, an environment."""

    words: tuple[str, ...]


class InOut(NamedTuple):
    """A buffer that the call reads and changes."""

    data: bytes


Argument = int | bytes | str | Out | Result | Iovec | Strings | InOut


class Call(NamedTuple):
    """One system call of a batch."""

    number: int
    arguments: tuple[Argument, ...]
    flags: int = 0


class Answer(NamedTuple):
    """What a call returned: its result or -errno, and the buffers that it filled."""

    result: int
    status: int
    buffers: tuple[bytes, ...]

    @property
    def data(self) -> bytes:
        """All that it filled."""
        return b"".join(self.buffers)


class Number(Enum):
    """System calls of x86-64 by their names."""

    READ = 0
    WRITE = 1
    OPEN = 2
    CLOSE = 3
    STAT = 4
    FSTAT = 5
    LSTAT = 6
    POLL = 7
    LSEEK = 8
    MMAP = 9
    IOCTL = 16
    PREAD64 = 17
    PWRITE64 = 18
    WRITEV = 20
    ACCESS = 21
    DUP2 = 33
    PAUSE = 34
    ALARM = 37
    SOCKET = 41
    RECVFROM = 45
    BIND = 49
    SETSOCKOPT = 54
    EXECVE = 59
    WAIT4 = 61
    KILL = 62
    FCNTL = 72
    FLOCK = 73
    FSYNC = 74
    FDATASYNC = 75
    TRUNCATE = 76
    FTRUNCATE = 77
    CHDIR = 80
    RENAME = 82
    MKDIR = 83
    RMDIR = 84
    LINK = 86
    UNLINK = 87
    SYMLINK = 88
    READLINK = 89
    CHMOD = 90
    FCHMOD = 91
    CHOWN = 92
    FCHOWN = 93
    UTIME = 132
    MKNOD = 133
    STATFS = 137
    DELETE_MODULE = 176
    SETXATTR = 188
    GETXATTR = 191
    LISTXATTR = 194
    REMOVEXATTR = 197
    GETDENTS64 = 217
    SET_MEMPOLICY = 238
    VMSPLICE = 278
    FINIT_MODULE = 313
    MEMBARRIER = 324


def call(name: str, *arguments: Argument, flags: int = 0) -> Call:
    """A call by its name in lower case, as in the manual."""
    return Call(Number[name.upper()].value, arguments, flags)


# Encoding ---------------------------------------------------------------------------------------------------------


def _buffer(data: bytes | str) -> bytes:
    data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return struct.pack("<I", len(data)) + data + b"\0"


def _argument(argument: Argument) -> bytes:
    if isinstance(argument, int):
        return struct.pack("<Bq", 0, argument)
    if isinstance(argument, bytes | str):
        return b"\1" + _buffer(argument)
    if isinstance(argument, Out):
        return struct.pack("<BI", 3 if argument.all else 2, argument.size)
    if isinstance(argument, Result):
        return struct.pack("<BH", 4, argument.position)
    if isinstance(argument, InOut):
        return b"\7" + _buffer(argument.data)
    if isinstance(argument, Strings):
        return struct.pack("<BH", 6, len(argument.words)) + b"".join(map(_buffer, argument.words))
    parts = [
        struct.pack("<BHI", 4, part.result.position, part.length) if isinstance(part, Memory) else b"\1" + _buffer(part)
        for part in argument.parts
    ]
    return struct.pack("<BH", 5, len(parts)) + b"".join(parts)


def batch(calls: Sequence[Call]) -> bytes:
    """A batch in the form of a request."""
    encoded = [
        struct.pack("<HBB", number, flags, len(arguments)) + b"".join(map(_argument, arguments))
        for number, arguments, flags in calls
    ]
    return struct.pack("<H", len(calls)) + b"".join(encoded)


def answers(data: bytes) -> Iterator[Answer]:
    """The answers to a batch. One that is cut off at the end is left out: its child is still writing."""
    at = 0
    while at + 13 <= len(data):
        result, status, count = struct.unpack_from("<qBI", data, at)
        at += 13
        buffers = []
        for _ in range(count):
            if at + 4 > len(data):
                return
            (size,) = struct.unpack_from("<I", data, at)
            at += 4
            buffers.append(data[at : at + size])
            at += size
        if at > len(data):
            return
        yield Answer(result, status, tuple(buffers))


@dataclass(slots=True)
class Child:
    """A child of the agent, and the file of its answers."""

    pid: int
    path: str


class SilentError(LabError):
    """The guest does not answer: it has crashed, or its agent sleeps in a system call for ever."""


class Agent:
    """The agent of one guest."""

    def __init__(self, port: socket.socket) -> None:
        """`port`: the host's end of the virtio-serial port."""
        self._port = port
        self._children = 0
        self.round_trips = 0

    def run(self, calls: Sequence[Call], patience: int = 20, seconds: float | None = None) -> list[Answer]:
        """Do calls one after the other. One that sleeps for more than `patience` seconds is interrupted.

        Raises SilentError if no answer comes within `seconds`, by default a minute more than that.
        """
        data = self._ask(struct.pack("<BI", RUN, patience) + batch(calls), seconds or patience + 60)
        return list(answers(data))

    def start(self, batches: Sequence[Sequence[Call]], rounds: int = 1) -> list[Child]:
        """Start a child for each batch, which does it `rounds` times. Raises SilentError."""
        children = []
        request = struct.pack("<BH", FORK, len(batches))
        for calls in batches:
            self._children += 1
            path = f"/run/child.{self._children}"
            encoded = batch(calls)
            request += struct.pack("<I", rounds) + _buffer(path) + struct.pack("<I", len(encoded)) + encoded
            children.append(Child(0, path))
        pids = struct.unpack(f"<{len(batches)}q", self._ask(request, 60))
        for child, pid in zip(children, pids, strict=True):
            child.pid = pid
        return children

    def answers_of(self, child: Child) -> list[Answer]:
        """What a child has answered so far."""
        read = [call("open", child.path, 0), call("read", Result(0), Out(CHUNK), CHUNK, flags=REPEAT)]
        found = self.run([*read, call("close", Result(0))])
        return list(answers(found[1].data))

    def _ask(self, request: bytes, seconds: float) -> bytes:
        self.round_trips += 1
        self._port.settimeout(seconds)
        try:
            self._port.sendall(struct.pack("<I", len(request)) + request)
            (size,) = struct.unpack("<I", self._receive(4))
            return self._receive(size)
        except TimeoutError:
            raise SilentError(f"the guest does not answer within {seconds:g} seconds") from None
        except OSError as error:
            raise SilentError(f"the guest has ended: {error.strerror}") from None

    def _receive(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._port.recv(min(size, 1 << 20))
            if not part:
                raise SilentError("the guest has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


# The program ------------------------------------------------------------------------------------------------------

SOURCE = Path(__file__).with_name("agent.c")


@functools.cache
def program_path(folder: Path) -> Path:
    """Where `program` keeps what it builds of the present text."""
    return folder / f"agent-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"


def program(folder: Path) -> bytes:
    """The agent as a static program, built into `folder` once for each text of it. Raises LabError."""
    built = program_path(folder)
    if not built.is_file():
        compiler = shutil.which("cc")
        if compiler is None:
            raise LabError("cc is missing: install a C compiler with the static C library (gcc and libc6-dev)")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            out = Path(work, "agent")
            command = [compiler, "-static", "-Os", "-o", str(out), str(SOURCE)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LabError(f"cc cannot build the agent (is the static C library installed?): {done.stderr.strip()}")
            out.rename(built)
    return built.read_bytes()
