"""The results of a replay, and how they are printed."""

from __future__ import annotations

import collections
import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from fakesysfs.kernel.profile import PROFILES
from fakesysfs.replay.recording import Value


class Kind(enum.Enum):
    """The kinds of verdicts on an operation."""

    REPRODUCED = "reproduced"
    MISMATCH = "mismatch"
    KNOWN = "known"
    """It differs as FORMAT.md says that it must: through a mount, or where cxl asks a device. Counts as reproduced."""
    NOT_RUN = "not run"
    """Something is missing here that it, or an operation before it, needs. Not counted."""
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
    unit: str = "operations"
    """What is counted: `operations` of a session, `paths` of a snapshot."""
    lines: list[Line] = field(default_factory=list)

    def add(self, place: object, what: str, verdict: Verdict) -> None:
        """Add one operation."""
        if verdict.kind is not Kind.INFORMATIVE:
            self.lines.append(Line(str(place), what, verdict))

    def count(self, *kinds: Kind) -> int:
        """How many operations have a verdict of one of `kinds`."""
        return sum(line.verdict.kind in kinds for line in self.lines)

    @property
    def kernel(self) -> str:
        """The kernel that was recorded, as in the name."""
        return self.name.removeprefix("snapshot ").partition("/")[0]

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
        return f"{self.name}: {_sum([self], self.unit)}"

    def details(self) -> Iterator[str]:
        """Lines for every operation whose verdict is not REPRODUCED."""
        for line in self.lines:
            if line.verdict.kind is not Kind.REPRODUCED:
                reason = f" [{line.verdict.reason}]" if line.verdict.reason else ""
                yield f"  {line.verdict.kind.value} {line.place}{reason}: {line.what}"
                yield from (f"      {difference}" for difference in line.verdict.differences)


def by_kernel(reports: list[Report]) -> Iterator[str]:
    """A line for what is counted of each kernel."""
    kernels: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        kernels.setdefault((report.kernel, report.unit), []).append(report)
    for (kernel, unit), its in kernels.items():
        yield f"  {kernel}: {_sum(its, unit)}"


def totals(reports: list[Report]) -> Iterator[str]:
    """The last lines. Paths, recorded operations and specified operations are counted apart.

    The very last one has all operations, or the paths where nothing but snapshots was replayed.
    """
    snapshots = [report for report in reports if report.unit == "paths"]
    sessions = [report for report in reports if report.unit != "paths"]
    specified = [report for report in sessions if is_specified(report.kernel)]
    recorded = [report for report in sessions if not is_specified(report.kernel)]
    if sessions and snapshots:
        yield f"snapshots: {_sum(snapshots, 'paths')}"
    if recorded and specified:
        yield f"recorded: {_sum(recorded, 'operations')}"
        yield f"specified: {_sum(specified, 'operations')}"
    yield f"total: {_sum(sessions, 'operations') if sessions or not snapshots else _sum(snapshots, 'paths')}"


def is_specified(kernel: str) -> bool:
    """Whether the answers of a kernel follow from a text: no kernel gave them."""
    return kernel in PROFILES and PROFILES[kernel].evidence == "specification"


def _sum(reports: list[Report], unit: str) -> str:
    reproduced = sum(report.reproduced for report in reports)
    counted = sum(report.counted for report in reports)
    extras = [f"{number} {kind.value}" for kind in _EXTRAS if (number := sum(report.count(kind) for report in reports))]
    tail = f" ({', '.join(extras)})" if extras else ""
    return f"{reproduced} of {counted} {unit} reproduced{tail}"


def not_compared(reports: list[Report]) -> Iterator[str]:
    """A line for each reason why operations were not compared, or only in part."""
    reasons = collections.Counter(
        (line.verdict.kind, line.verdict.reason, report.unit)
        for report in reports
        for line in report.lines
        if line.verdict.kind in _NOT_COMPARED
    )
    for (kind, reason, unit), number in sorted(reasons.items(), key=lambda item: (item[0][0].value, *item[0][1:])):
        operations = f"{number} {unit.removesuffix('s') if number == 1 else unit}"
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
