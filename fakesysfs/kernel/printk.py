"""The kernel log (kernel/printk/printk.c): a bounded list of messages, each with a level.

Differs knowingly: only the modelled code logs messages. Of the dump of a page only the last line
exists, `page dumped because: ...`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from fakesysfs.ops.sched import WaitQueue

EMERG, ALERT, CRIT, ERR, WARNING, NOTICE, INFO, DEBUG = range(8)

LOG_RECORDS = 4096
"""How many messages are kept. Older ones are dropped and counted."""


class Record(NamedTuple):
    """One message. `sequence` counts from 0 without gaps, `seconds` is the time since boot."""

    sequence: int
    seconds: float
    level: int
    text: str


class Printk:
    """The log of one kernel."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0, capacity: int = LOG_RECORDS) -> None:
        self._records: deque[Record] = deque(maxlen=capacity)
        self.clock = clock
        """Seconds since boot."""
        self.sequence = 0
        """The number of the next message."""
        self.cleared = 0
        """`dmesg -C` cleared the messages before this number."""
        self.arrived = WaitQueue()

    def __call__(self, level: int, text: str) -> None:
        """Log one message (without the newline)."""
        self._records.append(Record(self.sequence, self.clock(), level, text))
        self.sequence += 1
        self.arrived.wake_all()

    def since(self, sequence: int) -> list[Record]:
        """The kept messages from number `sequence` on."""
        first = self.sequence - len(self._records)
        return [self._records[position] for position in range(max(sequence - first, 0), len(self._records))]

    @property
    def dropped(self) -> int:
        """How many messages were overwritten."""
        return self.sequence - len(self._records)
