"""What a trace says about a machine at a given time, worked out anew from its events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.trace import events
from fakesysfs.trace.events import Event, from_line, to_line

Cells = dict[int, tuple[str, str | None, tuple[int, ...]]]
"""State, zone and nodes of each memory block."""


def cells(happened: Iterable[Event]) -> Cells:
    """The blocks after these events."""
    found: Cells = {}
    for event in happened:
        if isinstance(event, events.Boot):
            found.clear()
        elif isinstance(event, events.Blocks):
            for block in range(event.first, event.last + 1):
                if event.state is None:
                    found.pop(block, None)
                else:
                    found[block] = event.state, event.zone, tuple(event.nodes)
    return found


def cells_of(kernel: Kernel) -> Cells:
    """The blocks of the model."""
    return {
        block: (status.state.value, status.zone.name if status.zone else None, status.group.nids)
        for first, last, status in kernel.memory_blocks.runs
        for block in range(first, last + 1)
    }


def finished(happened: Iterable[Event]) -> Iterator[events.Op]:
    """The system calls that have ended."""
    return (event for event in happened if isinstance(event, events.Op) and event.duration is not None)


class Events(list[Event]):
    """A sink that keeps events, each as it was when it came: a call under way changes its event."""

    def __call__(self, event: Event) -> None:
        self.append(from_line(to_line(event)))

    hold = __call__

    def flush(self) -> None:
        """It holds nothing back."""


def data_in(text: str) -> dict[str, Any]:
    """The events of a page."""
    found = re.search(r'<script type="application/json" id="trace">\n(.*?)\n</script>', text, re.DOTALL)
    assert found
    value: dict[str, Any] = json.loads(found[1])
    for name, events_of_a_kind in value.items():
        if isinstance(events_of_a_kind, dict):
            fields = events_of_a_kind["fields"]
            value[name] = [dict(zip(fields, event, strict=False)) for event in events_of_a_kind["events"]]
    return value
