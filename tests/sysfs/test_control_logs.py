"""The lists of control/, as text and as JSON lines. Those that are log files grow, and drop old lines."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesysfs.control.events import EventLines, json_template, text_template
from fakesysfs.control.history import DATA_KEPT, FOLLOWED_LINES, REFUSED_CALLS
from fakesysfs.control.kmsg import kmsg_line
from fakesysfs.control.transcript import SingleLine, Transcript
from fakesysfs.kernel.printk import LOG_RECORDS
from fakesysfs.kernel.uevent import UeventRange
from fakesysfs.kernfs import OpenFile
from fakesysfs.kernfs.log import LogReader
from fakesysfs.ops import sched
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import advance
from fakesysfs.testing.filesystem import FileSystem
from tests.model import CALLER, Face

STATE = "/sys/devices/system/memory/memory64/state"
POLICY = "/sys/devices/system/memory/auto_online_blocks"
TEXT_LOGS = ["kmsg", "uevents", "refused"]
JSON_LOGS = [f"{name}.jsonl" for name in TEXT_LOGS]
LOGS = [*TEXT_LOGS, *JSON_LOGS]
DOCUMENTED = Path(__file__).parents[2] / "docs" / "control.md"


@pytest.fixture
def face() -> Face:
    return Face()


def add_line(face: Face, name: str) -> None:
    """One more line."""
    if name.startswith("kmsg"):
        face.write("/control/dev_kmsg", "hello")
    elif name.startswith("uevents"):
        face.write("/sys/devices/system/memory/memory64/uevent", "change")
    else:
        face.refusal(STATE, "nonsense")


def size_of(face: Face, name: str) -> int:
    tree = face.sysroot.tree
    return tree.getattr(tree.resolve(f"/control/{name}")).size


def rest(file: OpenFile, position: int) -> bytes:
    """All from a position on, by reads that each begin where the last one ended."""
    parts = []
    while data := file.read(position, 1000):
        parts.append(data)
        position += len(data)
    return b"".join(parts)


@pytest.mark.parametrize("name", LOGS)
def test_its_size_is_what_a_read_gives(face: Face, name: str) -> None:
    for _ in range(3):
        assert size_of(face, name) == len(face.read(f"/control/{name}"))
        add_line(face, name)


@pytest.mark.parametrize("name", LOGS)
def test_a_reader_at_the_end_gets_what_comes(face: Face, name: str) -> None:
    file = face.open(f"/control/{name}")
    text = rest(file, 0)
    for _ in range(3):
        assert file.read(len(text), 1000) == b""
        add_line(face, name)
        assert file.getattr().size > len(text)
        more = rest(file, len(text))
        assert more.count(b"\n") == 1
        text += more
    assert text == rest(file, 0) == face.read(f"/control/{name}").encode()


@pytest.mark.parametrize("name", LOGS)
def test_a_byte_keeps_its_position(face: Face, name: str) -> None:
    file = face.open(f"/control/{name}")
    for _ in range(5):
        add_line(face, name)
    text = rest(file, 0)
    for position, size in itertools.product(range(0, len(text) + 10, 7), (1, 50, 10_000)):
        assert file.read(position, size) == text[position : position + size]


@pytest.mark.parametrize("name", LOGS)
def test_its_size_is_not_to_be_cached(face: Face, name: str) -> None:
    tree = face.sysroot.tree
    assert tree.getattr(tree.resolve(f"/control/{name}")).grows
    assert not tree.getattr(tree.resolve("/control/pid")).grows


def test_a_reset_begins_a_new_file_and_the_old_one_can_be_read_to_its_end(face: Face) -> None:
    files = {name: face.open(f"/control/{name}") for name in LOGS}
    for name in LOGS:
        add_line(face, name)
    before = {name: face.read(f"/control/{name}").encode() for name in LOGS}
    face.write("/control/reset", "1")
    for name, file in files.items():
        add_line(face, name)
        old = file.getattr()
        assert (old.nlink, old.size) == (0, len(before[name]))
        assert rest(file, 0) == before[name]
        new = face.open(f"/control/{name}")
        assert new.getattr().nlink == 1
        assert new.ino != file.ino
        assert rest(new, 0) == face.read(f"/control/{name}").encode()
        add_line(face, name)
        assert rest(file, old.size) == b"", "the old one no longer grows"


def test_a_reader_that_lags_behind_is_told_how_much_is_missing(face: Face) -> None:
    """Its position counts what it has read, and the size stays ahead of it."""
    file = face.open("/control/kmsg")
    position = len(rest(file, 0))
    for number in range(LOG_RECORDS + 3):
        face.write("/control/dev_kmsg", f"message {number}")
    text = rest(file, position)
    notice, *lines = text.decode().splitlines()
    assert notice == f"({face.kernel.printk.dropped} earlier messages dropped)"
    assert [line.split("message ")[1] for line in lines] == [str(number) for number in range(3, LOG_RECORDS + 3)]
    assert position + len(text) <= file.getattr().size
    face.write("/control/dev_kmsg", "one more")
    assert rest(file, position + len(text)).endswith(b"one more\n")


def test_the_end_of_a_full_log_is_at_its_size(face: Face) -> None:
    """There tail(1) looks for the last lines."""
    for number in range(REFUSED_CALLS + 100):
        face.refusal(STATE, f"nonsense {number}")
    file = face.open("/control/refused")
    size = size_of(face, "refused")
    assert file.read(size, 1000) == b""
    last = file.read(size - 100, 1000)
    assert len(last) == 100
    assert face.read("/control/refused").encode().endswith(last)


def test_a_position_that_was_dropped_is_that_of_the_oldest_line(face: Face) -> None:
    file = face.open("/control/refused")
    for number in range(REFUSED_CALLS + 100):
        face.refusal(STATE, f"nonsense {number}")
        if not number:
            rest(file, 0)
    assert rest(file, 1) == rest(file, 0)
    assert rest(file, 0).startswith(b"(100 earlier ones dropped)\n")


@pytest.mark.parametrize("template", [text_template, json_template])
@pytest.mark.parametrize("device", [True, False])
@pytest.mark.parametrize(("sequence", "first", "last"), [(1, 0, 0), (1, 0, 120), (98, 9, 11), (5, 995, 1005)])
def test_events_are_measured_without_being_written_out(
    template: Callable[[UeventRange], str], *, device: bool, sequence: int, first: int, last: int
) -> None:
    record = UeventRange(
        sequence, "online", "/devices/100%s", "memory", ("A=é%d",), first if device else -1, last if device else -1
    )
    piece = EventLines(record, template(record))
    lines = list(piece.lines(0))
    assert (piece.first, piece.count) == (sequence, len(lines))
    assert [piece.length(count) for count in range(len(lines) + 1)] == [
        sum(map(len, lines[:count])) for count in range(len(lines) + 1)
    ]
    assert [list(piece.lines(skip)) for skip in range(len(lines))] == [lines[skip:] for skip in range(len(lines))]


@settings(max_examples=200)
@given(st.data())
def test_any_reader_of_a_record_that_drops_lines(data: st.DataObject) -> None:
    """No line comes twice or out of order; a notice stands for those that are missing."""
    capacity = data.draw(st.integers(1, 5))
    lines: list[bytes] = []

    def dropped() -> int:
        return max(len(lines) - capacity, 0)

    log = Transcript(
        lambda: (dropped(), len(lines)),
        lambda number: (SingleLine(at, lines[at]) for at in range(max(number, dropped()), len(lines))),
        lambda: f"({dropped()} earlier ones dropped)\n",
    )
    reader, position, got = LogReader(log), 0, b""
    for _ in range(data.draw(st.integers(0, 12))):
        for _ in range(data.draw(st.integers(0, 7))):
            lines.append(b"<%d:%s>\n" % (len(lines), b"x" * data.draw(st.integers(25, 40))))
        for _ in range(data.draw(st.integers(0, 4))):
            # as tail(1) does: no more than the size says that there is, and whole lines
            while part := reader.read(position, min(log.size - position, 1000)):
                position += len(part)
                got += part
                assert position <= log.size
    while part := reader.read(position, 7):
        position += len(part)
        got += part
    following, gap = 0, False
    for line in got.splitlines():
        if line.startswith(b"("):
            gap = True
            continue
        number = int(line[1:].split(b":")[0])
        assert number > following if gap else number == following
        following, gap = number + 1, False
    assert not lines or got.endswith(lines[-1])


def test_the_lines_of_the_log_are_those_of_the_record(face: Face) -> None:
    assert face.read("/control/kmsg") == "".join(map(kmsg_line, face.kernel.printk.since(0)))


# JSON lines ----------------------------------------------------------------------------------------------------------


def entries(face: Face, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in face.read(f"/control/{name}.jsonl").splitlines()]


@pytest.mark.parametrize("name", ["kmsg", "uevents", "refused", "writes", "blocks"])
def test_each_json_line_has_the_documented_fields(face: Face, name: str) -> None:
    face.write("/control/writes", "1")
    add_line(face, "kmsg")
    add_line(face, "uevents")
    add_line(face, "refused")
    section = DOCUMENTED.read_text(encoding="utf-8").partition(f"## control/{name}.jsonl")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    lines = entries(face, name)
    assert lines
    for line in lines:
        assert list(line) == documented


def test_json_lines_say_the_same_as_the_text(face: Face) -> None:
    add_line(face, "uevents")
    messages, events = entries(face, "kmsg"), entries(face, "uevents")
    assert face.read("/control/kmsg") == "".join(
        f"<{line['level']}>[{line['time']:12.6f}] {line['text']}\n" for line in messages
    )
    assert [line["seq"] for line in messages] == list(range(len(messages)))
    assert face.read("/control/uevents") == "".join(
        " ".join(
            [
                f"{line['action']}@{line['devpath']}",
                f"ACTION={line['action']}",
                f"DEVPATH={line['devpath']}",
                f"SUBSYSTEM={line['subsystem']}",
                *(f"{key}={value}" for key, value in line["env"].items()),
                f"SEQNUM={line['seq']}\n",
            ]
        )
        for line in events
    )


def test_a_refused_call_as_json(face: Face) -> None:
    with pytest.raises(KernelError):
        face.open("/sys/bus/dax/devices/dax0.0/mapping")
    face.refusal(STATE, "non\nsense")
    opened, written = entries(face, "refused")
    assert (opened["op"], opened["data"], opened["errno"], opened["func"]) == ("open", "", "EACCES", "kernfs_fop_open")
    assert written == {
        "seq": 1,
        "time": 0.0,
        "pid": 1,
        "comm": "pytest",
        "uid": 0,
        "op": "write",
        "path": STATE,
        "data": "non\nsense",
        "errno": "EINVAL",
        "reason": written["reason"],
        "func": "state_store",
    }
    assert f": {written['reason']} [state_store]" in face.read("/control/refused")


def test_bytes_that_are_not_utf_8_come_back_from_json(face: Face) -> None:
    """surrogateescape reads each such byte as U+DC80 to U+DCFF."""
    data = bytes(range(256)) * 2 + "é😀".encode()
    face.refusal(STATE, data)
    text = face.read("/control/refused.jsonl")
    assert text.isascii()
    assert entries(face, "refused")[0]["data"].encode("utf-8", "surrogateescape") == data, "whole, and not 64 bytes"
    face.write("/control/dev_kmsg", b"caf\xe9")
    assert entries(face, "kmsg")[-1]["text"] == "caf\udce9"


def test_a_refused_call_names_the_user(face: Face) -> None:
    files = FileSystem(face.sysroot.tree, face.sysroot.journal, CALLER)
    files.chmod(STATE, 0o666)
    user = files.as_user(1000)
    with pytest.raises(KernelError):
        sched.run(user.write(user.open(STATE, os.O_WRONLY), b"nonsense"))
    assert entries(face, "refused")[-1]["uid"] == 1000


def test_a_call_keeps_a_bounded_part_of_what_was_written(face: Face) -> None:
    """The error keeps no frame, which would hold the whole request in memory."""
    face.write("/control/writes", "1")
    face.refusal(STATE, b"x" * 5000)
    for history in (face.sysroot.journal.refused, face.sysroot.journal.writes):
        call = list(history.since(0))[-1]
        assert len(call.data) == DATA_KEPT
        assert call.error is not None
        assert call.error.__traceback__ is None


def test_the_trace_of_writes_as_json(face: Face) -> None:
    assert entries(face, "writes") == []
    face.write("/control/writes", "1")
    face.write(STATE, "offline")
    face.refusal(STATE, "offline")
    taken, refused = entries(face, "writes")
    assert (taken["seq"], taken["path"], taken["data"], taken["op"]) == (0, STATE, "offline", "write")
    assert (taken["duration"], taken["result"], taken["errno"], taken["reason"]) == (0.0, 7, None, None)
    assert (refused["seq"], refused["result"], refused["errno"], refused["func"]) == (1, None, "EINVAL", "state_store")
    assert refused["reason"] == entries(face, "refused")[0]["reason"]


def test_a_write_under_way_as_json(face: Face) -> None:
    face.write("/control/writes", "1")
    face.write("/control/blocks/memory64/pinned", "1")
    write = face.open(STATE, os.O_WRONLY).write(b"offline", CALLER)
    advance(write)
    under_way = entries(face, "writes")[-1]
    assert (under_way["duration"], under_way["result"], under_way["errno"]) == (None, None, None)
    assert face.read("/control/writes").endswith(f' - 1 pytest {STATE} "offline" -\n')
    write.close()
    abandoned = entries(face, "writes")[-1]
    assert (abandoned["duration"], abandoned["result"], abandoned["errno"]) == (0.0, None, "EIO")


def test_an_emptied_trace_counts_anew(face: Face) -> None:
    for _ in range(2):
        face.write("/control/writes", "1")
        face.write(POLICY, "online")
        assert [line["seq"] for line in entries(face, "writes")] == [0]
    face.write("/control/reset", "1")
    face.write(POLICY, "online")
    assert [line["seq"] for line in entries(face, "writes")] == [0], "the trace goes on over a reset"
    face.write("/control/writes", "0")
    face.write(POLICY, "online")
    assert len(entries(face, "writes")) == 2, "and the write that ends it is its last"


def test_json_lines_have_no_notice_of_dropped_ones(face: Face) -> None:
    """The numbers say it."""
    for number in range(REFUSED_CALLS + 3):
        face.refusal(STATE, f"nonsense {number}")
    lines = entries(face, "refused")
    assert [line["seq"] for line in lines] == list(range(3, REFUSED_CALLS + 3))
    assert lines[0]["data"] == "nonsense 3"


def test_a_reader_of_json_lines_that_lags_behind_goes_on_with_the_oldest(face: Face) -> None:
    file = face.open("/control/kmsg.jsonl")
    position = len(rest(file, 0))
    for number in range(LOG_RECORDS + 3):
        face.write("/control/dev_kmsg", f"message {number}")
    lines = [json.loads(line) for line in rest(file, position).splitlines()]
    assert [line["text"] for line in lines] == [f"message {number}" for number in range(3, LOG_RECORDS + 3)]


@pytest.mark.parametrize("name", ["kmsg", "kmsg.jsonl"])
def test_a_line_that_is_dropped_while_it_is_read_is_not_glued_to_the_next(face: Face, name: str) -> None:
    file = face.open(f"/control/{name}")
    beginning = file.read(0, 10)
    assert not beginning.endswith(b"\n")
    for _ in range(LOG_RECORDS + 10):
        face.write("/control/dev_kmsg", "hello")
    assert file.read(len(beginning), 1) == b"\n"
    assert rest(file, len(beginning) + 1).startswith(b"{" if name.endswith("l") else b"(")


def test_blocks(face: Face) -> None:
    face.write(STATE, "offline")
    assert entries(face, "blocks")[-2:] == [
        {"first": 64, "last": 64, "nodes": [2], "state": "offline", "zone": None},
        {"first": 65, "last": 95, "nodes": [2], "state": "online", "zone": "Movable"},
    ]


# Calls as they come --------------------------------------------------------------------------------------------------


def calls_in(file: OpenFile) -> list[dict[str, Any]]:
    """What a reader gets without waiting."""
    if file.waits_on() is not None:
        return []
    data = sched.run(file.read_sleeping(0, 1 << 16))
    return [json.loads(line) for line in data.splitlines()]


def test_calls_as_they_come(face: Face) -> None:
    face.write(STATE, "offline")
    follower = face.open("/control/calls_new", os.O_RDONLY | os.O_NONBLOCK)
    assert calls_in(follower) == []
    face.write(STATE, "online")
    began, ended = calls_in(follower)
    assert (began["path"], began["data"], began["duration"], began["result"]) == (STATE, "online", None, None)
    assert (ended["seq"], ended["duration"], ended["result"]) == (began["seq"], 0, 6)
    assert face.refusal(STATE, "nonsense") == "EINVAL"
    _, refused = calls_in(follower)
    assert (refused["seq"], refused["errno"], refused["func"]) == (began["seq"] + 1, "EINVAL", "state_store")
    with pytest.raises(KernelError):
        face.open("/sys/devices/system/memory/block_size_bytes", os.O_WRONLY)
    (opened,) = calls_in(follower)
    assert (opened["op"], opened["errno"], opened["data"]) == ("open", "EACCES", "")
    assert list(opened) == list(ended) == list(began)


def test_a_reader_of_calls_does_not_turn_the_trace_on(face: Face) -> None:
    follower = face.open("/control/calls_new", os.O_RDONLY | os.O_NONBLOCK)
    assert face.sysroot.journal.traces_writes
    face.write(STATE, "offline")
    assert entries(face, "writes") == []
    face.write("/control/writes", "1")
    face.write(STATE, "online")
    follower.close()
    assert face.sysroot.journal.traces_writes
    assert [line["data"] for line in entries(face, "writes")] == ["online"]
    face.write("/control/writes", "0")
    assert not face.sysroot.journal.traces_writes


def test_a_reader_of_calls_is_woken_by_a_call_and_by_a_reset(face: Face) -> None:
    for write in (lambda: face.write(STATE, "offline"), face.sysroot.reset):
        follower = face.open("/control/calls_new")
        queue = follower.waits_on()
        assert queue is not None
        woken: list[bool] = []
        queue.add(lambda woken=woken: woken.append(True))  # type: ignore[misc]
        write()
        assert woken
        assert follower.waits_on() is None
    follower = face.open("/control/calls_new")
    face.sysroot.reset()
    with pytest.raises(KernelError, match="the machine was reset"):
        sched.run(follower.read_sleeping(0, 100))


def test_a_slow_reader_of_calls_misses_lines(face: Face) -> None:
    follower = face.open("/control/calls_new", os.O_RDONLY | os.O_NONBLOCK)
    for _ in range(FOLLOWED_LINES):
        face.refusal(STATE, "nonsense")
    lines = sched.run(follower.read_sleeping(0, 1 << 24)).splitlines()
    assert len(lines) == FOLLOWED_LINES
    assert json.loads(lines[0])["seq"] == FOLLOWED_LINES // 2


def test_name_of_the_machine(face: Face) -> None:
    assert face.read("/control/machine") == "default\n"
