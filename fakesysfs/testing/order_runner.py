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
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fakesysfs import machine as descriptions
from fakesysfs.explore.order import DivergedError, Guide, Order, Step, program_name
from fakesysfs.explore.polls import LAST_POLLS, Polls
from fakesysfs.explore.wedged import Left, WedgedLook
from fakesysfs.kernel.profile import UnknownKernelError, find_profile
from fakesysfs.kernel.recorded import hooks
from fakesysfs.kernfs.declare import DirectoryKind
from fakesysfs.kernfs.name_hash import IndexedOrder
from fakesysfs.ops import recording
from fakesysfs.ops.footprint import ALL_NOTES, EVERYTHING
from fakesysfs.ops.sched import Answer, Preempt, Request, Sleep, Wait, Waiting, advance
from fakesysfs.sysfs.state import Watcher
from fakesysfs.sysfs.takedown import Takedown
from fakesysfs.sysroot import Sysroot
from fakesysfs.testing.controls import StrPath
from fakesysfs.testing.filesystem import FileSystem
from fakesysfs.testing.last_order import LastOrder, Refusal, TakenStep
from fakesysfs.testing.machine import COMM_LENGTH, RunningMachine, open_trace
from fakesysfs.testing.tasks import Tasks
from fakesysfs.trace import attach

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

SHOWS_ORDER = ("/control/", "/dev/kmsg", "/sys/kernel/uevent_seqnum")
"""What shows the order in which messages were logged, uevents sent and calls refused."""
NOT_RECORDED = SHOWS_ORDER
"""What reads and changes more than the kernel's objects."""


_UNRECORDED = contextlib.nullcontext()

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

    __slots__ = ("data", "operation", "path", "what")

    def __init__(self, operation: str, path: str, data: str | bytes = "") -> None:
        self.operation = operation
        self.path = path
        self.data = data
        self.what = operation, path, data

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
    """Runs orders on one machine, which is as it has booted before each. Implements `search.Runner`."""

    boots_again = False
    """Whether the machine boots again for each order, and each step is taken: tests compare with that."""

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
        """Whether steps have footprints. For many orders use `recorded`."""
        self._order: Order | None = None
        """The order that runs."""
        self._tasks = Tasks()
        started = time.time_ns()
        self._sysroot = Sysroot.boot(
            description, profile, now_ns=lambda: started + round(self._tasks.now * 1_000_000_000)
        )
        self._machine = RunningMachine(self._sysroot, 0, self._tasks)
        self._machine._tell_opened(self._note_opened)  # noqa: SLF001  ours
        self._is_booted = True
        """The machine is as it has booted."""
        self._takedown = Takedown()
        self._wedged = WedgedLook(self._left_after_setup)
        files = self._machine._files  # noqa: SLF001  ours
        self._programs = [
            (program_name(number), name_of(program), program, files.as_command(name_of(program)[:COMM_LENGTH]))
            for number, program in enumerate(scenario.programs)
        ]
        constant = (DirectoryKind, IndexedOrder, descriptions.MachineDescription, OrderRunner)
        self._last = LastOrder((self._sysroot, self._machine, self._tasks), constant)

    def run(self, guide: Guide) -> None:
        """Run one order."""
        with _one_at_a_time:
            self._run(guide)

    def _run(self, guide: Guide) -> None:
        scenario = self.scenario
        self._order = guide.order
        is_kept = not (self.boots_again or self.describes)
        common = self._last.common_steps(guide, records=self.records) if is_kept else 0
        if not common or scenario.setup is not None:
            self._boot()
        if common:
            self._restore(common)
        taken = self._last.begin_next(guide, common)
        preempt = self._sysroot.kernel.preempt
        preempt.watched = scenario.inside
        run = _Run(self._sysroot, self._machine, self._tasks, guide, describes=self.describes, records=self.records)
        if is_kept:
            run.kept_in = self._last
        try:
            for program in self._programs:
                run.start(*program)
            run.repeat(taken)
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
        """Have the machine as it has booted, and run the setup."""
        if not self._is_booted:
            self._restore()
            if self.boots_again:
                self._sysroot.reset()
        self._is_booted = False
        if self.scenario.setup is not None:
            self.scenario.setup(self._machine)

    def _restore(self, steps: int = 0) -> None:
        """Put the machine back to how it was in the last order after so many steps; 0: when it had booted."""
        for task in self._tasks.tasks:
            task.operation.close()
        self._last.restore(steps)

    def _left_after_setup(self) -> Left:
        self._boot()
        return self._takedown.left(self._sysroot.tree, self._sysroot.kernel)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Have the steps of many orders recorded.

        The hooks stay in the classes meanwhile. Each time that a class changes, the interpreter forgets what it knew.
        """
        with _one_at_a_time:
            recording.install(hooks())
        self.records = True
        try:
            yield
        finally:
            self.records = False
            with _one_at_a_time:
                recording.uninstall()

    @contextlib.contextmanager
    def traced(self, path: StrPath) -> Iterator[None]:
        """Write what the next order does to this file. It begins with the boot of the machine."""
        if not self._is_booted:
            self._restore()
            self._sysroot.reset()
            self._is_booted = True
        self.boots_again = True
        target = open_trace(os.fspath(path))
        recorder = attach(self._sysroot, [target], self.scenario.machine)
        try:
            yield
        finally:
            self.boots_again = False
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
        self._printk, self._uevents = sysroot.kernel.printk, sysroot.kernel.uevents
        self._machine = machine
        self._tasks = tasks
        self._guide = guide
        self._records = records
        self._has_hooks = False
        self.kept_in: LastOrder | None = None
        """Gets the steps, if another order may go on after some of them."""
        self._watcher = Watcher(sysroot.tree) if describes else None
        self._processes: dict[str, _Process] = {}
        self._polls = Polls()
        self._timers: list[tuple[float, int, _Process]] = []
        self._slept = 0

    def start(self, name: str, command: str, program: Program, files: FileSystem) -> None:
        """Run a program up to its first call."""
        process = self._processes[name] = _Process(name, command, program(ExploreHandle()), files)
        self._go_on(process, None, None)

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
        if self._has_hooks:
            recording.uninstall()
            self._has_hooks = False

    def repeat(self, taken: Sequence[TakenStep]) -> None:
        """Give the programs the results of these steps again. The machine is as it was after them.

        Raises DivergedError if a program now makes another call.
        """
        steps = self._guide.order.steps
        for position, one in enumerate(taken):
            step = steps[position]
            process = self._processes[step.process]
            call = process.call
            if call is None or call.what != one.call:
                found = "missing: it has ended" if call is None else f'"{_step_of(process, call)}"'
                raise DivergedError(position, f'"{step}"', found)
            self._polls.note(step.process, one.look, changed=one.changed)
            if one.ends:
                self._go_on(process, TakenStep.copy(one.value), None if one.refusal is None else one.refusal.error())
        if taken:
            self._guide.order.order_is_read |= taken[-1].order_is_read

    def to_the_end(self) -> None:
        """Take steps until all programs have ended, or none can go on."""
        while True:
            runnable = self._runnable()
            if runnable:
                if len(runnable) > 1 and self.kept_in is not None and not self._is_under_way():
                    self.kept_in.take_checkpoint()
                self._step(self._processes[self._guide.choose(runnable)])
            elif self._timers:
                self._let_time_pass()
            else:
                self._say_who_never_ends()
                return

    def _is_under_way(self) -> bool:
        """Whether a call has begun and not ended."""
        return any(process.operation is not None for process in self._processes.values())

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
        recorder, noted = self._recorder(), self._notes()
        with recorder or _UNRECORDED:
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
        look = f"{call.operation} {call.path}: {result}"
        self._polls.note(process.name, look, changed=changed)
        why = next(iter(getattr(error, "__notes__", ())), "")
        seen = self._changed() if call.operation == "write" else ()
        self._guide.took(_step_of(process, call, result, why, seen, goes_on=goes_on), footprint)
        if self.kept_in is not None:
            refusal = None if error is None else Refusal.of(error)
            is_read = self._guide.order.order_is_read
            kept = TakenStep.copy(value)
            self.kept_in.add(TakenStep(call.what, request is None, kept, refusal, look, changed, is_read))
        if request is None:
            self._go_on(process, value, error)
        else:
            self._park(process, request)

    def _recorder(self) -> recording.Recorder | None:
        """Records the step that begins, if its footprint is asked for."""
        if not self._records or len(self._guide.order.steps) < self._guide.recorded_from:
            return None
        if not self._has_hooks:
            recording.install(hooks())  # not during the boot, which takes twice as long with them
            self._has_hooks = True
        return recording.Recorder()

    def _go_on(self, process: _Process, value: Any, error: OSError | None) -> None:
        process.go_on(value, error)
        if process.error is not None:
            self._fail(f"{process.command} raised {_said(process.error)}", f"raised {process.name}")

    def _notes(self) -> tuple[int, int]:
        return self._printk.sequence, self._uevents.sequence

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


def _step_of(
    process: _Process,
    call: _Call,
    result: str = "",
    why: str = "",
    changed: tuple[str, ...] = (),
    *,
    goes_on: bool = False,
) -> Step:
    operation = "goes on" if goes_on else call.operation
    data = call.data if isinstance(call.data, str) else repr(call.data)
    return Step(process.name, operation, call.path, data, result, why, changed, process.command)


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
