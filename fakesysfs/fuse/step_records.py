"""What a mount that holds records of each step: from the release of one that was held to the end of the step."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fakesysfs.ops.footprint import EVERYTHING, Footprint
from fakesysfs.ops.recording import Recorder


class StepRecords:
    """What is recorded of a step. `install` puts the hooks into the model, `notes` counts messages and uevents."""

    def __init__(self, install: Callable[[], None], notes: Callable[[], object]) -> None:
        self._install = install
        self._notes = notes
        self._installed = False
        self._on = False
        self._recorder: Recorder | None = None
        self._noted: object = None
        self.steps = 0
        self.refused = False
        """A call was refused in this step."""
        self.order_is_read = False
        """Somebody has read in which order messages were logged."""

    def switch(self, *, on: bool) -> None:
        """Record from the next step on, or no more."""
        self.end()
        self._on = on
        self.order_is_read = False
        if on and not self._installed:
            self._install()
            self._installed = True

    def begin(self) -> None:
        """A step begins: the next one that was held goes on."""
        self.steps += 1
        self.refused = False
        if self._on and self._recorder is None:
            self._recorder = Recorder()
            self._recorder.__enter__()
            self._noted = self._notes()

    def end(self) -> Footprint:
        """A step has ended: what it has read and changed."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return Footprint()
        recorder.__exit__()
        recorder.footprint.notes = self.refused or self._notes() != self._noted
        return recorder.footprint

    def say(self, most_bytes: int) -> list[Any]:
        """As `end`, packed; a footprint that takes more than so many bytes is EVERYTHING."""
        said = self.end().packed()
        if len(json.dumps(said)) > most_bytes:
            whole = Footprint()
            whole.write(EVERYTHING)
            said = whole.packed()
        return said
