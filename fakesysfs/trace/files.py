"""The files of a trace: where it goes, and in which form.

Events are written at once. Only reads and the like may be held back for a moment, until the next event that
says more. So the trace of a killed run is there up to the last change, refusal and wait.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fakesysfs.ops.sched import WaitQueue
from fakesysfs.sysroot import Sysroot
from fakesysfs.trace.events import Event, to_lines
from fakesysfs.trace.recorder import Recorder

log = logging.getLogger(__name__)

FORMS = (".jsonl", ".pftrace")
"""What the name of a trace ends with: JSON lines, or Perfetto's protobuf."""


HELD_BACK = 64
"""So many events are held back at most."""


class CannotTraceError(Exception):
    """The file has another name, or cannot be written. The text says what to do."""


class Target(NamedTuple):
    """An open file that gets a trace."""

    descriptor: int
    form: str
    """One of FORMS."""


def open_target(path: str) -> Target:
    """Make, or empty, the file of a trace. Raises CannotTraceError."""
    form = os.path.splitext(path)[1]  # noqa: PTH122  a launcher does without pathlib
    if form not in FORMS:
        raise CannotTraceError(f"{path}: a trace is named *.jsonl (JSON lines) or *.pftrace (for ui.perfetto.dev)")
    try:
        return Target(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666), form)
    except OSError as error:
        raise CannotTraceError(f"{path}: the trace cannot be written: {error.strerror}") from None


def attach(sysroot: Sysroot, targets: Iterable[Target], machine: str, *, at_once: bool = True) -> Recorder:
    """Trace a machine into files from now on. `machine` is its name in the trace.

    Without `at_once` calls that changed nothing and were not refused may be held back: the caller waits
    for the recorder's queue `held_back`, and flushes. One write(2) for many events costs a tenth.
    """
    files = [_File(target, 1 if at_once else HELD_BACK) for target in targets]
    recorder = Recorder(sysroot, files, machine)
    for file in files:
        file.held_back = recorder.held_back
    return recorder


class _File:
    """Writes events into one file. After the first error it gives up: a full disk must not end a mount."""

    def __init__(self, target: Target, most: int) -> None:
        self._descriptor = target.descriptor
        self._most = most
        self._waiting: list[Event] = []
        self.held_back: WaitQueue | None = None
        self._encode: Callable[[Sequence[Event]], bytes] = to_lines
        if target.form == ".pftrace":
            from fakesysfs.trace.perfetto import Encoder  # noqa: PLC0415  few need it

            self._encode = Encoder().packets

    def __call__(self, event: Event) -> None:
        self._waiting.append(event)
        self.flush()

    def hold(self, event: Event) -> None:
        waiting = self._waiting
        waiting.append(event)
        if len(waiting) >= self._most:
            self.flush()
        elif len(waiting) == 1 and self.held_back is not None:
            self.held_back.wake_all()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._descriptor < 0 or not waiting:
            return
        data = self._encode(waiting)
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            self._descriptor = -1
            log.warning("the trace ends here: %s", error.strerror)
