"""Runs programs on a mount that holds them, one step at a time; the command of a `fakesysfs run`.

For each order: boot the machine again, run the setup, start the programs one after another, each up
to its first step. Then, again and again: ask the guide who goes on, let that one go, wait until
nobody runs any more. Then the check.

Nobody runs when each thread of each program is held at the gate (fakesysfs/fuse/gate.py), has
ended, or is blocked by something that only another program, or a clock, can end. Two looks at
/proc one after another must show the same.

With udev a systemd-udevd is one more program. It starts before the setup and never ends; an order
ends when it has nothing to do any more. A uevent reaches it before the write ends that caused it. So each
step of a program that hears uevents conflicts with each step that sends one.

A clock fires only when nobody else can go on. One that fires earlier, as real time passes, finds
its program held at its next step, and that step waits for its turn.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from fakesysfs.explore import programs
from fakesysfs.explore.listeners import Listeners
from fakesysfs.explore.messages import READY, Line, Ran, Request, Task
from fakesysfs.explore.order import AsleepError, DivergedError, Guide, Step, TooLongError, program_name, program_of
from fakesysfs.explore.polls import LAST_POLLS, POLLS, Polls
from fakesysfs.explore.programs import Programs
from fakesysfs.explore.reduction import SleepingGuide
from fakesysfs.explore.wedged import WedgedLook
from fakesysfs.fuse.callers import pending_signals
from fakesysfs.fuse.descriptors import close_all_but
from fakesysfs.ops.errors import NAMES
from fakesysfs.ops.footprint import Footprint
from fakesysfs.sandbox import linux, udev
from fakesysfs.sandbox.init import kill_descendants

DEADLINE_SECONDS = 30.0
"""How long a step may take, and how long nobody goes on while a clock runs."""

ALWAYS_SECONDS = 10.0
"""How long --always may take: it may wait for a lock of the host that a held program has."""

UDEVD = "udevd"
"""The name of udevd among the programs."""
UDEVD_OPTIONS = ("--children-max=1",)
"""One worker: it processes one event after another. With more of them few searches would end."""

_FIRST_LOOK_SECONDS = 0.001
_LAST_LOOK_SECONDS = 0.005
_LOCKED_SECONDS = 0.2
"""A thread that waits uninterruptibly for so long, and not for the mount, waits for a lock.

One with a signal that has not gone on after so long sleeps in the kernel, and the signal does not end that.
"""

_PACKET_BYTES = 65536
_SOCKET_BYTES = 1 << 22
_STANDARD_ERROR_BYTES = 500
_SHELL = "/bin/sh"
_NOT_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT)
"""Signals that Python, or the controller, ignores, and what it starts does not."""
_SIGNALED = 128
_TIMED_OUT = 124
"""The exit status of a command that took too long, as timeout(1) has it."""


class _CannotRunError(Exception):
    """Orders cannot be run at all: the setup fails, the mount is gone."""


class _GoneError(Exception):
    """The explorer or the server is gone: end."""


@dataclass(slots=True)
class _Held:
    token: int
    what: str
    thread: int
    """Found out when nobody runs, as the server may only know who opened the file."""
    path: str
    early: bool = False
    """A clock let it arrive before its turn."""


class Controller:
    """Runs orders. `line` leads to the explorer, `gate` to the server."""

    def __init__(self, task: Task, line: Line, gate: socket.socket) -> None:
        self._task = task
        self._line = line
        self._gate = gate
        self._poll = select.poll()
        self._poll.register(gate, select.POLLIN)
        self._poll.register(line.fileno(), 0)  # POLLHUP is always reported
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        names = [program_name(number) for number in range(len(task.programs))]
        self._errors = {name: os.memfd_create(name) for name in names}
        control = os.environ["FAKESYSFS_CONTROL"]
        self._reset_path = f"{control}/reset"
        self._udevd = udev.find_program() if task.udev else ""
        self._programs = Programs()
        self._polls = Polls()
        self._held: dict[int, _Held] = {}
        self._asleep: dict[int, bool] = {}
        """Operations that wait in the kernel, and whether a clock ends that."""
        self._did: list[list[str]] = []
        self._statuses: dict[int, int] = {}
        self._tasks: list[programs.Task] = []
        """What the last look showed, when nobody ran."""
        self._shown = False
        self._described = False
        self._recorded = False
        self._records_step = False
        """Whether the footprint of the step that runs is asked for."""
        self._footprints: list[Footprint] = []
        """What the last step has read and changed, once the server has said it."""
        self._order_is_read = 0
        self._order_matters = 0
        """Of which notes somebody has read the order, in an earlier order. Bits of ops/footprint.py."""
        self._listeners = Listeners(UDEVD if task.udev else "")
        self._is_closed = False
        self._left: list[dict[int, str]] = []
        """What the server said that is left when all memory was taken away."""
        self._wedged = WedgedLook(self._left_after_setup)
        self._notes, at_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        at_server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        with at_server:
            socket.send_fds(gate, [json.dumps(("free", os.getsid(0))).encode()], [at_server.fileno()])

    # One order ----------------------------------------------------------------------------------------------------

    def run(self, request: Request) -> Ran:
        """Run one order."""
        guide = _guide_for(request)
        self._shown, self._described = request.shown, request.described
        self._recorded = request.recorded
        self._order_is_read, self._order_matters = 0, request.order_matters
        order = guide.order
        ran = Ran(order.steps, order.runnable)
        try:
            self._run(guide, request.until)
            guide.ended()
        except DivergedError as diverged:
            ran.diverged = diverged.expected, diverged.found
        except TooLongError:
            ran.too_long = True
        except AsleepError:
            ran.asleep = True
        except _CannotRunError as cannot:
            ran.error = str(cannot)
        ran.why, ran.kind = order.why, order.kind
        ran.order_is_read = self._order_is_read
        ran.footprints = [None if footprint is None else footprint.packed() for footprint in order.footprints]
        return ran

    def _run(self, guide: Guide, until: int | None) -> None:
        self._boot()
        try:
            self._close()
            self._start()
            failure = self._take_steps(guide, until)
        finally:
            statuses = self._end()
        if failure is None:
            failure = self._look_at_the_end(statuses)
        self._records_step = self._recorded
        self._ask_what_was_recorded("", "")  # --check may have read the order of messages
        if failure is not None:
            guide.order.kind, guide.order.why = failure

    def _reset(self) -> None:
        try:
            with open(self._reset_path, "wb", buffering=0) as reset:  # noqa: PTH123  for each order
                reset.write(b"1\n")
        except OSError as error:
            if error.errno in {errno.ENOTCONN, errno.ECONNABORTED}:
                raise _GoneError from None
            raise _CannotRunError(f"the machine cannot be booted again: {error.strerror}") from None

    def _boot(self) -> None:
        self._reset()
        self._programs = Programs()
        self._held.clear()
        self._asleep.clear()
        self._statuses.clear()
        self._tasks = []
        if self._udevd:
            try:
                self._programs.add(UDEVD, udev.start(self._udevd, os.environ, UDEVD_OPTIONS), has_worker=True)
            except (udev.UdevdError, OSError) as error:
                raise _CannotRunError(str(error)) from None
        if self._task.setup:
            status, said = self._command(self._task.setup, DEADLINE_SECONDS)
            if status:
                raise _CannotRunError(f"--setup ended with status {status}{_quoted(said)}")
        if self._udevd:
            # Until it sleeps: it may not have begun yet with what the setup has caused.
            self._await(lambda: self._settle() and not udev.is_busy(), UDEVD)

    def _close(self) -> None:
        """Close the gate, and wait until it is."""
        self._is_closed = False
        self._tell("close", self._task.inside, self._described, self._recorded)
        self._await(lambda: self._is_closed)

    def _await(self, answered: Callable[[], bool], who: str = "the server") -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while not answered():
            self._hear(_LAST_LOOK_SECONDS)
            if time.monotonic() > end:
                raise _CannotRunError(f"{who} does not answer")

    def _start(self) -> None:
        """Start the programs, one after another: what they do before their first step is ordered as well."""
        self._polls = Polls()
        for program, (name, errors) in zip(self._task.programs, self._errors.items(), strict=True):
            os.ftruncate(errors, 0)
            os.lseek(errors, 0, os.SEEK_SET)
            outputs = [] if self._shown else [(os.POSIX_SPAWN_DUP2, self._null, 1), (os.POSIX_SPAWN_DUP2, errors, 2)]
            process = os.posix_spawn(
                _SHELL,
                ["sh", "-c", program],
                os.environ | {programs.PROGRAM_VARIABLE: name},
                file_actions=[(os.POSIX_SPAWN_DUP2, self._null, 0), *outputs],
                setsid=True,
                setsigdef=_NOT_IGNORED,
            )
            self._programs.add(name, process)
            if not self._settle():
                raise _CannotRunError(f"program {name} does not come to its first step: {_SECONDS_RUNNING}")

    def _take_steps(self, guide: Guide, until: int | None) -> tuple[str, str] | None:
        """Have the guide choose until nobody can go on; returns the kind of a failure, and why."""
        self._look_for_listeners()
        while True:
            runnable = {self._programs.names[held.thread]: held for held in self._ready()}
            if runnable and not (runnable := self._without_pollers(runnable)):
                return self._never_ends()
            if not runnable:
                if self._all_ended():
                    return None
                if self._wait_for_a_clock():
                    continue
                return self._stuck()
            chosen = runnable[guide.choose(tuple(runnable))]
            if until is not None and len(guide.order.steps) + 1 == until:
                self._be_shell()
                return None
            name = self._programs.names[chosen.thread]
            command = programs.command_of(chosen.thread)
            self._did.clear()
            self._records_step = self._recorded and len(guide.order.steps) >= guide.recorded_from
            self._release(chosen)
            settled = self._settle(chosen.thread)
            step = _step(name, command, chosen, self._did)
            footprint = self._ask_what_was_recorded(step.program, command)
            self._note_look(step)
            guide.took(step, footprint)
            if not settled:
                return "deadline", f"{name} runs for {DEADLINE_SECONDS:g} seconds without another step"
            if self._task.always:
                status, said = self._command(self._task.always, ALWAYS_SECONDS)
                if status:
                    return "always", f"--always ended with status {status} after this step{_quoted(said)}"

    def _without_pollers(self, runnable: Mapping[str, _Held]) -> dict[str, _Held]:
        """Those that can go on. One that polls gives way to others; after very many equal looks it does not go on."""
        for times in (POLLS, LAST_POLLS):
            left = {
                name: held for name, held in runnable.items() if not self._polls.has_polled(program_of(name), times)
            }
            if left:
                return left
        return {}

    def _note_look(self, step: Step) -> None:
        changed = step.operation not in _LOOKS and step.result not in NAMES.values()
        self._polls.note(step.program, f"{step.what.partition(' ')[2]}: {step.result}", changed=changed)

    def _never_ends(self) -> tuple[str, str]:
        """All that can go on have polled for very long."""
        name = min(self._programs.names[held.thread] for held in self._held.values())
        program = program_of(name)
        return f"polls {program}", self._polls.why(program, program)

    def _ask_what_was_recorded(self, program: str, command: str) -> Footprint | None:
        """What the last step, of this command, has read and changed; None if that is not recorded."""
        self._look_for_listeners()
        if not self._records_step:
            return None
        self._footprints.clear()
        self._tell("recorded")
        self._await(lambda: bool(self._footprints))
        footprint = self._footprints[0]
        self._listeners.add_to(footprint, program, command)
        if self._waits(program):
            footprint.hears |= self._order_matters  # perhaps for a message, or for udevd
        return footprint

    def _look_for_listeners(self) -> None:
        if self._recorded:
            self._order_is_read |= self._listeners.look(self._tasks)

    def _waits(self, program: str) -> bool:
        """Whether a program has not ended, and has no next step."""
        held = {program_of(self._programs.names.get(held.thread, "")) for held in self._held.values()}
        return program not in held and any(task.program == program and not task.ended for task in self._tasks)

    def _ready(self) -> list[_Held]:
        """Who can take a step: nobody whom a clock let arrive too early, unless nobody else can."""
        ready = [held for held in self._held.values() if not held.early]
        if not ready and self._held:
            self._be_first(min(self._held))
            ready = [held for held in self._held.values() if not held.early]
        return ready

    def _be_first(self, first: int) -> None:
        """Of those whom a clock let arrive, the first one goes on, and the others wait."""
        for token, held in self._held.items():
            held.early = token != first

    def _all_ended(self) -> bool:
        """Whether the first process of each program has ended, and udevd has nothing to do.

        What programs left in the background is no obstacle.
        """
        firsts = [process for process in self._programs.sessions if self._is_first(process)]
        ended = all(process in self._statuses for process in firsts if self._programs.names[process] != UDEVD)
        return ended and not (self._udevd and udev.is_busy())

    def _is_first(self, process: int) -> bool:
        return self._programs.names.get(process, "").isalpha()

    def _wait_for_a_clock(self) -> bool:
        """Wait until a clock has let somebody arrive; False if no clock runs, or none fires in time."""
        before = (set(self._held), len(self._statuses))
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            if not (any(task.timed for task in self._tasks) or any(self._asleep.values())):
                return False
            self._hear(_LAST_LOOK_SECONDS)
            if not self._settle():
                return False
            if (set(self._held), len(self._statuses)) != before:
                self._be_first(min(self._held, default=0))
                return True
        return False

    def _stuck(self) -> tuple[str, str]:
        is_quiet = self._udevd and not udev.is_busy()
        waiting = [task for task in self._tasks if not task.ended and not (is_quiet and task.program == UDEVD)]
        who = ", ".join(
            f"{self._programs.names[task.number]} ({programs.command_of(task.number)})"
            + (f" waits in {task.wchan}" if task.wchan else "")
            for task in waiting
        )
        if any(task.timed for task in waiting) or any(self._asleep.values()):
            return "deadline", f"nobody goes on for {DEADLINE_SECONDS:g} seconds: {who}"
        return "deadlock", f"nobody can go on: {who}"

    def _end(self) -> dict[str, int]:
        """End all processes of the order; returns the exit statuses of those programs that ended by themselves."""
        self._reap()
        statuses = {
            self._programs.names[process]: _exit_status(status)
            for process, status in self._statuses.items()
            if self._is_first(process)
        }
        for task in self._tasks:
            if not task.ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(task.number, signal.SIGKILL)
        self._tell("open")
        if self._asleep:
            self._reset()  # which lets go what no signal ends
        kill_descendants()
        self._hear(0)
        return statuses

    def _look_at_the_end(self, statuses: dict[str, int]) -> tuple[str, str] | None:
        failure = self._look_at_the_programs(statuses)
        if failure is None and not self._task.allow_wedged:
            # the last thing, as nothing is left of the machine
            why = self._wedged.why(self._take_down())
            failure = None if why is None else ("wedged", why)
        return failure

    def _look_at_the_programs(self, statuses: dict[str, int]) -> tuple[str, str] | None:
        if self._task.check:
            known = {f"EXPLORE_STATUS_{name}": str(number) for name, number in statuses.items()}
            status, said = self._command(self._task.check, DEADLINE_SECONDS, known)
            return (f"check {status}", f"--check ended with status {status}{_quoted(said)}") if status else None
        for name, errors in self._errors.items():
            if ended := statuses.get(name):
                said = os.pread(errors, _STANDARD_ERROR_BYTES, 0)
                return f"{name} {ended}", f"{name} ended with status {ended}{_quoted(said)}"
        return None

    def _take_down(self) -> dict[int, str]:
        """Take all memory away; returns the blocks that are left, and why."""
        self._left.clear()
        self._tell("take down")
        self._await(lambda: bool(self._left))
        return self._left.pop()

    def _left_after_setup(self) -> dict[int, str]:
        self._boot()
        kill_descendants()
        return self._take_down()

    # Waiting ------------------------------------------------------------------------------------------------------

    def _settle(self, released: int = 0) -> bool:
        """Wait until nobody runs; False if that takes too long. `released` was let go, 0 if nobody was."""
        arrived_before = set(self._held)
        before = {task.number: task for task in self._tasks}
        timed = {task.program for task in self._tasks if task.timed or self._is_asleep(task)}
        timed |= {before[held.thread].program for held in self._held.values() if held.early and held.thread in before}
        end = time.monotonic() + DEADLINE_SECONDS
        pause = _FIRST_LOOK_SECONDS
        last: list[programs.Task] | None = None
        since = time.monotonic()
        while len(self._held) == len(arrived_before) and time.monotonic() < since + _FIRST_LOOK_SECONDS:
            self._hear(_FIRST_LOOK_SECONDS)
        while True:
            self._hear(0)
            tasks = self._programs.sample(self._threads_held())
            look = [task for task in tasks if not task.ended]
            if look != last:
                since = time.monotonic()
            now = time.monotonic()
            heard = self._hear(0)
            quiet = not heard and self._nobody_runs(tasks, for_long=now - since > _LOCKED_SECONDS)
            if quiet and (look == last or all(task.held for task in look)) and self._know_all_threads(tasks):
                break
            if now > end:
                self._tasks = tasks
                return False
            last = look
            if not quiet:
                self._hear(pause)
                pause = min(pause * 2, _LAST_LOOK_SECONDS)
        self._tasks = tasks
        self._reap()
        if timed and released:
            caused = self._caused_by(released, before)
            for token in set(self._held) - arrived_before:
                held = self._held[token]
                held.early = held.thread not in caused and program_of(self._programs.names[held.thread]) in timed
        return True

    def _caused_by(self, released: int, before: Mapping[int, programs.Task]) -> set[int]:
        """The threads that go on because `released` went on: it, what it has forked, who has waited for its end."""
        now = {task.number: task for task in self._tasks}
        caused = {released}
        for task in sorted(self._tasks, key=lambda task: self._programs.place(task.number)):
            if task.number not in before and task.parent in caused:
                caused.add(task.number)
        ended = released
        while ended in before and (ended not in now or now[ended].ended):
            ended = before[ended].parent
            caused.add(ended)
        return caused

    def _threads_held(self) -> set[int]:
        return {held.thread for held in self._held.values() if held.what == "walk"}

    def _is_asleep(self, task: programs.Task) -> bool:
        return task.waits_for_server and any(self._asleep.values())

    def _nobody_runs(self, tasks: Sequence[programs.Task], *, for_long: bool) -> bool:
        waiting = 0
        for task in tasks:
            if task.ended or task.held or task.blocked or (for_long and task.blocked_perhaps):
                continue
            if not task.waits_for_server:
                return False
            # The server looks for signals of those that sleep in the kernel once in a while.
            if not for_long and self._asleep and pending_signals(task.number):
                return False
            waiting += 1
        unknown = sum(held.what != "walk" for held in self._held.values())
        return waiting == unknown + len(self._asleep)

    def _know_all_threads(self, tasks: Sequence[programs.Task]) -> bool:
        """Name them, and find who waits in the requests of which the server knows only who opened the file.

        A request whose caller was killed is let go; returns whether there was none.
        """
        self._programs.give_names(tasks)
        known = {held.thread: held for held in self._held.values() if held.what == "walk"}
        for held in self._held.values():
            if held.what != "walk":
                held.thread = self._programs.find(held.thread, tasks, known)
                known[held.thread] = held
        left = [held for held in self._held.values() if held.thread not in self._programs.names]
        for held in left:
            self._release(held)
        return not left

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                process, status = os.waitpid(-1, os.WNOHANG)
                if not process:
                    break
                self._statuses[process] = status

    # The gate -----------------------------------------------------------------------------------------------------

    def _tell(self, *packet: object) -> None:
        try:
            self._gate.send(json.dumps(packet).encode())
        except OSError:
            raise _GoneError from None  # so is the server, and the launcher says why

    def _release(self, held: _Held) -> None:
        del self._held[held.token]
        self._tell("release", held.token, self._records_step)

    def _hear(self, seconds: float) -> bool:
        """Take what the server says, for which this waits so long; returns whether it said anything."""
        heard = False
        for descriptor, event in self._poll.poll(seconds * 1000):
            if descriptor not in {self._gate.fileno(), self._line.fileno()}:
                continue
            if event & select.POLLHUP:
                raise _GoneError
            heard = True
            self._take_all(self._gate)
        self._take_all(self._notes)
        return heard

    def _take_all(self, end: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while packet := end.recv(_PACKET_BYTES, socket.MSG_DONTWAIT):
                self._take(*json.loads(packet))

    def _take(self, word: str, *arguments: object) -> None:
        if word == "held":
            token, what, thread, path = arguments
            assert isinstance(token, int)
            assert isinstance(thread, int)
            held = _Held(token, str(what), thread, str(path))
            if held.what == "walk" and not self._programs.program_of(thread):
                # Started by the setup, or by --always: not a program.
                with contextlib.suppress(ProcessLookupError):
                    self._tell("free", os.getsid(thread))
                self._tell("release", token, False)  # noqa: FBT003  a packet
            else:
                self._held[token] = held
        elif word == "asleep":
            token, _thread, timed = arguments
            assert isinstance(token, int)
            self._asleep[token] = bool(timed)
        elif word == "awake":
            token = arguments[0]
            assert isinstance(token, int)
            self._asleep.pop(token, None)
        elif word == "closed":
            self._is_closed = True
        elif word == "recorded":
            footprint, order_is_read = arguments
            assert isinstance(footprint, list)
            self._footprints.append(Footprint.unpacked(footprint))
            assert isinstance(order_is_read, int)
            self._order_is_read |= order_is_read
        elif word == "left":
            (blocks,) = arguments
            assert isinstance(blocks, list)
            self._left.append(dict(blocks))
        elif word == "did":
            self._did.append([str(argument) for argument in arguments])

    # Commands of the user -----------------------------------------------------------------------------------------

    def _command(self, command: str, seconds: float, more: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Run a command that is no program; returns its exit status and the beginning of its standard error."""
        errors = os.memfd_create("standard error")
        try:
            outputs = [] if self._shown else [(os.POSIX_SPAWN_DUP2, self._null, 1), (os.POSIX_SPAWN_DUP2, errors, 2)]
            process = os.posix_spawn(
                _SHELL,
                ["sh", "-c", command],
                os.environ | (more or {}),
                file_actions=[(os.POSIX_SPAWN_DUP2, self._null, 0), *outputs],
                setsigdef=_NOT_IGNORED,
            )
            status = self._wait_for(process, seconds)
            if status is None:
                os.kill(process, signal.SIGKILL)
                self._tell("open")  # what is held may have the lock that it waits for
                os.waitpid(process, 0)
                return _TIMED_OUT, f"it took longer than {seconds:g} seconds".encode()
            return status, os.pread(errors, _STANDARD_ERROR_BYTES, 0)
        finally:
            os.close(errors)

    def _wait_for(self, process: int, seconds: float | None) -> int | None:
        """Wait until a process of ours has ended; returns its exit status, None if that takes longer."""
        ended = os.pidfd_open(process)
        end = None if seconds is None else time.monotonic() + seconds
        self._poll.register(ended, select.POLLIN)
        try:
            while end is None or time.monotonic() < end:
                self._hear(1)
                if select.select([ended], [], [], 0)[0]:
                    return _exit_status(os.waitpid(process, 0)[1])
        finally:
            self._poll.unregister(ended)
            os.close(ended)
        return None

    def _be_shell(self) -> None:
        """Give the user a shell. The programs wait meanwhile."""
        shell = os.environ.get("SHELL") or _SHELL
        self._wait_for(os.posix_spawnp(shell, [shell], os.environ, setsigdef=_NOT_IGNORED), None)


def _guide_for(request: Request) -> Guide:
    if request.sleep is None:
        return Guide(request.schedule, longest=request.longest, loosely=request.loosely)
    sleep = {name: Footprint.unpacked(said) for name, said in request.sleep.items()}
    return SleepingGuide(
        request.schedule,
        longest=request.longest,
        sleep=sleep,
        order_matters=request.order_matters,
        recorded_from=request.recorded_from,
    )


_SECONDS_RUNNING = f"it runs for {DEADLINE_SECONDS:g} seconds"


def _exit_status(status: int) -> int:
    """As a shell says it; `status` is from waitpid(2)."""
    code = os.waitstatus_to_exitcode(status)
    return _SIGNALED - code if code < 0 else code


def _quoted(said: bytes) -> str:
    """The end of what was written to standard error."""
    lines = said.decode("utf-8", "backslashreplace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f": {last}" if last else ""


_LOOKS = frozenset({"ls", "read", "readlink", "open", "stat"})
"""Steps that change nothing."""
_TELLING = ("refused open", "write", "ls", "read", "readlink", "open", "stat")
"""A step is named after the first of these that it did."""


def _step(process: str, command: str, held: _Held, did: Sequence[Sequence[str]]) -> Step:
    """A step, from what the server saw of it."""
    if not did:
        return Step(process, "stat" if held.what == "walk" else held.what, held.path, command=command)
    operation, path, data, result, why, _ = min(did, key=_how_telling)
    changed = tuple(line for done in did for line in done[-1].splitlines())
    path = held.path or path  # as the program names it
    operation = held.what if held.what == "goes on" else operation
    return Step(process, operation, path, data, result, why, changed, command)


def _how_telling(done: Sequence[str]) -> tuple[int, bool]:
    refused = done[0] == "open" and done[3] != "opened"
    return _TELLING.index("refused open" if refused else done[0]), done[3] in {"", "begins"}


def main(line_end: socket.socket, gate: socket.socket) -> NoReturn:
    """Be the command of a run: obey the explorer until it is gone."""
    close_all_but({line_end.fileno(), gate.fileno()})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the explorer decides, and closes the line
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    line = Line(line_end)
    try:
        said = line.hear()
        controller = Controller(Task.of(said), line, gate)
        line.say(READY)
        while True:
            line.say_ran(controller.run(Request(*line.hear())))
    except (EOFError, _GoneError, BrokenPipeError):
        pass
    os._exit(0)
