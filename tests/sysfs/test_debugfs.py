"""debugfs as files: /sys/kernel/debug/notifier-error-inject (7.2/16-notifier-error-inject)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from fakesysfs.ops import sched
from fakesysfs.ops.errors import KernelError
from fakesysfs.testing.filesystem import FileSystem
from tests.model import CALLER, Face, drive

DEBUG = "/sys/kernel/debug"
TOP = f"{DEBUG}/notifier-error-inject"
ACTIONS = f"{TOP}/memory/actions"
ERROR = f"{ACTIONS}/MEM_GOING_ONLINE/error"
MODULE = "memory_notifier_error_inject"
NOBODY = 65534


@pytest.fixture
def face() -> Face:
    face = Face("oracle", "7.2")
    sched.run(face.kernel.modprobe(MODULE))
    return face


@pytest.fixture
def files(face: Face) -> FileSystem:
    return FileSystem(face.sysroot.tree, face.sysroot.journal, CALLER)


def exists(face: Face, path: str) -> bool:
    try:
        face.sysroot.tree.walk(path)
    except KernelError:
        return False
    return True


# Names and modes ----------------------------------------------------------------------------------------------------


def test_directory_is_always_there_for_its_owner_only() -> None:
    face = Face("oracle", "7.2")
    status = face.sysroot.tree.getattr(face.sysroot.tree.walk(DEBUG))
    assert (stat.filemode(status.mode), status.nlink, status.size) == ("drwx------", 2, 0)
    assert face.names(DEBUG) == []


@pytest.mark.parametrize(
    ("path", "mode", "links"),
    [
        (TOP, "drwxr-xr-x", 3),
        (f"{TOP}/memory", "drwxr-xr-x", 3),
        (ACTIONS, "drwxr-xr-x", 4),
        (f"{ACTIONS}/MEM_GOING_OFFLINE", "drwxr-xr-x", 2),
        (ERROR, "-rw-------", 1),
    ],
)
def test_modes_sizes_and_links(files: FileSystem, path: str, mode: str, links: int) -> None:
    status = files.lstat(path)
    assert (stat.filemode(status.mode), status.size, status.nlink) == (mode, 0, links)


def test_path_of_a_file(face: Face) -> None:
    tree = face.sysroot.tree
    assert tree.path_of(tree.walk(ERROR)) == ERROR


def test_names_come_and_go_with_the_modules(face: Face) -> None:
    tree = face.sysroot.tree
    top, base, holders = tree.walk(TOP), tree.walk(DEBUG), tree.walk("/sys/module/notifier_error_inject/holders")
    assert sorted(face.names(ACTIONS)) == ["MEM_GOING_OFFLINE", "MEM_GOING_ONLINE"]
    tree.take_changes()
    sched.run(face.kernel.rmmod(MODULE))
    changed = [(change.parent, change.name) for change in tree.take_changes()]
    assert (top, b"memory") in changed
    assert (holders, MODULE.encode()) in changed
    assert not exists(face, ACTIONS)
    assert files_links(face, TOP) == 2
    sched.run(face.kernel.rmmod("notifier_error_inject"))
    gone = [change for change in tree.take_changes() if change.name == b"notifier-error-inject"]
    assert [(change.parent, change.directories) for change in gone] == [(base, True)]
    assert not exists(face, TOP)
    sched.run(face.kernel.modprobe(MODULE))
    changed = [(change.parent, change.name) for change in tree.take_changes()]
    assert (base, b"notifier-error-inject") in changed
    assert face.read(ERROR) == "0\n"


def files_links(face: Face, path: str) -> int:
    return face.sysroot.tree.getattr(face.sysroot.tree.walk(path)).nlink


# Values -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0\n", "0"),
        ("-12\n", "-12"),
        ("-12", "-12"),
        ("-4096\n", "-4095"),
        ("-99999\n", "-4095"),
        ("12\n", "0"),
        ("+5\n", "0"),
        ("0x10\n", "0"),
        ("-0x10\n", "-16"),
        ("-010\n", "-8"),
        ("-5\0x", "-5"),
        ("4294967284\n", "-12"),
        ("-4294967308\n", "-12"),
        ("-9223372036854775808\n", "0"),
        (f"-{'0' * 21}12", "-1"),  # the first 23 bytes count
    ],
)
def test_values_that_are_taken(face: Face, written: str, read: str) -> None:
    face.write(ERROR, "-7\n")
    assert face.write(ERROR, written) == len(written)
    assert face.read(ERROR) == f"{read}\n"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("", "EINVAL"),
        ("\n", "EINVAL"),
        ("x\n", "EINVAL"),
        (" -5\n", "EINVAL"),
        ("-5 \n", "EINVAL"),
        ("-5x\n", "EINVAL"),
        ("-5\n\n", "EINVAL"),
        ("-+5\n", "EINVAL"),
        ("--5\n", "EINVAL"),
        ("-\n", "EINVAL"),
        ("99999999999999999999\n", "ERANGE"),
        ("9223372036854775808\n", "ERANGE"),
        ("-9223372036854775809\n", "ERANGE"),
    ],
)
def test_values_that_are_refused(face: Face, written: str, answer: str) -> None:
    face.write(ERROR, "-7\n")
    assert face.refusal(ERROR, written) == answer
    assert face.read(ERROR) == "-7\n"


def test_both_actions_are_apart(face: Face) -> None:
    face.write(ERROR, "-12\n")
    assert face.read(f"{ACTIONS}/MEM_GOING_OFFLINE/error") == "0\n"


# Files --------------------------------------------------------------------------------------------------------------


def test_file_has_no_position(files: FileSystem) -> None:
    opened = files.open(ERROR, os.O_RDWR)
    for call in (lambda: drive(files.pread(opened, 5, 1)), lambda: drive(files.pwrite(opened, b"-4\n", 3))):
        with pytest.raises(KernelError, match="ESPIPE"):
            call()
    with pytest.raises(KernelError, match="ESPIPE"):
        files.lseek(opened, 0, os.SEEK_SET)


def test_text_is_made_at_the_first_read_only(files: FileSystem) -> None:
    opened = files.open(ERROR, os.O_RDWR)
    assert drive(files.write(opened, b"-9\n")) == 3
    assert drive(files.read(opened, 1)) == b"-"
    assert drive(files.write(opened, b"-10\n")) == 4
    assert drive(files.read(opened, 50)) == b"9\n"
    assert drive(files.read(opened, 50)) == b""
    assert drive(files.read(files.open(ERROR, os.O_RDONLY), 50)) == b"-10\n"


def test_position_that_the_host_counts_does_not_matter(face: Face) -> None:
    """A mount hands over an offset that writes have moved."""
    opened = face.open(ERROR, os.O_RDWR)
    drive(opened.write(b"-9\n", CALLER))
    assert opened.read(3, 50) == b"-9\n"
    assert opened.read(6, 50) == b""


@pytest.mark.parametrize("flags", [os.O_APPEND, os.O_TRUNC, os.O_CREAT])
def test_flags_of_open_have_no_effect(files: FileSystem, flags: int) -> None:
    assert drive(files.write(files.open(ERROR, os.O_WRONLY | flags), b"-3\n")) == 3


def test_only_the_owner_may_open(files: FileSystem) -> None:
    with pytest.raises(KernelError, match="EACCES"):
        files.as_user(NOBODY).open(ERROR, os.O_RDONLY)


@pytest.mark.parametrize("unloaded", [1, 2])
def test_open_file_of_an_unloaded_module_answers_eio(face: Face, files: FileSystem, unloaded: int) -> None:
    opened = files.open(ERROR, os.O_RDWR)
    for name in (MODULE, "notifier_error_inject")[:unloaded]:
        sched.run(face.kernel.rmmod(name))
    for call in (files.read(opened, 10), files.write(opened, b"-1\n")):
        with pytest.raises(KernelError) as raised:
            drive(call)
        assert raised.value.errno == errno.EIO
    with pytest.raises(KernelError, match="ESPIPE"):
        files.lseek(opened, 0, os.SEEK_SET)


# What else shows it -------------------------------------------------------------------------------------------------


def test_modules_in_sysfs_and_proc(face: Face) -> None:
    assert not exists(face, f"/sys/module/{MODULE}/parameters")
    assert face.read("/sys/module/notifier_error_inject/refcnt") == "1\n"
    assert face.read(f"/sys/module/{MODULE}/refcnt") == "0\n"
    holder = f"/sys/module/notifier_error_inject/holders/{MODULE}"
    assert face.sysroot.tree.readlink(face.sysroot.tree.walk(holder)) == f"../../{MODULE}".encode()
    lines = [line.split() for line in face.read("/proc/modules").splitlines()]
    users = {line[0]: line[2:4] for line in lines}
    assert users["notifier_error_inject"] == ["1", f"{MODULE},"]
    assert users[MODULE] == ["0", "-"]
    assert face.read("/proc/sys/kernel/tainted") == "4096\n"


def test_refusal_names_the_injection(face: Face) -> None:
    face.write(f"{ACTIONS}/MEM_GOING_OFFLINE/error", "-12\n")
    assert face.refusal("/sys/devices/system/memory/memory10/state", "offline\n") == "ENOMEM"
    assert "notifier-error-inject refuses MEM_GOING_OFFLINE of memory10" in face.read("/control/refused")
    assert face.read("/control/kmsg").endswith("Injecting error (-12) to MEM_GOING_OFFLINE\n")


def test_a_boolean_of_debugfs_takes_any_word_and_keeps_its_value() -> None:
    """debugfs_write_file_bool (cxl/mbox/raw_allow_all; the differential of guest t5 found it)."""
    face = Face("oracle-t1", "7.3")
    path = f"{DEBUG}/cxl/mbox/raw_allow_all"
    seen = []
    for word in ("x\n", "y\n", "\n", "2", "n\n"):
        face.write(path, word)
        seen.append(face.read(path).strip())
    assert seen == ["N", "Y", "Y", "Y", "N"]
