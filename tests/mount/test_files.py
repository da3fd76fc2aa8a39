"""Rules of reading, writing and opening through a mount (KERNEL.md section 1), where the host's VFS has a say."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import stat
import subprocess
from pathlib import Path

import pytest

from tests.mount.served import Served
from tests.tools.conftest import need_poll

pytestmark = pytest.mark.mount


@pytest.fixture(autouse=True)
def _nothing_stored(mount: Served) -> None:
    mount.stores()


def refuses(number: int, call: object, *arguments: object) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011  the errno is looked at
        call(*arguments)  # type: ignore[operator]
    assert errno.errorcode[raised.value.errno or 0] == errno.errorcode[number]


@pytest.mark.parametrize("offset", [0, 100, 4096, 1 << 40])
def test_offset_of_a_write_is_ignored(mount: Served, offset: int) -> None:
    file = os.open(mount / "value", os.O_WRONLY)
    assert os.pwrite(file, b"online\n", offset) == 7
    os.close(file)
    assert mount.stores() == [b"online\n"]


def test_append_and_truncate_have_no_effect(mount: Served) -> None:
    subprocess.run("echo a > value; echo b >> value; : > value", shell=True, check=True, cwd=mount.path)
    assert mount.stores() == [b"a\n", b"b\n"]
    assert mount.read("value") == "b\n"
    os.truncate(mount / "value", 10)
    assert (mount / "value").stat().st_size == 4096
    assert mount.stores() == []


def test_long_write_is_cut(mount: Served) -> None:
    assert mount.write("value", b"x" * 10_000) == 4096
    assert mount.stores() == [b"x" * 4096]


def test_writev_is_one_command(mount: Served) -> None:
    file = os.open(mount / "value", os.O_WRONLY)
    assert os.writev(file, [b"onl", b"", b"ine\n"]) == 7
    os.close(file)
    assert mount.stores() == [b"online\n"]


def test_empty_write_never_arrives(mount: Served) -> None:
    assert mount.write("value", b"") == 0
    assert mount.stores() == []


def test_any_bytes_arrive(mount: Served) -> None:
    data = bytes(range(256))
    assert mount.write("value", data) == 256
    assert mount.stores() == [data]


def test_show_is_called_at_offset_0_only(mount: Served) -> None:
    file = os.open(mount / "counter", os.O_RDONLY)
    first = int(os.read(file, 4096))
    assert os.read(file, 4096) == b""
    os.lseek(file, 0, os.SEEK_SET)
    assert int(os.read(file, 4096)) == first + 1
    assert os.lseek(file, 0, os.SEEK_END) == 4096
    refuses(errno.EINVAL, os.lseek, file, -1, os.SEEK_SET)
    os.close(file)


def test_small_reads_continue(mount: Served) -> None:
    mount.write("value", "0123456789")
    file = os.open(mount / "value", os.O_RDONLY)
    assert [os.read(file, 4) for _ in range(4)] == [b"0123", b"4567", b"89", b""]
    assert os.pread(file, 4, 5) == b"5678"
    assert os.pread(file, 4, 100) == b""
    os.close(file)


def test_content_longer_than_a_request(mount: Served) -> None:
    text = "0123456789abcde\n" * 20_000
    assert mount.read("big") == text
    assert subprocess.run(["cat", mount / "big"], check=True, capture_output=True, text=True).stdout == text


def test_open_modes(mount: Served) -> None:
    for name, flags in (
        ("readonly", os.O_WRONLY),
        ("readonly", os.O_RDWR),
        ("writeonly", os.O_RDONLY),
        ("writeonly", os.O_RDWR),
    ):
        refuses(errno.EACCES, os.open, mount / name, flags)
    refuses(errno.EINVAL, os.open, mount / "value", os.O_RDONLY | os.O_DIRECT)
    refuses(errno.ENOTDIR, os.open, mount / "value", os.O_RDONLY | os.O_DIRECTORY)
    refuses(errno.EEXIST, os.open, mount / "value", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    refuses(errno.EACCES, os.open, mount / "new", os.O_WRONLY | os.O_CREAT)
    refuses(errno.EISDIR, os.open, mount / "family", os.O_WRONLY)
    os.close(os.open(mount / "value", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
    assert mount.stores() == []


def test_names_cannot_be_changed(mount: Served) -> None:
    value = mount / "value"
    refuses(errno.EPERM, os.unlink, value)
    refuses(errno.EPERM, os.mkdir, mount / "new")
    refuses(errno.EPERM, os.rmdir, mount / "family/memory3")
    refuses(errno.EPERM, os.rename, value, mount / "new")
    refuses(errno.EPERM, os.symlink, "value", mount / "new")
    refuses(errno.EPERM, os.link, value, mount / "new")
    refuses(errno.EPERM, os.mknod, mount / "new", stat.S_IFIFO | 0o600)
    assert value.exists()


def test_attributes_of_files(mount: Served) -> None:
    found = (mount / "value").stat()
    assert (found.st_size, found.st_nlink, found.st_blocks, found.st_blksize) == (4096, 1, 0, 4096)
    assert stat.filemode(found.st_mode) == "-rw-r--r--"
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
    assert (mount / "big").stat().st_size == 0
    link = (mount / "link").lstat()
    assert (link.st_size, stat.filemode(link.st_mode)) == (0, "lrwxrwxrwx")
    assert Path(mount / "link").readlink() == Path("family/memory2")
    node = (mount / "null").lstat()
    assert (stat.filemode(node.st_mode), os.major(node.st_rdev), os.minor(node.st_rdev)) == ("crw-rw-rw-", 1, 3)
    family = (mount / "family").stat()
    assert (family.st_nlink, family.st_size) == (2 + len(os.listdir(mount / "family")), 0)
    system = os.statvfs(mount.path)
    assert (system.f_bsize, system.f_namemax, system.f_blocks) == (4096, 255, 0)


def test_dots_are_listed(mount: Served) -> None:
    listed = subprocess.run(["ls", "-a", mount / "family/memory3"], check=True, capture_output=True, text=True).stdout
    assert listed.split() == [".", "..", "state", "up"]


def test_changed_attributes_are_remembered(mount: Served) -> None:
    path = mount / "family/memory4/state"
    path.chmod(0o600)
    os.utime(path, ns=(1_000, 2_000))
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000, 2_000)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_xattrs(mount: Served) -> None:
    path = mount / "value"
    refuses(errno.ENOTSUP, os.setxattr, path, "user.color", b"red")
    refuses(errno.ENODATA, os.getxattr, path, "user.color")
    refuses(errno.ENOTSUP, os.removexattr, path, "user.color")
    if os.geteuid() == 0:
        os.setxattr(path, "security.label", b"x")
        assert os.getxattr(path, "security.label") == b"x"
        assert "security.label" in os.listxattr(path)
        os.removexattr(path, "security.label")
        refuses(errno.ENODATA, os.getxattr, path, "security.label")
        refuses(errno.ENODATA, os.getxattr, path, "trusted.none")


def test_cannot_be_mapped(mount: Served) -> None:
    file = os.open(mount / "value", os.O_RDWR)
    refuses(errno.ENODEV, mmap.mmap, file, 4096, mmap.MAP_SHARED)
    os.close(file)


def test_sync_and_lock_succeed(mount: Served) -> None:
    file = os.open(mount / "value", os.O_RDWR)
    os.fsync(file)
    fcntl.flock(file, fcntl.LOCK_EX)
    os.close(file)


def test_poll(mount: Served) -> None:
    need_poll()
    file = os.open(mount / "value", os.O_RDONLY)
    poll = select.poll()
    poll.register(file, select.POLLIN | select.POLLPRI)
    assert poll.poll(1000) == [(file, select.POLLIN | select.POLLPRI | select.POLLERR)]
    os.read(file, 1)
    assert poll.poll(1000) == [(file, select.POLLIN)]
    os.close(file)


def test_bug_is_an_error_of_the_client_only(mount: Served) -> None:
    mount.expected_in_log = ["bug: read", "bug: write", "errno 600"]
    refuses(errno.EIO, mount.read, "broken")
    refuses(errno.EIO, mount.write, "broken", "1")
    refuses(errno.EIO, mount.read, "bad_errno")
    refuses(errno.EIO, mount.write, "bad_errno", "1")
    log = mount.log.read_text()
    assert log.count("ZeroDivisionError") >= 2
    assert log.count("errno 600 exists on no host") >= 2
    assert int(mount.read("counter"))


def test_refusals_name_the_command(mount: Served) -> None:
    subprocess.run(["cat", mount / "writeonly"], check=False, capture_output=True)
    assert "refused cat /writeonly b'' EACCES" in mount.output.read_text()
