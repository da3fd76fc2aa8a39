"""A trace for https://ui.perfetto.dev: TrackEvents of Perfetto's protobuf.

Tracks: a process with its threads, each kernel lock with its holders, the log, the uevents, what
happened to blocks, nodes and devices; counters of MemTotal and of each zone.

The numbers are those of protos/perfetto/trace/trace_packet.proto and track_event/*.proto. The few messages
are encoded here; the tests decode them with Perfetto's own schema. Packets may be cut anywhere between two
of them, so each event is written at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fakesysfs.trace import events
from fakesysfs.trace.events import Event

_PACKET = 1
_TIMESTAMP, _SEQUENCE, _TRACK_EVENT, _TRACK_DESCRIPTOR = 8, 10, 11, 60
_TYPE, _TRACK, _CATEGORY, _NAME, _ANNOTATION, _COUNTER_VALUE = 9, 11, 22, 23, 4, 30
_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4
_UUID, _TRACK_NAME, _PROCESS, _THREAD, _PARENT, _COUNTER_DESCRIPTOR = 1, 2, 3, 4, 5, 8
_PROCESS_PID, _PROCESS_NAME = 1, 6
_UNIT, _BYTES = 3, 3
_ANNOTATION_NAME, _INT, _STRING = 10, 4, 6

_NANOSECONDS = 10**9
_KB = 1024
_OUR_SEQUENCE = 1
_STAMP_BYTES = 8
_REPEATED_KEPT = 4096
_BLOCK_LOCK = re.compile(r"memory\d+")


def _varint(number: int) -> bytes:
    """An unsigned number, or a negative one in 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number >> 7:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_PACKET_TAG, _TIMESTAMP_TAG = _varint(_PACKET << 3 | 2), _varint(_TIMESTAMP << 3)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _stamp(seconds: float) -> bytes:
    """A time in nanoseconds, always in eight bytes: so a packet has the same length whenever it is."""
    time = round(seconds * _NANOSECONDS)
    return bytes(
        (
            time & 127 | 128,
            time >> 7 & 127 | 128,
            time >> 14 & 127 | 128,
            time >> 21 & 127 | 128,
            time >> 28 & 127 | 128,
            time >> 35 & 127 | 128,
            time >> 42 & 127 | 128,
            time >> 49 & 127,
        )
    )


def _packet(kind: int, track: int, name: str, categories: tuple[str, ...], facts: _Facts) -> tuple[bytes, bytes]:
    """A packet with a track event: what is before its time, and after it."""
    fields = [_number(_TYPE, kind), _number(_TRACK, track)]
    if name:
        fields.append(_bytes(_NAME, name))
    fields += [_bytes(_CATEGORY, category) for category in categories]
    for fact, value in facts:
        if value is not None and value != "":
            said = _number(_INT, value) if isinstance(value, int) else _bytes(_STRING, value)
            fields.append(_bytes(_ANNOTATION, _bytes(_ANNOTATION_NAME, fact) + said))
    after = _bytes(_TRACK_EVENT, b"".join(fields)) + _number(_SEQUENCE, _OUR_SEQUENCE)
    length = len(_TIMESTAMP_TAG) + _STAMP_BYTES + len(after)
    return _PACKET_TAG + _varint(length) + _TIMESTAMP_TAG, after


_Facts = tuple[tuple[str, str | int | None], ...]
_Parts = tuple[int, int, str, tuple[str, ...], _Facts]
"""Kind, track, name, categories and facts of a track event."""


def _name_of(event: events.Op) -> str:
    return f"{event.op} {event.path.rpartition('/')[2]}"


def _begin_of(event: events.Op, track: int) -> _Parts:
    facts = (("path", event.path), ("comm", event.comm), ("pid", event.pid), ("uid", event.uid))
    return _BEGIN, track, _name_of(event), (event.op,), facts


def _end_of(event: events.Op, track: int) -> _Parts:
    facts = (
        ("data", event.data),
        ("result", event.result),
        ("errno", event.errno),
        ("reason", event.reason),
        ("func", event.func),
    )
    return _END, track, "", () if event.errno is None else ("refused",), facts


class _Lanes:
    """Tracks side by side under one parent, for slices that overlap without being nested."""

    def __init__(self) -> None:
        self.tracks: list[int] = []
        self.busy: dict[int, int] = {}
        """Who uses a lane: the `seq` of its slice."""

    def free(self) -> int | None:
        """The first free track."""
        return next((track for track in self.tracks if track not in self.busy), None)


class Encoder:
    """Turns events into packets. It knows the tracks that it has described."""

    def __init__(self) -> None:
        self._tracks: dict[object, int] = {}
        self._lanes: dict[object, _Lanes] = {}
        self._programs: dict[int, str] = {}
        self._ops: dict[int, tuple[_Lanes, int]] = {}
        self._held: dict[int, tuple[_Lanes, int]] = {}
        self._calls: dict[int, str] = {}
        """Short texts of the calls that wait: they name the slices of locks."""
        self._zones: set[str] = set()
        self._methods: dict[type, Callable[[Any], Iterable[bytes]]] = {
            events.Boot: self._boot,
            events.Op: self._op,
            events.Wait: self._wait,
            events.Lock: self._lock,
            events.Uevent: self._uevent,
            events.Log: self._log,
            events.Blocks: self._blocks,
            events.Node: self._node,
            events.Dax: self._dax,
            events.Memory: self._memory,
        }
        self._repeated: dict[tuple[object, ...], tuple[dict[int, int], int, tuple[bytes, ...]]] = {}
        """Calls that did the same before: the lanes of their thread, their track, and what is before and after the
        two times."""

    def packets(self, happened: Iterable[Event]) -> bytes:
        """The packets of events; some have none."""
        out: list[bytes] = []
        methods = self._methods
        for event in happened:
            method = methods.get(type(event))
            if method is not None:
                out += method(event)
        return b"".join(out)

    # Messages -------------------------------------------------------------------------------------------------------

    def _packet(self, *fields: bytes) -> bytes:
        return _bytes(_PACKET, b"".join((*fields, _number(_SEQUENCE, _OUR_SEQUENCE))))

    def _descriptor(self, key: object, name: str, parent: int | None, *more: bytes) -> Iterator[bytes]:
        uuid = self._tracks.setdefault(key, len(self._tracks) + 1)
        fields = [_number(_UUID, uuid), *more]
        if name:
            fields.append(_bytes(_TRACK_NAME, name))
        if parent is not None:
            fields.append(_number(_PARENT, parent))
        yield self._packet(_bytes(_TRACK_DESCRIPTOR, b"".join(fields)))

    def _event(
        self,
        seconds: float,
        kind: int,
        track: int,
        name: str = "",
        categories: tuple[str, ...] = (),
        facts: _Facts = (),
    ) -> bytes:
        """A packet."""
        before, after = _packet(kind, track, name, categories, facts)
        return before + _stamp(seconds) + after

    # Tracks ---------------------------------------------------------------------------------------------------------

    def _track(self, key: object, name: str, parent: int | None = None, *more: bytes) -> Iterator[bytes]:
        """Describe a track the first time."""
        if key not in self._tracks:
            yield from self._descriptor(key, name, parent, *more)

    def _lane(self, key: object, name: str, parent: int) -> Iterator[bytes]:
        """Have a free lane ready: describe another one if all are used."""
        lanes = self._lanes.setdefault(key, _Lanes())
        if lanes.free() is None:
            lane = (key, len(lanes.tracks))
            yield from self._descriptor(lane, name, parent)
            lanes.tracks.append(self._tracks[lane])

    def _begin(self, open_slices: dict[int, tuple[_Lanes, int]], key: object, seq: int) -> int:
        """Take the free lane for the slice `seq`; returns its track."""
        lanes = self._lanes[key]
        track = lanes.free()
        assert track is not None
        lanes.busy[track] = seq
        open_slices[seq] = lanes, track
        return track

    # Events ---------------------------------------------------------------------------------------------------------

    def _op(self, event: events.Op) -> Iterable[bytes]:
        """Begin and end of a call. Most calls repeat another one: of these only the times are encoded."""
        if event.duration is None or event.errno is not None or event.seq in self._ops:
            return self._new_op(event)
        key = (
            event.pid,
            event.tgid,
            event.comm,
            event.program,
            event.uid,
            event.op,
            event.path,
            event.data,
            event.result,
        )
        known = self._repeated.get(key)
        if known is not None and known[1] not in known[0] and self._programs.get(event.tgid) == event.program:
            before_begin, after_begin, before_end, after_end = known[2]
            end = event.time + event.duration
            return (before_begin, _stamp(event.time), after_begin, before_end, _stamp(end), after_end)
        packets = list(self._new_op(event))
        if len(self._repeated) >= _REPEATED_KEPT:
            self._repeated.clear()
        lanes = self._lanes["thread", event.tgid, event.pid]
        track = lanes.free()
        assert track is not None  # the one that this call has just left
        parts = (*_packet(*_begin_of(event, track)), *_packet(*_end_of(event, track)))
        self._repeated[key] = lanes.busy, track, parts
        return packets

    def _new_op(self, event: events.Op) -> Iterator[bytes]:
        if event.seq not in self._ops:
            process, thread = ("process", event.tgid), ("thread", event.tgid, event.pid)
            if self._programs.get(event.tgid) != event.program:
                self._programs[event.tgid] = event.program
                about = _number(_PROCESS_PID, event.tgid) + _bytes(_PROCESS_NAME, event.program)
                yield from self._descriptor(process, "", None, _bytes(_PROCESS, about))
            yield from self._lane(thread, f"{event.comm} {event.pid}", self._tracks[process])
            track = self._begin(self._ops, thread, event.seq)
            yield self._event(event.time, *_begin_of(event, track))
            self._calls[event.seq] = f"{event.comm} {event.pid}: {_name_of(event)}"
        if event.duration is not None:
            lanes, track = self._ops.pop(event.seq)
            del lanes.busy[track], self._calls[event.seq]
            yield self._event(event.time + event.duration, *_end_of(event, track))

    def _wait(self, event: events.Wait) -> Iterator[bytes]:
        _, track = self._ops[event.op]
        if event.duration is not None:
            yield self._event(event.time + event.duration, _END, track)
        else:
            name = f"waits for {event.lock}" if event.lock else f"{event.kind} {event.point}"
            yield self._event(event.time, _BEGIN, track, name, ("wait", event.kind), (("point", event.point),))

    def _lock(self, event: events.Lock) -> Iterator[bytes]:
        if event.duration is not None:
            lanes, track = self._held.pop(event.seq)
            del lanes.busy[track]
            yield self._event(event.time + event.duration, _END, track)
            return
        yield from self._track("locks", "kernel locks")
        name = "memory block devices" if _BLOCK_LOCK.fullmatch(event.lock) else event.lock
        key = ("lock", name)
        yield from self._lane(key, name, self._tracks["locks"])
        track = self._begin(self._held, key, event.seq)
        holder = "" if event.op is None else self._calls.get(event.op, "")
        yield self._event(event.time, _BEGIN, track, holder or event.lock, ("lock",), (("lock", event.lock),))

    def _instant(self, key: str, seconds: float, name: str, facts: _Facts) -> Iterator[bytes]:
        yield from self._track(key, key)
        yield self._event(seconds, _INSTANT, self._tracks[key], name, (key,), facts)

    def _boot(self, event: events.Boot) -> Iterator[bytes]:
        yield from self._instant("memory", event.time, "boot", ())

    def _uevent(self, event: events.Uevent) -> Iterator[bytes]:
        facts = (("devpath", event.devpath), ("seq", event.seq), ("count", event.count), ("op", event.op))
        more = f" and {event.count - 1} more" if event.count > 1 else ""
        name = f"{event.action} {event.devpath.rpartition('/')[2]}{more}"
        yield from self._instant("uevents", event.time, name, facts)

    def _log(self, event: events.Log) -> Iterator[bytes]:
        facts = (("level", event.level), ("seq", event.seq), ("op", event.op))
        yield from self._instant("kernel log", event.time, event.text, facts)

    def _blocks(self, event: events.Blocks) -> Iterator[bytes]:
        blocks = f"memory{event.first}" + (f" to {event.last}" if event.last > event.first else "")
        state = " ".join(filter(None, (event.state or "removed", event.zone)))
        yield from self._instant("memory", event.time, f"{blocks}: {state}", (("op", event.op),))

    def _node(self, event: events.Node) -> Iterator[bytes]:
        state = "online" if event.online else "gone"
        yield from self._instant("memory", event.time, f"node{event.node}: {state}", (("op", event.op),))

    def _dax(self, event: events.Dax) -> Iterator[bytes]:
        state = (event.driver or "no driver") if event.present else "gone"
        yield from self._instant("memory", event.time, f"{event.device}: {state}", (("op", event.op),))

    def _memory(self, event: events.Memory) -> Iterator[bytes]:
        sizes = {"MemTotal": event.total, **dict.fromkeys(sorted(self._zones), 0), **event.zones}
        self._zones |= set(event.zones)
        for name, size in sizes.items():
            counter = _bytes(_COUNTER_DESCRIPTOR, _number(_UNIT, _BYTES))
            yield from self._track(("counter", name), name, None, counter)
            track = self._tracks["counter", name]
            fields = _number(_TYPE, _COUNTER) + _number(_TRACK, track) + _number(_COUNTER_VALUE, size * _KB)
            timestamp = _number(_TIMESTAMP, round(event.time * _NANOSECONDS))
            yield self._packet(timestamp, _bytes(_TRACK_EVENT, fields))
