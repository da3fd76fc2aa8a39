"""Runs one order of the steps of async functions on a machine in this process: what `explore` searches with.

A program is a coroutine whose every call on the machine is a step.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from fakesysfs import machine as descriptions
from fakesysfs.explore.order import Guide, Order, Step, program_name
from fakesysfs.explore.polls import LAST_POLLS, Polls
from fakesysfs.explore.wedged import Left, WedgedLook
from fakesysfs.kernel.profile import UnknownKernelError, find_profile
from fakesysfs.kernel.recorded import hooks
from fakesysfs.ops import recording
from fakesysfs.ops.footprint import ALL_NOTES, EVERYTHING
from fakesysfs.ops.sched import Answer, Preempt, Request, Sleep, Wait, Waiting, advance
from fakesysfs.sysfs.state import Watcher
from fakesysfs.sysfs.takedown import Takedown
from fakesysfs.sysroot import Sysroot
from fakesysfs.testing.controls import StrPath
from fakesysfs.testing.filesystem import FileSystem
from fakesysfs.testing.machine import COMM_LENGTH, RunningMachine, open_trace
from fakesysfs.testing.tasks import Tasks
from fakesysfs.trace import attach

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

SHOWS_ORDER = ("/control/", "/dev/kmsg", "/sys/kernel/uevent_seqnum")
"""What shows the order in which messages were logged, uevents sent and calls refused."""
NOT_RECORDED = SHOWS_ORDER
"""What reads and changes more than the kernel's objects."""


_one_at_a_time = threading.Lock()
"""Orders of several threads run one after another: what records a step does not know which thread runs."""


class ExploreHandle:
    """What a program gets: the files of the machine. Each call is a step, and is awaited."""

    async def read(self, path: StrPath) -> str:
        """The whole text of a file. Raises OSError as open(2) and read(2) fail."""
        text: str = await _Call("read", os.fspath(path))
        return text

    async def write(self, path: StrPath, data: str | bytes) -> int:
        """One write(2) of `data`; returns how many bytes were taken.

        Raises OSError as open(2) and write(2) fail.
        """
        taken: int = await _Call("write", os.fspath(path), data)
        return taken

    async def ls(self, path: StrPath) -> list[str]:
        """The names in a directory, in the kernel's order. Raises OSError."""
        names: list[str] = await _Call("ls", os.fspath(path))
        return names

    async def exists(self, path: StrPath) -> bool:
        """Whether the file or directory exists."""
        there: bool = await _Call("exists", os.fspath(path))
        return there

    async def stat(self, path: StrPath) -> os.stat_result:
        """As os.stat. Raises OSError."""
        result: os.stat_result = await _Call("stat", os.fspath(path))
        return result


Program = Callable[[ExploreHandle], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that an order depends on."""

    programs: tuple[Program, ...]
    machine: str
    kernel: str
    setup: Callable[[RunningMachine], object] | None
    check: Callable[[RunningMachine], object] | None
    inside: bool
    longest: int
    allow_wedged: bool


def name_of(program: Program) -> str:
    """What a report calls a program."""
    return getattr(program, "__name__", type(program).__name__)


# Running one order ----------------------------------------------------------------------------------------------------


class _Call(Awaitable[Any]):
    """A call on the machine, as the program awaits it."""

    __slots__ = ("data", "operation", "path")

    def __init__(self, operation: str, path: str, data: str | bytes = "") -> None:
        self.operation = operation
        self.path = path
        self.data = data

    def __await__(self) -> Generator[_Call, Any, Any]:
        return (yield self)


class _Process:
    """A program in one order: its coroutine, and the call that it makes next or has begun."""

    def __init__(self, name: str, command: str, program: Coroutine[Any, Any, Any], files: FileSystem) -> None:
        self.name = name
        self.command = command
        self.files = files
        self.program = program
        self.call: _Call | None = None
        self.operation: Coroutine[Request, Answer, Any] | None = None
        """The call, once it has begun."""
        self.answer: Answer | None = None
        self.waits: Waiting | None = None
        """What the call waits for."""
        self.has_slept = False
        """Whether the call has waited for time to pass."""
        self.error: Exception | None = None
        """What the program let out."""

    @property
    def ended(self) -> bool:
        return self.call is None

    @property
    def runnable(self) -> bool:
        return self.call is not None and self.waits is None

    def go_on(self, value: Any, error: BaseException | None = None) -> None:
        """Run the program's own code up to its next call."""
        self.operation = self.answer = None
        self.has_slept = False
        try:
            call = self.program.send(value) if error is None else self.program.throw(error)
        except StopIteration:
            self.call = None
        except Exception as raised:  # noqa: BLE001  it is the order's outcome
            self.call, self.error = None, raised
        else:
            if not isinstance(call, _Call):
                raise TypeError(f"{self.command} awaits {call!r}: a program may await its handle's calls only")
            self.call = call

    def close(self) -> None:
        if self.operation is not None:
            self.operation.close()
        self.program.close()


class OrderRunner:
    """Runs orders on one machine, which boots again for each. Implements `search.Runner`."""

    def __init__(self, scenario: Scenario) -> None:
        try:
            profile = find_profile(scenario.kernel)
            description = descriptions.load(scenario.machine)
        except (UnknownKernelError, descriptions.MachineError) as error:
            raise ValueError(str(error)) from None
        self.scenario = scenario
        self.describes = False
        """Whether steps say what they changed."""
        self.records = False
        """Whether steps have footprints. Then the model's classes need the hooks (`recorded.hooks`)."""
        self._order: Order | None = None
        """The order that runs."""
        self._tasks = Tasks()
        started = time.time_ns()
        self._sysroot = Sysroot.boot(
            description, profile, now_ns=lambda: started + round(self._tasks.now * 1_000_000_000)
        )
        self._machine = RunningMachine(self._sysroot, 0, self._tasks)
        self._is_fresh = True
        self._takedown = Takedown()
        self._wedged = WedgedLook(self._left_after_setup)

    def run(self, guide: Guide) -> None:
        """Run one order."""
        with _one_at_a_time:
            self._run(guide)

    def _run(self, guide: Guide) -> None:
        scenario, tasks = self.scenario, self._tasks
        self._order = guide.order
        self._boot()
        preempt = self._sysroot.kernel.preempt
        preempt.watched = scenario.inside
        run = _Run(self._sysroot, self._machine, tasks, guide, describes=self.describes, records=self.records)
        try:
            for number, program in enumerate(scenario.programs):
                run.start(program_name(number), name_of(program), program)
            run.to_the_end()
        finally:
            preempt.watched = False
            run.close()
        if guide.order.why is None:
            self._check(guide.order)
        if guide.order.why is None and not scenario.allow_wedged:
            # the last thing, as nothing is left of the machine
            why = self._wedged.why(self._takedown.left(self._sysroot.tree, self._sysroot.kernel))
            if why is not None:
                guide.order.why, guide.order.kind = why, "wedged"

    def _boot(self) -> None:
        """Boot the machine again, and run the setup."""
        self._tasks.now = 0.0
        if not self._is_fresh:
            self._sysroot.reset()
        self._is_fresh = False
        self._machine = RunningMachine(self._sysroot, 0, self._tasks)
        self._machine._tell_opened(self._note_opened)  # noqa: SLF001  ours
        if self.scenario.setup is not None:
            self.scenario.setup(self._machine)

    def _left_after_setup(self) -> Left:
        self._boot()
        return self._takedown.left(self._sysroot.tree, self._sysroot.kernel)

    @contextlib.contextmanager
    def traced(self, path: StrPath) -> Iterator[None]:
        """Write what the next order does to this file. It begins with the boot of the machine."""
        if not self._is_fresh:
            self._tasks.now = 0.0
            self._sysroot.reset()
            self._is_fresh = True
        target = open_trace(os.fspath(path))
        recorder = attach(self._sysroot, [target], self.scenario.machine)
        try:
            yield
        finally:
            recorder.detach()
            os.close(target.descriptor)

    def _note_opened(self, path: str) -> None:
        if self._order is not None and path.startswith(SHOWS_ORDER):
            self._order.order_is_read = ALL_NOTES

    def _check(self, order: Order) -> None:
        check = self.scenario.check
        if check is None:
            return
        try:
            if check(self._machine) is False:
                order.why = order.kind = f"{getattr(check, '__name__', 'check')} returned False"
        except Exception as error:  # noqa: BLE001  it is the order's outcome
            order.why = f"{getattr(check, '__name__', 'check')}: {_said(error)}"
            order.kind = f"check: {type(error).__name__}"


class _Run:
    """One order while it runs."""

    def __init__(
        self,
        sysroot: Sysroot,
        machine: RunningMachine,
        tasks: Tasks,
        guide: Guide,
        *,
        describes: bool,
        records: bool,
    ) -> None:
        self._sysroot = sysroot
        self._kernel = sysroot.kernel
        self._machine = machine
        self._tasks = tasks
        self._guide = guide
        self._records = records
        self._has_hooks = False
        self._watcher = Watcher(sysroot.tree) if describes else None
        self._processes: dict[str, _Process] = {}
        self._polls = Polls()
        self._timers: list[tuple[float, int, _Process]] = []
        self._slept = 0

    def start(self, name: str, command: str, program: Program) -> None:
        """Run a program up to its first call."""
        files = self._machine._files.as_command(command[:COMM_LENGTH])  # noqa: SLF001  ours
        process = self._processes[name] = _Process(name, command, program(ExploreHandle()), files)
        self._go_on(process, None, None)

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
        if self._has_hooks:
            recording.uninstall()
            self._has_hooks = False

    def to_the_end(self) -> None:
        """Take steps until all programs have ended, or none can go on."""
        while True:
            runnable = self._runnable()
            if runnable:
                self._step(self._processes[self._guide.choose(runnable)])
            elif self._timers:
                self._let_time_pass()
            else:
                self._say_who_never_ends()
                return

    def _runnable(self) -> list[str]:
        """Those that can go on. One that polls gives way: time passes before it goes on."""
        able = [process for process in self._processes.values() if process.runnable]
        busy = [process.name for process in able if not self._polls.has_polled(process.name)]
        if busy or self._timers:
            return busy
        return [process.name for process in able if not self._polls.has_polled(process.name, LAST_POLLS)]

    def _say_who_never_ends(self) -> None:
        for process in self._processes.values():
            call = process.call
            if call is None:
                continue
            if isinstance(process.waits, Wait):
                why = f"waits for {process.waits.point}, which nobody will end"
                self._fail(f"{process.command} never ends: it {why}", f"waits {process.name}")
            else:
                self._fail(self._polls.why(process.name, process.command), f"polls {process.name}")
            return

    def _fail(self, why: str, kind: str) -> None:
        """Say why the order fails. The first reason counts."""
        if self._guide.order.why is None:
            self._guide.order.why, self._guide.order.kind = why, kind

    # Steps ----------------------------------------------------------------------------------------------------------

    def _step(self, process: _Process) -> None:
        call = process.call
        assert call is not None
        goes_on = process.operation is not None
        if process.operation is None:
            self._machine._files = process.files  # noqa: SLF001  ours
            process.operation = self._begin(call)
        value: Any = None
        error: OSError | None = None
        answer, process.answer = process.answer, None
        noted = self._notes()
        with self._recorder() as recorder:
            try:
                request: Waiting | None = advance(process.operation, answer)
            except StopIteration as stop:
                request, value = None, stop.value
            except OSError as raised:
                request, error = None, raised.with_traceback(None)
        footprint = None if recorder is None else recorder.footprint
        if footprint is not None:
            footprint.notes = ALL_NOTES * (error is not None or self._notes() != noted)
            if process.has_slept or isinstance(request, Sleep):
                footprint.write(EVERYTHING)  # the time is not recorded
            elif call.path.startswith(NOT_RECORDED):
                (footprint.write if call.operation == "write" else footprint.read)(EVERYTHING)
        result = _waits_in_words(request) if request is not None else _in_words(call, value, error)
        changed = call.operation == "write" and error is None
        self._polls.note(process.name, f"{call.operation} {call.path}: {result}", changed=changed)
        self._guide.took(
            Step(
                process.name,
                "goes on" if goes_on else call.operation,
                call.path,
                call.data if isinstance(call.data, str) else repr(call.data),
                result,
                next(iter(getattr(error, "__notes__", ())), ""),
                self._changed() if call.operation == "write" else (),
                process.command,
            ),
            footprint,
        )
        if request is None:
            self._go_on(process, value, error)
        else:
            self._park(process, request)

    def _recorder(self) -> contextlib.AbstractContextManager[recording.Recorder | None]:
        """Records the step that begins, if its footprint is asked for."""
        if not self._records or len(self._guide.order.steps) < self._guide.recorded_from:
            return contextlib.nullcontext()
        if not self._has_hooks:
            recording.install(hooks())  # not during the boot, which takes twice as long with them
            self._has_hooks = True
        return recording.Recorder()

    def _go_on(self, process: _Process, value: Any, error: OSError | None) -> None:
        process.go_on(value, error)
        if process.error is not None:
            self._fail(f"{process.command} raised {_said(process.error)}", f"raised {process.name}")

    def _notes(self) -> tuple[int, int]:
        return self._kernel.printk.sequence, self._kernel.uevents.sequence

    def _begin(self, call: _Call) -> Coroutine[Request, Answer, Any]:
        machine = self._machine
        if call.operation == "read":
            return _decoded(machine._read(call.path))  # noqa: SLF001  ours
        if call.operation == "write":
            return machine._write(call.path, call.data)  # noqa: SLF001  ours
        return _at_once(getattr(machine, call.operation), call.path)

    def _park(self, process: _Process, request: Waiting) -> None:
        if isinstance(request, Preempt):
            process.answer = Answer.WOKEN
            return
        process.waits = request
        if isinstance(request, Sleep):
            process.has_slept = True
            self._slept += 1
            heapq.heappush(self._timers, (self._tasks.now + request.seconds, self._slept, process))
            return

        def woken() -> None:
            process.waits, process.answer = None, Answer.WOKEN

        request.queue.add(woken)

    def _let_time_pass(self) -> None:
        self._tasks.now, _, process = heapq.heappop(self._timers)
        process.waits, process.answer = None, Answer.WOKEN

    def _changed(self) -> tuple[str, ...]:
        return () if self._watcher is None else self._watcher.changes()


async def _at_once(call: Callable[[str], Any], path: str) -> Any:
    return call(path)


async def _decoded(read: Coroutine[Request, Answer, bytes]) -> str:
    return (await read).decode("utf-8", "surrogateescape")


def _said(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _waits_in_words(request: Waiting) -> str:
    if isinstance(request, Preempt):
        return f"preempted at {request.point}"
    return f"waits for {request.point}"


def _in_words(call: _Call, value: Any, error: OSError | None) -> str:
    if error is not None:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    if call.operation == "write":
        return f"{value} bytes"
    if call.operation == "exists":
        return "present" if value else "absent"
    if call.operation == "ls":
        return " ".join(value)
    if call.operation == "stat":
        return f"mode {value.st_mode:o}"
    return str(value).strip()
