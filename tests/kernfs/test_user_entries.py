"""Names that users make in /dev, which is a tmpfs on a real machine."""

from __future__ import annotations

import os

import pytest

from fakesysfs import machine
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.kernfs import names_in
from fakesysfs.kernfs.user_entries import RENAME_NOREPLACE, UserEntries
from fakesysfs.ops.errors import KernelError
from fakesysfs.sysroot import Sysroot


@pytest.fixture
def sysroot() -> Sysroot:
    return Sysroot.boot(machine.load("default"), PROFILES["hotplug-v3"], whole_dev=True)


def made(sysroot: Sysroot, path: str = "/dev") -> UserEntries:
    return sysroot.tree.made_in(sysroot.tree.walk(path))


def refusal(call: object, *arguments: object, **named: object) -> str:
    assert callable(call)
    try:
        call(*arguments, **named)
    except KernelError as error:
        return error.name
    return "ok"


def readlink(sysroot: Sysroot, path: str) -> str:
    return os.fsdecode(sysroot.tree.readlink(sysroot.tree.walk(path)))


def test_a_link_says_what_it_was_told(sysroot: Sysroot) -> None:
    for target in ("dax0.0", "../dev/./dax0.0", "/nowhere", "../../x"):
        made(sysroot).symlink("link", target)
        assert readlink(sysroot, "/dev/link") == target
        assert "link" in names_in(sysroot.tree, "/dev")
        made(sysroot).unlink("link")
        assert "link" not in names_in(sysroot.tree, "/dev")


def test_a_new_link_is_another_node(sysroot: Sysroot) -> None:
    made(sysroot).symlink("link", "a")
    first = sysroot.tree.walk("/dev/link")
    made(sysroot).unlink("link")
    made(sysroot).symlink("link", "b")
    assert sysroot.tree.walk("/dev/link") != first
    assert sysroot.tree.find(first) is None or readlink(sysroot, "/dev/link") == "b"


def test_directories(sysroot: Sysroot) -> None:
    tree = sysroot.tree
    links = tree.getattr(tree.walk("/dev")).nlink
    made(sysroot).mkdir("dax")
    made(sysroot, "/dev/dax").mkdir("by-path")
    made(sysroot, "/dev/dax/by-path").symlink("link", "../../dax0.0")
    assert tree.getattr(tree.walk("/dev")).nlink == links + 1
    assert tree.path_of(tree.walk("/dev/dax/by-path")) == "/dev/dax/by-path"
    assert tree.resolve("/dev/dax/by-path/link") == tree.walk("/dev/dax0.0")
    assert refusal(made(sysroot).rmdir, "dax") == "ENOTEMPTY"
    made(sysroot).rename("dax", "other", 0, exists=False)
    assert tree.path_of(tree.walk("/dev/other/by-path")) == "/dev/other/by-path"
    made(sysroot, "/dev/other/by-path").unlink("link")
    made(sysroot, "/dev/other").rmdir("by-path")
    made(sysroot).rmdir("other")
    assert tree.getattr(tree.walk("/dev")).nlink == links


def test_rename_keeps_the_node_and_replaces_another(sysroot: Sysroot) -> None:
    """As udevd makes a link: under another name first."""
    dev = made(sysroot)
    dev.symlink("link", "old")
    dev.symlink(".#link", "new")
    ino = sysroot.tree.walk("/dev/.#link")
    assert refusal(dev.rename, ".#link", "link", RENAME_NOREPLACE, exists=True) == "EEXIST"
    assert refusal(dev.rename, ".#link", "link", 2, exists=True) == "EINVAL"
    dev.rename(".#link", "link", 0, exists=True)
    assert (sysroot.tree.walk("/dev/link"), readlink(sysroot, "/dev/link")) == (ino, "new")
    dev.rename("link", "link", 0, exists=True)
    assert readlink(sysroot, "/dev/link") == "new"


def test_what_nobody_made_is_the_fakes(sysroot: Sysroot) -> None:
    dev = made(sysroot)
    dev.symlink("link", "x")
    dev.mkdir("directory")
    assert refusal(dev.unlink, "dax0.0") == "EPERM"
    assert refusal(dev.rmdir, "pts") == "EPERM"
    assert refusal(dev.rename, "dax0.0", "y", 0, exists=False) == "EPERM"
    assert refusal(dev.rename, "link", "dax0.0", 0, exists=True) == "EPERM"
    assert refusal(dev.unlink, "directory") == "EISDIR"
    assert refusal(dev.rmdir, "link") == "ENOTDIR"
    assert refusal(dev.rename, "link", "directory", 0, exists=True) == "EISDIR"
    assert refusal(dev.rename, "directory", "link", 0, exists=True) == "ENOTDIR"


@pytest.mark.parametrize(
    "path", ["/sys", "/sys/bus/dax/devices/dax0.0", "/dev/pts", "/control", "/proc", "/sys/bus/dax/devices"]
)
def test_elsewhere_nobody_makes_anything(sysroot: Sysroot, path: str) -> None:
    assert refusal(made, sysroot, path) == "EPERM"


def test_a_plain_mounts_dev_is_as_it_is() -> None:
    plain = Sysroot.boot(machine.load("default"), PROFILES["hotplug-v3"])
    assert refusal(made, plain) == "EPERM"


def test_a_reset_takes_them_away(sysroot: Sysroot) -> None:
    tree = sysroot.tree
    tree.take_changes()
    made(sysroot).mkdir("dax")
    made(sysroot).symlink("link", "x")
    inside = tree.walk("/dev/dax")
    sysroot.reset()
    assert {"dax", "link"}.isdisjoint(names_in(tree, "/dev"))
    assert tree.find(inside) is None
    dev = tree.walk("/dev")
    assert {b"dax", b"link"} <= {change.name for change in tree.take_changes() if change.parent == dev}
    made(sysroot).symlink("link", "y")
    assert readlink(sysroot, "/dev/link") == "y"
