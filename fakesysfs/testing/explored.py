"""What `explore` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from fakesysfs.explore.order import Step

__tracebackhide__ = True  # of assert_ok


@dataclass(frozen=True, slots=True)
class Failure:
    """An order that fails."""

    schedule: str
    """Who takes each step: `A B A`. `explore(..., schedule=...)` runs it again."""
    steps: tuple[Step, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Exploration:
    """What `explore` has found."""

    explored: int
    """Orders that were run to their end, each once."""
    cut: int
    """Orders that were begun, and not run to their end.

    The rest of such an order is explored elsewhere; or it is too long, or differs when repeated, and
    then the search is not complete.
    """
    failed: int
    """Explored orders that fail."""
    complete: bool
    """Whether all orders were explored, or with reduction one of each that have the same outcome."""
    conflicts: int
    """Pairs of steps of two programs that were seen to conflict; 0 without reduction."""
    conflicts_both_ways: int
    """Those that were seen in both orders. The programs may allow one only."""
    preemptions: int | None
    """The bound on preemptions; None if there was no bound."""
    seconds: float
    """How long the search took."""
    failures: list[Failure] = field(repr=False)
    """Failing orders, the shortest first; not all of them if there are many."""
    text: str = field(repr=False)
    """The report."""

    def __str__(self) -> str:
        return self.text

    def assert_ok(self) -> None:
        """Raise AssertionError with the report if any order fails.

        A search that a limit has cut short may have missed some: `complete` says so.
        """
        if self.failed:
            raise AssertionError(self.text)
