"""What a machine remembers, as lists of records: read from the text of `control/`, the same in process and mounted.

The lists are bounded (`control/` says how many it dropped); the numbers of uevents have no gaps, so a list that lost
its beginning shows it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import NamedTuple


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
    """A refused open, read or write, and why."""

    pid: int
    command: str
    path: str
    data: bytes
    """What was to be written, its first 64 bytes; b"" for an open or a read."""
    errno: str
    """`EBUSY`."""
    why: str
    """A sentence: `memory70 has an unmovable page`."""
    where: str
    """The kernel function that decided."""


class Write(NamedTuple):
    """A write, whoever made it and whatever came of it, in the order in which the writes began."""

    began: float
    """Seconds since boot."""
    seconds: float | None
    """How long it took; None while it is still under way."""
    pid: int
    command: str
    path: str
    data: bytes
    """What was written, its first 64 bytes."""
    result: str
    """How many bytes were taken, or the errno's name; "" while it is under way."""


_LOG = re.compile(r"<(\d+)>\[ *([\d.]+)\] (.*)")
_DROPPED = re.compile(r"\((\d+) earlier [a-z]+ dropped\)\n")
_QUOTED = r'"(.*?)(?:\.\.\.)?"'
_REFUSAL = re.compile(rf"(\d+) (.*?) (/[^ ]*) {_QUOTED} (\w+) \([^)]*\): (.*) \[(.*)\]")
_WRITE = re.compile(rf"([\d.]+) ([\d.]+|-) (\d+) (.*?) (/[^ ]*) {_QUOTED} (\S+)")


def _bytes(quoted: str) -> bytes:
    return codecs.decode(quoted, "unicode_escape").encode("latin-1")


def dropped(text: str) -> int:
    """How many entries a list of control/ says it has dropped."""
    found = _DROPPED.match(text)
    return int(found[1]) if found else 0


def log_messages(text: str) -> list[LogMessage]:
    """From the text of control/kmsg."""
    found = map(_LOG.fullmatch, text.splitlines())
    return [LogMessage(int(line[1]), float(line[2]), line[3]) for line in found if line]


def uevents(text: str) -> list[Uevent]:
    """From the text of control/uevents."""
    events = []
    for line in text.splitlines():
        if "@" in line.partition(" ")[0]:
            _, *words = line.split(" ")
            rest = dict(word.split("=", 1) for word in words)
            number, action, devpath = int(rest.pop("SEQNUM")), rest.pop("ACTION"), rest.pop("DEVPATH")
            events.append(Uevent(number, action, devpath, rest.pop("SUBSYSTEM"), rest))
    return events


def refusals(text: str) -> list[Refusal]:
    """From the text of control/refused."""
    found = map(_REFUSAL.fullmatch, text.splitlines())
    return [Refusal(int(line[1]), line[2], line[3], _bytes(line[4]), *line.group(5, 6, 7)) for line in found if line]


def writes(text: str) -> list[Write]:
    """From the text of control/writes."""
    return [
        Write(
            float(line[1]),
            None if line[2] == "-" else float(line[2]),
            int(line[3]),
            line[4],
            line[5],
            _bytes(line[6]),
            "" if line[7] == "-" else line[7],
        )
        for line in map(_WRITE.fullmatch, text.splitlines())
        if line
    ]
