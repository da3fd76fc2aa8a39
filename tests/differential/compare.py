"""A sequence on the kernel and on the model: the kernel's answers are a recording, which the model replays.

So the differential compares what `fakesysfs replay` compares, under the same normalisations, and a difference is a
recording at once.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fakesysfs.lab import guest
from fakesysfs.lab.agent import Agent, Result, call
from fakesysfs.lab.archive import LabError
from fakesysfs.lab.images import KernelImage
from fakesysfs.lab.machines import GUESTS
from fakesysfs.replay import record
from fakesysfs.replay.changed_files import FIXED
from fakesysfs.replay.kernel_target import PATIENCE_SECONDS, KernelTarget
from fakesysfs.replay.model_target import ModelTarget, boot, machine_and_kernel, with_memdevs
from fakesysfs.replay.player import describe, replay
from fakesysfs.replay.recording import MEMDEVS, Operation, Session
from fakesysfs.replay.report import Kind, Line, Report, Verdict
from fakesysfs.replay.target import BlockedError, Target
from tests.differential import draw_cxl
from tests.differential.draw import Step, line
from tests.differential.draw_cxl import Renaming, names_by_address


class DeadError(Exception):
    """The guest has died, or its agent sleeps in a system call that no signal ends."""


@dataclass(frozen=True, slots=True)
class Answers:
    """A sequence that ran on the kernel."""

    lines: list[Operation]
    """The recording, with its header."""
    starts: Sequence[int]
    """The number of the first line of each step: a line `changes` becomes many."""
    blocked: tuple[Operation, str] | None = None
    """The last operation, if it did not return, and what it waits for."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A sequence that ran on both."""

    steps: Sequence[Step]
    answers: Answers
    report: Report

    @property
    def lines(self) -> list[Operation]:
        """The recording, with its header."""
        return self.answers.lines

    @property
    def acts(self) -> int:
        """How many operations were drawn."""
        return acts(self.steps)

    @property
    def first(self) -> Line | None:
        """The first difference."""
        return next((line for line in self.report.lines if line.verdict.kind is Kind.MISMATCH), None)

    @property
    def others(self) -> list[Line]:
        """The differences after the first one, which may follow from it."""
        return [line for line in self.report.lines if line.verdict.kind is Kind.MISMATCH][1:]

    @property
    def until_first(self) -> Sequence[Step]:
        """The operations up to that of the first difference, and of the probes only the one that showed it."""
        first = self.first
        if first is None or not first.place.startswith("i="):
            return self.steps
        number = int(first.place.removeprefix("i="))
        index = sum(start <= number for start in self.answers.starts) - 1
        step = self.steps[index]
        at = number - self.answers.starts[index] - len(step.acts)
        if at < 0:
            probes: tuple[Operation, ...] = ()
        elif CHANGES in step.probes:
            probes = step.probes
        else:
            probes = step.probes[at : at + 1]
        return [*(Step(before.acts) for before in self.steps[:index]), Step(step.acts, probes)]


CHANGES: Operation = {"op": "changes"}


def acts(steps: Sequence[Step]) -> int:
    """How many operations a sequence has. The last step only compares; `collect` only waits."""
    return sum(act["op"] != "collect" for step in steps[:-1] for act in step.acts)


def signature(line: Line) -> str:
    """What two differences with the same cause have in common: no numbers, no values."""
    first = line.verdict.differences[0] if line.verdict.differences else line.verdict.reason
    return re.sub(r"\d+", "N", f"{line.what[:120]} | {first[:160]}")


def run(steps: Sequence[Step], name: str, variant: str, image: KernelImage) -> Compared:
    """Run a sequence on both. Raises LabError if the guest does not start, DeadError if it dies."""
    return compared(steps, answers(steps, name, variant, image))


def answers(steps: Sequence[Step], name: str, variant: str, image: KernelImage) -> Answers:
    """Run a sequence on the kernel. Raises LabError if the guest does not start, DeadError if it dies."""
    with guest.boot(GUESTS[variant], image) as booted:
        acting = Acting(steps, variant)
        try:
            target = SettledTarget(booted.agent, image) if variant in draw_cxl.GUESTS else KernelTarget(booted.agent)
            acting.act(target, record.header(name, booted, target))
        except BlockedError as error:
            return Answers(acting.lines, acting.starts, (acting.last, str(error)))
        except LabError as error:
            raise DeadError(f"{line(acting.last)[:200]}: {error}; {booted.console[-2000:]}") from error
    return Answers(acting.lines, acting.starts)


class Acting:
    """A sequence, while a machine answers it."""

    def __init__(self, steps: Sequence[Step], variant: str) -> None:
        self._steps = steps
        self._variant = variant
        self.lines: list[Operation] = []
        """The recording so far, with its header."""
        self.starts: list[int] = []
        """The number of the first line of each step so far."""
        self.last: Operation = {"op": "note", "text": "the start of the guest"}
        """The operation that was asked for last."""

    def act(self, target: Target, header: Operation) -> None:
        """Have `target` answer. What it has answered when this raises is in `lines`."""
        self.lines.append(header)
        for recorded in record.Recorder(target, FIXED).record(self._operations(target)):
            self.lines.append(recorded)

    def _operations(self, target: Target) -> Iterator[Operation]:
        """The first step of a sequence of CXL loads the modules. From then on the devices have their numbers."""
        renaming: Renaming | None = None
        for step in self._steps:
            self.starts.append(len(self.lines))
            for operation in step.operations:
                self.last = operation if renaming is None else renaming.operation(operation)
                yield self.last
            if renaming is None and self._variant in draw_cxl.GUESTS:
                self.lines[0] |= record.memdevs(target)
                renaming = Renaming(_drawn_names(self._variant), names_by_address(target))


def _drawn_names(variant: str) -> dict[str, str]:
    """The names of the devices of the machine on which sequences are drawn."""
    target = ModelTarget(boot(machine_and_kernel("7.3-cxl", variant)))
    try:
        target.sh(draw_cxl.LOAD_ALL, None)
        target.await_quiet()
        return names_by_address(target)
    finally:
        target.end()


class SettledTarget(KernelTarget):
    """A guest that waits for the kernel's work in the background, not for some seconds without a uevent."""

    def __init__(self, agent: Agent, image: KernelImage) -> None:
        super().__init__(agent)
        self._module = f"/lib/modules/{image.release}/kernel/lib/notifier-error-inject.ko"

    def await_quiet(self) -> None:
        """See Target.

        The file flush waits for the work queue of the CXL bus, the load of any module for all asynchronous probes.
        """
        calls = [
            call("open", self._module, os.O_RDONLY),
            call("finit_module", Result(0), "", 0),
            call("close", Result(0)),
            call("delete_module", "notifier_error_inject", 0),
        ]
        self.write_file(_FLUSH, b"1", os.O_WRONLY)
        self.agent.run(calls, PATIENCE_SECONDS)
        self.write_file(_FLUSH, b"1", os.O_WRONLY)
        self._receive()


_FLUSH = "/sys/bus/cxl/flush"


def compared(steps: Sequence[Step], found: Answers) -> Compared:
    """Run a sequence on the model too.

    A system call that does not return on the kernel is a difference: on the model it has not waited.
    """
    report = replayed(found.lines)
    if found.blocked is not None:
        add_blocked(report, len(found.lines), *found.blocked)
    return Compared(steps, found, report)


def add_blocked(report: Report, number: int, operation: Operation, reason: str) -> None:
    """Add the operation of a number, which does not return on the kernel, as a difference."""
    report.add(f"i={number}", describe(operation), Verdict(Kind.MISMATCH, "blocks", (reason,)))


def replayed(lines: list[Operation]) -> Report:
    """The replay of a recording on the model."""
    header, *operations = lines
    fake = machine_and_kernel(header["profile"], header["variant"])
    with tempfile.TemporaryDirectory(prefix="fakesysfs-differential.") as folder:
        if MEMDEVS in header:
            machine = with_memdevs(fake.machine, header[MEMDEVS], operations, Path(folder))
            fake = fake._replace(machine=machine)
        target = ModelTarget(boot(fake))
    try:
        return replay(Session(Path("differential"), header, operations), target, None)
    finally:
        target.end()


def shortest(steps: Sequence[Step], differs: Callable[[Sequence[Step]], bool], attempts: int) -> Sequence[Step]:
    """A part of a sequence that still differs, from which no chunk can be left out (delta debugging).

    The last step stays: there the difference shows. `attempts` bounds how often `differs` is called.
    """
    *kept, last = steps
    size = max(1, len(kept) // 2)
    while kept and attempts:
        start = 0
        shrunk = False
        while start < len(kept) and attempts:
            without = kept[:start] + kept[start + size :]
            attempts -= 1
            if differs([*without, last]):
                kept, shrunk = without, True
            else:
                start += size
        if size == 1 and not shrunk:
            break
        size = max(1, size // 2)
    return [*kept, last]
