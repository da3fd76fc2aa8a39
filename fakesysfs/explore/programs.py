"""The processes of some programs: which there are, what they are called, whether any of them runs.

A program runs in a session of its own. A process that makes another session is known by its parent,
or by a variable in its environment. Each thread counts as a process.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fakesysfs.explore.order import in_order

PROGRAM_VARIABLE = "EXPLORE_PROGRAM"
"""In the environment of a program: its name."""

_WAITS_FOR_SERVER = "request_wait_answer"
"""Where a thread sleeps that waits for FUSE (fs/fuse/dev.c)."""

_WAITS_FOR_OTHERS = frozenset(
    {"kernel_clone", "do_fork", "_do_fork"}  # vfork: the parent waits for its child
    | {"fuse_file_write_iter", "fuse_direct_write_iter", "fuse_cache_write_iter", "vfs_fallocate"}
    | {"do_truncate", "chmod_common", "chown_common", "vfs_utimes", "vfs_setxattr"}
    | {"open_last_lookups", "path_openat", "lookup_slow", "walk_component", "iterate_dir"}
    | {"d_alloc_parallel", "filename_create", "do_rmdir", "do_unlinkat"}
)
"""Where a thread in state D waits for a lock of the host that another thread holds, or for its child.

`/proc/PID/wchan` names the function that called into the scheduler or the lock.
"""

_TIMED = {
    "x86_64": {35: 0, 230: 0, 7: 3, 271: 3, 23: 5, 270: 5, 232: 4, 281: 4, 202: 4, 128: 3},
    "aarch64": {101: 0, 115: 0, 73: 3, 72: 5, 22: 4, 98: 4, 137: 3},
}
"""System calls that a clock ends: nanosleep, clock_nanosleep, poll, ppoll, select, pselect6, epoll_wait, epoll_pwait,
futex, rt_sigtimedwait, by number; with the place of the timeout among their arguments, from 1, and 0 if they always
have one. Architectures that are not here have only the sleeps, by `wchan`.
"""
_TIMED_HERE = _TIMED.get(os.uname().machine, {})
_SLEEPS = frozenset({"hrtimer_nanosleep", "do_nanosleep", "common_nsleep", "common_nsleep_timens"})
_POLLS = frozenset({7, 232, 281} if os.uname().machine == "x86_64" else {22})
"""Those whose timeout is a number of milliseconds, negative for none. Others point to a time, or to nothing."""

_NO_PARENT = 0


@dataclass(slots=True)
class Task:
    """A thread as /proc showed it."""

    number: int
    parent: int
    """The process that made this one; for a thread that is not the first, its process."""
    program: str
    state: str
    """The letter of proc(5)."""
    held: bool
    """It waits at the gate."""
    facts: str = ""
    """All that its stat says and that changes when it runs; this and the rest only if it can run."""
    wchan: str = ""
    syscall: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has ended, or is ending."""
        return self.state in "ZX"

    @property
    def waits_for_server(self) -> bool:
        """Whether it waits for an answer from the mount."""
        return self.wchan == _WAITS_FOR_SERVER

    @property
    def blocked(self) -> bool:
        """Whether it waits for something else than an answer from the mount."""
        if self.waits_for_server or self.held or self._is_on_cpu:
            return False
        return self.state in "STt" or (self.state == "D" and self.wchan in _WAITS_FOR_OTHERS)

    @property
    def _is_on_cpu(self) -> bool:
        """Whether it runs, or is about to, whatever its state says: one that is preempted on its way to sleep has S.

        Where this process may not look, `wchan` is 0 and `syscall` cannot be read.
        """
        return bool(self.syscall) and (self.wchan in {"", "0"} or self.syscall.startswith("running"))

    @property
    def blocked_perhaps(self) -> bool:
        """Whether it waits uninterruptibly; for a lock, or for a device that answers soon."""
        return self.state == "D" and not (self.held or self.waits_for_server or self._is_on_cpu)

    @property
    def timed(self) -> bool:
        """Whether a clock will end what it waits for."""
        if not self.blocked:
            return False
        if self.wchan in _SLEEPS:
            return True
        words = self.syscall.split()
        if not words or not words[0].isdecimal() or int(words[0]) not in _TIMED_HERE:
            return False
        number = int(words[0])
        place = _TIMED_HERE[number]
        if not place:
            return True
        timeout = int(words[place], 16)
        return not timeout & 0x80000000 if number in _POLLS else timeout != 0


class Programs:
    """The programs of one order."""

    def __init__(self) -> None:
        self.sessions: dict[int, str] = {}
        """The programs by their sessions, which have the number of their first processes."""
        self.names: dict[int, str] = {}
        """The names of the threads that were seen at a point where none ran."""
        self._others = frozenset(_numbers("/proc"))
        self._keys: dict[int, tuple[int, ...]] = {}
        self._counts: dict[str, int] = {}
        self._workers: dict[int, int] = {}
        """By first processes that have one worker at a time: its number, 0 before there is one."""
        self._first = 0
        self.largest = int(Path("/proc/sys/kernel/pid_max").read_text("ascii"))
        """Process numbers begin again after this one."""

    def add(self, program: str, process: int, *, has_worker: bool = False) -> None:
        """A program was started; this is its first process.

        With `has_worker` that has one child at a time. When it replaces the child depends on real time: udevd ends an
        idle worker after three seconds. So each one gets the first one's name.
        """
        if has_worker:
            self._workers[process] = 0
        self._first = self._first or process
        self.sessions[process] = program
        self.names[process] = program
        self._keys[process] = (len(self.sessions),)
        self._counts[program] = 1

    def program_of(self, process: int) -> str:
        """The program of a process or thread, "" if it belongs to none."""
        facts = _stat_of(f"/proc/{process}/stat")
        return self._program_of(process, facts) if facts else ""

    def _program_of(self, process: int, facts: list[str]) -> str:
        session, parent = int(facts[3]), int(facts[1])
        program = self.sessions.get(session) or self._name_of(parent)
        if program:
            return program
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:
            return ""
        mark = f"{PROGRAM_VARIABLE}=".encode()
        named = [entry.removeprefix(mark).decode() for entry in environment if entry.startswith(mark)]
        program = named[0] if named and named[0] in self.sessions.values() else ""
        if program:
            self.sessions[session] = program
        return program

    def _name_of(self, process: int) -> str:
        return self.names.get(process, "").partition(".")[0]

    def sample(self, held: Collection[int]) -> list[Task]:
        """All threads of all programs. Those in `held` cannot run; of others more is looked up."""
        found: list[Task] = []
        for process in _numbers("/proc"):
            if process in self._others:
                continue
            facts = _stat_of(f"/proc/{process}/stat")
            if facts is None:
                continue
            program = self._program_of(process, facts)
            if not program:
                continue
            if facts[17] == "1":
                found.append(_task(process, int(facts[1]), program, facts, held))
                continue
            for thread in _numbers(f"/proc/{process}/task"):
                its_facts = _stat_of(f"/proc/{process}/task/{thread}/stat")
                if its_facts is not None:
                    parent = int(its_facts[1]) if thread == process else process
                    found.append(_task(thread, parent, program, its_facts, held))
        return found

    def give_names(self, tasks: Collection[Task]) -> None:
        """Name those that have no name yet, in the order of forks: a parent's children one after another."""
        new = sorted(
            (task for task in tasks if task.number not in self.names and not task.ended),
            key=lambda task: self.place(task.number),
        )
        for task in new:
            above = self._keys.get(task.parent) or self._keys[self._first_of(task.program)]
            self._keys[task.number] = (*above, self.place(task.number))
        for task in sorted(new, key=lambda task: self._keys[task.number]):
            before = self._workers.get(task.parent)
            if before is not None:
                self._workers[task.parent] = task.number
            if before:
                self.names[task.number] = self.names[before]
            else:
                self.names[task.number] = f"{task.program}.{self._counts[task.program]}"
                self._counts[task.program] += 1

    def place(self, number: int) -> int:
        """Sorts process numbers in the order in which they were given: they begin again after the largest."""
        return (number - self._first) % self.largest

    def _first_of(self, program: str) -> int:
        return next(process for process, name in self.sessions.items() if name == program)

    def find(self, opener: int, tasks: Collection[Task], held: Mapping[int, object]) -> int:
        """The thread that waits in a request which names `opener` only; `opener` if it cannot be found."""
        waiting = [task.number for task in tasks if task.waits_for_server and task.number not in held]
        if opener in waiting or not waiting:
            return opener
        own = [number for number in waiting if self._name_of(number) == self._name_of(opener)]
        return min(own or waiting, key=lambda number: in_order(self.names.get(number, "")))


def _numbers(directory: str) -> Iterator[int]:
    try:
        names = os.listdir(directory)  # noqa: PTH208  for each sample
    except OSError:
        return
    for name in names:
        if name.isdecimal():
            yield int(name)


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 1024).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _stat_of(path: str) -> list[str] | None:
    """The fields of proc_pid_stat(5) from `state` on; None if it has gone."""
    text = _read(path)
    return text.rpartition(") ")[2].split() if text else None


def _task(number: int, parent: int, program: str, facts: list[str], held: Collection[int]) -> Task:
    state = facts[0]
    is_held = number in held
    if state in "ZX" or is_held:
        return Task(number, parent, program, state, is_held)
    syscall, wchan = _read(f"/proc/{number}/syscall"), _read(f"/proc/{number}/wchan")
    return Task(number, parent, program, state, is_held, " ".join(facts[:13]), wchan, syscall)


def command_of(thread: int) -> str:
    """The name of the command of a thread."""
    return _read(f"/proc/{thread}/comm").rstrip("\n")
