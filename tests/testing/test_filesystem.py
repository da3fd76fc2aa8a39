"""System calls on the model in this process, on a toy tree."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import cast

import pytest

from fakesysfs.kernfs import Caller, Tree
from fakesysfs.kernfs.declare import Attribute, Directory, DirectoryKind, Group, Link, Links
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import run
from fakesysfs.testing.filesystem import FileSystem


class Toy:
    """What the toy's files show: a word that can be changed."""

    def __init__(self) -> None:
        self.word = "offline"

    def store(self, data: bytes) -> None:
        if data.strip() not in {b"online", b"offline"}:
            raise KernelError(errno.EINVAL, "not a word", "toy_store")
        self.word = data.strip().decode()


SYS = DirectoryKind[Toy](
    "sys",
    lambda _toy: "/sys",
    [
        Attribute(name="state", mode=0o644, show=lambda toy: f"{toy.word}\n", store=lambda toy, data: toy.store(data)),
        Attribute(name="bind", mode=0o200, store=lambda toy, data: toy.store(data)),
        Attribute(name="secret", mode=0o400, show=lambda _toy: "1\n"),
        Attribute(name="fixed", mode=0o444, show=lambda _toy: "one\ntwo\nthree\n"),
        Link(name="link", target=lambda _toy: "/sys/sub"),
        Group(name="sub", entries=(Attribute(name="nr", mode=0o644, show=lambda _toy: "20\n"),)),
    ],
)
ROOT = DirectoryKind[Toy]("root", lambda _toy: "/", [Group(name="sys", entries=SYS.entries)])


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def files(toy: Toy) -> FileSystem:
    root = Directory(1, ROOT, toy)
    population = SimpleNamespace(objects={1: root}, generation=0)
    tree = Tree(root, population, lambda directory: cast("Directory", directory).kind, tuple, lambda: 0)
    return FileSystem(tree, None, Caller(1, "test"))


def refused(number: int) -> AbstractContextManager[object]:
    return pytest.raises(KernelError, match=errno.errorcode[number])


def test_the_position_moves_with_reads_and_writes_though_the_store_ignores_it(files: FileSystem, toy: Toy) -> None:
    opened = files.open("/sys/state", os.O_RDWR)
    assert run(files.read(opened, 3)) == b"off"
    assert run(files.read(opened, 100)) == b"line\n"
    assert run(files.write(opened, b"online\n")) == 7
    assert files.lseek(opened, 0, os.SEEK_CUR) == 15
    assert run(files.read(opened, 100)) == b""
    assert files.lseek(opened, 0, os.SEEK_SET) == 0
    assert run(files.read(opened, 100)) == b"online\n"
    assert run(files.pwrite(opened, b"offline", 1 << 40)) == 7
    assert run(files.pread(opened, 100, 3)) == b"line\n"
    assert run(files.writev(opened, [b"onl", b"ine\n"])) == 7
    assert toy.word == "online"
    assert files.lseek(opened, 0, os.SEEK_END) == 4096
    with refused(errno.EINVAL):
        files.lseek(opened, -1, os.SEEK_SET)


@pytest.mark.parametrize(
    ("path", "flags", "number"),
    [
        ("/sys/state", os.O_CREAT | os.O_EXCL | os.O_WRONLY, errno.EEXIST),
        ("/sys/new", os.O_CREAT | os.O_WRONLY, errno.EACCES),
        ("/sys/new", os.O_WRONLY, errno.ENOENT),
        ("/nowhere/new", os.O_CREAT | os.O_WRONLY, errno.ENOENT),
        ("/sys/fixed", os.O_WRONLY, errno.EACCES),
        ("/sys/bind", os.O_RDONLY, errno.EACCES),
        ("/sys/state", os.O_DIRECT, errno.EINVAL),
        ("/sys/state", os.O_DIRECTORY, errno.ENOTDIR),
        ("/sys/state/", os.O_RDONLY, errno.ENOTDIR),
        ("", os.O_RDONLY, errno.ENOENT),
    ],
)
def test_opens_that_are_refused(files: FileSystem, path: str, flags: int, number: int) -> None:
    with refused(number):
        files.open(path, flags)


def test_a_descriptor_does_only_what_it_was_opened_for(files: FileSystem) -> None:
    with refused(errno.EBADF):
        run(files.write(files.open("/sys/state", os.O_RDONLY), b"x"))
    with refused(errno.EBADF):
        run(files.read(files.open("/sys/state", os.O_WRONLY), 1))
    with refused(errno.ENODEV):
        files.mmap(files.open("/sys/state", os.O_RDWR))


def test_names_cannot_be_changed_but_modes_can(files: FileSystem) -> None:
    nobody = files.as_user(65534)
    for number, change, names in (
        (errno.EPERM, files.unlink, ("/sys/state",)),
        (errno.EISDIR, files.unlink, ("/sys",)),
        (errno.ENOENT, files.unlink, ("/sys/new",)),
        (errno.EACCES, nobody.unlink, ("/sys",)),
        (errno.EPERM, files.rmdir, ("/sys",)),
        (errno.ENOTDIR, files.rmdir, ("/sys/state",)),
        (errno.EACCES, nobody.rmdir, ("/sys/state",)),
        (errno.EPERM, files.make_name, ("/sys/new",)),
        (errno.EPERM, files.make_name, ("/sys/new/",)),
        (errno.EEXIST, files.make_name, ("/sys/state",)),
        (errno.EEXIST, nobody.make_name, ("/sys/state",)),
        (errno.EACCES, nobody.make_name, ("/sys/new",)),
        (errno.ENOTDIR, files.make_name, ("/sys/state/new",)),
        (errno.ENOENT, files.make_name, ("/nowhere/new",)),
        (errno.EPERM, files.link, ("/sys/state", "/sys/new")),
        (errno.ENOENT, files.link, ("/sys/new", "/sys/new")),
        (errno.EPERM, files.rename, ("/sys/state", "/sys/new")),
        (errno.EPERM, files.rename, ("/sys/state", "/sys/bind")),
        (errno.ENOENT, files.rename, ("/sys/new", "/sys/state")),
        (errno.ENOENT, files.rename, ("/sys/state", "/nowhere/new")),
        (errno.EACCES, nobody.rename, ("/sys/state", "/sys/new")),
        (errno.EISDIR, files.truncate, ("/sys", 0)),
    ):
        with refused(number):
            change(*names)
    files.rename("/sys/state", "/sys/state")
    files.chmod("/sys/state", 0o600)
    files.chown("/sys/state", 1, 2)
    files.truncate("/sys/state", 5)
    status = files.lstat("/sys/state")
    assert (status.mode & 0o777, status.uid, status.gid, status.size) == (0o600, 1, 2, 4096)


def test_another_user_has_what_the_mode_gives_others(files: FileSystem) -> None:
    nobody = files.as_user(65534)
    assert run(nobody.read(nobody.open("/sys/state", os.O_RDONLY), 9)) == b"offline\n"
    for path, flags in (("/sys/state", os.O_WRONLY), ("/sys/secret", os.O_RDONLY), ("/sys/state", os.O_RDWR)):
        with refused(errno.EACCES):
            nobody.open(path, flags)


LINKED = SimpleNamespace(serial=1, index=0)
TARGETS: dict[str, str] = {
    "relative": "sub/deep",
    "absolute": "/sub",
    "up": "sub/deep/..",
    "above_all": "../../../sub",
    "round": "round",
    **{f"hop{number}": f"hop{number - 1}" if number else "sub" for number in range(41)},
}
LINKS = DirectoryKind[object](
    "links",
    lambda _kobj: "/",
    [
        Links(of=lambda _kobj: {name: (LINKED, target) for name, target in TARGETS.items()}, slots=50, verbatim=True),
        Attribute(name="file", mode=0o444, show=lambda _kobj: "at the top\n"),
        Group(
            name="sub",
            entries=(
                Attribute(name="file", mode=0o444, show=lambda _kobj: "in sub\n"),
                Group(name="deep", entries=(Attribute(name="file", mode=0o444, show=lambda _kobj: "in deep\n"),)),
            ),
        ),
    ],
)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/relative/file", "in deep\n"),
        ("/relative/../file", "in sub\n"),
        ("/absolute/deep/file", "in deep\n"),
        ("/absolute/../file", "at the top\n"),
        ("/up/file", "in sub\n"),
        ("/above_all/file", "in sub\n"),
        ("//sub/./deep//../file", "in sub\n"),
        ("/hop39/file", "in sub\n"),
        ("/hop40/file", "ELOOP"),
        ("/round", "ELOOP"),
        ("/round/file", "ELOOP"),
        ("/file/file", "ENOTDIR"),
        ("/relative/none", "ENOENT"),
    ],
)
def test_links_on_the_way(path: str, text: str) -> None:
    """step_into, path_init: 40 links at most, an absolute one begins at the root, `..` is that of the target."""
    root = Directory(1, LINKS, None)
    registry = SimpleNamespace(objects={1: root}, generation=0)
    files = FileSystem(Tree(root, registry, lambda _: LINKS, tuple, lambda: 0), None, Caller(1, "test"))
    try:
        seen = run(files.read(files.open(path, os.O_RDONLY), 100)).decode()
    except KernelError as error:
        seen = error.name
    assert seen == text


def test_a_link_in_the_last_place_is_followed_unless_told(files: FileSystem) -> None:
    assert files.lstat("/sys/link") != files.stat("/sys/link")
    with refused(errno.EISDIR):
        files.open("/sys/link", os.O_RDONLY)
    with refused(errno.ELOOP):
        files.open("/sys/link", os.O_RDONLY | os.O_NOFOLLOW)
