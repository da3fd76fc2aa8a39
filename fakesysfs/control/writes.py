"""The trace of writes: who wrote what, in which order, and what came of it.

Off until somebody writes 1 to control/writes: the name of a writer's command has to be looked up while it writes, which
costs more than most stores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fakesysfs.control.refused import quoted
from fakesysfs.kernfs.file import Caller

CAPACITY = 16384


@dataclass(slots=True)
class Write:
    """One write. `took` (seconds) and `result` (bytes taken, or an errno's name) are there when it has ended."""

    began: float
    caller: Caller
    path: str
    data: bytes
    took: float | None = None
    result: str = "-"

    def __str__(self) -> str:
        took = "-" if self.took is None else f"{self.took:.6f}"
        who = f"{self.caller.pid} {self.caller.command}"
        return f"{self.began:.6f} {took} {who} {self.path} {quoted(self.data)} {self.result}"


class Writes:
    """The last writes, in the order in which they began. `seconds` is the clock of the machine, from its boot on."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._kept: deque[Write] = deque(maxlen=CAPACITY)
        self._count = 0
        self.on = False

    def begin(self, caller: Caller, path: str, data: bytes) -> Write:
        """A write begins."""
        write = Write(self._seconds(), caller, path, data)
        self._kept.append(write)
        self._count += 1
        return write

    def end(self, write: Write, result: str) -> None:
        """It ended."""
        write.took = max(self._seconds() - write.began, 0.0)
        write.result = result

    def clear(self) -> None:
        """Forget them."""
        self._kept.clear()
        self._count = 0

    def __iter__(self) -> Iterator[Write]:
        return iter(self._kept)

    def text(self) -> str:
        """One line each: seconds since boot, seconds taken, pid, command, path, bytes, result; `-` while under way."""
        dropped = self._count - len(self._kept)
        first = f"({dropped} earlier ones dropped)\n" if dropped else ""
        return first + "".join(f"{write}\n" for write in self._kept)
