"""The system call in which a thread waits for our answer: its number, its arguments, the path that it names.

proc_pid_syscall(5) shows the registers. The numbers are those of x86-64, and those that aarch64 and newer architectures
share (include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

_PATH_BYTES = 512
_UNKNOWN = "?"
_LOOK_SECONDS = 0.00005
_LOOKS = 2000
"""How often, and how many times, we look whether a thread that has sent us a request has gone to sleep."""

_FILE_DESCRIPTORS = 1 << 20
"""An argument of a system call below this is no address."""
_AT_FDCWD = 0xFFFFFF9C

_READLINK = frozenset({"89", "267"} if os.uname().machine == "x86_64" else {"78"})
"""The numbers of readlink(2) and readlinkat(2): a call of these follows no last link."""
_OPEN = {"2": 2, "257": 3} if os.uname().machine == "x86_64" else {"56": 3}
"""open(2) and openat(2), and the place of the flags among their arguments, from 1."""
_LOOKS_ONLY = _READLINK | (
    frozenset({"4", "6", "21", "262", "269", "332", "439"})
    if os.uname().machine == "x86_64"
    else frozenset({"48", "79", "291", "439"})
)
"""stat(2), lstat, access, newfstatat, faccessat, statx, faccessat2, readlink: they see nothing but one name."""
_CHDIR = frozenset({"80"} if os.uname().machine == "x86_64" else {"49"})
_SYMLINK = {"88": 2, "266": 3} if os.uname().machine == "x86_64" else {"36": 3}
"""symlink(2) and symlinkat(2), and the place of the new name among their arguments, from 1."""
_FSTAT = frozenset({"5"} if os.uname().machine == "x86_64" else {"80"})


class Call(NamedTuple):
    """The system call in which a thread is."""

    registers: str
    """Its number, its arguments, the stack: as proc_pid_syscall(5) shows it."""
    path: str
    """The path that it names; "" if that cannot be known."""

    @property
    def number(self) -> str:
        """Which system call it is."""
        return self.registers.partition(" ")[0]

    @property
    def names_no_path(self) -> bool:
        """Whether it asks about an open file."""
        return self.number in _FSTAT or (self.number != _UNKNOWN and not self.path)

    @property
    def looks_only(self) -> bool:
        """Whether it sees nothing but one name."""
        return self.number in _LOOKS_ONLY

    @property
    def goes_there(self) -> bool:
        """Whether it changes the working directory."""
        return self.number in _CHDIR

    @property
    def creates(self) -> bool:
        """Whether it is an open with O_CREAT.

        If the host does not know the name yet, it asks a second time who may write to the directory.
        """
        place = _OPEN.get(self.number, 0)
        return bool(place and int(self.registers.split()[place], 16) & os.O_CREAT)


def _registers(thread: int) -> str:
    """What proc_pid_syscall(5) says, as soon as the thread has gone to sleep. Raises OSError."""
    registers = "running"
    for _ in range(_LOOKS):
        with open(f"/proc/{thread}/syscall", "rb", buffering=0) as file:  # noqa: PTH123  for each step
            registers = file.read().decode("ascii")
        if not registers.startswith("running"):
            break
        time.sleep(_LOOK_SECONDS)
    return registers


def call_of(thread: int) -> Call:
    """The system call of a thread that waits for our answer."""
    try:
        registers = _registers(thread)
        number, *words = registers.split()
        place = _SYMLINK.get(number, 0)
        arguments = [int(word, 16) for word in (words[place - 1 : place] if place else words[:2])]
        memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return Call(_UNKNOWN, "")
    try:
        address = next(
            number for number in arguments if number >= _FILE_DESCRIPTORS and number & 0xFFFFFFFF != _AT_FDCWD
        )
        path = os.pread(memory, _PATH_BYTES, address).partition(b"\0")[0]
    except (OSError, OverflowError, StopIteration):
        path = b""
    finally:
        os.close(memory)
    return Call(registers, os.fsdecode(path))


def is_readlink(registers: str) -> bool:
    """Whether a call with these registers is readlink(2) or readlinkat(2): it follows no last link."""
    return registers.partition(" ")[0] in _READLINK
