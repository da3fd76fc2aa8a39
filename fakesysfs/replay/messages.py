"""Comparing messages: log lines and uevents, across the lines of a session.

The recorder drained both after each operation. Where several background writes end together, its
timing decided which of them got a message. So consecutive `async_end` lines are compared as one
stream (`Stream`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from fakesysfs.replay.normalise import Context, normalise
from fakesysfs.replay.recording import Operation
from fakesysfs.replay.report import difference
from fakesysfs.replay.target import Messages

ENDS_TOGETHER = frozenset({"async_end"})
"""Kinds of operations that share one stream where they follow each other."""

_BURST = re.compile(r"<4>(?:migrating pfn |page dumped because: migration failure)")
_LEAK_WITH_FREED_NAME = "<4>Hotplug memory regions stuck online until reboot"


@dataclass(slots=True)
class Stream:
    """Messages of one kind: those still expected, and those that came early."""

    name: str
    expected: list[Any] = field(default_factory=list)
    got: list[Any] = field(default_factory=list)

    def compare(self, expected: list[Any], got: list[Any], *, last: bool, ordered: bool = True) -> list[str]:
        """Differences so far. `last`: no later line of the session belongs to this stream.

        `ordered`: the messages come in this order.
        """
        self.expected += expected
        self.got += got
        if not ordered:
            if not last:
                return []
            if sorted(self.expected) == sorted(self.got):
                self.expected, self.got = [], []
        same = 0
        while same < len(self.expected) and same < len(self.got) and self.expected[same] == self.got[same]:
            same += 1
        rest_expected, rest_got = self.expected[same:], self.got[same:]
        if last or (rest_expected and rest_got):
            differences = difference(self.name, self.expected, self.got)
            self.expected, self.got = [], []
            return differences
        self.expected, self.got = rest_expected, rest_got
        return []


@dataclass(slots=True)
class Comparison:
    """The messages of one session.

    `leak_frees_name` is the field of the kernel's profile (Context.names_freed).
    """

    context: Context
    leak_frees_name: bool
    bursts_compared: bool = True
    """Whether reports of pages that cannot be migrated are compared. A real kernel limits their rate."""
    dmesg: Stream = field(default_factory=lambda: Stream("dmesg"))
    uevents: Stream = field(default_factory=lambda: Stream("uevents"))
    burst_seen: bool = False
    burst_early: bool = False

    def compare(self, operation: Operation, got: Messages, *, last: bool = True, ordered: bool = True) -> list[str]:
        """Differences of one operation after which the recorder drained.

        `ordered`: uevents come in the recorded order. On a real kernel those of writers that end
        together do not: which of them gets the lock first depends on time.
        """
        expected_log: list[str] = operation.get("dmesg", [])
        self.observe(operation)
        return (
            self._bursts(expected_log, got.dmesg, last=last)
            + self.dmesg.compare(
                normalise("dmesg", expected_log, self.context), normalise("dmesg", got.dmesg, self.context), last=last
            )
            + self.uevents.compare(
                normalise("uevents", operation.get("uevents", []), self.context),
                normalise("uevents", got.uevents, self.context),
                last=last,
                ordered=ordered,
            )
        )

    def observe(self, operation: Operation) -> None:
        """Note what the log of an operation changes for the rest of the session."""
        if self.leak_frees_name and _LEAK_WITH_FREED_NAME in operation.get("dmesg", []):
            self.context.names_freed = True

    def _bursts(self, expected: list[str], got: list[str], *, last: bool) -> list[str]:
        """Compare reports of pages that cannot be migrated.

        The kernel repeats them without end. Where the recording has any, at least one must come.
        In a stream of several lines it may come before the line that recorded it.
        """
        if not self.bursts_compared:
            return []
        wanted = any(_BURST.match(line) for line in expected)
        came = any(_BURST.match(line) for line in got)
        self.burst_seen |= came
        early = not wanted and (came or self.burst_early)
        self.burst_early = early and not last
        if wanted and not self.burst_seen:
            return ["dmesg: expected reports of pages that cannot be migrated, got none"]
        if early and last:
            return ["dmesg: expected no reports of pages that cannot be migrated, got some"]
        return []
