"""A trace of a machine in process equals what control/ and the model say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakesysfs.kernfs.file import OpenFile, TracedFile
from fakesysfs.testing import Machine
from fakesysfs.testing.machine import RunningMachine
from fakesysfs.trace import CannotTraceError, Recorder, events, open_target
from fakesysfs.trace.events import Event, from_lines, to_line
from tests.trace.replayed import Events, cells, cells_of, finished

BLOCK = "/sys/devices/system/memory/memory{}/state"
HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"


class Traced:
    """A machine in process, and its events so far."""

    def __init__(self, machine: RunningMachine) -> None:
        self.machine = machine
        self.sysroot = machine._sysroot
        self.events = Events()
        self.recorder = Recorder(self.sysroot, [self.events], "default")

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def refused(self, path: str, data: str | bytes) -> None:
        with pytest.raises(OSError, match="Errno"):
            self.machine.write(path, data)

    def control(self, name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.machine._show(f"/control/{name}").splitlines()]


@pytest.fixture
def traced() -> Iterator[Traced]:
    with Machine("default", "7.2") as machine:
        yield Traced(machine)


@pytest.fixture
def series() -> Iterator[Traced]:
    with Machine() as machine:
        yield Traced(machine)


def race(traced: Traced) -> None:
    """The race of README.md: block by block, and another controller in between."""
    machine = traced.machine
    machine.trace_writes()
    for block in range(64, 96):
        machine.write(BLOCK.format(block), "offline")
    machine.write(BLOCK.format(70), "online")
    traced.refused(BLOCK.format(70), b"nonsense\x80")
    machine.write("/sys/bus/dax/drivers/kmem/unbind", "dax0.0")
    with pytest.raises(PermissionError):
        machine.write("/sys/devices/system/memory/memory70/valid_zones", "x")


# Control --------------------------------------------------------------------------------------------------------------


def fields(event: dict[str, object], names: str) -> dict[str, object]:
    return {name: event[name] for name in names.split()}


def test_writes_are_those_of_control(traced: Traced) -> None:
    race(traced)
    names = "time duration pid comm uid op path data result errno reason func"
    told = [fields(json.loads(to_line(op)), names) for op in finished(traced.events) if op.op == "write"]
    assert told == [fields(write, names) for write in traced.control("writes.jsonl")]
    assert len(told) == 35


def test_refusals_are_those_of_control(traced: Traced) -> None:
    race(traced)
    names = "time pid comm uid op path data errno reason func"
    told = [fields(json.loads(to_line(op)), names) for op in finished(traced.events) if op.errno]
    assert told == [fields(refusal, names) for refusal in traced.control("refused.jsonl")]
    assert [(op["op"], op["errno"]) for op in told] == [("write", "EINVAL"), ("open", "EACCES")]


def test_the_log_is_that_of_the_kernel_from_boot_on(traced: Traced) -> None:
    race(traced)
    told = [fields(json.loads(to_line(line)), "seq time level text") for line in traced.of(events.Log)]
    assert told == traced.control("kmsg.jsonl")
    assert "cannot be hotremoved" in str(told[-1]["text"])


def expanded(uevent: Event) -> Iterator[dict[str, object]]:
    assert isinstance(uevent, events.Uevent)
    base = uevent.devpath.rstrip("0123456789") if uevent.count > 1 else uevent.devpath
    first = int(uevent.devpath[len(base) :] or 0)
    for number in range(uevent.count):
        devpath = f"{base}{first + number}" if uevent.count > 1 else base
        yield {
            "seq": uevent.seq + number,
            "action": uevent.action,
            "devpath": devpath,
            "subsystem": uevent.subsystem,
            "env": uevent.env,
        }


def test_uevents_are_those_of_control_also_where_records_grow(traced: Traced) -> None:
    race(traced)
    told = [one for uevent in traced.of(events.Uevent) for one in expanded(uevent)]
    assert told == traced.control("uevents.jsonl")


# The model ------------------------------------------------------------------------------------------------------------


def test_the_blocks_are_those_of_the_model_after_each_call(traced: Traced) -> None:
    assert cells(traced.events) == cells_of(traced.sysroot.kernel)
    race(traced)
    assert cells(traced.events) == cells_of(traced.sysroot.kernel)
    traced.machine.write("/control/reset", "1")
    assert cells(traced.events) == cells_of(traced.sysroot.kernel)


def test_removal_takes_blocks_node_and_memory(series: Traced) -> None:
    series.machine.write(HOTPLUG, "unplug")
    happened = series.events
    assert cells(happened) == cells_of(series.sysroot.kernel)
    node = [event for event in happened if isinstance(event, events.Node)][-1]
    assert (node.node, node.online, node.op) == (2, False, 2)
    memory = [event for event in happened if isinstance(event, events.Memory)][-1]
    assert memory.total == series.sysroot.kernel.nodes.managed_kb()
    assert "node2 Movable" not in memory.zones


def test_a_change_without_effect_is_no_event(traced: Traced) -> None:
    before = len(traced.of(events.Blocks))
    traced.refused(BLOCK.format(70), "online")  # it is; only the pending online type changes
    assert len(traced.of(events.Blocks)) == before


def test_dax_devices_have_the_whole_blocks_of_their_ranges(series: Traced) -> None:
    region = "/sys/devices/platform/ACPI0017:00/root0/decoder0.0/region0/dax_region0/dax_region"
    series.machine.write(f"{region}/create", "1")
    series.machine.write("/sys/bus/dax/devices/dax0.1/size", str(3 << 27))
    dax = [event for event in series.events if isinstance(event, events.Dax)]
    assert [(event.device, event.blocks) for event in dax] == [
        ("dax0.0", [(64, 95)]),
        ("dax0.1", []),
        ("dax0.1", [(96, 98)]),
    ]
    series.machine.write("/sys/bus/dax/devices/dax0.1/size", "0")
    series.machine.write(f"{region}/delete", "dax0.1")
    gone = series.of(events.Dax)[-1]
    assert isinstance(gone, events.Dax)
    assert (gone.device, gone.present) == ("dax0.1", False)


# Waits ----------------------------------------------------------------------------------------------------------------


def of_call(happened: list[Event], kind: type[events.Wait | events.Lock], seq: int) -> list[events.Wait | events.Lock]:
    return [event for event in happened if isinstance(event, kind) and event.op == seq and event.duration is not None]


def test_a_wait_for_a_lock_is_inside_its_call_and_ends_with_the_lock(series: Traced) -> None:
    machine = series.machine
    machine.set_latency(offline_block=0.25)
    remover = machine.start_write(HOTPLUG, "unplug")
    onliner = machine.start_write(BLOCK.format(70), "online")
    under_way = [event for event in series.events if isinstance(event, events.Op) and event.duration is None]
    assert [op.data for op in under_way] == ["unplug", "online"]
    assert remover.result() == 6
    with pytest.raises(OSError, match="No such device"):
        onliner.result()
    removal, refusal = (op for op in finished(series.events) if op.op == "write")
    (lock_wait,) = of_call(series.events, events.Wait, refusal.seq)
    assert isinstance(lock_wait, events.Wait)
    assert (lock_wait.kind, lock_wait.lock) == ("lock", "device_hotplug_lock")
    assert (lock_wait.time, lock_wait.duration) == (refusal.time, refusal.duration) == (0.0, 8.0)
    assert (refusal.errno, refusal.reason) == ("ENODEV", "memory70 was removed")
    held = {str(lock.lock): lock for lock in of_call(series.events, events.Lock, removal.seq)}
    held = {name: lock for name, lock in held.items() if "memory" not in name}
    assert sorted(held) == ["dax0.0 kmem", "device_hotplug_lock"]
    assert held["device_hotplug_lock"].duration == lock_wait.duration
    sleeps = of_call(series.events, events.Wait, removal.seq)
    assert [(sleep.time, sleep.duration) for sleep in sleeps] == [(block / 4, 0.25) for block in range(32)]


def test_a_killed_call_ends_with_what_it_was_refused(series: Traced) -> None:
    machine = series.machine
    machine.pin(70)
    write = machine.start_write(HOTPLUG, "unplug")
    write.kill()
    (ended,) = (op for op in finished(series.events) if op.op == "write")
    assert ended.errno == "EINTR"
    (wait,) = of_call(series.events, events.Wait, ended.seq)
    assert isinstance(wait, events.Wait)
    assert (wait.kind, wait.point) == ("event", "do_migrate_range")


def test_a_call_that_never_ends_is_in_the_trace_as_abandoned(tmp_path: Path) -> None:
    with Machine(trace=tmp_path / "t.jsonl") as machine:
        machine.pin(70)
        machine.start_write(HOTPLUG, "unplug")
    lines = (tmp_path / "t.jsonl").read_bytes().splitlines(keepends=True)
    begun, ended = (event for event in from_lines(lines) if isinstance(event, events.Op) and event.op == "write")
    assert (begun.duration, begun.errno) == (None, None)
    assert (ended.seq, ended.errno, ended.reason) == (begun.seq, "EIO", "a bug, or the mount ended")


# Names, and what is left out ------------------------------------------------------------------------------------------


def test_names_and_directories_are_calls_too(traced: Traced) -> None:
    machine = traced.machine
    machine.ls("/sys/devices/system/node")
    machine.stat(BLOCK.format(70))
    machine.readlink("/sys/bus/dax/devices/dax0.0")
    with pytest.raises(FileNotFoundError):
        machine.read(BLOCK.format(4711))
    assert [(op.op, op.errno) for op in finished(traced.events)] == [
        ("opendir", None),
        ("getattr", None),
        ("readlink", None),
        ("open", "ENOENT"),
    ]


def test_the_users_of_the_test_itself_leave_no_trace(traced: Traced) -> None:
    before = len(list(finished(traced.events)))
    traced.machine.set_unmovable(70)
    assert traced.machine.log
    assert len(list(finished(traced.events))) == before


def test_without_a_trace_files_are_ordinary() -> None:
    kinds: list[type[OpenFile]] = []
    with Machine() as machine:
        sysroot = machine._sysroot
        open_it: Callable[[], OpenFile] = lambda: machine._files.open(HOTPLUG, 0).file  # noqa: E731
        kinds.append(type(open_it()))
        recorder = Recorder(sysroot, [Events()], "default")
        kinds.append(type(open_it()))
        recorder.detach()
        kinds.append(type(open_it()))
        assert sysroot.kernel.tracer is None
        assert sysroot.kernel.lock_observers.observer is None
    assert kinds == [OpenFile, TracedFile, OpenFile]


def test_a_reset_begins_a_new_state_and_time_goes_on(series: Traced) -> None:
    series.machine.advance(5)
    series.machine.write("/control/reset", "1")
    boots = series.of(events.Boot)
    assert [boot.time for boot in boots if isinstance(boot, events.Boot)] == [0.0, 5.0]
    series.machine.write(HOTPLUG, "unplug")
    log = [event for event in series.events if isinstance(event, events.Log)]
    assert log[-1].time == 5.0
    assert cells(series.events) == cells_of(series.sysroot.kernel)


def test_what_goes_on_in_a_kernel_that_was_reset_changes_nothing(series: Traced) -> None:
    machine = series.machine
    machine.set_latency(offline_block=0.25)
    removal = machine.start_write(HOTPLUG, "unplug")
    machine.advance(1)
    machine.write("/control/reset", "1")
    removal.result()
    assert cells(series.events) == cells_of(series.sysroot.kernel)
    assert {state for state, _, _ in cells(series.events).values()} == {"online"}
    begun = {event.seq for event in series.events if isinstance(event, events.Lock)}
    ended = {event.seq for event in series.events if isinstance(event, events.Lock) and event.duration is not None}
    assert begun == ended


# Files ----------------------------------------------------------------------------------------------------------------


def test_another_name_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CannotTraceError, match=r"a trace is named \*.jsonl \(JSON lines\) or \*.pftrace"):
        open_target(str(tmp_path / "trace.txt"))
    with (
        pytest.raises(ValueError, match="the trace cannot be written: No such file or directory"),
        Machine(trace=tmp_path / "absent" / "t.jsonl"),
    ):
        pass


def test_bytes_that_are_no_text_come_back(traced: Traced) -> None:
    traced.refused(BLOCK.format(70), b"\xff\x80")
    (refused,) = (op for op in finished(traced.events) if op.errno)
    assert refused.data == "\udcff\udc80"


def test_the_cut_last_line_of_a_killed_run_is_left_out() -> None:
    lines = [b'{"type":"boot","time":0.5}\n', b'{"type":"boo']
    assert list(from_lines(lines)) == [events.Boot(0.5)]
    with pytest.raises(ValueError, match="missing required field"):
        list(from_lines([b'{"type":"boot"}\n']))
