"""control/uevents_announce: who sends uevents elsewhere says by reading on how far it has got."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from fakesysfs.fuse.uevent_barrier import RemoteUevents
from fakesysfs.kernfs import OpenFile
from fakesysfs.ops.errors import KernelError
from fakesysfs.sandbox.netlink import PATIENCE_SECONDS
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
    readers = face.sysroot.uevent_readers
    return len(list(readers.missing(*readers.now())))


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
    old = face.sysroot.uevent_readers.now()
    face.write("/control/reset", "1")
    assert waited_for(face) == 1
    assert file.waits_on() is None
    assert not list(face.sysroot.uevent_readers.missing(*old)), "the old machine's nobody waits for"
    events = read(file).splitlines()
    assert read(file) == "EAGAIN"
    assert [int(line.rpartition("=")[2]) for line in events] == list(range(1, face.kernel.uevents.sequence))
    assert waited_for(face) == 0


def delays(face: Face, *before: Callable[[], object], writers: int = 1) -> list[float]:
    """How long an announcement makes each write wait; `before` each, something else happens."""
    uevents = RemoteUevents(face.sysroot.uevent_readers)

    async def write(found: list[float]) -> None:
        began = trio.current_time()
        if uevents.behind:
            await uevents.caught_up()
        found.append(trio.current_time() - began)

    async def write_all() -> list[float]:
        found: list[float] = []
        for act in before:
            act()
            face.write(STATE, "offline")
            face.write(STATE, "online")
            async with trio.open_nursery() as nursery:
                for _ in range(writers):
                    nursery.start_soon(write, found)
        return found

    return trio.run(write_all, clock=MockClock(autojump_threshold=0))


@pytest.fixture
def opened() -> list[OpenFile]:
    """Keeps files open."""
    return []


def test_only_the_owner_may_delay_writers(face: Face) -> None:
    assert face.sysroot.tree.getattr(face.sysroot.tree.resolve(ANNOUNCE)).mode & 0o777 == 0o400


def test_a_reader_that_does_not_read_delays_one_write(face: Face, opened: list[OpenFile]) -> None:
    def open_another() -> None:
        opened.append(announcer(face))

    waits = delays(face, *[open_another] * 4)
    assert waits == [PATIENCE_SECONDS, 0, 0, 0], "an open of its own for each write makes no difference"


def test_several_readers_that_do_not_read_delay_a_write_together(face: Face, opened: list[OpenFile]) -> None:
    def open_three() -> None:
        opened.extend(announcer(face) for _ in range(3))
        for file in opened[-2:]:
            read(file)

    assert delays(face, open_three, int) == [PATIENCE_SECONDS, 0]


def test_a_reader_that_reads_a_little_now_and_then_delays_one_write(face: Face) -> None:
    file = announcer(face)
    waits = delays(face, *[lambda: read(file, 10)] * 3)
    assert waits == [PATIENCE_SECONDS, 0, 0]
    while read(file) != "EAGAIN":
        pass
    assert delays(face, int, int) == [PATIENCE_SECONDS, 0], "it had caught up"


def test_writers_that_wait_at_the_same_time_give_up_together(face: Face) -> None:
    file = announcer(face)
    read(file)
    late = []

    async def write_late(uevents: RemoteUevents) -> None:
        await trio.sleep(PATIENCE_SECONDS / 2)
        await uevents.caught_up()
        late.append(trio.current_time())

    async def write_both() -> float:
        uevents = RemoteUevents(face.sysroot.uevent_readers)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(uevents.caught_up)
            nursery.start_soon(write_late, uevents)
        return trio.current_time() - began

    face.write(STATE, "offline")
    assert trio.run(write_both, clock=MockClock(autojump_threshold=0)) == PATIENCE_SECONDS


def test_a_reader_that_reads_makes_others_wait_for_newcomers_again(face: Face, opened: list[OpenFile]) -> None:
    """The helper of a run opens the file some time before it reads."""

    def open_another() -> None:
        opened.append(announcer(face))

    assert delays(face, open_another, open_another) == [PATIENCE_SECONDS, 0]
    genuine = announcer(face)
    assert read(genuine) == "EAGAIN"
    open_another()
    face.write(STATE, "offline")
    read(genuine)
    assert waited_for(face) == 2
    assert read(genuine) == "EAGAIN"
    assert waited_for(face) == 1, "the last newcomer, not those before"
