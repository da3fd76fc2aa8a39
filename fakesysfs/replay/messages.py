"""Comparing what arrived: log lines and uevents, across the lines of a session.

The recorder drained both after each operation. Only where several background writes end together does it hang on its
timing which end a message was noted at; so a row of such lines is compared as one stream (`Stream`).
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
"""Kinds of operations in a row of which messages may be noted at one or the other."""

_BURST = re.compile(r"<4>(?:migrating pfn |page dumped because: migration failure)")
_LEAK_WITH_FREED_NAME = "<4>Hotplug memory regions stuck online until reboot"


@dataclass(slots=True)
class Stream:
    """Messages of one kind: what is still expected and what has come too early."""

    name: str
    expected: list[Any] = field(default_factory=list)
    got: list[Any] = field(default_factory=list)

    def compare(self, expected: list[Any], got: list[Any], *, last: bool) -> list[str]:
        """Differences up to here; `last` says that no later line may make up for one."""
        self.expected += expected
        self.got += got
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
    """The messages of one session. `leak_frees_name` is the kernel's (profile): see Context.names_freed."""

    context: Context
    leak_frees_name: bool
    dmesg: Stream = field(default_factory=lambda: Stream("dmesg"))
    uevents: Stream = field(default_factory=lambda: Stream("uevents"))
    burst_seen: bool = False
    burst_early: bool = False

    def compare(self, operation: Operation, got: Messages, *, last: bool = True) -> list[str]:
        """Differences of one operation that drained."""
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
            )
        )

    def observe(self, operation: Operation) -> None:
        """Remember what the log of an operation says of the rest of the session."""
        if self.leak_frees_name and _LEAK_WITH_FREED_NAME in operation.get("dmesg", []):
            self.context.names_freed = True

    def _bursts(self, expected: list[str], got: list[str], *, last: bool) -> list[str]:
        """Reports of pages that cannot be migrated repeat for ever: where there were some, ours must have come once.

        In a row of lines that is one stream they may come before the line that has them.
        """
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
