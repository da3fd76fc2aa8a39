"""The list of refused operations: who asked for what, and why the answer was no."""

from __future__ import annotations

import codecs
import os
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from fakesysfs.control.transcript import Line, Transcript
from fakesysfs.kernfs.file import Caller
from fakesysfs.kernfs.log import Log
from fakesysfs.ops.errors import KernelError

CAPACITY = 1024
SHOWN_BYTES = 64

codecs.lookup("unicode_escape")  # now: to load it takes a descriptor, and later there may be none


def quoted(data: bytes) -> str:
    """Written bytes on one line; what is too long to show ends in dots."""
    shown = data[:SHOWN_BYTES].decode("latin-1").encode("unicode_escape").decode("ascii")
    return f'"{shown}..."' if len(data) > SHOWN_BYTES else f'"{shown}"'


class Refusal(NamedTuple):
    """One refused system call on a file."""

    caller: Caller
    path: str
    data: bytes
    error: KernelError

    def __str__(self) -> str:
        reason = f"{self.error.name} ({os.strerror(self.error.errno)})"
        what = f"{self.caller.pid} {self.caller.command} {self.path} {quoted(self.data)}"
        return f"{what} {reason}: {self.error.why} [{self.error.where}]"


class _Kept:
    """The last refusals since a boot and the number of all."""

    def __init__(self) -> None:
        self.refusals: deque[Refusal] = deque(maxlen=CAPACITY)
        self.count = 0

    @property
    def dropped(self) -> int:
        return self.count - len(self.refusals)

    def since(self, number: int) -> Iterator[Line]:
        for position in range(max(number - self.dropped, 0), len(self.refusals)):
            text = f"{self.refusals[position]}\n".encode("utf-8", "surrogateescape")
            yield Line(self.dropped + position, text)


class Refusals:
    """The last refusals; older ones are dropped and counted."""

    def __init__(self) -> None:
        self._kept = _Kept()

    def add(self, caller: Caller, path: str, data: bytes, error: KernelError) -> None:
        """Note one."""
        self._kept.refusals.append(Refusal(caller, path, data, error))
        self._kept.count += 1

    def clear(self) -> None:
        """Forget them. A log made before keeps what it has."""
        self._kept = _Kept()

    def __iter__(self) -> Iterator[Refusal]:
        return iter(self._kept.refusals)

    def log(self) -> Log:
        """One line each: pid, command, path, bytes, errno, why, where. It ends at `clear`."""
        kept = self._kept
        return Transcript(lambda: (kept.dropped, kept.count), kept.since, lambda: f"{kept.dropped} earlier ones")
