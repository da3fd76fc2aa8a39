"""control/uevents_announce: who sends uevents elsewhere says by reading on how far it has got."""

from __future__ import annotations

import os

import pytest

from fakesysfs.kernel.errors import KernelError
from fakesysfs.kernfs import OpenFile
from tests.model import Face, drive

STATE = "/sys/devices/system/memory/memory64/state"
ANNOUNCE = "/control/uevents_announce"


@pytest.fixture
def face() -> Face:
    return Face()


def announcer(face: Face) -> OpenFile:
    return face.open(ANNOUNCE, os.O_RDONLY | os.O_NONBLOCK)


def read(file: OpenFile, size: int = 1 << 16) -> str:
    try:
        return drive(file.read_sleeping(0, size)).decode()
    except KernelError as error:
        return error.name


def waited_for(face: Face) -> int:
    announced = face.sysroot.announced
    return len(list(announced.missing(*announced.now())))


def test_nobody_is_waited_for_where_nobody_announces(face: Face) -> None:
    face.write(STATE, "offline")
    assert waited_for(face) == 0


def test_to_read_on_is_to_have_announced(face: Face) -> None:
    file = announcer(face)
    assert waited_for(face) == 0, "what was before is not its business"
    face.write(STATE, "offline")
    assert waited_for(face) == 1
    assert file.waits_on() is None
    assert read(file).startswith("offline@/devices/system/memory/memory64 ACTION=offline ")
    assert waited_for(face) == 1, "it was given the event, but may not have sent it"
    assert file.waits_on() is face.kernel.uevents.arrived
    assert read(file) == "EAGAIN"
    assert waited_for(face) == 0


def test_half_a_line_is_not_announced(face: Face) -> None:
    file = announcer(face)
    face.write(STATE, "offline")
    parts = [read(file, 10)]
    while waited_for(face):
        parts.append(read(file, 10))
    assert parts.pop() == "EAGAIN"
    assert "".join(parts).endswith(f" SEQNUM={face.kernel.uevents.sequence - 1}\n")


def test_each_of_several(face: Face) -> None:
    first, second = announcer(face), announcer(face)
    face.write(STATE, "offline")
    read(first)
    read(first)
    assert waited_for(face) == 1
    second.close()
    assert waited_for(face) == 0, "who is gone is not waited for"
    face.write(STATE, "online")
    first.close()
    assert waited_for(face) == 0


def test_over_a_reset(face: Face) -> None:
    """All events of the new boot, and none twice."""
    file = announcer(face)
    old = face.sysroot.announced.now()
    face.write("/control/reset", "1")
    assert waited_for(face) == 1
    assert file.waits_on() is None
    assert not list(face.sysroot.announced.missing(*old)), "the old machine's nobody waits for"
    events = read(file).splitlines()
    assert read(file) == "EAGAIN"
    assert [int(line.rpartition("=")[2]) for line in events] == list(range(1, face.kernel.uevents.sequence))
    assert waited_for(face) == 0
