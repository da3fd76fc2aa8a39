"""A .pftrace, read with Perfetto's own schema, says what the JSON lines say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakesysfs.testing import Machine
from fakesysfs.trace import Recorder, Target, attach, events
from fakesysfs.trace.events import Event, from_lines
from fakesysfs.trace.perfetto import Encoder
from tests.trace.replayed import Events

schema: Any = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")

BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4
HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"


class Pftrace:
    """A trace as Perfetto sees it."""

    def __init__(self, data: bytes) -> None:
        self.packets = schema.Trace.FromString(data).packet
        self.tracks: dict[int, Any] = {
            packet.track_descriptor.uuid: packet.track_descriptor
            for packet in self.packets
            if packet.HasField("track_descriptor")
        }
        self.events = [packet for packet in self.packets if packet.HasField("track_event")]

    def name(self, packet: Any) -> str:
        track = self.tracks[packet.track_event.track_uuid]
        return str(track.name or track.process.process_name)

    def on(self, track: str) -> list[Any]:
        return [packet for packet in self.events if self.name(packet) == track]

    def slices(self) -> Iterator[tuple[Any, Any]]:
        """Begin and end of each slice. They are nested on each track, in the order of time."""
        open_slices: dict[int, list[Any]] = {}
        for packet in sorted(self.events, key=lambda packet: int(packet.timestamp)):
            stack = open_slices.setdefault(packet.track_event.track_uuid, [])
            if packet.track_event.type == BEGIN:
                stack.append(packet)
            elif packet.track_event.type == END:
                yield stack.pop(), packet
        assert not any(open_slices.values())


def facts(packet: Any) -> dict[str, str | int]:
    return {
        fact.name: fact.string_value if fact.HasField("string_value") else fact.int_value
        for fact in packet.track_event.debug_annotations
    }


def busy_machine(path: Path) -> list[Event]:
    """A removal with latency, and another controller that waits for it; returns the events of path.jsonl."""
    files = [path.with_suffix(".jsonl"), path.with_suffix(".pftrace")]
    targets = [Target(os.open(file, os.O_WRONLY | os.O_CREAT), file.suffix) for file in files]
    with Machine() as machine:
        recorder = attach(machine._sysroot, targets, "default")
        machine.set_latency(offline_block=0.25)
        remover = machine.start_write(HOTPLUG, "unplug")
        onliner = machine.start_write("/sys/devices/system/memory/memory70/state", "online")
        remover.result()
        with pytest.raises(OSError, match="No such device"):
            onliner.result()
        machine.read("/proc/meminfo")
        recorder.detach()
    for target in targets:
        os.close(target.descriptor)
    return list(from_lines(files[0].read_bytes().splitlines(keepends=True)))


def test_it_has_the_same_counts_as_the_json_lines(tmp_path: Path) -> None:
    happened = busy_machine(tmp_path / "t")
    data = (tmp_path / "t.pftrace").read_bytes()
    assert data[0] == 0x0A
    pftrace = Pftrace(data)
    slices = list(pftrace.slices())
    waits = [begin for begin, _ in slices if "wait" in begin.track_event.categories]
    locks = [begin for begin, _ in slices if list(begin.track_event.categories) == ["lock"]]
    counts = Counter(type(event).__name__ for event in happened if getattr(event, "duration", 0) is not None)
    assert len(waits) == counts["Wait"] > 30
    assert len(locks) == counts["Lock"] > 30
    assert len(slices) - len(waits) - len(locks) == counts["Op"]
    assert len(pftrace.on("uevents")) == counts["Uevent"]
    assert len(pftrace.on("kernel log")) == counts["Log"]
    assert len(pftrace.on("memory")) == counts["Boot"] + counts["Blocks"] + counts["Node"] + counts["Dax"]
    assert len(pftrace.on("MemTotal")) == counts["Memory"]


def test_a_refused_call_has_times_errno_and_reason(tmp_path: Path) -> None:
    busy_machine(tmp_path / "t")
    pftrace = Pftrace((tmp_path / "t.pftrace").read_bytes())
    (refused,) = (pair for pair in pftrace.slices() if "refused" in pair[1].track_event.categories)
    begin, end = refused
    assert (begin.timestamp, end.timestamp) == (0, 8 * 10**9)
    assert begin.track_event.name == "write state"
    assert facts(end) == {
        "data": "online",
        "errno": "ENODEV",
        "reason": "memory70 was removed",
        "func": "state_store",
    }


def test_a_lock_has_its_holders_on_a_track_of_its_own(tmp_path: Path) -> None:
    busy_machine(tmp_path / "t")
    pftrace = Pftrace((tmp_path / "t.pftrace").read_bytes())
    begin, end = pftrace.on("device_hotplug_lock")
    assert begin.track_event.name.endswith(": write hotplug")
    assert end.timestamp - begin.timestamp == 8 * 10**9
    (wait,) = (packet for packet in pftrace.events if packet.track_event.name == "waits for device_hotplug_lock")
    parent = pftrace.tracks[wait.track_event.track_uuid].parent_uuid
    assert pftrace.tracks[parent].process.pid == os.getpid()


def test_counters_are_bytes_and_a_zone_that_went_is_zero(tmp_path: Path) -> None:
    happened = busy_machine(tmp_path / "t")
    pftrace = Pftrace((tmp_path / "t.pftrace").read_bytes())
    memory = [event for event in happened if isinstance(event, events.Memory)]
    values = [packet.track_event.counter_value for packet in pftrace.on("MemTotal")]
    assert values == [event.total * 1024 for event in memory]
    movable = pftrace.on("node2 Movable")
    assert movable[0].track_event.counter_value == 4 << 30
    assert movable[-1].track_event.counter_value == 0
    assert pftrace.tracks[movable[0].track_event.track_uuid].counter.unit == schema.CounterDescriptor.UNIT_SIZE_BYTES


def test_each_packet_is_whole_when_it_is_written() -> None:
    """A killed run leaves a file that can be read."""
    events_of_a_read = Events()
    with Machine() as machine:
        Recorder(machine._sysroot, [events_of_a_read], "default")
        machine.read(HOTPLUG)
    encoder = Encoder()
    packets = [encoder.packets([event]) for event in events_of_a_read]
    for end in range(len(packets)):
        schema.Trace.FromString(b"".join(packets[:end]))
    assert schema.Trace.FromString(b"".join(packets)).packet
