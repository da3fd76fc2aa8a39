"""The list of refused operations: who asked for what, and why the answer was no."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from fakesysfs.kernel.errors import KernelError
from fakesysfs.kernfs.file import Caller

CAPACITY = 1024
SHOWN_BYTES = 64


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


class Refusals:
    """The last refusals; older ones are dropped and counted."""

    def __init__(self) -> None:
        self._kept: deque[Refusal] = deque(maxlen=CAPACITY)
        self._count = 0

    def add(self, caller: Caller, path: str, data: bytes, error: KernelError) -> None:
        """Note one."""
        self._kept.append(Refusal(caller, path, data, error))
        self._count += 1

    def clear(self) -> None:
        """Forget them."""
        self._kept.clear()
        self._count = 0

    def __iter__(self) -> Iterator[Refusal]:
        return iter(self._kept)

    def text(self) -> str:
        """One line each: pid, command, path, bytes, errno, why, where."""
        dropped = self._count - len(self._kept)
        first = f"({dropped} earlier ones dropped)\n" if dropped else ""
        return first + "".join(f"{refusal}\n" for refusal in self._kept)
