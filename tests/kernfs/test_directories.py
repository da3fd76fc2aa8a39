"""Directories: order and cookies of readdir, link counts, sizes, modes and link targets (KERNEL.md 1 and 9)."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesysfs.kernel.recorded import hooks
from fakesysfs.kernfs import DirectoryReader, Stat, Tree, open_directory
from fakesysfs.kernfs.declare import Attribute
from fakesysfs.kernfs.name_hash import INDEX_BITS, IndexedOrder, name_hash
from fakesysfs.ops import recording
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.footprint import EVERYTHING
from tests.model import Face

MEMORY = "/sys/devices/system/memory"
NODE = "/sys/devices/system/node"
DAX = "/sys/bus/dax/devices/dax0.0"
HOTPLUG = f"{DAX}/hotplug"

Described = tuple[bytes, int, Stat]
"""Name, cookie, attributes."""


def rule(name: bytes) -> int:
    """KERNEL.md 9, word for word."""
    x = 0
    for byte in name:
        x = ((x + (byte << 4) + (byte >> 4)) * 11) % 2**64
    h = ((x * 0x61C8864680B583EB % 2**64) >> 32) & 0x7FFFFFFF
    if h < 2:
        h += 2
    return 0x7FFFFFFE if h >= 0x7FFFFFFF else h


def test_a_file_whose_read_waits_is_found_by_name_only() -> None:
    """Else `cp -r mnt/control` would never end."""
    face = Face()
    control = face.sysroot.static_directories()["/control"]
    attributes = [entry for entry in control.kind.entries if isinstance(entry, Attribute)]
    waiting = {attribute.name for attribute in attributes if attribute.stream is not None}
    assert waiting >= {"kmsg_follow", "uevents_follow", "uevents_new", "uevents_announce", "calls_new", "dev_kmsg"}
    listed = set(face.names("/control"))
    assert waiting.isdisjoint(listed)
    assert {attribute.name for attribute in attributes} - waiting <= listed
    for name in waiting:
        face.open(f"/control/{name}", os.O_RDONLY | os.O_NONBLOCK).close()


@given(st.binary(max_size=40))
def test_the_hash_is_the_rule(name: bytes) -> None:
    assert name_hash(name) == rule(name)


@pytest.mark.parametrize("ends", [[2000], [1, 10, 11, 500, 2000], [0, 2000, 5]])
def test_the_order_of_a_family_is_that_of_its_names(ends: list[int]) -> None:
    order = IndexedOrder(b"memory")
    keys = [list(order.keys(end)) for end in ends][-1]
    numbers = sorted(range(2000), key=lambda number: (rule(b"memory%d" % number), b"memory%d" % number))
    assert [key & (1 << INDEX_BITS) - 1 for key in keys] == numbers
    assert [key >> INDEX_BITS for key in keys] == [rule(b"memory%d" % number) for number in numbers]


def described(reader: DirectoryReader, cookie: int = 0) -> Iterator[Described]:
    """What a listing says."""
    for name, ino, cookie_of, found in reader.listed(cookie, lambda found: found):
        yield name, cookie_of, found._replace(ino=ino)


@pytest.fixture(scope="module")
def seen() -> Face:
    """A machine that no test changes."""
    return Face()


def directories(tree: Tree, path: str = "") -> list[str]:
    """Every directory below one, itself among them."""
    found = [path or "/"]
    for name, ino, _ in list(open_directory(tree, tree.walk(path or "/")).entries(0)):
        if stat.S_ISDIR(tree.getattr(ino).mode):
            found += directories(tree, f"{path}/{os.fsdecode(name)}")
    return found


def test_every_directory_is_listed_in_the_order_of_the_rule(seen: Face) -> None:
    for path in directories(seen.sysroot.tree):
        names = [os.fsencode(name) for name in seen.names(path)]
        assert names == sorted(names, key=lambda name: (rule(name), name)), path
        assert len(set(names)) == len(names)


def test_lookup_readdir_and_path_agree(seen: Face) -> None:
    tree = seen.sysroot.tree
    for path in directories(tree):
        for name, ino, _ in open_directory(tree, tree.walk(path)).entries(0):
            below = f"{path.rstrip('/')}/{os.fsdecode(name)}"
            assert tree.walk(below) == ino, below
            if stat.S_ISREG(tree.getattr(ino).mode) or stat.S_ISDIR(tree.getattr(ino).mode):
                assert tree.path_of(ino) == below


def test_link_counts_sizes_and_modes(seen: Face) -> None:
    """Directories: size 0, 2 + real subdirectories. Links: 0777, size 0, relative. Files: 1 link, 4096 or as said."""
    tree = seen.sysroot.tree
    for path in directories(tree, "/sys"):
        subdirectories = 0
        for name, ino, _ in list(open_directory(tree, tree.walk(path)).entries(0)):
            status = tree.getattr(ino)
            kind = stat.S_IFMT(status.mode)
            subdirectories += kind == stat.S_IFDIR
            if kind == stat.S_IFLNK:
                assert (stat.S_IMODE(status.mode), status.size, status.nlink) == (0o777, 0, 1)
                assert not tree.readlink(ino).startswith(b"/")
            elif kind == stat.S_IFREG:
                assert status.nlink == 1
                assert status.size in {0, 4096, 28672}, (path, name)
                assert stat.S_IMODE(status.mode) in {0o644, 0o444, 0o400, 0o200, 0o600}
        status = tree.getattr(tree.walk(path))
        assert (status.size, status.nlink) == (0, 2 + subdirectories), path


@pytest.mark.parametrize(
    ("machine", "profile", "path", "links"),
    [
        # recorded with the distribution's configuration (PM) and without: snapshots 7.2-distribution/01 and 7.2/02
        ("default", "7.2", f"{MEMORY}/memory64", 3),
        ("default", "7.2", f"{NODE}/node2", 6),
        ("oracle", "7.2", f"{MEMORY}/memory1", 2),
        ("oracle", "7.2", f"{NODE}/node0", 3),
        ("oracle", "7.2", f"{NODE}/node0/hugepages", 4),
        ("oracle", "7.2", "/sys/bus/node/devices", 2),
    ],
)
def test_recorded_link_counts(machine: str, profile: str, path: str, links: int) -> None:
    tree = Face(machine, profile).sysroot.tree
    assert tree.getattr(tree.walk(path)).nlink == links


def test_memory_has_a_link_per_block(seen: Face) -> None:
    tree = seen.sysroot.tree
    around = [name for name in seen.names(MEMORY) if stat.S_ISDIR(tree.getattr(tree.walk(f"{MEMORY}/{name}")).mode)]
    assert tree.getattr(tree.walk(MEMORY)).nlink == 2 + len(around)
    assert len([name for name in around if name[6:].isdigit()]) == seen.kernel.memory_blocks.count


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (f"{MEMORY}/memory64/subsystem", "../../../../bus/memory"),
        (f"{MEMORY}/memory64/node2", "../../node/node2"),
        (f"{NODE}/node0/cpu0", "../../cpu/cpu0"),
        (f"{NODE}/node0/subsystem", "../../../../bus/node"),
        (f"{NODE}/node2/memory64", "../../memory/memory64"),
        ("/sys/bus/dax/drivers/kmem/module", "../../../../module/kmem"),
        ("/sys/devices/virtual/memory_tiering/memory_tier4/subsystem", "../../../../bus/memory_tiering"),
        ("/sys/bus/memory/devices/memory64", "../../../devices/system/memory/memory64"),
    ],
)
def test_recorded_link_targets(seen: Face, path: str, target: str) -> None:
    tree = seen.sysroot.tree
    assert os.fsdecode(tree.readlink(tree.walk(path))) == target


# Cookies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 7, 40])
def test_a_listing_goes_on_where_its_cookie_says(seen: Face, at: int) -> None:
    tree = seen.sysroot.tree
    ino = tree.walk(MEMORY)
    whole = list(open_directory(tree, ino).entries(0))
    reader = open_directory(tree, ino)
    cookie = ([(b"", 0, 0), *reader.entries(0)])[at][2]
    assert list(reader.entries(cookie)) == whole[at:]
    assert list(open_directory(tree, ino).entries(cookie)) == whole[at:], "a cookie is good for another descriptor too"


def test_cookies_grow_and_are_never_0(seen: Face) -> None:
    tree = seen.sysroot.tree
    for path in (MEMORY, DAX + "/", "/sys", "/dev"):
        cookies = [cookie for _, _, cookie in open_directory(tree, tree.resolve(path.rstrip("/"))).entries(0)]
        assert cookies == sorted(set(cookies))
        assert not cookies or cookies[0] > 0


def test_names_removed_in_between_are_left_out_and_no_other() -> None:
    face = Face()
    tree = face.sysroot.tree
    reader = open_directory(tree, tree.walk(MEMORY))
    before = list(reader.entries(0))
    first = before[:20]
    face.write(HOTPLUG, "unplug")
    left = {f"memory{index}".encode() for index in range(64, 96)}
    rest = list(reader.entries(first[-1][2]))
    assert rest == [entry for entry in before[20:] if entry[0] not in left]
    gone = next(entry for entry in before if entry[0] in left)
    assert list(reader.entries(gone[2])) == [entry for entry in before[before.index(gone) :] if entry[0] not in left]


def test_a_listing_says_what_lstat_says(seen: Face) -> None:
    """Of all names in all directories, and where each directory stands."""
    tree = seen.sysroot.tree
    for path in directories(tree):
        ino = tree.walk(path)
        for name, _, found in described(open_directory(tree, ino)):
            assert found == tree.getattr(tree.lookup(ino, name)), (path, name)
        assert tree.above(ino) == tree.walk(path.rpartition("/")[0] or "/"), path


@settings(max_examples=40)
@given(st.data())
def test_a_listing_in_pieces_is_right_whatever_happens_between_them(data: st.DataObject) -> None:
    """What one piece found out is not taken for true in the next when something changed in between."""
    face = Face()
    tree = face.sysroot.tree
    path = data.draw(st.sampled_from([MEMORY, f"{NODE}/node1"]))
    parent = tree.walk(path)
    always = {name for name, _, _ in open_directory(tree, parent).entries(0)}
    reader = open_directory(tree, parent)
    cookie, listed, plugged = 0, list[bytes](), True
    while True:
        piece = list(itertools.islice(described(reader, cookie), data.draw(st.integers(1, 60))))
        if not piece:
            break
        for name, _, found in piece:
            assert found == tree.getattr(tree.lookup(parent, name))
        listed += [name for name, _, _ in piece]
        cookie = piece[-1][1]
        match data.draw(st.sampled_from(["nothing", "chmod", "hotplug"])):
            case "chmod":
                some = data.draw(st.sampled_from(sorted(always)))
                tree.setattr(tree.lookup(parent, some), mode=data.draw(st.integers(0, 0o777)))
            case "hotplug":
                face.write(HOTPLUG, "unplug" if plugged else "online_movable")
                plugged = not plugged
                always &= {name for name, _, _ in open_directory(tree, parent).entries(0)}
    assert listed == sorted(set(listed), key=lambda name: (rule(name), name))
    assert always <= set(listed)


def test_a_listing_that_goes_on_after_a_reset_tells_what_is_there_now() -> None:
    """The device nodes are others then; /dev is the same."""
    face = Face()
    tree = face.sysroot.tree
    reader = open_directory(tree, tree.walk("/dev"))
    whole = list(reader.entries(0))
    at = [name for name, _, _ in whole].index(b"dax0.0")
    old = whole[at]
    face.sysroot.reset()
    rest = list(reader.entries(whole[at - 1][2] if at else 2))
    assert [name for name, _, _ in rest] == [name for name, _, _ in whole[at:]]
    assert old not in rest
    assert all(ino == tree.lookup(tree.walk("/dev"), name) for name, ino, _ in rest)


def test_a_rewind_sees_what_came_meanwhile() -> None:
    face = Face()
    face.write(HOTPLUG, "unplug")
    tree = face.sysroot.tree
    reader = open_directory(tree, tree.walk(MEMORY))
    few = len(list(reader.entries(0)))
    face.write(HOTPLUG, "online_movable")
    assert len(list(reader.entries(0))) == few + 32


def test_a_directory_that_is_gone_cannot_be_listed() -> None:
    face = Face()
    tree = face.sysroot.tree
    ino = tree.walk(f"{MEMORY}/memory64")
    reader = open_directory(tree, ino)
    face.write(HOTPLUG, "unplug")
    for call in (
        lambda: list(reader.entries(0)),
        lambda: open_directory(tree, ino),
        lambda: tree.lookup(ino, b"state"),
    ):
        with pytest.raises(KernelError, match="ENOENT"):
            call()
    assert tree.getattr(ino).nlink == 0


# What a user changes on a node ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "is_a_doubt"),
    [
        ({"mtime_ns": 7}, False),
        ({"mode": 0o644, "uid": 0, "atime_ns": 7}, False),
        ({"mode": 0o600}, True),
        ({"gid": 6}, True),
    ],
)
def test_only_a_new_mode_or_owner_is_recorded(changed: dict[str, int], is_a_doubt: bool) -> None:  # noqa: FBT001
    """An explorer does not look at times. udevd sets those of a device's node for each event."""
    face = Face()
    ino = face.sysroot.tree.walk(f"{MEMORY}/memory64/state")
    recording.install(hooks())
    try:
        with recording.Recorder() as recorder:
            face.sysroot.tree.setattr(ino, **changed)
    finally:
        recording.uninstall()
    assert (EVERYTHING in recorder.footprint.writes) is is_a_doubt


def test_chmod_and_xattrs_are_kept_until_the_node_is_removed() -> None:
    face = Face()
    tree = face.sysroot.tree
    path = f"{MEMORY}/memory64/state"
    ino = tree.walk(path)
    assert tree.setattr(ino, mode=0o600, uid=5, gid=6, mtime_ns=7).mode == stat.S_IFREG | 0o600
    tree.setxattr(ino, "security.x", b"value")
    status = tree.getattr(ino)
    assert (status.uid, status.gid, status.mtime_ns, status.size) == (5, 6, 7, 4096)
    assert (tree.getxattr(ino, "security.x"), tree.listxattr(ino)) == (b"value", ["security.x"])
    tree.removexattr(ino, "security.x")
    for name, outcome in (("security.x", "ENODATA"), ("trusted.y", "ENODATA"), ("user.x", "ENODATA"), ("x", "ENOTSUP")):
        with pytest.raises(KernelError, match=outcome):
            tree.getxattr(ino, name)
    with pytest.raises(KernelError, match="ENOTSUP"):
        tree.setxattr(ino, "user.x", b"")
    with pytest.raises(KernelError, match="ENOTSUP"):
        tree.removexattr(ino, "user.x")
    for word in ("unplug", "online_movable"):
        face.write(HOTPLUG, word)
    assert tree.walk(path) != ino
    assert tree.getattr(tree.walk(path)).mode == stat.S_IFREG | 0o644


def test_links_and_directories_are_not_taken_for_each_other(seen: Face) -> None:
    tree = seen.sysroot.tree
    with pytest.raises(KernelError, match="EINVAL"):
        tree.readlink(tree.walk(MEMORY))
    for path in (
        "/sys/bus/dax/devices/dax0.0/driver/x",
        f"{MEMORY}/memory064",
        f"{MEMORY}/memory",
        f"{MEMORY}/memory64x",
        f"{MEMORY}/memory-1",
    ):
        with pytest.raises(KernelError, match="ENOENT"):
            tree.walk(path)


def test_a_listing_shows_what_was_changed_on_one_member_of_a_family() -> None:
    """Members that are alike are described once: not the one whose mode was changed, whichever is listed first."""
    tree = Face().sysroot.tree
    parent = tree.walk(MEMORY)
    changed = tree.lookup(parent, b"memory60")
    tree.setattr(changed, mode=0o700)
    listed = {name: found for name, _, found in described(open_directory(tree, parent))}
    assert stat.S_IMODE(listed[b"memory60"].mode) == 0o700
    assert stat.S_IMODE(listed[b"memory61"].mode) == 0o755
    assert listed == {name: tree.getattr(tree.lookup(parent, name)) for name in listed}
