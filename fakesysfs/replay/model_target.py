"""The model in this process as a target: no mount, no threads, no real time."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Coroutine
from typing import TypeVar

from fakesysfs.kernel.profile import PROFILES, UnknownKernelError, find_profile
from fakesysfs.kernfs import Caller
from fakesysfs.machine import load
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Preempt, Request, ask
from fakesysfs.replay.recording import Value
from fakesysfs.replay.shell import Shell
from fakesysfs.replay.target import (
    BlockedError,
    FileStatus,
    Messages,
    NotSupportedError,
    Outcome,
    Process,
    RaceResult,
    RaceWriter,
    ShellResult,
    Target,
)
from fakesysfs.sysroot import Sysroot
from fakesysfs.testing.filesystem import Descriptor, FileSystem
from fakesysfs.testing.tasks import Signal, Task, Tasks

T = TypeVar("T")

_CALLER = Caller(pid=1000, command="replay")
RACE_ROUNDS = 40
"""How often each writer of a race goes through its data."""
_RACE_SEED = 0x5EED
_READ_SIZE = 65536


def names(profile: str, variant: str) -> tuple[str, str]:
    """The names of the machine and of the kernel of a recording: the guest with a variant of machine.json.

    Raises NotSupportedError where that kernel is not there.
    """
    machine = "oracle" if variant == "default" else f"oracle-{variant}"
    kernel = profile if profile in PROFILES else profile.removesuffix("-distribution")
    try:
        return machine, find_profile(kernel).name
    except UnknownKernelError as error:
        raise NotSupportedError(str(error)) from None


def boot(profile: str, variant: str) -> Sysroot:
    """The recorded guest, booted. Raises NotSupportedError where the machine or the profile is not there."""
    machine, kernel = names(profile, variant)
    try:
        description = load(machine)
    except Exception as error:
        raise NotSupportedError(f"machine {machine} cannot be loaded: {error}") from error
    return Sysroot.boot(description, find_profile(kernel), whole_dev=True)


class ModelProcess(Process):
    """A task that opens and writes."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def letter(self) -> str:
        """See Process."""
        return self.task.letter

    def outcome(self) -> Outcome:
        """See Process."""
        if self.task.killed:
            return Outcome(killed=True)
        result = self.task.outcome()
        assert isinstance(result, Outcome)
        return result


class ModelTarget(Target):
    """One booted Sysroot, with the tasks in it."""

    through_mount = False
    owner_is_root = True

    def __init__(self, sysroot: Sysroot) -> None:
        self.sysroot = sysroot
        self.files = FileSystem(sysroot.tree, sysroot.refusals, _CALLER)
        self.tasks = Tasks()
        self._descriptors: dict[int, Descriptor] = {}
        self._numbers = itertools.count(3)
        self._log = sysroot.kernel.printk.sequence
        self._events = sysroot.kernel.uevents.sequence

    # Running operations --------------------------------------------------------------------------------------------

    def run(self, operation: Coroutine[Request, Answer, T], name: str = "", *, limit: float | None = None) -> T:
        """Drive an operation of the foreground to its end.

        Raises KernelError as it does, BlockedError if it never ends or not within `limit` seconds (it is killed then).
        """
        task = self.tasks.spawn(operation, name)
        until = float("inf") if limit is None else self.tasks.now + limit
        if not self.tasks.finish(task, until=until):
            self.tasks.signal(task, Signal.SIGKILL)
            self.tasks.settle()
            raise BlockedError(f"{name} does not come back")
        result: T = task.outcome()
        return result

    # System calls --------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        """See Target."""
        return self._numbered(_as_os_error(lambda: self.files.open(path, flags)))

    def reopen(self, descriptor: int, flags: int) -> int:
        """See Target."""
        return self._numbered(_as_os_error(lambda: self.files.reopen(self._descriptors[descriptor], flags)))

    def _numbered(self, opened: Descriptor) -> int:
        number = next(self._numbers)
        self._descriptors[number] = opened
        return number

    def close(self, descriptor: int) -> None:
        """See Target."""
        del self._descriptors[descriptor]

    def read(self, descriptor: int, size: int, offset: int | None = None) -> bytes:
        """See Target."""
        opened = self._descriptors[descriptor]
        operation = self.files.read(opened, size) if offset is None else self.files.pread(opened, size, offset)
        return _as_os_error(lambda: self.run(operation, "read"))

    def write(self, descriptor: int, data: bytes, offset: int | None = None) -> int:
        """See Target."""
        opened = self._descriptors[descriptor]
        operation = self.files.write(opened, data) if offset is None else self.files.pwrite(opened, data, offset)
        return _as_os_error(lambda: self.run(operation, "write"))

    def stat(self, path: str) -> FileStatus:
        """See Target."""
        status = _as_os_error(lambda: self.files.lstat(path))
        return FileStatus(status.mode, status.nlink, status.uid, status.gid, status.size)

    def readlink(self, path: str) -> str:
        """See Target."""
        return _as_os_error(lambda: self.files.readlink(path))

    def ls(self, path: str) -> list[str]:
        """See Target."""
        return _as_os_error(lambda: self.files.listdir(path))

    def call(self, name: str, *arguments: Value) -> Value:
        """See Target."""
        by_descriptor = self._calls_by_descriptor().get(name)
        if by_descriptor is not None:
            opened = self._descriptors[arguments[0]]
            return _as_os_error(lambda: by_descriptor(opened, *arguments[1:]))
        by_path = self._calls_by_path().get(name)
        if by_path is None:
            raise NotSupportedError(f"system call {name}")
        return _as_os_error(lambda: by_path(*arguments))

    def _calls_by_descriptor(self) -> dict[str, Callable[..., Value]]:
        files = self.files

        def fstat(opened: Descriptor) -> FileStatus:
            status = files.fstat(opened)
            return FileStatus(status.mode, status.nlink, status.uid, status.gid, status.size)

        return {
            "lseek": files.lseek,
            "writev": lambda opened, parts: self.run(files.writev(opened, parts), "writev"),
            "fstat": fstat,
            "ftruncate": files.ftruncate,
            "fchmod": files.fchmod,
            "fchown": files.fchown,
            "fsync": lambda _opened: None,
            "fdatasync": lambda _opened: None,
            "flock": lambda _opened: None,
            "mmap": files.mmap,
            "poll": files.poll,
        }

    def _calls_by_path(self) -> dict[str, Callable[..., Value]]:
        files = self.files

        def following(path: str) -> FileStatus:
            status = files.stat(path)
            return FileStatus(status.mode, status.nlink, status.uid, status.gid, status.size)

        return {
            "access": files.access,
            "stat": following,
            "removexattr": files.removexattr,
            "remove": files.unlink,
            "unlink": files.unlink,
            "rename": files.rename,
            "rmdir": files.rmdir,
            "mkdir": lambda path, _mode=0o777: files.make_name(path),
            "symlink": lambda _target, path: files.make_name(path),
            "link": files.link,
            "chmod": files.chmod,
            "chown": files.chown,
            "utime": lambda path, times: files.utime(path, *times),
            "truncate": files.truncate,
            "setxattr": files.setxattr,
            "getxattr": files.getxattr,
            "listxattr": files.listxattr,
            "statfs": files.statfs,
            "readlink": files.readlink,
        }

    # Processes -----------------------------------------------------------------------------------------------------

    def sh(self, command: str, tool: str | None) -> ShellResult:
        """See Target: the few commands of `shell`; tools need a mount."""
        if tool is not None:
            raise NotSupportedError("tool needs a mount")
        return Shell(self).run(command)

    def spawn(self, path: str, data: bytes, alarm: float = 0) -> ModelProcess:
        """See Target."""
        task = self.tasks.spawn(self._open_and_write(path, data), f"write {path}")
        if alarm:
            self.tasks.at(self.tasks.now + alarm, lambda: self.tasks.signal(task, Signal.SIGALRM))
        self.tasks.settle()
        return ModelProcess(task)

    async def _open_and_write(self, path: str, data: bytes) -> Outcome:
        try:
            opened = self.files.open(path, os.O_WRONLY)
        except KernelError as error:
            return Outcome(open_errno=error.errno)
        try:
            return Outcome(ret=await self.files.write(opened, data))
        except KernelError as error:
            return Outcome(errno=error.errno)

    def signal(self, process: Process, signal: Signal) -> None:
        """See Target."""
        assert isinstance(process, ModelProcess)
        self.tasks.signal(process.task, signal)
        self.tasks.settle()

    def wait(self, process: Process) -> bool:
        """See Target."""
        assert isinstance(process, ModelProcess)
        return self.tasks.finish(process.task)

    def race(self, writers: list[RaceWriter], reads: str) -> RaceResult:
        """See Target: RACE_ROUNDS rounds under a schedule that is random but always the same."""
        outcomes: set[tuple[str, bytes, str]] = set()
        values: set[bytes] = set()
        running = len(writers)

        async def write(writer: RaceWriter) -> None:
            nonlocal running
            for _ in range(RACE_ROUNDS):
                for data in writer.data:
                    await ask(Preempt("between two system calls"))
                    outcomes.add((writer.name, data, (await self._slow_write(writer.path, data)).word))
            running -= 1

        async def read() -> None:
            while running:
                await ask(Preempt("between two system calls"))
                try:
                    values.add(await self.files.read(self.files.open(reads, os.O_RDONLY), _READ_SIZE))
                except KernelError:
                    continue

        preempt = self.sysroot.kernel.preempt
        watched, preempt.watched = preempt.watched, True
        self.tasks.chooser = random.Random(_RACE_SEED)  # noqa: S311  a schedule, no secret
        try:
            started = [self.tasks.spawn(write(writer), writer.name) for writer in writers]
            started.append(self.tasks.spawn(read(), "reader"))
            for task in started:
                if not self.tasks.finish(task):
                    raise BlockedError(f"racing {task.name} does not come back")
                task.outcome()
        finally:
            self.tasks.chooser = None
            preempt.watched = watched
        return RaceResult(outcomes, values)

    async def _slow_write(self, path: str, data: bytes) -> Outcome:
        """Others may run between the open and the write."""
        try:
            opened = self.files.open(path, os.O_WRONLY)
        except KernelError as error:
            return Outcome(open_errno=error.errno)
        await ask(Preempt("between open and write"))
        try:
            return Outcome(ret=await self.files.write(opened, data))
        except KernelError as error:
            return Outcome(errno=error.errno)

    # The rest of the machine ---------------------------------------------------------------------------------------

    def drain(self) -> Messages:
        """See Target."""
        kernel = self.sysroot.kernel
        messages = Messages(
            [f"<{record.level}>{record.text}" for record in kernel.printk.since(self._log)],
            kernel.uevents.since(self._events),
        )
        self._log = kernel.printk.sequence
        self._events = kernel.uevents.sequence
        return messages

    def fixture(self, what: str, node: int | None) -> None:
        """See Target."""
        kernel = self.sysroot.kernel
        if what == "unpin":
            kernel.unpin()
        elif what == "pin" and node is not None:
            kernel.pin(node)
        elif what == "kernel-allocations" and node is not None:
            kernel.kernel_allocations(node)
        elif what == "kernel-allocations-released":
            pass  # the block stays unmovable (recorded: slab and page tables stay)
        elif what == "pmem-devdax":
            self.run(kernel.create_pmem_devdax(), "ndctl create-namespace")
        else:
            raise NotSupportedError(f"fixture {what}")
        self.tasks.settle()

    def end(self) -> None:
        """See Target."""
        for task in self.tasks.tasks:
            task.operation.close()


def _as_os_error(action: Callable[[], T]) -> T:
    try:
        return action()
    except KernelError as error:
        raise OSError(error.errno, str(error)) from error
