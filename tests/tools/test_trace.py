"""`fakesysfs run --trace` and `mount --trace`: what real programs did, also when the run was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakesysfs.testing import MountedMachine
from fakesysfs.trace import events
from fakesysfs.trace.events import Event, from_lines
from tests.tools.conftest import ROOT, Runner, eventually, need
from tests.trace.replayed import finished

DUMP = """
cat $C/writes.jsonl > writes; cat $C/refused.jsonl > refused; cat $C/kmsg.jsonl > kmsg; cat $C/uevents.jsonl > uevents
"""

RACE = """
C=$FAKESYSFS_CONTROL D=/sys/bus/dax/devices/dax0.0/hotplug B=/sys/devices/system/memory
echo 1 > $C/writes
echo 0.002 > $C/latency/offline_block
( exec -a remover bash -c "echo unplug > $D" ) &
until grep -q offline $B/memory70/state; do :; done
! bash -c "echo online > $B/memory70/state" 2>/dev/null
wait
echo 0 > $C/writes
{dump}
ls -l /sys/devices/system/node > /dev/null
! cat /sys/devices/system/memory/memory4711/state 2> /dev/null
"""


def read(file: Path) -> list[Event]:
    with file.open("rb") as lines:
        return list(from_lines(lines))


def lines_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def raced(run: Runner, tmp_path: Path) -> list[Event]:
    """The events of the race, with a latency so that both meet."""
    trace = tmp_path / "t.jsonl"
    pftrace = tmp_path / "t.pftrace"
    run.shell(f"cd {tmp_path}; {RACE.replace('{dump}', DUMP)}", "--trace", str(trace), "--trace", str(pftrace))
    return read(trace)


def compare(happened: list[Event], where: Path) -> None:
    """The events are those of control/'s lists, which DUMP has put into files."""
    calls = list(finished(happened))
    wanted = ("pid", "comm", "uid", "op", "path", "data", "result", "errno", "reason", "func")
    controls = [tuple(write[name] for name in wanted) for write in lines_of(where / "writes")]
    writes = [tuple(getattr(op, name) for name in wanted) for op in calls if op.op == "write"]
    # control/writes was turned on by its own first line, and begins with the write after it
    ours = sorted(map(str, writes))
    assert controls
    assert [write for write in map(str, controls) if write not in ours] == []
    on = next(op.time for op in calls if op.op == "write" and op.path == "/control/writes")
    assert len(controls) == len([op for op in calls if op.op == "write" and op.time > on])
    refused = [op for op in calls if op.errno and op.op in {"open", "write"}]
    assert [(op.pid, op.data, op.errno, op.reason, op.func) for op in refused] == [
        tuple(refusal[name] for name in ("pid", "data", "errno", "reason", "func"))
        for refusal in lines_of(where / "refused")
    ]
    log = [(event.seq, event.level, event.text) for event in happened if isinstance(event, events.Log)]
    assert log == [(line["seq"], line["level"], line["text"]) for line in lines_of(where / "kmsg")]
    sent = [event for event in happened if isinstance(event, events.Uevent)]
    assert sum(event.count for event in sent) == len(lines_of(where / "uevents"))
    assert {(event.seq, event.action) for event in sent} <= {
        (line["seq"], line["action"]) for line in lines_of(where / "uevents")
    }


def test_a_trace_is_what_control_and_the_log_say(raced: list[Event], tmp_path: Path) -> None:
    compare(raced, tmp_path)
    refused = [op for op in finished(raced) if op.errno and op.op == "write"]
    # control/refused has "?" for a file that was removed
    assert [(op.path, op.errno) for op in refused] == [("/sys/devices/system/memory/memory70/state", "ENODEV")]


def test_a_trace_of_the_race_example(run: Runner, tmp_path: Path) -> None:
    need("udevadm", "/usr/lib/systemd/systemd-udevd")
    rule = ROOT / "examples" / "udev-rules" / "80-keep-memory-online.rules"
    script = f"cd {tmp_path}; {ROOT}/examples/race/contest blocks 0 0 0 0; C=$FAKESYSFS_CONTROL; {DUMP}"
    options = ("--kernel", "7.2", "--udev", "--rules", str(rule), "--trace", str(tmp_path / "t.jsonl"))
    assert "stuck" in run.shell(script, *options)
    happened = read(tmp_path / "t.jsonl")
    compare(happened, tmp_path)
    writers = {op.program for op in finished(happened) if op.op == "write" and op.path.endswith("/state")}
    assert writers == {"remove-blocks", "(udev-worker)"}
    unbind = next(op for op in finished(happened) if op.path.endswith("kmem/unbind") and op.op == "write")
    errors = [event.text for event in happened if isinstance(event, events.Log) and event.op == unbind.seq]
    assert any("cannot be hotremoved until the next reboot" in text for text in errors)


def test_the_perfetto_trace_of_the_same_run_has_the_same_counts(raced: list[Event], tmp_path: Path) -> None:
    schema = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    data = (tmp_path / "t.pftrace").read_bytes()
    assert data[:1] == b"\n"
    packets = [packet.track_event for packet in schema.Trace.FromString(data).packet if packet.HasField("track_event")]
    spans = [event for event in raced if getattr(event, "duration", None) is not None]
    assert sum(event.type == event.TYPE_SLICE_BEGIN for event in packets) == len(spans)
    assert sum(event.type == event.TYPE_SLICE_END for event in packets) == len(spans)
    categories = [category for event in packets for category in event.categories]
    for category, kind in (("uevents", events.Uevent), ("kernel log", events.Log)):
        assert categories.count(category) == len([event for event in raced if isinstance(event, kind)])


def test_calls_have_process_command_and_program(raced: list[Event]) -> None:
    (removal,) = (op for op in finished(raced) if op.data == "unplug\n")
    assert (removal.comm, removal.program, removal.result) == ("bash", "remover", 7)
    assert removal.pid == removal.tgid > 0
    (refused,) = (op for op in finished(raced) if op.errno == "ENODEV")
    waits = [event for event in raced if isinstance(event, events.Wait) and event.op == refused.seq]
    assert {(wait.kind, wait.lock) for wait in waits} == {("lock", "device_hotplug_lock")}
    listing = next(op for op in finished(raced) if op.op == "opendir" and op.path == "/sys/devices/system/node")
    assert listing.comm == "ls"
    absent = [op for op in finished(raced) if op.path.endswith("memory4711") and op.op == "lookup"]
    assert {(op.comm, op.errno) for op in absent} == {("cat", "ENOENT")}


def test_a_killed_run_leaves_what_was_under_way(run: Runner, tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    script = "echo 1 > $FAKESYSFS_CONTROL/blocks/memory70/pinned; echo unplug > /sys/bus/dax/devices/dax0.0/hotplug"
    launcher = run.start("--trace", str(trace), "--", "sh", "-c", script, stderr=subprocess.DEVNULL)

    def waiting() -> list[events.Wait]:
        found = read(trace) if trace.exists() else []
        return [event for event in found if isinstance(event, events.Wait) and event.point == "do_migrate_range"]

    eventually(waiting, "the wait")
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    eventually(lambda: not run.alive(), "the end")
    calls = {event.seq: event for event in read(trace) if isinstance(event, events.Op)}
    assert [op.data for op in calls.values() if op.duration is None or op.errno == "EIO"] == ["unplug\n"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--trace", "t.txt"], "t.txt: a trace is named *.jsonl (JSON lines) or *.pftrace"),
        (["--trace", "/nonexistent/t.jsonl"], "/nonexistent/t.jsonl: the trace cannot be written: No such file"),
        (["--trace", "t.jsonl", "--at", "mnt"], "--trace needs a fake of its own, not --at"),
    ],
)
def test_wrong_use(run: Runner, options: list[str], why: str) -> None:
    done = run(*options, "--", "true")
    assert done.returncode == 2
    assert why in done.stderr


def test_a_mount_writes_reads_within_a_moment(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    with MountedMachine(tmp_path, trace=trace) as machine:
        machine.read("/sys/devices/system/memory/memory70/state")
        eventually(lambda: any(op.op == "read" and op.data == "online\n" for op in finished(read(trace))), "the read")


def test_fakesysfs_mount_traces_too(tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    command = [sys.executable, "-m", "fakesysfs"]
    mount = [*command, "mount", "--trace", "t.jsonl", "mnt"]
    subprocess.run(mount, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            (point / "sys/devices/system/memory/memory70/state").write_text("nonsense")
        refused = [op for op in finished(read(tmp_path / "t.jsonl")) if op.op == "write"]
        assert {(op.data, op.errno) for op in refused} == {("nonsense", "EINVAL")}
    finally:
        subprocess.run([*command, "umount", str(point)], check=True)
