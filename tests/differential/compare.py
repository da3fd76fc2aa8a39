"""A sequence on the kernel and on the model: the kernel's answers are a recording, which the model replays.

So the differential compares what `fakesysfs replay` compares, under the same normalisations, and a difference is a
recording at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fakesysfs.lab import guest
from fakesysfs.lab.archive import LabError
from fakesysfs.lab.images import KernelImage
from fakesysfs.lab.machines import GUESTS
from fakesysfs.replay import record
from fakesysfs.replay.kernel_target import KernelTarget
from fakesysfs.replay.model_target import ModelTarget, boot, machine_and_kernel
from fakesysfs.replay.player import describe, replay
from fakesysfs.replay.recording import Operation, Session
from fakesysfs.replay.report import Kind, Line, Report, Verdict
from fakesysfs.replay.target import BlockedError
from tests.differential.draw import Step, line


class DeadError(Exception):
    """The guest has died, or its agent sleeps in a system call that no signal ends."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A sequence that ran on both."""

    steps: Sequence[Step]
    lines: list[Operation]
    """The recording, with its header."""
    report: Report

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
        number = int(first.place.removeprefix("i=")) if first is not None and first.place.startswith("i=") else 0
        ends = 0
        for index, step in enumerate(self.steps, 1):
            ends += len(step.operations)
            if number <= ends:
                at = number - (ends - len(step.probes))
                probes = step.probes[at - 1 : at] if at > 0 else ()
                return [*(Step(before.acts) for before in self.steps[: index - 1]), Step(step.acts, probes)]
        return self.steps


def acts(steps: Sequence[Step]) -> int:
    """How many operations a sequence has. The last step only compares."""
    return sum(len(step.acts) for step in steps[:-1])


def signature(line: Line) -> str:
    """What two differences with the same cause have in common: no numbers, no values."""
    first = line.verdict.differences[0] if line.verdict.differences else line.verdict.reason
    return re.sub(r"\d+", "N", f"{line.what[:120]} | {first[:160]}")


def run(steps: Sequence[Step], name: str, variant: str, image: KernelImage) -> Compared:
    """Run a sequence on both. Raises LabError if the guest does not start, DeadError if it dies."""
    return compared(steps, *answers(steps, name, variant, image))


def answers(steps: Sequence[Step], name: str, variant: str, image: KernelImage) -> tuple[list[Operation], str | None]:
    """Run a sequence on the kernel: the recording, and what its last operation waits for, or None.

    Raises LabError if the guest does not start, DeadError if it dies.
    """
    operations = [operation for step in steps for operation in step.operations]
    lines: list[Operation] = []
    blocked = None
    with guest.boot(GUESTS[variant], image) as booted:
        try:
            target = KernelTarget(booted.agent)
            lines.append(record.header(name, booted, target))
            lines.extend(record.Recorder(target).record(operations))
        except BlockedError as error:
            blocked = str(error)
        except LabError as error:
            at = line(operations[max(0, len(lines) - 1)])
            raise DeadError(f"{at[:200]}: {error}; {booted.console[-2000:]}") from error
    return lines, blocked


def compared(steps: Sequence[Step], lines: list[Operation], blocked: str | None) -> Compared:
    """Run a sequence on the model too.

    A system call that does not return on the kernel is a difference: on the model it has not waited.
    """
    report = replayed(lines)
    if blocked is not None:
        add_blocked(report, lines, [operation for step in steps for operation in step.operations], blocked)
    return Compared(steps, lines, report)


def add_blocked(report: Report, lines: Sequence[Operation], operations: Sequence[Operation], reason: str) -> None:
    """Add the operation after those of the recording `lines`, which does not return on the kernel, as a difference."""
    number = len(lines)  # of the operations, from 1 on: the first line is the header
    report.add(f"i={number}", describe(operations[number - 1]), Verdict(Kind.MISMATCH, "blocks", (reason,)))


def replayed(lines: list[Operation]) -> Report:
    """The replay of a recording on the model."""
    session = Session(Path("differential"), lines[0], lines[1:])
    target = ModelTarget(boot(machine_and_kernel(lines[0]["profile"], lines[0]["variant"])))
    try:
        return replay(session, target, None)
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
