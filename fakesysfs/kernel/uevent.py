"""Uevents (lib/kobject_uevent.c), recorded as ranges.

Half a million blocks that go online together are one record. A reader expands it. The list of
records is bounded and counts the events that it dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from fakesysfs.ops.sched import WaitQueue

RECORDS = 8192
"""Records (not events) kept."""


class UeventRange(NamedTuple):
    """One event, or the same event of many devices.

    The devices are `devpath` + `first` to `devpath` + `last`, in ascending order; `first` is -1 for
    one event of `devpath` itself. `environment` has the KEY=value lines after ACTION, DEVPATH and
    SUBSYSTEM.
    """

    sequence: int
    action: str
    devpath: str
    subsystem: str
    environment: tuple[str, ...] = ()
    first: int = -1
    last: int = -1

    @property
    def events(self) -> int:
        """How many events the record stands for."""
        return self.last - self.first + 1

    def expand(self, after: int = 0) -> Iterator[tuple[int, list[str]]]:
        """(SEQNUM, ["action@devpath", "ACTION=...", ...]) of each event from `after` on."""
        skip = max(after - self.sequence, 0)
        for number in range(skip, self.events):
            path = f"{self.devpath}{self.first + number}" if self.first >= 0 else self.devpath
            yield (
                self.sequence + number,
                [
                    f"{self.action}@{path}",
                    f"ACTION={self.action}",
                    f"DEVPATH={path}",
                    f"SUBSYSTEM={self.subsystem}",
                    *self.environment,
                ],
            )


class Uevents:
    """The uevents that one kernel sent."""

    def __init__(self, capacity: int = RECORDS) -> None:
        self._records: deque[UeventRange] = deque(maxlen=capacity)
        self.sequence = 1
        """The SEQNUM of the next event."""
        self.arrived = WaitQueue()

    def send(
        self,
        action: str,
        devpath: str,
        subsystem: str,
        environment: tuple[str, ...] = (),
        first: int = -1,
        last: int = -1,
    ) -> None:
        """Send one event, or one for each of the devices `devpath` + first .. `devpath` + last."""
        records = self._records
        if first >= 0 and records and records[-1].first >= 0:
            previous = records[-1]
            if previous.last + 1 == first and previous[1:5] == (action, devpath, subsystem, environment):
                self.sequence += last - first + 1
                records[-1] = previous._replace(last=last)
                self.arrived.wake_all()
                return
        records.append(UeventRange(self.sequence, action, devpath, subsystem, environment, first, last))
        self.sequence += last - first + 1
        self.arrived.wake_all()

    def records(self, after: int = 0) -> list[UeventRange]:
        """The kept records with an event numbered `after` or later."""
        wanted: list[UeventRange] = []
        for record in reversed(self._records):
            if record.sequence + record.events <= after:
                break
            wanted.append(record)
        wanted.reverse()
        return wanted

    def numbered(self, after: int = 0) -> Iterator[tuple[int, list[str]]]:
        """(SEQNUM, text lines) of each event numbered `after` or later, one at a time."""
        for record in self.records(after):
            yield from record.expand(after)

    def since(self, after: int = 0) -> list[list[str]]:
        """The events numbered `after` or later, each as ["action@devpath", "ACTION=...", ...]."""
        return [lines for _, lines in self.numbered(after)]

    @property
    def dropped(self) -> int:
        """How many events are no longer kept."""
        return (self._records[0].sequence if self._records else self.sequence) - 1
