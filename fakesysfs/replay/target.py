"""The machine that a session is replayed on.

`model_target` is the model in this process. `served_model` adds a mount of the same model, on which
bash runs the session's commands. `mount_target` is a mount of another process's model: every
operation is a real system call.
"""

from __future__ import annotations

import errno as codes
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fakesysfs.ops.errors import NAMES
from fakesysfs.replay.recording import Value
from fakesysfs.testing.tasks import Signal


class NotSupportedError(Exception):
    """The target cannot do this. It counts as a mismatch; the report groups by `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotRunError(Exception):
    """Something that the operation needs is missing here. The operation counts neither way.

    `rest`: the rest of the session needs the operation's effects, so it is not run either.
    """

    def __init__(self, reason: str, *, rest: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rest = rest


class ToolAbsentError(NotRunError):
    """The tool is not installed, in no version."""


class BlockedError(Exception):
    """A system call does not return here; the recorded kernel answered it."""


class FileStatus(NamedTuple):
    """The compared fields of stat(2)."""

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int


class ShellResult(NamedTuple):
    """The result of a command line."""

    rc: int
    stdout: str
    stderr: str
    stands_in: str | None = None
    """The version of a tool that ran in place of the recorded one, which is missing."""


@dataclass(slots=True)
class Messages:
    """Log lines as `<level>text`, and uevents as lists of lines."""

    dmesg: list[str] = field(default_factory=list)
    uevents: list[list[str]] = field(default_factory=list)


class Outcome(NamedTuple):
    """The result of open + write. Exactly one of the first three fields is set, or `killed`."""

    ret: int | None = None
    errno: int | None = None
    open_errno: int | None = None
    killed: bool = False

    @property
    def word(self) -> str:
        """The result as the statistics of a race have it: `ok`, `EBUSY`, `open ENOENT`."""
        if self.killed:
            return "killed"
        if self.open_errno is not None:
            return f"open {errno_name(self.open_errno)}"
        return "ok" if self.errno is None else errno_name(self.errno)


class Process(ABC):
    """A background process that opens a file and writes to it once."""

    @property
    @abstractmethod
    def letter(self) -> str:
        """`R`, `D` or `finished`."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """The result. The process must have finished."""


class RaceWriter(NamedTuple):
    """One writer of a race. It writes each of `data` in turn, many times."""

    name: str
    path: str
    data: list[bytes]


class RaceResult(NamedTuple):
    """The results of a race: (writer, data, outcome) of each write, and the values read."""

    outcomes: set[tuple[str, bytes, str]]
    values: set[bytes]


class Target(ABC):
    """One freshly booted machine. System calls raise OSError with the errno, or BlockedError."""

    through_mount: bool
    """System calls go through a FUSE mount, which hides some answers (FORMAT.md, "Not reachable").
    """
    real_kernel: bool = False
    """A real kernel answers, whose configuration differs from the recorded one's."""
    owner_is_root: bool
    """Whether uid and gid can be compared."""

    # System calls --------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, path: str, flags: int) -> int:
        """System call open. The target numbers its descriptors itself."""

    @abstractmethod
    def close(self, descriptor: int) -> None:
        """System call close."""

    @abstractmethod
    def read(self, descriptor: int, size: int, offset: int | None = None) -> bytes:
        """System call read, or pread(2) with an offset."""

    @abstractmethod
    def write(self, descriptor: int, data: bytes, offset: int | None = None) -> int:
        """System call write, or pwrite(2) with an offset."""

    @abstractmethod
    def stat(self, path: str) -> FileStatus:
        """System call lstat."""

    @abstractmethod
    def readlink(self, path: str) -> str:
        """System call readlink."""

    @abstractmethod
    def ls(self, path: str) -> list[str]:
        """The names in a directory, in the order of readdir(3)."""

    @abstractmethod
    def call(self, name: str, *arguments: Value) -> Value:
        """Any other system call of a `raw` operation, by its name. Descriptors are numbers.

        lseek, writev, fstat, ftruncate, fsync, fdatasync, fchmod, fchown, mmap, flock, poll; unlink, remove, rename,
        mkdir, rmdir, symlink, link, chmod, chown, utime, truncate, setxattr, getxattr, listxattr, removexattr, stat,
        access, statfs.
        """

    # The rest of the machine ---------------------------------------------------------------------------------------

    @abstractmethod
    def sh(self, command: str, tool: str | None) -> ShellResult:
        """Run a command line. `tool` is the recorded version of daxctl. Raises NotRunError."""

    @abstractmethod
    def spawn(self, path: str, data: bytes, alarm: float = 0) -> Process:
        """Start a process that opens `path` and writes.

        It gets a SIGALRM, which it handles, after `alarm` seconds; 0 means never.
        """

    @abstractmethod
    def signal(self, process: Process, signal: Signal) -> None:
        """Send a signal to `process`."""

    @abstractmethod
    def wait(self, process: Process) -> bool:
        """Wait until `process` has ended. Returns False if it never will."""

    @abstractmethod
    def race(self, writers: list[RaceWriter], reads: str) -> RaceResult:
        """Let the writers write concurrently, while one reader reads the file `reads`."""

    @abstractmethod
    def drain(self) -> Messages:
        """The messages since the last drain."""

    def await_messages(self, uevents: int, lines: int) -> None:  # noqa: B027  most targets need not wait
        """Wait until processes in the background have sent so many uevents, and log lines.

        Only a real kernel does: the others answer when a process waits.
        """

    def await_quiet(self) -> None:  # noqa: B027  most targets need not wait
        """Wait until what the kernel does in the background has ended, as far as uevents tell."""

    @abstractmethod
    def fixture(self, what: str, node: int | None) -> None:
        """Do something to the machine that no system call does.

        `what` is pin, unpin, kernel-allocations or kernel-allocations-released (FORMAT.md, `fixture`),
        or pmem-devdax (7.2/09). `node` is a node's number.
        """

    @abstractmethod
    def end(self) -> None:
        """Free the machine."""

    # In terms of the above -----------------------------------------------------------------------------------------

    def reopen(self, descriptor: int, flags: int) -> int:
        """System call open on the path of an open file in /proc."""
        return self.open(f"/proc/self/fd/{descriptor}", flags)

    def listed(self, path: str) -> list[str] | None:
        """The names in a directory, as `ls` gives them, or None if there is no such directory."""
        try:
            return self.ls(path)
        except OSError:
            return None

    def read_file(self, path: str, size: int = 65536, offset: int | None = None) -> bytes:
        """open(O_RDONLY), one read, close."""
        descriptor = self.open(path, os.O_RDONLY)
        try:
            return self.read(descriptor, size, offset)
        finally:
            self.close(descriptor)

    def read_text(self, path: str) -> str:
        """A whole file, as latin-1."""
        descriptor = self.open(path, os.O_RDONLY)
        try:
            return self._read_to_end(descriptor).decode("latin-1")
        finally:
            self.close(descriptor)

    def read_result(self, path: str, size: int | None, offset: int | None = None) -> tuple[str, bytes | str]:
        """open(O_RDONLY), one read, close; reads to the end if `size` is None.

        Returns ("data", bytes), or ("open_errno", name) or ("errno", name) where that call failed.
        """
        try:
            descriptor = self.open(path, os.O_RDONLY)
        except OSError as error:
            return "open_errno", errno_name(error.errno)
        try:
            return "data", self._read_to_end(descriptor) if size is None else self.read(descriptor, size, offset)
        except OSError as error:
            return "errno", errno_name(error.errno)
        finally:
            self.close(descriptor)

    def ls_all(self, paths: Sequence[str]) -> list[list[str] | OSError]:
        """`ls` of each path, or the error."""
        found: list[list[str] | OSError] = []
        for path in paths:
            try:
                found.append(self.ls(path))
            except OSError as error:
                found.append(error)
        return found

    def readlinks(self, paths: Sequence[str]) -> list[str]:
        """`readlink` of each path, which is a link."""
        return [self.readlink(path) for path in paths]

    def stats(self, paths: Sequence[str]) -> list[FileStatus]:
        """`stat` of each path, which is there."""
        return [self.stat(path) for path in paths]

    def read_results(self, paths: Sequence[str], size: int = 65536) -> list[tuple[str, bytes | str]]:
        """`read_result` of each path."""
        return [self.read_result(path, size) for path in paths]

    def _read_to_end(self, descriptor: int) -> bytes:
        parts = []
        while part := self.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts)

    def write_file(self, path: str, data: bytes, flags: int, offset: int | None = None) -> Outcome:
        """open, one write, close."""
        try:
            descriptor = self.open(path, flags)
        except OSError as error:
            return Outcome(open_errno=error.errno)
        try:
            return Outcome(ret=self.write(descriptor, data, offset))
        except OSError as error:
            return Outcome(errno=error.errno)
        finally:
            self.close(descriptor)


def errno_name(number: int | None) -> str:
    """The name of an errno, or the number where it has no name."""
    return "None" if number is None else NAMES.get(number, str(number))


def errno_number(name: str | int) -> int:
    """The number of a recorded errno: a name, or a number as in recordings of a Python without the name.

    Raises ValueError for an unknown name.
    """
    return name if isinstance(name, int) else _NUMBERS.get(name) or int(name)


_NUMBERS = {
    **{name: number for name, number in vars(codes).items() if name.startswith("E")},  # of two names for one, both
    **{name: number for number, name in NAMES.items()},
}
