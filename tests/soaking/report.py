"""What a soak counts, and the table at its end."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from fakesysfs.ops.errors import NAMES

SHOWN = 20
"""Failures of one kind that are kept as text; all are counted."""

FAILURES = ("wrong", "error", "leak")


@dataclass
class Tally:
    """The figures of one kind of attack. Rounds run in processes of their own and send theirs."""

    kind: str
    rounds: int = 0
    operations: int = 0
    refused: int = 0
    """Operations that failed with an errno that the kernel may give there."""
    failed: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_operation: str = ""
    times: list[float] = field(default_factory=list)
    """Of the operations whose 99th percentile is printed."""
    said: list[str] = field(default_factory=list)

    def fail(self, failure: str, text: str) -> None:
        """Count a failure: a wrong answer, an error or a leak. The text says what was expected."""
        assert failure in FAILURES
        self.failed[failure] += 1
        if len(self.said) < SHOWN:
            self.said.append(f"{self.kind}: {failure}: {text}")

    def expect(self, holds: object, text: str) -> None:
        """Count a wrong answer unless `holds`."""
        if not holds:
            self.fail("wrong", text)

    @contextlib.contextmanager
    def operation(self, what: str, *allowed: int, keep: bool = False) -> Iterator[None]:
        """Count and time one operation, which may fail with the errnos `allowed`.

        Such a refusal, and any other OSError, which is an error, ends the block.
        """
        start = time.monotonic()
        try:
            yield
        except OSError as error:
            if error.errno in allowed:
                self.refused += 1
            else:
                names = ", ".join(NAMES[number] for number in allowed) or "no error"
                got = NAMES.get(error.errno or 0, str(error.errno))
                self.fail("error", f"{what}: {got}, expected success or {names}")
        passed = time.monotonic() - start
        self.operations += 1
        if passed > self.slowest:
            self.slowest, self.slowest_operation = passed, what
        if keep:
            self.times.append(passed)

    def add(self, other: Tally) -> None:
        """Add the figures of another one of the same kind."""
        self.rounds += other.rounds
        self.operations += other.operations
        self.refused += other.refused
        self.failed += other.failed
        if other.slowest > self.slowest:
            self.slowest, self.slowest_operation = other.slowest, other.slowest_operation
        self.times += other.times
        self.said += other.said[: SHOWN - len(self.said)]

    def p99(self) -> float | None:
        """The 99th percentile of `times`."""
        return sorted(self.times)[len(self.times) * 99 // 100] if self.times else None


def added(tallies: Iterable[Tally]) -> dict[str, Tally]:
    """One tally for each kind."""
    sums: dict[str, Tally] = {}
    for tally in tallies:
        sums.setdefault(tally.kind, Tally(tally.kind)).add(tally)
    return sums


def failures(tallies: Collection[Tally]) -> int:
    """How many there were."""
    return sum(tally.failed.total() for tally in tallies)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:,.1f} ms"


COLUMNS = ("rounds", "operations", "refused", "wrong", "errors", "leaks", "slowest", "p99")


def table(tallies: Iterable[Tally]) -> str:
    """A line for each kind of attack."""
    lines = [f"{'kind':24}" + "".join(f"{name:>13}" for name in COLUMNS)]
    for tally in sorted(tallies, key=lambda tally: tally.kind):
        counts = (tally.rounds, tally.operations, tally.refused)
        failed = (tally.failed[failure] for failure in FAILURES)
        cells = [*(f"{count:,}" for count in (*counts, *failed)), _seconds(tally.slowest)]
        cells.append(_seconds(tally.p99()))
        line = f"{tally.kind:24}" + "".join(f"{cell:>13}" for cell in cells)
        lines.append(f"{line}  {tally.slowest_operation}".rstrip())
    return "\n".join(lines)
