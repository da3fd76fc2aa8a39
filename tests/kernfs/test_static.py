"""Static directories: what all boots share, what each boot makes anew, and what a reset keeps."""

from __future__ import annotations

import gc
import itertools
import os
import stat
import sys
from pathlib import Path

import pytest

from fakesysfs import machine
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.kernfs import OpenFile, Tree, names_in, open_directory
from fakesysfs.kernfs.declare import RO
from fakesysfs.kernfs.inode import ROOT
from fakesysfs.kernfs.static import StaticTables
from fakesysfs.ops.errors import KernelError
from fakesysfs.sysroot import Sysroot
from tests.model import Face, drive

MEMORY = "/sys/devices/system/memory"
POLICY = f"{MEMORY}/auto_online_blocks"
STATE = f"{MEMORY}/memory64/state"
HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"
LASTING = ("/", "/sys", "/proc", "/proc/sys/kernel", "/proc/iomem", "/dev", "/dev/null", "/control", "/control/reset")
RENEWED = (
    "/sys/devices",
    "/sys/bus",
    MEMORY,
    POLICY,
    STATE,
    HOTPLUG,
    "/control/blocks",
    "/control/kmsg",
    "/dev/dax0.0",
)


def read_errno(file: OpenFile) -> str:
    try:
        drive(file.read_sleeping(0, 4096))
    except KernelError as error:
        return error.name
    return "ok"


def everything(tree: Tree, path: str = "") -> list[str]:
    """Every file and directory below one, by a path without links."""
    found = []
    for name, ino, _ in open_directory(tree, tree.walk(path or "/")).entries(0):
        mode = tree.getattr(ino).mode
        if not stat.S_ISLNK(mode):
            found.append(below := f"{path}/{os.fsdecode(name)}")
            found += everything(tree, below) if stat.S_ISDIR(mode) else []
    return found


# The tables -----------------------------------------------------------------------------------------------------------


def test_static_directories_are_in_those_that_are_declared_after_them() -> None:
    tables = StaticTables[str]()
    tables.declare("/a/b", (RO("name", str),))
    tables.declare("/a", mode=0o700)
    tables.declare("/c")
    serials = itertools.count(5)
    made = tables.directories(lambda: next(serials), "all", {"/a/b": "one"})
    assert {path: directory.serial for path, directory in made.items()} == {"/a/b": 5, "/a": 6, "/c": 7}
    assert {path: directory.kobj for path, directory in made.items()} == {"/a/b": "one", "/a": "all", "/c": "all"}
    assert made["/a"].children == {"b": made["/a/b"]}
    assert tables.children("", made) == {"a": made["/a"], "c": made["/c"]}
    again = tables.directories(lambda: next(serials), "new", lasting={"/a": made["/a"]})
    assert again["/a"] is made["/a"]
    assert again["/a"].children == {"b": again["/a/b"]}
    assert {path: (directory.serial, directory.kobj) for path, directory in again.items()} == {
        "/a/b": (8, "new"),
        "/a": (6, "new"),
        "/c": (9, "new"),
    }
    with pytest.raises(ValueError, match=r"^/a was declared before /a/d, which is in it$"):
        tables.declare("/a/d")


def test_all_machines_of_a_configuration_share_their_tables_and_nothing_else() -> None:
    one, other = Face(), Face("tiny", "7.2")
    for path, directory in one.sysroot.static_directories().items():
        assert directory.kind is other.sysroot.static_directories()[path].kind
        assert directory is not other.sysroot.static_directories()[path]
    before = {path: other.read(path) for path in (POLICY, "/control/refused", "/control/kernel", "/proc/iomem")}
    one.write(POLICY, "offline")
    one.write(HOTPLUG, "unplug")
    assert one.refusal(HOTPLUG, "nonsense") == "EINVAL"
    one.write("/control/latency/offline_block", "7")
    one.write("/control/reset", "1")
    assert {path: other.read(path) for path in before} == before
    assert other.read("/control/latency/offline_block") == "0\n"


def test_what_a_user_makes_in_dev_is_on_that_machine_only() -> None:
    one, other = (Sysroot.boot(machine.load("default"), PROFILES["7.2"], whole_dev=True) for _ in range(2))
    one.tree.made_in(one.tree.walk("/dev")).symlink("link", "x")
    one.tree.made_in(one.tree.walk("/dev")).mkdir("directory")
    assert set(names_in(one.tree, "/dev")) - set(names_in(other.tree, "/dev")) == {"link", "directory"}


def test_a_kernel_configured_otherwise_has_other_directories(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text('extends = "default"\nmodules = []\n[kernel]\nMEMORY_HOTPLUG = false\nNUMA_MIGRATION = false\n')
    usual, other = (set(Face(name).sysroot.static_directories()) for name in ("default", str(file)))
    assert usual - other == {MEMORY, "/sys/bus/memory", "/sys/module/memory_hotplug", "/sys/kernel/mm/numa"}
    assert other < usual


# A reset --------------------------------------------------------------------------------------------------------------


def test_a_reset_keeps_tables_and_what_is_mounted_elsewhere() -> None:
    face = Face()
    before = face.sysroot.static_directories()
    numbers = {path: face.sysroot.tree.walk(path) for path in (*LASTING, *RENEWED)}
    face.sysroot.reset()
    after = face.sysroot.static_directories()
    assert list(after) == list(before)
    assert all(after[path].kind is before[path].kind for path in before)
    kept = {path for path in before if after[path] is before[path]}
    assert kept == {path for path in before if path in {"/sys", "/control"} or path.startswith(("/dev", "/proc"))}
    assert {path: face.sysroot.tree.walk(path) for path in LASTING} == {path: numbers[path] for path in LASTING}
    assert set(numbers.values()).isdisjoint(face.sysroot.tree.walk(path) for path in RENEWED)
    gone = [path for path in RENEWED if not path.startswith("/dev/")]  # a node of /dev goes with its name alone
    assert all(face.sysroot.tree.find(numbers[path]) is None for path in gone)


def test_after_a_reset_every_function_gets_the_new_kernel() -> None:
    face = Face()
    old = face.kernel
    face.sysroot.reset()
    assert face.kernel is not old
    for path, directory in face.sysroot.static_directories().items():
        kobj = directory.kobj
        assert (kobj if isinstance(kobj, Kernel) else kobj.kernel) is face.kernel, path
        assert all(face.kernel.objects[child.serial] is child for child in directory.children.values()), path


def test_a_file_that_was_open_at_a_reset_is_dead_and_stays_so() -> None:
    face = Face()
    tree = face.sysroot.tree
    first = [face.open(path) for path in (POLICY, STATE, HOTPLUG, "/control/latency/offline_block")]
    directory = open_directory(tree, tree.walk("/sys/devices/system"))
    assert {read_errno(file) for file in first} == {"ok"}
    face.sysroot.reset()
    second = [face.open(file_path) for file_path in (POLICY, STATE, HOTPLUG)]
    assert [read_errno(file) for file in first] == ["ENODEV"] * 4
    assert [read_errno(file) for file in second] == ["ok"] * 3
    face.sysroot.reset()
    assert [read_errno(file) for file in (*first, *second)] == ["ENODEV"] * 7
    assert [read_errno(file) for file in first] == ["ENODEV"] * 4
    with pytest.raises(KernelError, match="ENOENT"):
        list(directory.entries(0))


def test_a_reset_tells_a_cache_which_names_are_others() -> None:
    face = Face()
    tree = face.sysroot.tree
    tree.take_changes()
    face.sysroot.reset()
    told = {(change.parent, change.name) for change in tree.take_changes()}
    for above, names in (
        ("/sys", names_in(tree, "/sys")),
        ("/control", ["blocks", "latency", "pages", "modules", "pmem", "kmsg", "refused", "uevents.jsonl"]),
        ("/dev", ["dax0.0"]),
    ):
        ino = tree.walk(above)
        assert {(ino, os.fsencode(name)) for name in names} <= told, above
    assert not {parent for parent, _ in told} & {ROOT}, "the names in / are the same"


def test_no_two_things_have_one_number_when_numbers_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers begin again after a million, here after some hundred. What outlives a reset keeps its own."""
    monkeypatch.setattr("fakesysfs.kernel.core.LAST_SERIAL", 300)
    face = Face()
    given = []
    for _ in range(20):
        face.sysroot.reset()
        given.append(face.kernel.last_serial)
        directories = face.sysroot.static_directories()
        assert len({directory.serial for directory in directories.values()}) == len(directories)
        objects = face.kernel.objects
        assert all(objects[directory.serial] is directory for directory in directories.values())
        assert all(serial == kobject.serial for serial, kobject in objects.items())
    assert given != sorted(given)
    assert face.read(HOTPLUG) == "online_movable\n"


def test_a_thousand_resets_take_no_memory() -> None:
    face = Face("tiny")

    def blocks_after(resets: int) -> int:
        for _ in range(resets):
            face.sysroot.reset()
            face.write(POLICY, "online")
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(20)
    grown = blocks_after(1000) - before
    assert grown < 500, "not one object for every second reset"


# Paths that were resolved before --------------------------------------------------------------------------------------


def test_a_path_is_resolved_to_what_is_there_now() -> None:
    """`Tree.resolve` remembers; `Tree.walk` does not."""
    face = Face("tiny")
    tree = face.sysroot.tree
    known: dict[str, None] = {}
    for path, data in (
        (HOTPLUG, "unplug"),
        (HOTPLUG, "online_movable"),
        (HOTPLUG, "unplug"),
        ("/sys/bus/dax/drivers/kmem/unbind", "dax0.0"),
        ("/sys/bus/dax/drivers/kmem/bind", "dax0.0"),
        ("/control/modules/unload", "dax_cxl"),
        ("/control/modules/load", "dax_cxl"),
        ("/control/modules/unload", "kmem"),
        ("/control/modules/load", "kmem"),
        ("/control/modules/load", "memory_notifier_error_inject"),
        ("/control/modules/unload", "memory_notifier_error_inject"),
        ("/control/reset", "1"),
    ):
        known |= dict.fromkeys(everything(tree))
        for remembered in known:
            resolved(tree, remembered)
        face.write(path, data)
        for remembered in known:
            assert resolved(tree, remembered) == walked(tree, remembered), (remembered, path, data)


def resolved(tree: Tree, path: str) -> int | None:
    try:
        return tree.resolve(path)
    except KernelError:
        return None


def walked(tree: Tree, path: str) -> int | None:
    try:
        return tree.walk(path)
    except KernelError:
        return None
