"""The in-process system calls and the little shell of the replayer, on a toy tree."""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fakesysfs.kernel.printk import Printk
from fakesysfs.kernfs import Caller, Tree
from fakesysfs.kernfs.declare import Attribute, Directory, DirectoryKind, Group, Link
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import run
from fakesysfs.replay.shell import Shell, command_lines
from fakesysfs.replay.target import NotRunError, NotSupportedError
from fakesysfs.testing.filesystem import FileSystem


class Loaded(list[tuple[str, dict[str, str]]]):
    """The modules as the toy keeps them, with the name under which the kernel does."""

    @property
    def loaded(self) -> list[str]:
        return [name for name, _ in self]


class Toy:
    """What the toy's files show: a word that can be changed, and the modules that were loaded."""

    def __init__(self) -> None:
        self.word = "offline"
        self.modules = Loaded()
        self.printk = Printk()

    def store(self, data: bytes) -> None:
        if data.strip() not in {b"online", b"offline"}:
            raise KernelError(errno.EINVAL, "not a word", "toy_store")
        self.word = data.strip().decode()

    async def modprobe(self, name: str, parameters: dict[str, str]) -> None:
        if name == "absent":
            raise KernelError(errno.ENOENT, "no such module", "load_module")
        self.modules.append((name, parameters))

    async def rmmod(self, name: str) -> None:
        self.modules.remove((name, {}))


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


@pytest.fixture
def shell(toy: Toy, files: FileSystem) -> Shell:
    def drive(operation: Coroutine[Any, Any, Any], _name: str = "", *, limit: float | None = None) -> object:
        del limit
        return run(operation)

    target = SimpleNamespace(files=files, run=drive, sysroot=SimpleNamespace(kernel=toy))
    return Shell(cast("Any", target))


def refused(number: int) -> AbstractContextManager[object]:
    return pytest.raises(KernelError, match=errno.errorcode[number])


# System calls -----------------------------------------------------------------------------------------------------


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


# Shell ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rc", "out", "err"),
    [
        ("echo online > /sys/state; cat /sys/state", 0, "online\n", ""),
        ("echo bad > /sys/state; echo rc=$?", 0, "rc=1\n", "bash: line 1: echo: write error: Invalid argument\n"),
        ("cat /sys/gone && echo yes", 1, "", "cat: /sys/gone: No such file or directory\n"),
        ("cat /sys/gone 2>/dev/null || echo no", 0, "no\n", ""),
        ("cat /sys/fixed | tail -2 | cat -v", 0, "two\nthree\n", ""),
        ("head -1 /sys/fixed; head -n 2 /sys/fixed", 0, "one\none\ntwo\n", ""),
        ("head /sys/{state,sub/nr}", 0, "==> /sys/state <==\noffline\n\n==> /sys/sub/nr <==\n20\n", ""),
        ('grep -E "^(one|three)" /sys/fixed', 0, "one\nthree\n", ""),
        ("grep -H . /sys/s*/nr /sys/stat?", 0, "/sys/sub/nr:20\n/sys/state:offline\n", ""),
        ("grep -A1 one /sys/fixed | wc -l", 0, "2\n", ""),
        ("grep -c e /sys/fixed", 0, "2\n", ""),
        ("grep four /sys/fixed", 1, "", ""),
        ("ls /sys", 0, "bind\nfixed\nlink\nsecret\nstate\nsub\n", ""),
        ("ls /sys/sub/", 0, "nr\n", ""),
        ("ls /sys/gone", 2, "", "ls: cannot access '/sys/gone': No such file or directory\n"),
        ("ls -l /sys/sub", 0, "total 0\n-rw-r--r-- 1 root root 4096 Jan  1 00:00 nr\n", ""),
        ('stat -c "%a %s %n" /sys/secret', 0, "400 4096 /sys/secret\n", ""),
        ("find /sys/sub -type f | sort | xargs stat -c %A", 0, "-rw-r--r--\n", ""),
        ("cat '/sys/*'", 1, "", "cat: '/sys/*': No such file or directory\n"),
        ("RANDOM=1 echo a  'b  c' \"d\"", 0, "a b  c d\n", ""),
        (
            "setpriv --reuid 65534 --clear-groups sh -c 'echo online > /sys/state; cat /sys/state'",
            0,
            "offline\n",
            "sh: 1: cannot create /sys/state: Permission denied\n",
        ),
        ("rm /sys/state; echo $?", 0, "1\n", "rm: cannot remove '/sys/state': Operation not permitted\n"),
        ("for i in /sys/s*; do [ -d $i ] && echo $i $(cat $i/nr); done", 0, "/sys/sub 20\n", ""),
        ("dmesg | grep -c nothing; numastat; lsmod | wc -l", 0, "0\n1\n", ""),
        ("touch /sys/new", 1, "", "touch: cannot touch '/sys/new': Permission denied\n"),
    ],
)
def test_commands_print_what_gnu_prints(shell: Shell, text: str, rc: int, out: str, err: str) -> None:
    assert shell.run(text)[:3] == (rc, out, err)


def test_modules_are_loaded_with_their_parameters(shell: Shell, toy: Toy) -> None:
    assert shell.run("modprobe device-dax; modprobe dax_hmem region_idle=1; modprobe nd_pmem; rmmod device_dax").rc == 0
    assert toy.modules == [("dax_hmem", {"region_idle": "1"}), ("nd_pmem", {})]
    assert shell.run("modprobe absent").rc == 1


def test_a_tool_needs_a_mount_but_the_rest_of_the_line_is_done(shell: Shell, toy: Toy) -> None:
    with pytest.raises(NotSupportedError, match="tool needs a mount"):
        shell.run("lsmem; modprobe kmem; echo online > /sys/state")
    assert toy.modules == [("kmem", {})]
    assert toy.word == "online"


def test_a_selftest_is_not_here(shell: Shell) -> None:
    with pytest.raises(NotRunError) as caught:
        shell.run("DAX_KMEM_TEST_DEV=dax1.0 dax-kmem-hotplug.sh; echo exit=$?")
    assert caught.value.rest


@pytest.mark.parametrize("text", ["while true; do echo; done", "echo $(cat /sys/state)"])
def test_more_of_the_language_is_refused(text: str) -> None:
    with pytest.raises(NotSupportedError, match="shell language"):
        command_lines(text)
