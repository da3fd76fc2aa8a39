"""`fakesysfs timeline`: a trace as one page that needs no network.

The page holds the events as JSON, one a line, and its own style and script (timeline.css, timeline.js).
The names of the fields stand once, above the events of a kind. Processes and paths repeat: they stand in
a list, and events have their place in it. So a page of 5,000 calls is smaller than 1 MB.

`at` is the place of an event in the trace. It orders events that have the same time, as most have in a
machine with virtual time. A call, a wait and a held lock have two: where they began and where they ended.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from fakesysfs.trace import events
from fakesysfs.trace.events import Event

DATA_SHOWN = 200
"""Characters of a read or write that a page has."""

FIELDS = {
    "boots": "at time",
    "ops": "at time duration seq process op path data result errno reason func",
    "waits": "at time duration op kind point lock",
    "locks": "at time duration op lock",
    "uevents": "at time op seq count action devpath env",
    "log": "at time op seq level text",
    "blocks": "at time op first last state zone nodes",
    "nodes": "at time op node online",
    "dax": "at time op device present driver blocks",
    "memory": "at time op total zones",
}
"""What a page has of each kind of events. `zones` has those that changed, 0 for one that went."""

Shown = dict[str, Any]


class Timeline:
    """The events of a trace as a page has them."""

    def __init__(self, happened: Iterable[Event]) -> None:
        self.head: Shown = {}
        """The first line of the trace."""
        self.processes: dict[tuple[int, int, str, str, int], int] = {}
        self.paths: dict[str, int] = {}
        self.lists: dict[str, list[Shown]] = {name: [] for name in FIELDS}
        self._begun: dict[tuple[str, int], Shown] = {}
        """What has a duration, by its list and `seq`."""
        self._zones: dict[str, int] = {}
        self._mentioned: dict[int, int] = {}
        """Where each call is first mentioned."""
        self.end = 0
        """The place of the last event."""
        for self.end, event in enumerate(happened):
            self._take(event)

    def _take(self, event: Event) -> None:
        cause = getattr(event, "op", None)
        if isinstance(cause, int):
            self._mentioned.setdefault(cause, self.end)
        match event:
            case events.Trace():
                self.head = {"machine": event.machine, "kernel": event.kernel, "block_size": event.block_size}
            case events.Boot():
                self._add("boots", event)
            case events.Op():
                self._span("ops", event, self._op(event))
            case events.Wait():
                facts: Shown = {"op": event.op, "kind": event.kind, "point": event.point, "lock": event.lock}
                self._span("waits", event, facts)
            case events.Lock():
                self._span("locks", event, {"op": event.op, "lock": event.lock})
            case events.Uevent():
                self._uevent(event)
            case events.Log():
                self._add("log", event, seq=event.seq, level=event.level, text=event.text)
            case events.Blocks():
                facts = {"first": event.first, "last": event.last, "state": event.state, "zone": event.zone}
                self._add("blocks", event, **facts, nodes=event.nodes)
            case events.Node():
                self._add("nodes", event, node=event.node, online=event.online)
            case events.Dax():
                facts = {"device": event.device, "present": event.present, "driver": event.driver}
                self._add("dax", event, **facts, blocks=event.blocks)
            case events.Memory():
                self._memory(event)

    def _add(self, name: str, event: Any, **facts: Any) -> None:
        """An event without a duration."""
        self.lists[name].append({"at": self.end, "time": event.time, "op": getattr(event, "op", None), **facts})

    def _span(self, name: str, event: Any, facts: Shown) -> None:
        """An event with a duration. It may have come when it began."""
        key = name, event.seq
        shown = self._begun.get(key)
        if shown is None:
            begins = self._mentioned.get(event.seq, self.end) if name == "ops" else self.end
            shown = self._begun[key] = {"at": [begins, None]}
            self.lists[name].append(shown)
        if event.duration is not None:
            shown["at"][1] = self.end
        shown |= {"time": event.time, "duration": event.duration, **facts}

    def _op(self, event: events.Op) -> Shown:
        process = event.pid, event.tgid, event.comm, event.program, event.uid
        return {
            "seq": event.seq,
            "process": self.processes.setdefault(process, len(self.processes)),
            "op": event.op,
            "path": self._path(event.path),
            "data": event.data[:DATA_SHOWN] or None,
            "result": event.result,
            "errno": event.errno,
            "reason": event.reason,
            "func": event.func,
        }

    def _uevent(self, event: events.Uevent) -> None:
        self._add(
            "uevents",
            event,
            seq=event.seq,
            count=event.count if event.count > 1 else None,
            action=event.action,
            devpath=self._path(event.devpath),
            env=event.env or None,
        )

    def _memory(self, event: events.Memory) -> None:
        before = self._zones
        self._zones = event.zones
        changed = {zone: event.zones.get(zone, 0) for zone in [*before, *event.zones]}
        changed = {zone: size for zone, size in changed.items() if before.get(zone, 0) != size}
        self._add("memory", event, total=event.total, zones=changed)

    def _path(self, path: str) -> int:
        return self.paths.setdefault(path, len(self.paths))

    # The page ---------------------------------------------------------------------------------------------------------

    def page(self, title: str, note: str = "") -> str:
        """The page. `note` is a sentence below its title. Raises ValueError if there was no trace."""
        if not self.head:
            raise ValueError("this is no trace: it has no first line of type `trace`")
        parts = {
            "TITLE": html.escape(title),
            "NOTE": html.escape(note),
            "STYLE": _resource("timeline.css"),
            "SCRIPT": _resource("timeline.js"),
            "EVENTS": "\n".join(self._json()).replace("<", "\\u003c"),
        }
        return re.sub("<!--([A-Z]+)-->", lambda found: parts[found[1]], _resource("timeline.html"))

    def _json(self) -> Iterator[str]:
        """The events, one a line."""
        yield "{"
        for name, value in self.head.items():
            yield f"{_dumps(name)}: {_dumps(value)},"
        processes = [list(process) for process in self.processes]
        yield from _list("processes", ["pid", "tgid", "comm", "program", "uid"], processes)
        yield '"paths": ['
        yield ",\n".join(map(_dumps, self.paths))
        yield "],"
        for name, fields in FIELDS.items():
            columns = fields.split()
            rows = [_without_last_nulls([event.get(field) for field in columns]) for event in self.lists[name]]
            yield from _list(name, columns, rows)
        yield f'"end": {self.end}'
        yield "}"


def _resource(name: str) -> str:
    return resources.files("fakesysfs.trace").joinpath(name).read_text("utf-8")


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _list(name: str, columns: list[str], rows: list[list[Any]]) -> Iterator[str]:
    yield f'"{name}": {{"fields": {_dumps(columns)}, "events": ['
    yield ",\n".join(map(_dumps, rows))
    yield "]},"


def _without_last_nulls(row: list[Any]) -> list[Any]:
    while row and row[-1] is None:
        row.pop()
    return row


def page(happened: Iterable[Event], title: str, note: str = "") -> str:
    """A page of these events. Raises ValueError if they are no trace."""
    return Timeline(happened).page(title, note)
