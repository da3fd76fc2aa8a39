"""System calls that Python 3.11 has no names for. Constants from include/uapi/linux/."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from typing import NamedTuple

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SLAVE = 0x80000

MOUNT_ATTR_NODEV = 0x4

FIRST_USER_NAMESPACE = 0xEFFFFFFD
"""The inode number of the initial user namespace (include/linux/proc_ns.h, PROC_USER_INIT_INO)."""

PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21

SI_KERNEL = 0x80
"""si_code of a signal that the kernel sent, the terminal's among them."""

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_SYS_MOUNT_SETATTR = 442
"""The same on all architectures that the kernel's table of system calls is shared by (asm-generic/unistd.h)."""
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000

_SIGNAL_SET_BYTES = 8
_SFD_NONBLOCK, _SFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_SIGNALFD_SIGINFO_BYTES = 128

_IN_OPEN = 0x20

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` names for new ones."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace of this kind that the descriptor stands for."""
    _check(_libc.setns(descriptor, kind), "setns")


def join(pid: int, kinds: int) -> None:
    """Enter the namespaces of a process, of the kinds that CLONE_... flags name (from Linux 5.8 on).

    This process must have one thread.
    """
    descriptor = os.pidfd_open(pid)
    try:
        setns(descriptor, kinds)
    finally:
        os.close(descriptor)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount. The OSError names the target."""
    strings = [os.fsencode(text) if text else None for text in (source, target, kind)]
    _check(_libc.mount(*strings, ctypes.c_ulong(flags), os.fsencode(data) or None), target)


def bind_over_link(source: str, link: str) -> None:
    """Bind a file over a symbolic link itself, which mount(2) would follow (from Linux 5.2 on)."""
    tree = _check(
        _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC), source
    )
    try:
        arguments = (tree, b"", _AT_FDCWD, os.fsencode(link), _MOVE_MOUNT_F_EMPTY_PATH)
        _check(_libc.syscall(_SYS_MOVE_MOUNT, *arguments), link)
    finally:
        os.close(tree)


def set_mount_attributes(point: str, *, set_: int = 0, clear: int = 0) -> None:
    """Change attributes of the mount at `point` and of all below it (mount_setattr(2), from Linux 5.12 on)."""
    attributes = struct.pack("=QQQQ", set_, clear, 0, 0)
    arguments = (_AT_FDCWD, os.fsencode(point), _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, *arguments), point)


def prctl(option: int, value: int) -> None:
    """Set a property of this process that takes one value."""
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


class OpenedFiles:
    """Tells whether a file was opened, or executed. Raises OSError."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._descriptor = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
        for path in paths:
            _check(_libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN), path)

    def take(self) -> bool:
        """Whether any of the files was opened since the last call."""
        opened = False
        try:
            while os.read(self._descriptor, 4096):
                opened = True
        except BlockingIOError:
            pass
        return opened


def set_process_name(name: str) -> None:
    """The name that ps(1) shows; the first 15 bytes of it."""
    _check(_libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0), "prctl")


class Arrived(NamedTuple):
    """A signal that arrived: its number and si_code."""

    number: int
    code: int


class SignalFile:
    """signalfd(2): blocked signals, as a descriptor that can be polled."""

    def __init__(self, signals: Iterable[int]) -> None:
        mask = 0
        for number in signals:
            mask |= 1 << (number - 1)
        # The C library's sigset_t is 128 bytes long, of which it hands the first 8 on.
        buffer = struct.pack("=Q", mask).ljust(128, b"\0")
        assert len(buffer) >= _SIGNAL_SET_BYTES
        self._descriptor = _check(_libc.signalfd(-1, buffer, _SFD_NONBLOCK | _SFD_CLOEXEC), "signalfd")

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def take(self) -> list[Arrived]:
        """What arrived since the last time."""
        arrived: list[Arrived] = []
        while True:
            try:
                data = os.read(self._descriptor, _SIGNALFD_SIGINFO_BYTES)
            except BlockingIOError:
                return arrived
            number, _errno, code = struct.unpack_from("=Iii", data)
            arrived.append(Arrived(number, code))


def how_it_ended(status: int) -> str:
    """In words, a status from waitpid(2)."""
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"ended with status {os.WEXITSTATUS(status)}"


def all_signals() -> set[int]:
    """All that can be blocked but those that a bug of the process itself raises."""
    own_fault = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
    return {int(number) for number in signal.valid_signals()} - {signal.SIGKILL, signal.SIGSTOP} - own_fault


def unblock_signals() -> None:
    """Unblock all signals, for a process in a new session.

    Those that came before were sent to its former process group, for the command: they must not end this process.
    """
    while signal.sigtimedwait(all_signals(), 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
