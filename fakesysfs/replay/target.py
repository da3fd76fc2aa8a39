"""What a session is replayed on, as the replayer sees it.

Two kinds: the model in this process (`model_target`; with a mount of the same model for the commands of a session:
`served_model`), and a mount, on which every operation is a real system call (`mount_target`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fakesysfs.replay.recording import Value
from fakesysfs.testing.tasks import Signal


class NotSupportedError(Exception):
    """The target cannot do this yet. It counts as a mismatch; `reason` groups such operations in the report."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotRunError(Exception):
    """The operation needs a tool that is not here: it counts neither way.

    `rest` says that the rest of the session cannot be compared without it (a selftest's effects, FORMAT.md `sh`).
    """

    def __init__(self, reason: str, *, rest: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rest = rest


class ToolAbsentError(NotRunError):
    """The tool is not here, and no other version that could take its place."""


class BlockedError(Exception):
    """A system call that the real kernel answered does not come back."""


class FileStatus(NamedTuple):
    """What is compared of a stat."""

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int


class ShellResult(NamedTuple):
    """What a shell command left."""

    rc: int
    stdout: str
    stderr: str
    stands_in: str | None = None
    """The version of a tool that was run because the recorded one is not here."""


@dataclass(slots=True)
class Messages:
    """What arrived since the last time: log lines as `<level>text`, uevents as lists of lines."""

    dmesg: list[str] = field(default_factory=list)
    uevents: list[list[str]] = field(default_factory=list)


class Outcome(NamedTuple):
    """How an open + write ended: exactly one of the fields is set, or `killed`."""

    ret: int | None = None
    errno: int | None = None
    open_errno: int | None = None
    killed: bool = False

    @property
    def word(self) -> str:
        """As a race's statistics say it: `ok`, `EBUSY`, `open ENOENT`."""
        if self.killed:
            return "killed"
        if self.open_errno is not None:
            return f"open {errno_name(self.open_errno)}"
        return "ok" if self.errno is None else errno_name(self.errno)


class Process(ABC):
    """A process in the background that opens a file and writes to it once."""

    @property
    @abstractmethod
    def letter(self) -> str:
        """`R`, `D` or `finished`."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """How it ended; only once it has finished."""


class RaceWriter(NamedTuple):
    """One writer of a race: it writes each of `data` in turn, again and again."""

    name: str
    path: str
    data: list[bytes]


class RaceResult(NamedTuple):
    """What a race showed: (writer, data, outcome) and the values read."""

    outcomes: set[tuple[str, bytes, str]]
    values: set[bytes]


class Target(ABC):
    """One machine, freshly booted. System calls raise OSError with the errno, or BlockedError."""

    through_mount: bool
    """A FUSE mount lies between, which hides some of the model's answers (FORMAT.md, "Not reachable")."""
    owner_is_root: bool
    """uid and gid can be compared."""

    # System calls --------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, path: str, flags: int) -> int:
        """System call open; a descriptor of the target's own numbering."""

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
        """Any other system call of a `raw` operation by its name, descriptors as numbers.

        lseek, writev, fstat, ftruncate, fsync, fdatasync, fchmod, fchown, mmap, flock, poll; unlink, remove, rename,
        mkdir, rmdir, symlink, link, chmod, chown, utime, truncate, setxattr, getxattr, listxattr, removexattr, stat,
        access, statfs.
        """

    # The rest of the machine ---------------------------------------------------------------------------------------

    @abstractmethod
    def sh(self, command: str, tool: str | None) -> ShellResult:
        """Run a shell command, with the tool of that version. Raises NotSupportedError, NotRunError."""

    @abstractmethod
    def spawn(self, path: str, data: bytes, alarm: float = 0) -> Process:
        """Start a process that opens `path` and writes.

        A handled SIGALRM comes to it after `alarm` seconds, if not 0.
        """

    @abstractmethod
    def signal(self, process: Process, signal: Signal) -> None:
        """Send it a signal."""

    @abstractmethod
    def wait(self, process: Process) -> bool:
        """Wait until it has ended; False if it never will."""

    @abstractmethod
    def race(self, writers: list[RaceWriter], reads: str) -> RaceResult:
        """Let the writers write at once, for a while, and one reader read the file `reads`."""

    @abstractmethod
    def drain(self) -> Messages:
        """What arrived since the last drain."""

    @abstractmethod
    def fixture(self, what: str, node: int | None) -> None:
        """pin, unpin, kernel-allocations, kernel-allocations-released; pmem-devdax (FORMAT.md, 7.2/09)."""

    @abstractmethod
    def end(self) -> None:
        """Take the machine away."""

    # In terms of the above -----------------------------------------------------------------------------------------

    def reopen(self, descriptor: int, flags: int) -> int:
        """System call open on the name that an open file has in /proc."""
        return self.open(f"/proc/self/fd/{descriptor}", flags)

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
            parts = []
            while part := self.read(descriptor, 65536):
                parts.append(part)
            return b"".join(parts).decode("latin-1")
        finally:
            self.close(descriptor)

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


TargetFactory = Callable[[str, str], Target]
"""(profile, variant of the recorded machine) -> a freshly booted machine. Raises NotSupportedError."""


def errno_name(number: int | None) -> str:
    """The name that the recordings use: Python's, a number where there is none."""
    import errno  # noqa: PLC0415  the name is a field above

    return "None" if number is None else errno.errorcode.get(number, str(number))


def errno_number(name: str | int) -> int:
    """The number of a recorded errno."""
    import errno  # noqa: PLC0415  see above

    return name if isinstance(name, int) else int(getattr(errno, name, None) or name)
