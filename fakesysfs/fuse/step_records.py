"""What a mount that holds records of each step: from the release of one that was held to the end of the step."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fakesysfs.ops.footprint import EVERYTHING, LOG, REFUSALS, UEVENTS, Footprint
from fakesysfs.ops.recording import Hooks, Recorder, install, uninstall


class StepRecords:
    """What is recorded of a step. `hooks` are those for the model, `notes` counts its messages, and its uevents."""

    def __init__(self, hooks: Callable[[], Hooks], notes: Callable[[], tuple[int, int]]) -> None:
        self._hooks = hooks
        self._notes = notes
        self._on = False
        self._recorder: Recorder | None = None
        self._noted = 0, 0
        self.steps = 0
        self.refused = False
        """A call was refused in this step."""
        self.order_is_read = 0
        """Of which notes somebody has read the order since `start`. Bits of ops/footprint.py."""

    def start(self) -> None:
        """Record from the next step on."""
        self.stop()
        install(self._hooks())
        self._on = True
        self.order_is_read = 0

    def stop(self) -> None:
        """Record no more. Without the hooks a boot takes half the time."""
        self.end()
        if self._on:
            self._on = False
            uninstall()

    def begin(self, *, record: bool) -> None:
        """A step begins: the next one that was held goes on."""
        self.steps += 1
        self.refused = False
        if record and self._on and self._recorder is None:
            self._recorder = Recorder()
            self._recorder.__enter__()
            self._noted = self._notes()

    def end(self) -> Footprint:
        """A step has ended: what it has read and changed."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return Footprint()
        recorder.__exit__()
        (messages, uevents), (messages_before, uevents_before) = self._notes(), self._noted
        footprint = recorder.footprint
        footprint.notes |= LOG * (messages != messages_before) | UEVENTS * (uevents != uevents_before)
        footprint.notes |= REFUSALS * self.refused
        return footprint

    def say(self, most_bytes: int) -> list[Any]:
        """As `end`, packed; a footprint that takes more than so many bytes is EVERYTHING."""
        footprint = self.end()
        said = footprint.packed()
        if len(json.dumps(said)) > most_bytes:
            whole = Footprint()
            whole.write(EVERYTHING)
            whole.notes, whole.hears = footprint.notes, footprint.hears
            said = whole.packed()
        return said
