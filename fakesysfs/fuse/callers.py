"""Which thread waits for our answer, and whether it has a signal.

pyfuse3 passes no INTERRUPT on. For read(2) and write(2) it names the opener of the file, not the caller. So we look
for the waiting thread in /proc: first the opener, then any thread that waits for FUSE and has the file open (another
thread of the process, or a child that inherited it).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fakesysfs.fuse.mount_table import device_of
from fakesysfs.ops.sched import Signals
from fakesysfs.ops.trace import Process

_SIGKILL_BIT = 1 << 8
_WAITS = "request_wait_answer"
"""Where a thread sleeps that waits for FUSE (fs/fuse/dev.c). A /proc that hides this shows "0"."""

_UNKNOWN = "?"
_CANNOT_LOOK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_SEARCHES = 5
"""How many times we look for the thread: on a busy machine it may not have gone to sleep yet."""


class Opener(NamedTuple):
    """The thread that opened a file, and the user that it acted for."""

    pid: int
    uid: int

    @property
    def command(self) -> str:
        """The name of its command, "" when that cannot be known."""
        return command_of(self.pid)

    @property
    def process(self) -> Process:
        """All of it for a trace, as it is now."""
        return process_of(self.pid, self.uid)


class SignalWatch:
    """Watches the thread that waits for one operation: `opener` opened the file with inode number `ino`.

    `device` is the mount's, "major:minor", None if it is not known: files of other mounts have the same numbers.
    """

    def __init__(self, opener: int, ino: int, device: str | None = None) -> None:
        self._threads = {opener}
        """Any of these may be the one."""
        self._seen: set[int] = set()
        self._opener = opener
        self._ino = ino
        self._device = device
        self._searches = _SEARCHES
        self._consumed = 0

    def interrupted(self, signals: Signals) -> bool:
        """Whether the thread has a signal that ends a wait of that kind."""
        self._search()
        return all(interrupted(thread, signals, self._consumed) for thread in self._threads)

    def consume(self) -> None:
        """Count the pending signals as handled: a real kernel would have restarted the system call after handlers."""
        self._search()
        for thread in self._threads:
            self._consumed |= (pending_signals(thread) or 0) & ~_SIGKILL_BIT

    def _search(self) -> None:
        """Find the waiting thread: the opener, else a thread of its process, else another that is seen twice.

        Once is not enough: a thread seen once may have waited for another answer.
        """
        if not self._searches:
            return
        self._searches -= 1
        opener = self._threads if not self._seen else set()
        if any(_line(f"/proc/{thread}/wchan") == _WAITS for thread in opener):
            self._searches = 0
            return
        waiting = set(_waiting(self._ino, self._device))
        if waiting:
            process = _process_of(self._opener)
            waiting = {thread for thread in waiting if process and _process_of(thread) == process} or waiting
            again = self._seen & waiting
            self._threads = again or waiting
            if len(again) == 1:
                self._searches = 0
            self._seen = self._threads


def _line(path: str) -> str:
    """The text of a file: "" if it is gone, `_UNKNOWN` if this process has no descriptor or memory to look."""
    return os.fsdecode(_content(path)).strip()


def _content(path: str) -> bytes:
    """The same in bytes."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  dozens a second: no detours
            return file.read()
    except OSError as error:
        return _UNKNOWN.encode() if error.errno in _CANNOT_LOOK else b""


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208
    except OSError:
        return []


def _waiting(ino: int, device: str | None) -> Iterator[int]:
    """Threads that wait for FUSE and have the file with that inode number on that device open."""
    for process in filter(str.isdigit, _names("/proc")):
        for thread in _names(f"/proc/{process}/task"):
            if _line(f"/proc/{thread}/wchan") == _WAITS and has_open(thread, ino, device):
                yield int(thread)


def has_open(thread: str, ino: int, device: str | None) -> bool:
    """Whether the thread has the file open (proc_pid_fdinfo(5)). A stat of the file would ask this server."""
    for number in _names(f"/proc/{thread}/fdinfo"):
        pairs = (line.partition(":\t") for line in _line(f"/proc/{thread}/fdinfo/{number}").split("\n"))
        facts = {name: value for name, _, value in pairs}
        if facts.get("ino") != str(ino):
            continue
        table = b"" if device is None else _content(f"/proc/{thread}/mountinfo")
        # One that the thread's mount namespace does not have may be ours.
        if device_of(table, facts["mnt_id"]) in {device, None}:
            return True
    return False


def _process_of(thread: int) -> str:
    """The process of a thread; "" if it is gone."""
    return _line(f"/proc/{thread}/status").partition("\nTgid:")[2].partition("\n")[0]


def interrupted(thread: int, signals: Signals, consumed: int = 0) -> bool:
    """Whether `thread` has a signal that ends such a wait (include/linux/sched/signal.h, signal_pending_state).

    The signals of a thread that waits for FUSE stay pending. Ignored signals never become pending. A signal that ends
    the process is pending as SIGKILL (kernel/signal.c, complete_signal). A thread that has gone was killed.
    `consumed` is the mask of signals that count as handled (`SignalWatch.consume`).
    """
    pending = pending_signals(thread)
    if pending is None:
        return True
    return bool(pending & _SIGKILL_BIT if signals is Signals.FATAL else pending & ~consumed)


def pending_signals(thread: int) -> int | None:
    """The mask of its pending signals that are not blocked; None if it has gone; 0 if we cannot look now."""
    masks = {"State": "", "SigPnd": "0", "ShdPnd": "0", "SigBlk": "0"}
    status = _line(f"/proc/{thread}/status")
    if status == _UNKNOWN:
        return 0
    for line in status.split("\n"):
        name, _, value = line.partition(":")
        if name in masks:
            masks[name] = value.strip()
    if masks["State"][:1] in {"", "Z", "X"}:
        return None
    return (int(masks["SigPnd"], 16) | int(masks["ShdPnd"], 16)) & ~int(masks["SigBlk"], 16)


def command_of(thread: int) -> str:
    """The name of its command; "" if /proc does not show it."""
    return _line(f"/proc/{thread}/comm")


_INTERPRETERS = re.compile(r"(?:ba|da|k|z)?sh|busybox|env|perl|ruby|python[0-9.]*")


class Processes:
    """The threads seen last, for a trace, each with its /proc/TID/comm open.

    That file says at once whether a thread still is what it was: reading it fails when the thread has
    gone, also if another one has its number, and the name changes with the program (execve(2)).
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._known: dict[int, tuple[int, bytes, Process]] = {}

    def find(self, thread: int, uid: int) -> Process:
        """A thread with its process, command and program. What /proc does not show is "" or `thread`."""
        known = self._known.get(thread)
        if known is not None:
            descriptor, comm, process = known
            try:
                if os.pread(descriptor, _COMM_BYTES, 0) == comm:
                    return process if process.uid == uid else process._replace(uid=uid)
            except OSError:  # it has gone
                pass
            self._forget(thread)
        return self._look_up(thread, uid)

    def _look_up(self, thread: int, uid: int) -> Process:
        try:
            descriptor = os.open(f"/proc/{thread}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return Process(thread, thread, "", "", uid)
        comm = b""
        with contextlib.suppress(OSError):
            comm = os.pread(descriptor, _COMM_BYTES, 0)
        name = os.fsdecode(comm.rstrip(b"\n"))
        arguments = os.fsdecode(_content(f"/proc/{thread}/cmdline")).split("\0")
        found = Process(thread, int(_process_of(thread) or thread), name, program_in(arguments) or name, uid)
        while len(self._known) >= self._most:
            self._forget(next(iter(self._known)))
        self._known[thread] = descriptor, comm, found
        return found

    def _forget(self, thread: int) -> None:
        descriptor, _, _ = self._known.pop(thread)
        os.close(descriptor)


_COMM_BYTES = 64
_processes = Processes()


def process_of(thread: int, uid: int) -> Process:
    """A thread for a trace (`Processes.find`)."""
    return _processes.find(thread, uid)


def program_in(arguments: Sequence[str]) -> str:
    """The program that a command line runs: for an interpreter its script, and its own name without one."""
    names = [argument.rpartition("/")[2] for argument in arguments]
    if not names or not _INTERPRETERS.fullmatch(names[0].lstrip("-")):
        return names[0] if names else ""
    for argument, name in zip(arguments[1:], names[1:], strict=True):
        if not argument.startswith("-"):
            return name or names[0]
        if argument in {"-c", "-m", "--"}:
            break
    return names[0].lstrip("-")
