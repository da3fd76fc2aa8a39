"""readdir without a mount: finished listings say what the tree says, whatever changed since they were made."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pyfuse3")

import pyfuse3

from fakesysfs.fuse import listing
from fakesysfs.fuse.entries import Entries
from fakesysfs.fuse.listing import Listings, OpenDirectory
from fakesysfs.fuse.operations import Operations
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.kernfs import open_directory
from fakesysfs.machine import load
from fakesysfs.sysroot import Sysroot
from tests.model import Face

CALLER: Any = SimpleNamespace(pid=1)
MEMORY = "/sys/devices/system/memory"
HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
FIELDS = [name for name in dir(pyfuse3.EntryAttributes) if name.startswith("st_")]


class Host:
    """Lists as the host does: answers with room for so many names, until one is empty."""

    def __init__(self, operations: Operations, room: int) -> None:
        self.operations = operations
        self.room = room
        self.left = 0
        self.names: dict[bytes, dict[str, int]] = {}
        self.cookie = 0

    def reply(self, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        self.left -= 1
        if self.left < 0:
            return False
        assert name not in self.names
        self.names[name] = {field: getattr(entry, field) for field in FIELDS}
        self.cookie = cookie
        return True

    async def list(self, ino: int) -> dict[bytes, dict[str, int]]:
        self.names, self.cookie = {}, 0
        handle = await self.operations.opendir(ino, CALLER)
        last = -1
        while self.cookie != last:
            last, self.left = self.cookie, self.room
            await self.operations.readdir(handle, last, self)  # type: ignore[arg-type]  # the token of `reply`
        await self.operations.releasedir(handle)
        del self.names[b"."], self.names[b".."]
        return self.names


@pytest.fixture(name="face")
def _face(monkeypatch: pytest.MonkeyPatch) -> Face:
    def reply(token: Host, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        return token.reply(name, entry, cookie)

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    return Face()


@pytest.mark.parametrize("room", [3, 17, 1000])
@pytest.mark.parametrize("path", [MEMORY, f"{MEMORY}/memory60", "/sys/bus/memory/devices", "/control"])
async def test_listings_say_what_getattr_says(face: Face, path: str, room: int) -> None:
    """The first listing, the finished one, and one after each kind of change. What may go is noted each time."""
    operations = Operations(face.sysroot, lambda: None)
    host, tree = Host(operations, room), face.sysroot.tree
    ino = tree.resolve(path)
    for change in ("", "", "chmod", "", "unplug", "", "online_movable", ""):
        if change == "chmod":
            tree.setattr(next(open_directory(tree, ino).entries(0))[1], mode=0o700)
        elif change:
            face.write(HOTPLUG, change)
            if tree.find(ino) is None:
                return
        listed = await host.list(ino)
        held = operations.invalidator.held_in(ino)
        assert list(listed) == [name for name, _, _ in open_directory(tree, ino).entries(0)]
        for name, found in listed.items():
            assert found["st_ino"] == tree.lookup(ino, name)
            of_inode = await operations.getattr(found["st_ino"], CALLER)
            assert found == {field: getattr(of_inode, field) for field in FIELDS}
            if held is not None and name[:6] == b"memory":
                number = int(name[6:])
                assert held.numbers.take(number, number)[1].strip(b"\0")


async def test_what_a_finished_listing_saves_is_the_work(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is worked out for the second listing, and all is after a change anywhere."""
    operations = Operations(face.sysroot, lambda: None)
    host, tree = Host(operations, 20), face.sysroot.tree
    first = await host.list(tree.resolve(MEMORY))
    with monkeypatch.context() as patch:
        patch.setattr("fakesysfs.kernfs.DirectoryReader.listed", None)
        assert await host.list(tree.resolve(MEMORY)) == first
        face.write(HOTPLUG, "unplug")
        with pytest.raises(pyfuse3.FUSEError):
            await host.list(tree.resolve(MEMORY))
    assert len(await host.list(tree.resolve(MEMORY))) < len(first)


def listed(listings: Listings, face: Face, path: str) -> None:
    ino = face.sysroot.tree.resolve(path)
    opened = OpenDirectory(ino, open_directory(face.sysroot.tree, ino))
    assert list(listings.after(opened, 0))


@pytest.mark.parametrize("kept", [1, 20, 100, 10_000])
def test_finished_listings_are_bounded(face: Face, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "NAMES_KEPT", kept)
    listings = Listings(Entries())
    for path in (MEMORY, f"{MEMORY}/memory60", f"{MEMORY}/memory61", MEMORY, "/sys/bus/memory/devices", "/control"):
        listed(listings, face, path)
        names = sum(len(finished.answers) + 1 for finished in listings._finished.values())
        assert names == listings._names <= kept
    assert bool(listings._finished) == (kept > 1)


def test_listings_of_empty_directories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "NAMES_KEPT", 10)
    sysroot = Sysroot.boot(load("tiny"), PROFILES["7.2"], whole_dev=True)
    listings, made = Listings(Entries()), sysroot.tree.made_in(sysroot.tree.resolve("/dev"))
    assert made is not None
    for _ in range(20):
        made.mkdir("x")
        ino = sysroot.tree.resolve("/dev/x")
        assert list(listings.after(OpenDirectory(ino, open_directory(sysroot.tree, ino)), 0)) == []
        made.rmdir("x")
    assert len(listings._finished) == 10


def test_a_rewind_sees_what_came_before_it(face: Face) -> None:
    """Also if another reader's finished listing answers it, and something changes before the next answer."""
    tree, listings = face.sysroot.tree, Listings(Entries())
    ino = tree.resolve(MEMORY)
    face.write(HOTPLUG, "unplug")
    first, second = (OpenDirectory(ino, open_directory(tree, ino)) for _ in range(2))
    assert next(iter(listings.after(first, 0)))
    face.write(HOTPLUG, "online_movable")
    names = [answer[0] for answer in listings.after(second, 0)]
    beginning = list(itertools.islice(listings.after(first, 0), 5))
    tree.setattr(tree.resolve("/control/pid"), mode=0o400)
    assert [answer[0] for answer in (*beginning, *listings.after(first, beginning[-1][2]))] == names


def test_an_open_directory_keeps_no_finished_listing_of_its_own(face: Face) -> None:
    tree, listings = face.sysroot.tree, Listings(Entries())
    ino = tree.resolve(f"{MEMORY}/memory60")
    opened = OpenDirectory(ino, open_directory(tree, ino))
    assert list(listings.after(opened, 0))
    assert (opened.state, opened.answers) == (None, [])
    assert listings._finished


def test_no_listing_with_a_file_that_grows_is_kept(face: Face) -> None:
    listings = Listings(Entries())
    listed(listings, face, "/control")
    assert not listings._finished
