"""The files of a trace: where it goes, and in which form.

Each event is written at once, by one write(2). So the trace of a killed run is there up to the last
event.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fakesysfs.sysroot import Sysroot
from fakesysfs.trace.events import Event, to_line
from fakesysfs.trace.recorder import Recorder

log = logging.getLogger(__name__)

FORMS = (".jsonl", ".pftrace")
"""What the name of a trace ends with: JSON lines, or Perfetto's protobuf."""


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


def attach(sysroot: Sysroot, targets: Iterable[Target], machine: str) -> Recorder:
    """Trace a machine into files from now on. `machine` is its name in the trace."""
    return Recorder(sysroot, [_File(target) for target in targets], machine)


class _File:
    """Writes events into one file. After the first error it gives up: a full disk must not end a mount."""

    def __init__(self, target: Target) -> None:
        self._descriptor = target.descriptor
        self._encode: Callable[[Event], bytes] = to_line
        if target.form == ".pftrace":
            from fakesysfs.trace.perfetto import Encoder  # noqa: PLC0415  few need it

            self._encode = Encoder()

    def __call__(self, event: Event) -> None:
        if self._descriptor < 0:
            return
        data = self._encode(event)
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            self._descriptor = -1
            log.warning("the trace ends here: %s", error.strerror)
