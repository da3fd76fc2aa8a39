"""Draws what `fakesysfs watch` shows: the map, then the last operations, uevents and messages of the log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from fakesysfs.see import terminal
from fakesysfs.see.feed import Scene

_TITLE = "bold"
_REFUSED = "red"
_DIM = "bright_black"
_DATA_SHOWN = 24
_MAP_SHARE = 0.6
"""The largest part of the height that the map gets; below it are the lists."""
_LISTS = 3
_NUMBER_AT_END = re.compile(r"(.*?)(\d+)$")


def draw(scene: Scene, width: int, height: int, *, squares: bool, heading: str, status: str) -> list[Text]:
    """The lines of the screen, `height` at most, none wider than `width`; `status` is the last one."""
    drawn = terminal.draw(scene.map, width, int(height * _MAP_SHARE), squares=squares, heading=heading)
    room = max(height - 1 - len(drawn), 0)
    lists = [
        ("operations", [call_line(call) for call in scene.calls]),
        ("uevents", [Text(line) for line in uevent_lines(scene.uevents)]),
        ("log", [Text(line) for line in scene.log]),
    ]
    # The log is the first that does without its place, the operations are the last.
    shown = lists[: min(room // 2, _LISTS)]
    for place, (title, lines) in enumerate(shown):
        share = room // len(shown) + (place < room % len(shown)) - 1
        drawn.append(Text(title, _TITLE))
        drawn += [*lines[-share:], *[Text()] * (share - len(lines))][:share]
    drawn = drawn[: max(height - 1, 0)]
    drawn += [Text()] * (height - 1 - len(drawn))
    drawn.append(Text(status, _DIM))
    for line in drawn:
        line.truncate(width, overflow="ellipsis")
    return drawn[-height:]


def call_line(call: Mapping[str, Any]) -> Text:
    """An operation: process, what it does, and its result."""
    path = "/".join(call["path"].rsplit("/", 2)[-2:])
    data = json.dumps(call["data"])
    if len(data) > _DATA_SHOWN:
        data = f'{data[:_DATA_SHOWN]}..."'
    what = f"{call['pid']} {call['comm']}: {call['op']} {path}" + (f" {data}" if call["op"] == "write" else "")
    if call["errno"] is not None:
        return Text.assemble(f"{what}: ", (f"{call['errno']}", _REFUSED), f" ({call['reason']})")
    if call["duration"] is None:
        return Text.assemble(f"{what}: ", ("under way", _TITLE))
    return Text(f"{what}: {call['result']} bytes")


def uevent_lines(uevents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The uevents; those of devices with successive numbers in one line."""
    run: tuple[str, str, int, int] | None = None
    """Action, path without the number, first and last number."""
    for event in uevents:
        found = _NUMBER_AT_END.fullmatch(event["devpath"])
        action, path = event["action"], found[1] if found else event["devpath"]
        number = int(found[2]) if found else -1
        if run is not None and number > 0 and run[:2] == (action, path) and number == run[3] + 1:
            run = (*run[:3], number)
            continue
        if run is not None:
            yield _uevent_line(*run)
        run = action, path, number, number
    if run is not None:
        yield _uevent_line(*run)


def _uevent_line(action: str, path: str, first: int, last: int) -> str:
    if first < 0:
        return f"{action}@{path}"
    more = f" to {path.rpartition('/')[2]}{last}" if last > first else ""
    return f"{action}@{path}{first}{more}"
