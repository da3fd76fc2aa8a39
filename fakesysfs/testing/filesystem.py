"""System calls on the model, in process: what the host's VFS does between a program and `kernfs`.

Positions, access modes, `O_CREAT` and permissions are rules of the VFS. In a mount the host applies
them. This module applies them without a mount, for replayed sessions and tests.

Every call raises KernelError with the errno that the program would see. Calls that may sleep are
coroutines. Sources: fs/open.c, fs/read_write.c, fs/namei.c; KERNEL.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from fakesysfs.kernfs import Caller, Journal, OpenFile, Stat, Tree, names_in, open_file
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.trace import Tracer

_ROOT_UID = 0
_MAX_NAME = 255
_BLOCK_SIZE = 4096
_ANY_EXECUTE = 0o111
_NO_CHANGE = "names cannot be changed here"
_MAX_NON_LFS = (1 << 31) - 1
"""The highest position in a file of kernfs, which sets no limit of its own (include/linux/fs.h)."""


_UNTRACED = contextlib.nullcontext()


@dataclass(slots=True)
class Descriptor:
    """One open file: what `struct file` keeps."""

    file: OpenFile
    flags: int
    position: int = 0

    @property
    def readable(self) -> bool:
        """Open for reading."""
        return self.flags & os.O_ACCMODE in {os.O_RDONLY, os.O_RDWR}

    @property
    def writable(self) -> bool:
        """Open for writing."""
        return self.flags & os.O_ACCMODE in {os.O_WRONLY, os.O_RDWR}


class FileSystem:
    """The system calls of one caller on one tree.

    A caller with uid 0 may do all that the modes allow anybody.
    """

    def __init__(self, tree: Tree, journal: Journal | None, caller: Caller) -> None:
        self.tree = tree
        self.journal = journal
        self.caller = caller
        self.opened: Callable[[str], None] | None = None
        """Called with each path that is opened."""

    def as_user(self, uid: int) -> FileSystem:
        """The same for a caller with another uid and no groups."""
        return FileSystem(self.tree, self.journal, self.caller._replace(uid=uid))

    def as_command(self, command: str) -> FileSystem:
        """The same for a command of that name."""
        other = FileSystem(self.tree, self.journal, self.caller._replace(command=command))
        other.opened = self.opened
        return other

    def _call(self, op: str, path: str) -> AbstractContextManager[None]:
        """A call that asks for a name or a directory: an event, if the machine is traced."""
        tracer = None if self.journal is None else self.tree.tracer
        return _UNTRACED if tracer is None else self._traced(tracer, op, path)

    @contextlib.contextmanager
    def _traced(self, tracer: Tracer, op: str, path: str) -> Iterator[None]:
        began = tracer.now()
        try:
            yield
        except KernelError as error:
            tracer.did(self.caller.process, op, path, began, error)
            raise
        tracer.did(self.caller.process, op, path, began, 0)

    # Files ---------------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> Descriptor:
        """System call open. Nothing can be made here: O_CREAT of a new name is EACCES."""
        if self.opened is not None:
            self.opened(path)
        try:
            ino = self._find_to_open(path, flags)
        except KernelError:
            with self._call("open", path):
                raise
        return Descriptor(open_file(self.tree, ino, flags, self.caller, self.journal), flags)

    def _find_to_open(self, path: str, flags: int) -> int:
        if not path:
            raise KernelError(errno.ENOENT, "the path is empty", "getname_flags")
        try:
            ino = self.tree.walk(path) if flags & os.O_NOFOLLOW else self.tree.resolve(path)
        except KernelError as error:
            if error.errno == errno.ENOENT and flags & os.O_CREAT:
                self.tree.resolve(os.path.dirname(path))  # noqa: PTH120  a path of the fake, not of the host
                raise KernelError(errno.EACCES, "files cannot be made here", "lookup_open") from None
            raise
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise KernelError(errno.EEXIST, "the name exists", "do_open")
        if path.endswith("/") and not stat.S_ISDIR(self.tree.getattr(ino).mode):
            raise KernelError(errno.ENOTDIR, "an attribute is not a directory", "do_open")
        self._permit(ino, flags)
        return ino

    def reopen(self, descriptor: Descriptor, flags: int) -> Descriptor:
        """System call open on /proc/self/fd/N: the node, whether or not its name is still there."""
        ino = descriptor.file.ino
        if not descriptor.file.alive:
            raise KernelError(errno.ENODEV, "the attribute was removed while it was open", "kernfs_fop_open")
        self._permit(ino, flags)
        return Descriptor(open_file(self.tree, ino, flags, self.caller, self.journal), flags)

    def _permit(self, ino: int, flags: int) -> None:
        if self.caller.uid == _ROOT_UID:
            return
        mode = self.tree.getattr(ino).mode
        access = flags & os.O_ACCMODE
        wanted = {os.O_RDONLY: stat.S_IROTH, os.O_WRONLY: stat.S_IWOTH}.get(access, stat.S_IROTH | stat.S_IWOTH)
        if mode & wanted != wanted:
            raise KernelError(errno.EACCES, "the file's mode denies this user access", "inode_permission")

    async def read(self, descriptor: Descriptor, size: int) -> bytes:
        """System call read at the descriptor's position."""
        data = await self._read(descriptor, descriptor.position, size)
        descriptor.position += len(data)
        return data

    async def pread(self, descriptor: Descriptor, size: int, offset: int) -> bytes:
        """System call pread."""
        self._check_offset(descriptor, offset)
        return await self._read(descriptor, offset, size)

    async def _read(self, descriptor: Descriptor, offset: int, size: int) -> bytes:
        if not descriptor.readable:
            raise KernelError(errno.EBADF, "the descriptor is not open for reading", "vfs_read")
        if not size:
            return b""  # without a call of `show`, even if the file is gone (seq_read_iter)
        if descriptor.file.reading_sleeps:
            return await descriptor.file.read_sleeping(offset, size)
        return descriptor.file.read(offset, size)

    async def write(self, descriptor: Descriptor, data: bytes) -> int:
        """System call write. The position moves on; the store does not get it."""
        taken = await self._write(descriptor, data)
        if self.is_seekable(descriptor):
            descriptor.position += taken
        return taken

    async def pwrite(self, descriptor: Descriptor, data: bytes, offset: int) -> int:
        """System call pwrite."""
        self._check_offset(descriptor, offset)
        return await self._write(descriptor, data)

    async def writev(self, descriptor: Descriptor, parts: list[bytes]) -> int:
        """System call writev: one command."""
        return await self.write(descriptor, b"".join(parts))

    async def _write(self, descriptor: Descriptor, data: bytes) -> int:
        if not descriptor.writable:
            raise KernelError(errno.EBADF, "the descriptor is not open for writing", "vfs_write")
        return await descriptor.file.write(data, self.caller)

    def is_seekable(self, descriptor: Descriptor) -> bool:
        """Has a position that a program can set; debugfs's simple attributes have none."""
        return descriptor.file.attribute.seekable

    def _needs_seek(self, descriptor: Descriptor) -> None:
        if not self.is_seekable(descriptor):
            raise KernelError(errno.ESPIPE, "the file has no position", "no_llseek")

    def _check_offset(self, descriptor: Descriptor, offset: int) -> None:
        if offset < 0:
            raise KernelError(errno.EINVAL, "a position cannot be negative", "ksys_pread64")
        self._needs_seek(descriptor)

    def lseek(self, descriptor: Descriptor, offset: int, whence: int) -> int:
        """System call lseek."""
        self._needs_seek(descriptor)
        if not descriptor.file.alive:
            raise KernelError(errno.ENODEV, "the attribute was removed while it was open", "kernfs_fop_llseek")
        size = descriptor.file.getattr().size
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: descriptor.position, os.SEEK_END: size, os.SEEK_DATA: 0, os.SEEK_HOLE: 0}
        if whence not in bases:
            raise KernelError(errno.EINVAL, f"unknown whence {whence}", "generic_file_llseek_size")
        position = bases[whence] + offset
        if whence in {os.SEEK_DATA, os.SEEK_HOLE}:
            if not 0 <= offset < size:
                raise KernelError(errno.ENXIO, "the position is beyond the end", "generic_file_llseek_size")
            position = offset if whence == os.SEEK_DATA else size
        if not 0 <= position <= _MAX_NON_LFS:
            raise KernelError(errno.EINVAL, "the position is negative or too high", "vfs_setpos")
        descriptor.position = position
        return position

    def fstat(self, descriptor: Descriptor) -> Stat:
        """System call fstat, of a removed file too."""
        return descriptor.file.getattr()

    def ftruncate(self, descriptor: Descriptor, size: int) -> None:
        """System call ftruncate: success, and no effect."""
        del size
        if not descriptor.writable:
            raise KernelError(errno.EINVAL, "the descriptor is not open for writing", "do_ftruncate")
        self.tree.setattr(descriptor.file.ino)

    def fchmod(self, descriptor: Descriptor, mode: int) -> None:
        """System call fchmod."""
        self.tree.setattr(descriptor.file.ino, mode=mode)

    def fchown(self, descriptor: Descriptor, uid: int, gid: int) -> None:
        """System call fchown."""
        self.tree.setattr(descriptor.file.ino, uid=uid, gid=gid)

    def mmap(self, descriptor: Descriptor) -> None:
        """System call mmap: no attribute has one."""
        del descriptor
        raise KernelError(errno.ENODEV, "the attribute cannot be mapped", "kernfs_fop_mmap")

    def poll(self, descriptor: Descriptor) -> int:
        """The events that polling reports at once."""
        ready = select.POLLIN
        return ready if descriptor.file.was_read else ready | select.POLLPRI | select.POLLERR

    # Names ---------------------------------------------------------------------------------------------------------

    def lstat(self, path: str) -> Stat:
        """System call lstat."""
        with self._call("getattr", path):
            return self.tree.getattr(self.tree.walk(path))

    def stat(self, path: str) -> Stat:
        """System call stat."""
        with self._call("getattr", path):
            return self.tree.getattr(self.tree.resolve(path))

    def access(self, path: str, mode: int) -> bool:
        """System call access. Root may do all except execute a file without any execute bit."""
        try:
            bits = self.tree.getattr(self.tree.resolve(path)).mode
        except KernelError:
            return False
        if self.caller.uid == _ROOT_UID:
            return not mode & os.X_OK or stat.S_ISDIR(bits) or bool(bits & _ANY_EXECUTE)
        return bits & mode == mode

    def readlink(self, path: str) -> str:
        """System call readlink."""
        with self._call("readlink", path):
            ino = self.tree.walk(path)
            if not stat.S_ISLNK(self.tree.getattr(ino).mode):
                raise KernelError(errno.EINVAL, "this is not a symbolic link", "do_readlinkat")
            return os.fsdecode(self.tree.readlink(ino))

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, in the kernel's order."""
        with self._call("opendir", path):
            return names_in(self.tree, path)

    # No name can be made, removed or changed. The VFS checks come first (fs/namei.c).

    def unlink(self, path: str) -> None:
        """System call unlink: EPERM, EISDIR of a directory."""
        is_directory = stat.S_ISDIR(self.lstat(path).mode)
        self._may_change_names()
        if is_directory:
            raise KernelError(errno.EISDIR, "this is a directory", "may_delete")
        raise KernelError(errno.EPERM, _NO_CHANGE, "vfs_unlink")

    def rmdir(self, path: str) -> None:
        """System call rmdir: EPERM, ENOTDIR of anything but a directory."""
        is_directory = stat.S_ISDIR(self.lstat(path).mode)
        self._may_change_names()
        if not is_directory:
            raise KernelError(errno.ENOTDIR, "this is not a directory", "may_delete")
        raise KernelError(errno.EPERM, _NO_CHANGE, "kernfs_iop_rmdir")

    def make_name(self, path: str) -> None:
        """System calls mkdir, symlink and link (second path): EPERM; EEXIST if the name exists."""
        parent = self.tree.resolve(os.path.dirname(path.rstrip("/")))  # noqa: PTH120  a path of the fake
        if not stat.S_ISDIR(self.tree.getattr(parent).mode):
            raise KernelError(errno.ENOTDIR, "the parent is not a directory", "link_path_walk")
        if self._is_there(path):
            raise KernelError(errno.EEXIST, "the name exists", "filename_create")
        self._may_change_names()
        raise KernelError(errno.EPERM, _NO_CHANGE, "vfs_mkdir")

    def link(self, old: str, new: str) -> None:
        """System call link."""
        self.tree.walk(old)
        self.make_name(new)

    def rename(self, old: str, new: str) -> None:
        """System call rename: EPERM. Nothing happens where both names are of one file."""
        source = self.tree.walk(old)
        self.tree.resolve(os.path.dirname(new))  # noqa: PTH120  see make_name
        if not self._is_there(new) or self.tree.walk(new) != source:
            self._may_change_names()
            raise KernelError(errno.EPERM, _NO_CHANGE, "kernfs_iop_rename")

    def _may_change_names(self) -> None:
        if self.caller.uid != _ROOT_UID:
            raise KernelError(errno.EACCES, "the directory's mode denies this user access", "inode_permission")

    def _is_there(self, path: str) -> bool:
        try:
            self.tree.walk(path)
        except KernelError:
            return False
        return True

    def chmod(self, path: str, mode: int) -> None:
        """System call chmod."""
        self.tree.setattr(self.tree.resolve(path), mode=mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """System call chown."""
        self.tree.setattr(self.tree.resolve(path), uid=uid, gid=gid)

    def utime(self, path: str, accessed: int, modified: int) -> None:
        """System call utimes, in seconds."""
        nanoseconds = 10**9
        self.tree.setattr(self.tree.resolve(path), atime_ns=accessed * nanoseconds, mtime_ns=modified * nanoseconds)

    def truncate(self, path: str, size: int) -> None:
        """System call truncate: success, and no effect; EISDIR of a directory."""
        del size
        ino = self.tree.resolve(path)
        if stat.S_ISDIR(self.tree.getattr(ino).mode):
            raise KernelError(errno.EISDIR, "this is a directory", "vfs_truncate")
        self.tree.setattr(ino)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        """System call setxattr."""
        self.tree.setxattr(self.tree.resolve(path), name, value)

    def getxattr(self, path: str, name: str) -> bytes:
        """System call getxattr."""
        return self.tree.getxattr(self.tree.resolve(path), name)

    def removexattr(self, path: str, name: str) -> None:
        """System call removexattr."""
        self.tree.removexattr(self.tree.resolve(path), name)

    def listxattr(self, path: str) -> list[str]:
        """System call listxattr."""
        return self.tree.listxattr(self.tree.resolve(path))

    def statfs(self, path: str) -> tuple[int, int, int]:
        """System call statfs: block size, longest name, blocks."""
        self.tree.resolve(path)
        return _BLOCK_SIZE, _MAX_NAME, 0
