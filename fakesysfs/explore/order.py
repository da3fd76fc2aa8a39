"""Steps, orders, and the guide that decides which process takes the next step.

A program is named by a letter: A, B, ... Its processes are named in the order of their forks: the
first has the program's name, the others A.1, A.2, ... A schedule is the names of the processes in
the order of their steps, such as "A A B A.1".
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from fakesysfs.ops.footprint import Footprint


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a process: one system call on the fake, or a part of one."""

    process: str
    """The process's name: A, A.1, B."""
    operation: str
    """`write`, `read`, `ls`, `exists`, `stat`; `goes on` is a system call that another step began."""
    path: str = ""
    data: str = ""
    """What was written."""
    result: str = ""
    """In words: `8 bytes`, `EBUSY`, `absent`."""
    why: str = ""
    """The kernel's reason, if it refused."""
    changed: tuple[str, ...] = ()
    """What it changed. Only the steps of a reported order have it."""
    command: str = ""
    """The command of the process, where it is known."""

    @property
    def program(self) -> str:
        """The program's name."""
        return program_of(self.process)

    @property
    def what(self) -> str:
        """The step without its result."""
        return " ".join(filter(None, (f"{self.process}:", self.operation, self.data, self.path)))

    def is_same(self, other: Step) -> bool:
        """Whether a repetition of this step did the same."""
        return replace(self, changed=(), why="", command="") == replace(other, changed=(), why="", command="")

    def __str__(self) -> str:
        return f"{self.what}: {self.result}" if self.result else self.what


def program_name(number: int) -> str:
    """The name of a program by its place on the command line, from 0: A to Z, then AA, AB, ..."""
    letters = string.ascii_uppercase
    name = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, len(letters))
        name = letters[digit] + name
    return name


def program_of(process: str) -> str:
    """The program to which a process belongs."""
    return process.partition(".")[0]


@lru_cache(maxsize=1024)
def in_order(process: str) -> tuple[int, str, int]:
    """The sort key of a process: by program, then by the order of forks."""
    program, _, number = process.partition(".")
    return len(program), program, int(number or 0)


class DivergedError(Exception):
    """The programs did not do again what they did before, so an order could not be repeated.

    `position` counts the steps before the one that differs.
    """

    def __init__(self, position: int, expected: str, found: str) -> None:
        super().__init__(f"step {position + 1} should be {expected}, and is {found}")
        self.position = position
        self.expected = expected
        self.found = found


class AsleepError(Exception):
    """Each process that could go on sleeps: the rest of this order is explored elsewhere."""


class TooLongError(Exception):
    """An order has more steps than the search allows."""


@dataclass(slots=True)
class Order:
    """One order that was run: its steps, and how it ended."""

    steps: list[Step] = field(default_factory=list)
    runnable: list[tuple[str, ...]] = field(default_factory=list)
    """For each step the processes that could have taken it."""
    why: str | None = None
    """Why the order fails; None if it does not."""
    kind: str = ""
    """The kind of failure: orders of one kind are reported once."""
    footprints: list[Footprint | None] = field(default_factory=list)
    """What each step read and changed, where that is known."""
    order_is_read: int = 0
    """Of what a program or the check has read the order: messages, uevents, refused calls. Bits of ops/footprint.py."""
    asleep: bool = False
    """The order was given up: an order with the same outcome is explored elsewhere."""
    diverged: str = ""
    """Why the order could not be repeated."""
    too_long: bool = False
    """The order was given up, because it has too many steps."""

    @property
    def schedule(self) -> tuple[str, ...]:
        """The names of the processes in the order of their steps."""
        return tuple(step.process for step in self.steps)

    @property
    def preemptions(self) -> int:
        """How often another program went on although the last one could have."""
        return sum(
            is_preemption(last.process, step.process, runnable)
            for last, step, runnable in zip(self.steps, self.steps[1:], self.runnable[1:], strict=False)
        )

    @property
    def switches(self) -> int:
        """How often another program went on."""
        return sum(last.program != step.program for last, step in zip(self.steps, self.steps[1:], strict=False))

    @property
    def length(self) -> tuple[int, int, int]:
        """The less the better: preemptions, switches, steps."""
        return self.preemptions, self.switches, len(self.steps)


def is_preemption(last: str, chosen: str, runnable: Sequence[str]) -> bool:
    """Whether another program than that of `last`, which took the step before, goes on although that one could."""
    program = program_of(last)
    return program_of(chosen) != program and any(program_of(name) == program for name in runnable)


class Guide:
    """Decides who takes the next step of one order, and writes the order down.

    It follows `schedule`. After the end of that the last process goes on as long as it can, then others
    of its program, and then the first that can. `expected` are the steps that the schedule's processes took before: a
    step that differs raises DivergedError. With `loosely` the guide skips the names in `schedule`
    that cannot go on. An order of more than `longest` steps raises TooLongError.
    """

    def __init__(
        self,
        schedule: Sequence[str] = (),
        *,
        expected: Sequence[Step] = (),
        longest: int | None = None,
        loosely: bool = False,
    ) -> None:
        self.order = Order()
        self.recorded_from = 0
        """The footprints of the steps before this one, counted from 0, are not asked for."""
        self.schedule = schedule
        self.expected = expected
        self.longest = longest
        self.loosely = loosely
        self._followed = 0

    def choose(self, runnable: Sequence[str]) -> str:
        """Which of the processes takes the next step. Raises DivergedError, TooLongError."""
        runnable = tuple(runnable if len(runnable) == 1 else sorted(runnable, key=in_order))
        position = len(self.order.steps)
        if position == self.longest:
            raise TooLongError
        chosen = self._scheduled(runnable)
        if chosen is None:
            chosen = self._unscheduled(runnable)
        elif chosen not in runnable:
            raise DivergedError(position, f"one of {chosen}", f"one of {', '.join(runnable)}")
        self.order.runnable.append(runnable)
        return chosen

    def _scheduled(self, runnable: Sequence[str]) -> str | None:
        while self._followed < len(self.schedule):
            self._followed += 1
            name = self.schedule[self._followed - 1]
            if not self.loosely or name in runnable:
                return name
        return None

    def _unscheduled(self, runnable: Sequence[str]) -> str:
        """After the end of the schedule."""
        last = self.order.steps[-1].process if self.order.steps else ""
        if last in runnable:
            return last
        program = program_of(last)
        return next((name for name in runnable if program_of(name) == program), runnable[0])

    def repeat(self, order: Order, steps: int) -> None:
        """The first steps of `order`, which the schedule begins with, were taken again, and were the same."""
        self.order.steps += order.steps[:steps]
        self.order.runnable += order.runnable[:steps]
        self.order.footprints += order.footprints[:steps]
        self._followed = steps

    def took(self, step: Step, footprint: Footprint | None = None) -> None:
        """The chosen process took this step, with this footprint. Raises DivergedError."""
        position = len(self.order.steps)
        self.order.steps.append(step)
        self.order.footprints.append(footprint)
        if position < len(self.expected) and not self.expected[position].is_same(step):
            raise DivergedError(position, f'"{self.expected[position]}"', f'"{step}"')

    def ended(self) -> None:
        """No process can go on. Raises DivergedError if the schedule is longer."""
        if not self.loosely and self._followed < len(self.schedule):
            raise DivergedError(
                len(self.order.steps), f"one of {self.schedule[self._followed]}", "missing: all processes have ended"
            )
