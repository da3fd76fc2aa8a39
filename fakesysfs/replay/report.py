"""The results of a replay, and how they are printed."""

from __future__ import annotations

import collections
import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from fakesysfs.replay.recording import Value


class Kind(enum.Enum):
    """The kinds of verdicts on an operation."""

    REPRODUCED = "reproduced"
    MISMATCH = "mismatch"
    KNOWN = "known"
    """It differs as FORMAT.md says that it must through a mount. It counts as reproduced."""
    NOT_RUN = "not run"
    """Something that it needs is missing here, or an earlier operation of the session was not run. Not counted."""
    TOOL_ABSENT = "tool absent"
    """A tool is not installed, in no version. Not counted."""
    IN_PART = "compared in part"
    """It ran with another version of a tool, which is known to differ in part. Not counted."""
    INFORMATIVE = "informative"
    """There is nothing to compare. Not counted, and not printed."""


_NOT_COMPARED = (Kind.NOT_RUN, Kind.TOOL_ABSENT, Kind.IN_PART)
_EXTRAS = (Kind.KNOWN, *_NOT_COMPARED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one operation. Summaries group by `reason`; `differences` are sentences."""

    kind: Kind
    reason: str = ""
    differences: tuple[str, ...] = ()


REPRODUCED = Verdict(Kind.REPRODUCED)
NOTHING_TO_COMPARE = Verdict(Kind.INFORMATIVE)


def compared(differences: list[str], reason: str = "") -> Verdict:
    """REPRODUCED if there are no differences, else a mismatch."""
    return Verdict(Kind.MISMATCH, reason, tuple(differences)) if differences else REPRODUCED


@dataclass(frozen=True, slots=True)
class Line:
    """One operation in the report: its number or path, a description, and the verdict."""

    place: str
    what: str
    verdict: Verdict


@dataclass(slots=True)
class Report:
    """The report on one session or snapshot."""

    name: str
    lines: list[Line] = field(default_factory=list)

    def add(self, place: object, what: str, verdict: Verdict) -> None:
        """Add one operation."""
        if verdict.kind is not Kind.INFORMATIVE:
            self.lines.append(Line(str(place), what, verdict))

    def count(self, *kinds: Kind) -> int:
        """How many operations have a verdict of one of `kinds`."""
        return sum(line.verdict.kind in kinds for line in self.lines)

    @property
    def reproduced(self) -> int:
        """How many operations count as reproduced."""
        return self.count(Kind.REPRODUCED, Kind.KNOWN)

    @property
    def counted(self) -> int:
        """How many operations count."""
        return self.count(Kind.REPRODUCED, Kind.KNOWN, Kind.MISMATCH)

    def summary(self) -> str:
        """The line of this recording."""
        extras = [f"{self.count(kind)} {kind.value}" for kind in _EXTRAS if self.count(kind)]
        tail = f" ({', '.join(extras)})" if extras else ""
        return f"{self.name}: {self.reproduced} of {self.counted} operations reproduced{tail}"

    def details(self) -> Iterator[str]:
        """Lines for every operation whose verdict is not REPRODUCED."""
        for line in self.lines:
            if line.verdict.kind is not Kind.REPRODUCED:
                reason = f" [{line.verdict.reason}]" if line.verdict.reason else ""
                yield f"  {line.verdict.kind.value} {line.place}{reason}: {line.what}"
                yield from (f"      {difference}" for difference in line.verdict.differences)


def by_kernel(reports: list[Report]) -> Iterator[str]:
    """A line for each kernel."""
    kernels: dict[str, list[Report]] = {}
    for report in reports:
        kernels.setdefault(report.name.removeprefix("snapshot ").partition("/")[0], []).append(report)
    for kernel, its in kernels.items():
        yield f"  {kernel}: {total(its).removeprefix('total: ')}"


def total(reports: list[Report]) -> str:
    """The last line."""
    reproduced = sum(report.reproduced for report in reports)
    counted = sum(report.counted for report in reports)
    extras = [f"{number} {kind.value}" for kind in _EXTRAS if (number := sum(report.count(kind) for report in reports))]
    tail = f" ({', '.join(extras)})" if extras else ""
    return f"total: {reproduced} of {counted} operations reproduced{tail}"


def not_compared(reports: list[Report]) -> Iterator[str]:
    """A line for each reason why operations were not compared, or only in part, with their number."""
    reasons = collections.Counter(
        (line.verdict.kind, line.verdict.reason)
        for report in reports
        for line in report.lines
        if line.verdict.kind in _NOT_COMPARED
    )
    for (kind, reason), number in sorted(reasons.items(), key=lambda item: (item[0][0].value, item[0][1])):
        operations = "1 operation" if number == 1 else f"{number} operations"
        why = f"without {reason}" if kind is Kind.IN_PART else f"({reason})"
        yield f"{kind.value}: {operations} {why}"


def groups(reports: list[Report]) -> Iterator[str]:
    """A line for each reason of mismatches, with their number."""
    reasons = collections.Counter(
        line.verdict.reason or "differs"
        for report in reports
        for line in report.lines
        if line.verdict.kind is Kind.MISMATCH
    )
    for reason, number in reasons.most_common():
        yield f"  {number} mismatches: {reason}"


_SHOWN = 300


def brief(value: Value) -> str:
    """A value on one line of at most 300 characters."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}... ({len(text)} characters)"


def difference(what: str, expected: Value, got: Value) -> list[str]:
    """One line if the two differ. Of lists it shows the first difference."""
    if expected == got:
        return []
    if isinstance(expected, list) and isinstance(got, list):
        same = 0
        for left, right in zip(expected, got, strict=False):
            if left != right:
                break
            same += 1
        left, right = brief(expected[same : same + 3]), brief(got[same : same + 3])
        parted = f"{what}, {same} of {len(expected)} as expected"
        return [f"{parted}, then expected {left}, got {right} ({len(got)} in all)"]
    return [f"{what}: expected {brief(expected)}, got {brief(got)}"]
