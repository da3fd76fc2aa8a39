"""Uevents as lines, of text or of JSON.

One record stands for as many events as there are devices in a row. Their lines differ in two numbers only, so a record
becomes a template, and nothing is written out to know how long its lines are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from fakesysfs.control.transcript import Transcript
from fakesysfs.kernel.uevent import UeventRange, Uevents
from fakesysfs.kernfs.log import Log

_SEQNUM = "%(seqnum)d"
_DEVICE = "%(device)s"


def uevent_line(number: int, lines: list[str]) -> str:
    """An event on one line, with its number."""
    return f"{' '.join(lines)} SEQNUM={number}\n"


def text_template(record: UeventRange) -> str:
    """The lines of a record in control/uevents."""
    path = _literal(record.devpath) + _DEVICE
    action = _literal(record.action)
    rest = _literal(" ".join([f"SUBSYSTEM={record.subsystem}", *record.environment]))
    return f"{action}@{path} ACTION={action} DEVPATH={path} {rest} SEQNUM={_SEQNUM}\n"


def json_template(record: UeventRange) -> str:
    """The lines of a record in control/uevents.jsonl."""
    devpath = _literal(json.dumps(record.devpath))[:-1] + _DEVICE + '"'
    rest = {
        "subsystem": record.subsystem,
        "env": dict(pair.split("=", 1) for pair in record.environment),
    }
    action = _literal(json.dumps(record.action))
    return f'{{"seq": {_SEQNUM}, "action": {action}, "devpath": {devpath}, {_literal(json.dumps(rest))[1:]}\n'


def _literal(text: str) -> str:
    """Text that stands for itself in a template."""
    return text.replace("%", "%%")


class EventLines:
    """The events of one record, a line each (see `transcript.Piece`)."""

    __slots__ = ("_fixed", "_numbers", "_record", "_template")

    def __init__(self, record: UeventRange, template: str) -> None:
        self._record = record
        self._template = template
        self._numbers = template.count(_DEVICE) if record.first >= 0 else 0
        """How often a line has the number of its device."""
        self._fixed = len(next(self.lines(0))) - _digits(record.sequence, 1) - self._numbers * _digits(record.first, 1)
        """Bytes of a line without its numbers."""

    @property
    def first(self) -> int:
        """See Piece."""
        return self._record.sequence

    @property
    def count(self) -> int:
        """See Piece."""
        return self._record.events

    def length(self, count: int) -> int:
        """See Piece."""
        record = self._record
        length = count * self._fixed + _digits(record.sequence, count)
        if self._numbers:
            length += self._numbers * _digits(record.first, count)
        return length

    def lines(self, skip: int) -> Iterator[bytes]:
        """See Piece."""
        record = self._record
        for number in range(skip, record.events):
            device = record.first + number if record.first >= 0 else ""
            line = self._template % {"seqnum": record.sequence + number, "device": device}
            yield line.encode("utf-8", "surrogateescape")


def _digits(first: int, count: int) -> int:
    """Decimal digits of `first` and the numbers after it, `count` in all."""
    end, total, shortest = first + count, count, 10
    while shortest < end:
        total += end - max(first, shortest)
        shortest *= 10
    return total


def uevents_log(uevents: Uevents) -> Log:
    """control/uevents."""
    return _log(uevents, text_template, lambda: f"({uevents.dropped} earlier events dropped)\n")


def uevents_json(uevents: Uevents) -> Log:
    """control/uevents.jsonl."""
    return _log(uevents, json_template)


def _log(uevents: Uevents, template: Callable[[UeventRange], str], notice: Callable[[], str] = str) -> Log:
    return Transcript(
        lambda: (uevents.dropped + 1, uevents.sequence),
        lambda number: (EventLines(record, template(record)) for record in uevents.records(number)),
        notice,
        first=1,
    )
