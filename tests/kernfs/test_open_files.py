"""Open files without a mount: the rules of KERNEL.md 1 that kernfs keeps (recordings 7.2/02-state-semantics).

What the host's VFS does for a mount (positions, O_CREAT, permissions) is `fakesysfs.testing.filesystem` in process.
"""

from __future__ import annotations

import errno
import os
import stat

import pytest

from fakesysfs.kernel.core import LAST_SERIAL
from fakesysfs.kernfs import OpenFile, open_directory
from fakesysfs.kernfs.tree import Found
from fakesysfs.ops import sched
from fakesysfs.ops.errors import KernelError
from fakesysfs.testing.filesystem import FileSystem
from tests.model import CALLER, Face, drive

DAX = "/sys/bus/dax/devices/dax0.0"
HOTPLUG = f"{DAX}/hotplug"
STATE = "/sys/devices/system/memory/memory64/state"
POLICY = "/sys/devices/system/memory/auto_online_blocks"
FILES = (
    "state",
    "online",
    "phys_index",
    "phys_device",
    "removable",
    "valid_zones",
    "uevent",
    "power/async",
    "power/control",
)


@pytest.fixture
def face() -> Face:
    return Face()


def refusal(face: Face, path: str, flags: int) -> str:
    try:
        face.open(path, flags)
    except KernelError as error:
        return error.name
    return "ok"


@pytest.mark.parametrize(
    ("path", "flags", "outcome"),
    [
        (f"{DAX}/mapping", os.O_RDONLY, "EACCES"),
        (f"{DAX}/mapping", os.O_RDWR, "EACCES"),
        (f"{DAX}/mapping", os.O_WRONLY, "ok"),
        (f"{DAX}/target_node", os.O_WRONLY, "EACCES"),
        (f"{DAX}/target_node", os.O_RDWR, "EACCES"),
        (f"{DAX}/resource", os.O_RDONLY, "ok"),
        (POLICY, os.O_RDWR | os.O_TRUNC | os.O_APPEND, "ok"),
        (POLICY, os.O_RDONLY | os.O_DIRECT, "EINVAL"),
        (POLICY, os.O_RDONLY | os.O_DIRECTORY, "ENOTDIR"),
        ("/sys/devices/system/memory", os.O_RDONLY, "EISDIR"),
        ("/dev/dax0.0", os.O_RDONLY, "ENXIO"),
        ("/dev/null", os.O_RDONLY, "ENXIO"),
    ],
)
def test_open(face: Face, path: str, flags: int, outcome: str) -> None:
    """Root is not exempt from a missing direction."""
    assert refusal(face, path, flags) == outcome


def test_a_write_of_nothing_never_reaches_the_store(face: Face) -> None:
    assert face.write(POLICY, b"") == 0
    assert face.write(HOTPLUG, b"") == 0


def test_only_the_first_4096_bytes_reach_the_store(face: Face) -> None:
    padded = b"offline\n\0" + b"x" * 4087
    assert face.write(POLICY, padded) == 4096
    assert face.write(POLICY, padded + b"more") == 4096
    assert face.read(POLICY) == "offline\n"
    assert face.refusal(POLICY, b" " * 4096 + b"online") == "EINVAL"
    assert face.read(POLICY) == "offline\n"


def test_short_writes_are_commands_of_their_own(face: Face) -> None:
    file = face.open(POLICY, os.O_WRONLY)
    for part in (b"offl", b"ine\n"):
        with pytest.raises(KernelError, match="EINVAL"):
            drive(file.write(part, CALLER))


def test_show_is_called_at_offset_0_and_its_text_kept(face: Face) -> None:
    """Later reads go on in the same text; offset 0, or another offset than where the last one ended, asks again."""
    file = face.open(POLICY)
    assert file.read(0, 6) == b"online"
    face.write(POLICY, "offline")
    assert file.read(6, 100) == b"_movable\n"
    assert file.read(15, 100) == b""
    assert file.read(0, 100) == b"offline\n"
    assert file.read(3, 100) == b"line\n"
    assert file.read(1 << 40, 100) == b""
    other = face.open(POLICY)
    assert other.read(3, 2) == b"li"


def test_poll_sees_whether_something_was_read(face: Face) -> None:
    file = face.open(POLICY)
    assert not file.was_read
    file.read(0, 1)
    assert file.was_read


def is_dead(file: OpenFile) -> bool:
    try:
        file.read(0, 10)
    except KernelError as reading:
        try:
            drive(file.write(b"online", CALLER))
        except KernelError as writing:
            return (reading.errno, writing.errno) == (errno.ENODEV, errno.ENODEV)
    return False


def test_open_files_die_with_their_device_and_stay_dead_when_the_name_comes_back(face: Face) -> None:
    """KERNEL.md 1 and 7.3-1: ENODEV for ever, fstat goes on with link count 0."""
    hotplug, state = face.open(HOTPLUG, os.O_RDWR), face.open(STATE, os.O_RDWR)
    tree = face.sysroot.tree
    face.write(HOTPLUG, "unplug\n")
    assert is_dead(state)
    assert (tree.getattr(state.ino).nlink, tree.getattr(state.ino).size) == (0, 4096)
    assert hotplug.read(0, 100) == b"unplugged\n"
    face.write("/sys/bus/dax/drivers/kmem/unbind", "dax0.0")
    assert is_dead(hotplug)
    face.write("/sys/bus/dax/drivers/kmem/bind", "dax0.0")
    assert face.read(HOTPLUG) == "online_movable\n"
    assert face.read(STATE) == "online\n"
    assert is_dead(hotplug)
    assert is_dead(state)


def test_files_of_a_region_die_with_it_and_stay_dead_when_it_comes_back(face: Face) -> None:
    """The group dax_region/ is made anew at each probe of the region's driver."""
    region = "/sys/bus/cxl/devices/dax_region0/dax_region"
    create, size = face.open(f"{region}/create", os.O_RDWR), face.open(f"{region}/size", os.O_RDONLY)
    directory = open_directory(face.sysroot.tree, face.sysroot.tree.resolve(region))
    face.write("/control/modules/unload", "dax_cxl")
    assert is_dead(create)
    face.write("/control/modules/load", "dax_cxl")
    assert int(face.read(f"{region}/size")) == 8 << 30
    assert is_dead(create)
    for read in (lambda: size.read(0, 10), lambda: list(directory.entries(0))):
        with pytest.raises(KernelError, match=r"ENODEV|ENOENT"):
            read()


@pytest.mark.parametrize("profile", ["hotplug-v3", "7.3"])
def test_the_attribute_of_each_binding_is_another_file(profile: str) -> None:
    face = Face("default", profile)
    path = f"{DAX}/{face.kernel.profile.attribute}"
    seen = []
    for _ in range(3):
        file = face.open(path, os.O_RDWR)
        assert not is_dead(file)
        seen.append(file.ino)
        word = "unplug" if profile == "hotplug-v3" else "unplugged"
        face.write(path, word)
        face.write("/sys/bus/dax/drivers/kmem/unbind", "dax0.0")
        assert is_dead(file)
        face.write("/sys/bus/dax/drivers/kmem/bind", "dax0.0")
    assert len(set(seen)) == 3


def test_files_stay_dead_when_their_number_is_given_again(face: Face) -> None:
    """There are 2**20 serials: three of them for each plug, so they come again after some 350,000."""
    tree, kernel = face.sysroot.tree, face.kernel
    state = face.open(STATE, os.O_RDWR)
    directory = open_directory(tree, tree.resolve(os.path.dirname(STATE)))
    face.write(HOTPLUG, "unplug")
    kernel._serial = LAST_SERIAL - 1  # a million operations later
    for _ in range(2):
        face.write(HOTPLUG, "online_movable")
        numbers = [kobject.serial for kobject in kernel.objects.values()]
        assert len(numbers) == len(set(numbers))
        assert face.read(STATE) == "online\n"
        face.write(HOTPLUG, "unplug")
    assert kernel.last_serial < LAST_SERIAL - 1, "they did not start over"
    kernel._serial = (state.ino >> 44) - 2  # the node comes before its blocks
    face.write(HOTPLUG, "online_movable")
    assert tree.resolve(STATE) == state.ino
    assert not state.alive
    assert is_dead(state)
    with pytest.raises(KernelError, match="ENOENT"):
        list(directory.entries(0))


def test_files_outside_sys_live_on_at_a_reset(face: Face) -> None:
    """What `fakesysfs run` mounts elsewhere, whoever has it open (`_lasts`)."""
    iomem, reset = face.open("/proc/iomem"), face.open("/control/reset", os.O_WRONLY)
    before = iomem.read(0, 1 << 20)
    face.write(HOTPLUG, "unplug")
    assert iomem.read(0, 1 << 20) != before
    for _ in range(2):
        drive(reset.write(b"1", CALLER))
        assert iomem.read(0, 1 << 20) == before


def test_files_of_sys_die_at_a_reset(face: Face) -> None:
    files = [face.open(path, os.O_RDWR) for path in (HOTPLUG, STATE, POLICY)]
    face.write("/control/reset", "1")
    assert all(map(is_dead, files))
    assert [face.read(path) for path in (HOTPLUG, STATE, POLICY)] == [
        "online_movable\n",
        "online\n",
        "online_movable\n",
    ]


def test_what_users_changed_is_gone_after_a_reset(face: Face) -> None:
    """Also on what outlives the reset itself; and whoever caches attributes is told."""
    tree = face.sysroot.tree
    tree.take_changes()
    lasting = [tree.walk(path) for path in ("/sys", "/proc/iomem", "/control/kernel", "/dev/null")]
    before = [tree.getattr(ino) for ino in lasting]
    for ino in (*lasting, tree.walk(STATE)):
        tree.setattr(ino, mode=0o600, uid=5)
        tree.setxattr(ino, "security.test", b"1")
    face.write("/control/reset", "1")
    assert [tree.getattr(ino) for ino in lasting] == before
    assert not any(tree.listxattr(ino) for ino in lasting)
    assert tree.getattr(tree.walk(STATE)).mode & 0o777 == 0o644
    told = {change.parent for change in tree.take_changes() if change.directories}
    assert set(lasting) <= told


def test_what_a_user_changed_goes_with_the_node(face: Face) -> None:
    """kernfs_setattr; and of a node that is gone nothing is kept for long."""
    tree = face.sysroot.tree
    for _ in range(200):
        for index in (64, 70, 95):
            ino = tree.resolve(f"/sys/devices/system/memory/memory{index}/state")
            assert tree.getattr(ino).mode == stat.S_IFREG | 0o644
            tree.setattr(ino, mode=0o600)
            assert tree.getattr(ino).mode == stat.S_IFREG | 0o600
        face.write(HOTPLUG, "unplug")
        face.write(HOTPLUG, "online_movable")
    assert len(tree.all_changed) < 300


def test_changing_many_nodes_costs_the_same_for_each(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """chmod -R of half a million blocks."""
    tree, looked = face.sysroot.tree, 0
    nodes = [
        tree.resolve(f"/sys/devices/system/memory/memory{index}/{name}") for index in range(64, 96) for name in FILES
    ]
    find = tree.find

    def counted(ino: int) -> Found | None:
        nonlocal looked
        looked += 1
        return find(ino)

    monkeypatch.setattr(tree, "find", counted)
    for ino in nodes:
        tree.setattr(ino, mode=0o400)
    assert looked < 6 * len(nodes)
    assert len(tree.all_changed) == len(nodes)


# The host's half, in process ----------------------------------------------------------------------------------------


@pytest.fixture
def files(face: Face) -> FileSystem:
    return FileSystem(face.sysroot.tree, face.sysroot.journal, CALLER)


def test_creating_names(files: FileSystem) -> None:
    for path, flags, number in (
        ("/sys/devices/system/memory/new", os.O_CREAT | os.O_WRONLY, errno.EACCES),
        (POLICY, os.O_CREAT | os.O_EXCL | os.O_WRONLY, errno.EEXIST),
        ("/sys/no/such", os.O_CREAT | os.O_WRONLY, errno.ENOENT),
        ("/sys/no", os.O_RDONLY, errno.ENOENT),
        (f"{POLICY}/x", os.O_RDONLY, errno.ENOTDIR),
    ):
        with pytest.raises(KernelError) as refused:
            files.open(path, flags)
        assert refused.value.errno == number
    files.open(POLICY, os.O_CREAT | os.O_WRONLY)


def test_the_position_is_advanced_by_writes_and_ignored_by_the_store(files: FileSystem) -> None:
    file = files.open(POLICY, os.O_RDWR)
    assert sched.run(files.write(file, b"offline\n")) == 8
    assert sched.run(files.read(file, 100)) == b"", "a read after a write on the same descriptor is at the end"
    assert sched.run(files.pwrite(file, b"online", 1 << 40)) == 6
    assert sched.run(files.writev(file, [b"onl", b"ine", b"_kernel\n"])) == 14
    assert sched.run(files.pread(file, 100, 0)) == b"online_kernel\n"


def test_other_users_may_read_what_the_mode_lets_them(files: FileSystem) -> None:
    """KERNEL.md 1: write by non-root EACCES; 0400 attributes are unreadable for them."""
    user = files.as_user(1000)
    user.open(POLICY, os.O_RDONLY)
    for path, flags in (
        (POLICY, os.O_WRONLY),
        (POLICY, os.O_RDWR),
        (f"{DAX}/resource", os.O_RDONLY),
        (f"{DAX}/mapping0/start", os.O_RDONLY),
    ):
        with pytest.raises(KernelError, match="EACCES"):
            user.open(path, flags)
