"""Who waits for an answer of ours, and whether a signal came for them.

pyfuse3 hands on neither INTERRUPT nor, for read(2) and write(2), the caller; it names whoever opened the file. So a
thread that waits is looked for in /proc: first the opener, else one that waits for FUSE and has the file open (another
thread, a child that inherited it).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from fakesysfs.kernel.sched import Signals

_SIGKILL_BIT = 1 << 8
_WAITS = "request_wait_answer"
"""Where a thread sleeps that waits for FUSE (fs/fuse/dev.c). A /proc that hides this shows "0"."""

_SEARCHES = 5
"""How often the thread is looked for: on a busy machine it may be just about to go to sleep, and not be seen."""


class Watch:
    """Watches one waiting thread: `opener` opened the file with inode number `ino`."""

    def __init__(self, opener: int, ino: int) -> None:
        self._thread = opener
        self._ino = ino
        self._searches = _SEARCHES

    def interrupted(self, signals: Signals) -> bool:
        """Whether the thread has a signal that ends a wait of that kind."""
        if self._searches:
            self._searches -= 1
            found = self._thread
            if _line(f"/proc/{found}/wchan") != _WAITS:
                found = next(_waiting(self._ino), 0)
            if found:
                self._thread, self._searches = found, 0
        return interrupted(self._thread, signals)


def _line(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  dozens a second: no detours
            return os.fsdecode(file.read()).strip()
    except OSError:
        return ""


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208
    except OSError:
        return []


def _waiting(ino: int) -> Iterator[int]:
    """Threads that wait for FUSE and have a file with that inode number open."""
    for process in filter(str.isdigit, _names("/proc")):
        for thread in _names(f"/proc/{process}/task"):
            if _line(f"/proc/{thread}/wchan") == _WAITS:
                opened = f"/proc/{thread}/fdinfo"
                if any(f"ino:\t{ino}" in _line(f"{opened}/{number}").split("\n") for number in _names(opened)):
                    yield int(thread)


def interrupted(thread: int, signals: Signals) -> bool:
    """Whether `thread` has a signal that ends such a wait (include/linux/sched/signal.h, signal_pending_state).

    A thread that waits for the answer to a FUSE request leaves its signals pending; ignored ones never get that far,
    and one that ends the process is pending as SIGKILL (kernel/signal.c, complete_signal). A thread that is gone was
    killed.
    """
    masks = {"State": "", "SigPnd": "0", "ShdPnd": "0", "SigBlk": "0"}
    for line in _line(f"/proc/{thread}/status").split("\n"):
        name, _, value = line.partition(":")
        if name in masks:
            masks[name] = value.strip()
    if masks["State"][:1] in {"", "Z", "X"}:
        return True
    pending = (int(masks["SigPnd"], 16) | int(masks["ShdPnd"], 16)) & ~int(masks["SigBlk"], 16)
    return bool(pending & _SIGKILL_BIT if signals is Signals.FATAL else pending)


def command_of(thread: int) -> str:
    """The name of its command, "" when that cannot be known."""
    return _line(f"/proc/{thread}/comm")
