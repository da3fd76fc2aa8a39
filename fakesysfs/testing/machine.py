"""A machine in this process, for unit tests: no mount, no root, no other process.

`with Machine()` gives a `RunningMachine`. Its calls return when the kernel's would. Time is
virtual, so a test of an hour is over at once. `async with Machine()` gives an
`AsyncRunningMachine`. Calls that may sleep are awaited, time is the event loop's (trio, its mock
clock, or asyncio), and several tasks share the machine.

Refusals are ordinary OSErrors (FileNotFoundError, PermissionError ...), as a program sees them. The
kernel's reason is a note of the exception.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from fakesysfs import machine as descriptions
from fakesysfs.kernel.profile import UnknownKernelError, find_profile
from fakesysfs.kernfs import Caller
from fakesysfs.ops import sched
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Operation, Request, Wait
from fakesysfs.sysroot import Sysroot
from fakesysfs.testing.controls import Controls, StrPath
from fakesysfs.testing.filesystem import FileSystem
from fakesysfs.testing.loops import drive, event_loop, wait
from fakesysfs.testing.tasks import Signal, Task, Tasks
from fakesysfs.testing.watch import PATIENCE_SECONDS, AsyncWatch, Watch
from fakesysfs.trace import CannotTraceError, Recorder, Target, attach, open_target

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

T = TypeVar("T")

_READ_SIZE = 65536
_NANOSECONDS = 10**9
COMM_LENGTH = 15
"""So much of a command's name the kernel keeps."""


class WaitsForeverError(RuntimeError):
    """An operation waits for something that no running operation ends, such as a pinned page."""


class Machine:
    """A machine that runs in this process. `with` or `async with` boots it.

    `machine` is a built-in machine or a TOML file, `kernel` one of the kernels (`fakesysfs list`
    names both). `uid` is the user who reads and writes; the files belong to user 0. `trace` is a file
    that gets what happens (docs/trace.md): *.jsonl or *.pftrace. Raises ValueError for an unknown
    machine or kernel, and for a trace that cannot be written.
    """

    def __init__(
        self,
        machine: StrPath = "default",
        kernel: str = "hotplug-v3",
        *,
        uid: int = 0,
        trace: StrPath | None = None,
    ) -> None:
        try:
            self._profile = find_profile(kernel)
            self._machine = descriptions.load(os.fspath(machine))
        except (UnknownKernelError, descriptions.MachineError) as error:
            raise ValueError(str(error)) from None
        self._name = os.fspath(machine)
        self._trace = None if trace is None else os.fspath(trace)
        self._recorder: Recorder | None = None
        self._target: Target | None = None
        self._uid = uid
        self._running: RunningMachine | AsyncRunningMachine | None = None

    def __enter__(self) -> RunningMachine:
        tasks = Tasks()
        sysroot = self._boot(lambda: tasks.now)
        running = self._running = RunningMachine(sysroot, self._uid, tasks)
        return running

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert isinstance(self._running, RunningMachine)
        self._running._end()  # noqa: SLF001  ours
        self._running = None
        self._end_trace()

    async def __aenter__(self) -> AsyncRunningMachine:
        sysroot = self._boot(event_loop().time)
        running = self._running = AsyncRunningMachine(sysroot, self._uid)
        return running

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert isinstance(self._running, AsyncRunningMachine)
        self._running._end()  # noqa: SLF001  ours
        self._running = None
        self._end_trace()

    def _boot(self, seconds: Callable[[], float]) -> Sysroot:
        started, first = time.time_ns(), seconds()
        if self._trace is not None:
            self._target = open_trace(self._trace)
        sysroot = Sysroot.boot(
            self._machine, self._profile, now_ns=lambda: started + round((seconds() - first) * _NANOSECONDS)
        )
        if self._target is not None:
            self._recorder = attach(sysroot, [self._target], self._name)
        return sysroot

    def _end_trace(self) -> None:
        if self._recorder is not None and self._target is not None:
            self._recorder.detach()
            os.close(self._target.descriptor)
            self._recorder = self._target = None


def open_trace(path: str) -> Target:
    """Open the file of a trace. Raises ValueError."""
    try:
        return open_target(path)
    except CannotTraceError as error:
        raise ValueError(str(error)) from None


class _Running(Controls):
    """What RunningMachine and AsyncRunningMachine share."""

    def __init__(self, sysroot: Sysroot, uid: int) -> None:
        self._sysroot = sysroot
        command = os.path.basename(sys.argv[0])[:COMM_LENGTH] or "python"  # noqa: PTH119  as the kernel cuts it
        self._outside = FileSystem(sysroot.tree, None, Caller(os.getpid(), command))
        self._files = FileSystem(sysroot.tree, sysroot.journal, Caller(os.getpid(), command, uid))

    def _tell_opened(self, opened: Callable[[str], None]) -> None:
        """Call `opened` with each path that is opened from now on."""
        self._outside.opened = self._files.opened = opened

    def _show(self, path: str) -> str:
        return _text(sched.run(_read_all(self._outside, path)))

    def _store(self, path: str, data: str) -> None:
        with _AsOSError(path):
            sched.run(self._outside.write(self._outside.open(path, os.O_WRONLY), data.encode()))

    def ls(self, path: StrPath) -> list[str]:
        """The names in a directory, in the kernel's order. Raises OSError."""
        with _AsOSError(path):
            return self._files.listdir(os.fspath(path))

    def stat(self, path: StrPath, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat. Raises OSError."""
        with _AsOSError(path):
            found = (self._files.stat if follow_symlinks else self._files.lstat)(os.fspath(path))
        times = (found.atime_ns, found.mtime_ns, found.ctime_ns)
        seconds = [moment // _NANOSECONDS for moment in times]
        return os.stat_result(
            (found.mode, found.ino, 0, found.nlink, found.uid, found.gid, found.size, *seconds),
            dict(zip(("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_rdev"), (*times, found.rdev), strict=True)),
        )

    def readlink(self, path: StrPath) -> str:
        """The target of a symbolic link. Raises OSError."""
        with _AsOSError(path):
            return self._files.readlink(os.fspath(path))

    async def _write(self, path: StrPath, data: str | bytes) -> int:
        with _AsOSError(path):
            descriptor = self._files.open(os.fspath(path), os.O_WRONLY)
            return await self._files.write(descriptor, data.encode() if isinstance(data, str) else data)

    async def _read(self, path: StrPath) -> bytes:
        with _AsOSError(path):
            return await _read_all(self._files, os.fspath(path))

    def _end(self) -> None:
        self._sysroot.kernel.shut_down()


class RunningMachine(_Running):
    """A machine in process, as `with Machine()` gives it. One thread may use it."""

    def __init__(self, sysroot: Sysroot, uid: int, tasks: Tasks) -> None:
        super().__init__(sysroot, uid)
        self._tasks = tasks
        sysroot.run_in_background(self._start)

    def _start(self, operation: Operation[None]) -> None:
        self._tasks.spawn(operation, "work of the kernel")

    @property
    def now(self) -> float:
        """Virtual seconds since the first boot."""
        return self._tasks.now

    def advance(self, seconds: float) -> None:
        """Let virtual time pass. Started writes go on."""
        self._tasks.advance(seconds)

    def read(self, path: StrPath) -> str:
        """The whole text of a file.

        Raises OSError as open(2) and read(2) fail; WaitsForeverError where a program would hang.
        """
        return _text(self._finish(self._tasks.spawn(self._read(path), f"read {os.fspath(path)}")))

    def write(self, path: StrPath, data: str | bytes) -> int:
        """One write(2) of `data`, as it is; returns how many bytes were taken.

        Raises OSError as open(2) and write(2) fail; WaitsForeverError where a program would hang.
        The hanging program is killed.
        """
        return self.start_write(path, data).result()

    def start_write(self, path: StrPath, data: str | bytes) -> StartedWrite:
        """The same by another program. Returns when that has ended or waits."""
        task = self._tasks.spawn(self._write(path, data), f"write {os.fspath(path)}")
        self._tasks.settle()
        return StartedWrite(task, self)

    def watch(self) -> Watch:
        """A watch for what happens from now on."""
        return Watch(self)

    def wait_until(self, condition: Callable[[], T], timeout: float = PATIENCE_SECONDS, what: str = "") -> T:
        """Let time pass until `condition` returns something true, and return that.

        Started writes go on. `what` names the condition in the error. Raises TimeoutError after
        `timeout` virtual seconds.
        """
        tasks, end = self._tasks, self._tasks.now + timeout
        tasks.settle()
        while not (found := condition()):
            if not tasks.tick(until=end):
                tasks.advance(end - tasks.now)
                raise TimeoutError(f"{what or 'it'} did not come true in {timeout:g} seconds")
        return found

    def _finish(self, task: Task) -> Any:
        if not self._tasks.finish(task):
            request = task.request
            self._signal(task, Signal.SIGKILL)
            what = f"for {request.point}" if isinstance(request, Wait) else "for ever"
            raise WaitsForeverError(f"{task.name}: waits {what}, which nothing ends but a signal or another operation")
        try:
            return task.outcome()
        except OSError as error:
            raise error.with_traceback(None) from None  # the kernel's frames are no news for a refusal

    def _signal(self, task: Task, signal: Signal) -> None:
        self._tasks.signal(task, signal)
        self._tasks.settle()

    def _end(self) -> None:
        for task in list(self._tasks.tasks):
            task.operation.close()
        super()._end()


class StartedWrite:
    """A write by another program, as `RunningMachine.start_write` gives it."""

    def __init__(self, task: Task, machine: RunningMachine) -> None:
        self._task = task
        self._machine = machine

    @property
    def finished(self) -> bool:
        """Whether it has ended, with a result or an error."""
        return self._task.finished

    def result(self) -> int:
        """Let time pass until it ends; returns how many bytes were taken.

        Raises as `RunningMachine.write` does.
        """
        taken: int = self._machine._finish(self._task)  # noqa: SLF001  ours
        return taken

    def interrupt(self) -> None:
        """Send a signal that the program handles (SIGALRM): EINTR from an interruptible wait."""
        self._machine._signal(self._task, Signal.SIGALRM)  # noqa: SLF001  ours

    def kill(self) -> None:
        """Send SIGKILL. It ends all waits except uninterruptible ones."""
        self._machine._signal(self._task, Signal.SIGKILL)  # noqa: SLF001  ours


class AsyncRunningMachine(_Running):
    """A machine in process, as `async with Machine()` gives it, for the tasks of one event loop.

    To cancel an operation is to kill its program. A wait that SIGKILL ends in Linux ends, and the
    kernel rolls back what it rolls back in Linux. Other waits go on to their end.
    """

    async def read(self, path: StrPath) -> str:
        """The whole text of a file. Raises OSError as open(2) and read(2) fail."""
        return _text(await _finish(self._read(path)))

    async def write(self, path: StrPath, data: str | bytes) -> int:
        """One write(2) of `data`, as it is; returns how many bytes were taken.

        Raises OSError as open(2) and write(2) fail.
        """
        return await _finish(self._write(path, data))

    def watch(self) -> AsyncWatch:
        """A watch for what happens from now on."""
        return AsyncWatch(self)

    async def _wait_for(self, look: Callable[[], T | None]) -> T:
        while (found := look()) is None:
            kernel = self._sysroot.kernel
            await wait(kernel.uevents.arrived, kernel.printk.arrived)
        return found


class _AsOSError:
    """Turns a KernelError into the OSError that a program sees.

    Not `contextlib.contextmanager`: its frames would be in the tracebacks of users' tests.
    """

    def __init__(self, path: StrPath) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KernelError):
            seen = OSError(error.errno, os.strerror(error.errno), os.fspath(self._path))
            seen.add_note(f"{error.why} [{error.where}]")
            raise seen from None


async def _finish(operation: Coroutine[Request, Answer, T]) -> T:
    try:
        return await drive(operation)
    except OSError as error:
        raise error.with_traceback(None) from None  # the same


async def _read_all(files: FileSystem, path: str) -> bytes:
    descriptor = files.open(path, os.O_RDONLY)
    parts = []
    while part := await files.read(descriptor, _READ_SIZE):
        parts.append(part)
    return b"".join(parts)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
