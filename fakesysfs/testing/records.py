"""What a machine remembers, as lists of records, the same in process and mounted.

They come from the JSON lines of `control/` (docs/control.md). The lists are bounded and lose their oldest entries. The
numbers of uevents have no gaps, so a list of uevents that lost its beginning shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

Fields = Mapping[str, Any]
"""The object on one JSON line."""


class LogMessage(NamedTuple):
    """A line of the kernel log."""

    level: int
    """0 (emergency) to 7 (debug)."""
    seconds: float
    """Since boot."""
    text: str


class Uevent(NamedTuple):
    """A uevent, as the modelled kernel sent it."""

    sequence: int
    """From 1, without gaps."""
    action: str
    """`add`, `remove`, `online`, `offline`, `bind`, `unbind`, `change`, `move`."""
    devpath: str
    """Below /sys: `/devices/system/memory/memory64`."""
    subsystem: str
    environment: Mapping[str, str]
    """All the rest: DRIVER, MAJOR, MODALIAS ..."""


class Refusal(NamedTuple):
    """A refused open or write, and why."""

    pid: int
    command: str
    path: str
    data: bytes
    """The first 64 bytes that were to be written; b"" for an open."""
    errno: str
    """`EBUSY`."""
    why: str
    """A sentence: `memory70 has an unmovable page`."""
    where: str
    """The kernel function that decided."""


class Write(NamedTuple):
    """A write by any program, and its outcome. Writes are in the order in which they began."""

    began: float
    """Seconds since boot."""
    seconds: float | None
    """How long it took; None while it is still under way."""
    pid: int
    command: str
    path: str
    data: bytes
    """The first 64 bytes that were written."""
    result: str
    """How many bytes were taken, or the errno's name; "" while it is under way."""


_DATA_BYTES = 64


def _data(fields: Fields) -> bytes:
    data: str = fields["data"]
    return data.encode("utf-8", "surrogateescape")[:_DATA_BYTES]


def log_message(fields: Fields) -> LogMessage:
    """From a line of control/kmsg.jsonl."""
    return LogMessage(fields["level"], fields["time"], fields["text"])


def uevent(fields: Fields) -> Uevent:
    """From a line of control/uevents.jsonl."""
    return Uevent(fields["seq"], fields["action"], fields["devpath"], fields["subsystem"], fields["env"])


def refusal(fields: Fields) -> Refusal:
    """From a line of control/refused.jsonl."""
    return Refusal(
        fields["pid"],
        fields["comm"],
        fields["path"],
        _data(fields),
        fields["errno"],
        fields["reason"],
        fields["func"],
    )


def write(fields: Fields) -> Write:
    """From a line of control/writes.jsonl."""
    under_way = fields["duration"] is None
    result = "" if under_way else fields["errno"] or str(fields["result"])
    return Write(
        fields["time"], fields["duration"], fields["pid"], fields["comm"], fields["path"], _data(fields), result
    )


def fields_of(text: str) -> list[Fields]:
    """The objects in a text of JSON lines. A newline stands nowhere but at their ends."""
    found: list[Fields] = json.loads(f"[{text.rstrip().replace(chr(10), ',')}]")
    return found
