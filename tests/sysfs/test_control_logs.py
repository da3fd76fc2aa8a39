"""control/kmsg, uevents and refused are log files: they grow, and old lines are dropped."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesysfs.control.events import EventLines
from fakesysfs.control.refused import CAPACITY
from fakesysfs.control.root import kmsg_line
from fakesysfs.control.transcript import Line, Transcript
from fakesysfs.kernel.printk import LOG_RECORDS
from fakesysfs.kernel.uevent import UeventRange
from fakesysfs.kernfs import OpenFile
from fakesysfs.kernfs.log import LogReader
from tests.model import Face

STATE = "/sys/devices/system/memory/memory64/state"
LOGS = ["kmsg", "uevents", "refused"]


@pytest.fixture
def face() -> Face:
    return Face()


def add_line(face: Face, name: str) -> None:
    """One more line."""
    if name == "kmsg":
        face.write("/control/dev_kmsg", "hello")
    elif name == "uevents":
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
    for number in range(CAPACITY + 100):
        face.refusal(STATE, f"nonsense {number}")
    file = face.open("/control/refused")
    size = size_of(face, "refused")
    assert file.read(size, 1000) == b""
    last = file.read(size - 100, 1000)
    assert len(last) == 100
    assert face.read("/control/refused").encode().endswith(last)


def test_a_position_that_was_dropped_is_that_of_the_oldest_line(face: Face) -> None:
    file = face.open("/control/refused")
    for number in range(CAPACITY + 100):
        face.refusal(STATE, f"nonsense {number}")
        if not number:
            rest(file, 0)
    assert rest(file, 1) == rest(file, 0)
    assert rest(file, 0).startswith(b"(100 earlier ones dropped)\n")


@pytest.mark.parametrize("device", [True, False])
@pytest.mark.parametrize(("sequence", "first", "last"), [(1, 0, 0), (1, 0, 120), (98, 9, 11), (5, 995, 1005)])
def test_events_are_measured_without_being_written_out(*, device: bool, sequence: int, first: int, last: int) -> None:
    record = UeventRange(
        sequence, "online", "/devices/x", "memory", ("A=é",), first if device else -1, last if device else -1
    )
    piece = EventLines(record)
    lines = list(piece.lines(0))
    assert (piece.first, piece.count) == (sequence, len(lines))
    assert [piece.length(count) for count in range(len(lines) + 1)] == [
        sum(map(len, lines[:count])) for count in range(len(lines) + 1)
    ]
    assert [list(piece.lines(skip)) for skip in range(len(lines))] == [lines[skip:] for skip in range(len(lines))]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_reader_of_a_record_that_drops_lines(data: st.DataObject) -> None:
    """No line comes twice or out of order; a notice stands for those that are missing."""
    capacity = data.draw(st.integers(1, 5))
    lines: list[bytes] = []

    def dropped() -> int:
        return max(len(lines) - capacity, 0)

    log = Transcript(
        lambda: (dropped(), len(lines)),
        lambda number: (Line(at, lines[at]) for at in range(max(number, dropped()), len(lines))),
        lambda: f"{dropped()} earlier ones",
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
