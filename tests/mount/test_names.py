"""The host caches every name, absent ones too, and none is ever stale."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.mount.served import Served, eventually, python

pytestmark = pytest.mark.mount

LOOK_UP = """
import os, sys
print("begun", flush=True)
while True:
    for name in sys.argv[2:]:
        try:
            os.stat(sys.argv[1] + "/" + name)
        except FileNotFoundError:
            pass
"""


@pytest.fixture(autouse=True)
def _as_at_start(mount: Served) -> None:
    mount.write("present", "- 32 20000")
    mount.write("present", "+ 0 31")
    mount.write("bound", "1")


def numbers(mount: Served) -> set[int]:
    return {int(name.removeprefix("memory")) for name in os.listdir(mount / "family")}


def test_names_come_and_go(mount: Served) -> None:
    state = mount / "family/memory7/state"
    for _ in range(50):
        assert state.read_text() == "state of 7\n"
        mount.write("present", "- 7 9")
        assert not state.exists()
        assert not state.parent.exists()
        assert numbers(mount) == set(range(32)) - {7, 8, 9}
        assert (mount / "family").stat().st_nlink == 2 + 29
        mount.write("present", "+ 7 9")


def test_link_comes_and_goes(mount: Served) -> None:
    for _ in range(50):
        assert (mount / "link").readlink() == Path("family/memory2")
        mount.write("bound", "0")
        assert not os.path.lexists(mount / "link")
        mount.write("bound", "1")


@pytest.mark.parametrize("rounds", [300, pytest.param(3000, marks=pytest.mark.ci)])
def test_writer_sees_what_it_wrote(mount: Served, rounds: int) -> None:
    """With others that look the same names up all the time: 905 of 3,000 were stale with invalidate_entry_async."""
    member = mount / "family/memory5"
    with (
        python(LOOK_UP, mount / "family", "memory5", "memory5/state", "memory6") as first,
        python(LOOK_UP, mount.path, "link", "family/memory5", "link/state") as second,
    ):
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
        for turn in range(rounds):
            mount.write("present", "- 5 6" if turn % 2 else "+ 5 6")
            assert member.exists() == (turn % 2 == 0), turn
            mount.write("bound", str(turn % 2))
            assert os.path.lexists(mount / "link") == bool(turn % 2), turn
        assert first.poll() is None
        assert second.poll() is None


def test_listing_while_members_go(mount: Served) -> None:
    mount.write("present", "+ 0 9999")
    seen: list[str] = []
    with os.scandir(mount / "family") as listing:
        for entry in listing:
            seen.append(entry.name)
            if len(seen) == 500:
                mount.write("present", "- 5000 9999")
    assert len(seen) == len(set(seen))
    assert {f"memory{number}" for number in range(5000)} <= set(seen)
    assert numbers(mount) == set(range(5000))


def test_attributes_of_many_are_there_at_once(mount: Served) -> None:
    mount.write("present", "+ 0 9999")
    with os.scandir(mount / "family") as listing:
        assert sum(entry.is_dir() for entry in listing) == 10_000


def test_directory_that_removes_itself(mount: Served) -> None:
    for _ in range(20):
        before = (mount / "device/state").read_text()
        held = os.open(mount / "device/state", os.O_RDONLY)
        directory = os.open(mount / "device", os.O_RDONLY)
        assert mount.write("device/remove", "1") == 1
        assert not (mount / "device").exists()
        with pytest.raises(OSError, match="No such device"):
            os.read(held, 10)
        found = os.fstat(held)
        assert (stat.filemode(found.st_mode), found.st_nlink, found.st_size) == ("-rw-r--r--", 0, 4096)
        found = os.fstat(directory)
        assert (stat.S_ISDIR(found.st_mode), found.st_nlink) == (True, 0)
        assert os.listdir(directory) == []
        mount.write("create", "1")
        assert (mount / "device/state").read_text() != before
        with pytest.raises(OSError, match="No such device"):
            os.read(held, 10)
        os.close(held)
        os.close(directory)


def test_unlink_of_what_is_being_written_does_not_lock_up(mount: Served) -> None:
    """unlink(2) holds the directory's lock while it waits for the attribute, whose store waits for that directory."""
    code = """
import os, sys
print("begun", flush=True)
while True:
    try:
        os.unlink(sys.argv[1])
    except PermissionError:
        pass
"""
    with python(code, mount / "bound") as unlinker:
        assert unlinker.stdout is not None
        assert unlinker.stdout.readline() == "begun\n"
        for turn in range(6):
            mount.write("bound", str(turn % 2))
        assert unlinker.poll() is None
    eventually((mount / "link").exists)
