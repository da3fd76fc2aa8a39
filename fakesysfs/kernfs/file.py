"""Open files: the seq_file buffer, the one-call store, and death with the node (fs/kernfs/file.c, fs/seq_file.c).

A read at offset 0, or away from where the last one ended, calls `show` anew; a read that goes on where the last one
ended continues in the text that was made then. A write hands at most 4,096 bytes to `store`, whatever the offset, and
a longer one is cut short. When the node goes, so does every open file of it: ENODEV for ever, even if the name comes
back. Proven by recordings 7.2/02-state-semantics (i=180 to 260).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, NamedTuple, Protocol

from fakesysfs.kernel.errors import KernelError
from fakesysfs.kernfs.declare import Attribute, Stream
from fakesysfs.kernfs.tree import Found, Stat, Tree, _about, file_mode, file_size

_IRUGO = 0o444
_IWUGO = 0o222
_WRITE = frozenset({os.O_WRONLY, os.O_RDWR})
_READ = frozenset({os.O_RDONLY, os.O_RDWR})
_NOT_IN_SYSFS = os.O_DIRECTORY | os.O_DIRECT


class Caller(NamedTuple):
    """Who makes a system call: for the list of refused operations only."""

    pid: int
    command: str


class Refusals(Protocol):
    """Where refused operations are noted."""

    def add(self, caller: Caller, path: str, data: bytes, error: KernelError) -> None:
        """Note one."""


class OpenFile:
    """One open attribute. Made by `open_file`; holds nothing that must be released."""

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_position",
        "_refusals",
        "_stream",
        "_tree",
        "_waits",
        "attribute",
        "changed",
        "ino",
        "mode",
        "size",
        "was_read",
    )

    def __init__(
        self, tree: Tree, ino: int, attribute: Attribute, about: Any, mode: int, refusals: Refusals | None, flags: int
    ) -> None:
        self._tree = tree
        self._refusals = refusals
        self.ino = ino
        self.attribute = attribute
        # What fstat(2) says once the node is gone.
        self.mode = mode
        self.size = file_size(attribute, about)
        self.changed = tree.changed(ino)
        self._buffer = b""
        self._position = -1
        self._stream: Stream | None = attribute.stream(about) if attribute.stream is not None else None
        self._waits = not flags & os.O_NONBLOCK
        self.was_read = False
        """Something was read: from then on poll(2) no longer reports POLLPRI and POLLERR (kernfs_generic_poll)."""

    @property
    def reading_sleeps(self) -> bool:
        """Reads must go through `read_sleeping`."""
        return self.attribute.show is None

    def getattr(self) -> Stat:
        """What fstat(2) says."""
        return self._tree.getattr(self.ino, self)

    @property
    def alive(self) -> bool:
        """Is the node still there?"""
        return self._tree.find(self.ino) is not None

    def _object(self, where: str) -> Any:
        found = self._tree.find(self.ino)
        if found is None:
            raise KernelError(self.attribute.removed, "the attribute was removed while it was open", where)
        return _about(found.object)

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`.

        Raises KernelError: ENODEV when the node is gone, whatever `show` refuses with.
        """
        about = self._object("kernfs_seq_start")
        if not self.attribute.seekable:
            offset = max(self._position, 0)  # writes do not move it
        if offset == 0 or offset != self._position:
            show = self.attribute.show
            assert show is not None
            text = show(about)
            self._buffer = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            self.was_read = True
        data = self._buffer[offset : offset + size]
        self._position = offset + len(data)
        return data

    async def read_sleeping(self, offset: int, size: int) -> bytes:
        """As `read`, for an attribute whose `show` sleeps and for streams."""
        about = self._object("kernfs_seq_start")
        if self._stream is not None:
            return await self._stream.read(size, wait=self._waits)
        if self.attribute.sleeping_show is None:
            return self.read(offset, size)
        if offset == 0 or offset != self._position:
            self._buffer = (await self.attribute.sleeping_show(about)).encode()
            self.was_read = True
        data = self._buffer[offset : offset + size]
        self._position = offset + len(data)
        return data

    async def write(self, data: bytes, caller: Caller) -> int:
        """Hand the bytes to `store`; returns how many were taken (4,096 at most).

        A write of 0 bytes never reaches the store. Raises KernelError: ENODEV when the node is gone, whatever the store
        refuses with; a refusal is noted with its caller.
        """
        attribute = self.attribute
        taken = data if attribute.max_store is None else data[: attribute.max_store]
        try:
            about = self._object("kernfs_fop_write_iter")
            if not data and attribute.max_store is not None:
                return 0
            if attribute.store is None:
                raise KernelError(errno.EIO, "this attribute has no store", "sysfs_kf_write")
            done = attribute.store(about, taken)
            if done is not None:
                await done
        except KernelError as error:
            if self._refusals is not None:
                self._refusals.add(caller, self._tree.path_of(self.ino), taken, error)
            raise
        return len(taken)


def open_file(
    tree: Tree, ino: int, flags: int, caller: Caller, refusals: Refusals | None = None, found: Found | None = None
) -> OpenFile:
    """open(2) of an existing attribute with the flags of open(2). `found` is what the tree has just said is there.

    Raises KernelError: EACCES when the file's declared mode lacks a direction for everybody, root too
    (kernfs_fop_open); EINVAL for O_DIRECT; ENOTDIR for O_DIRECTORY; EISDIR, ELOOP and ENXIO on other kinds of nodes.
    """
    try:
        return _open(tree, ino, found or tree.existing(ino, "kernfs_fop_open"), flags, refusals)
    except KernelError as error:
        if refusals is not None:
            refusals.add(caller, tree.path_of(ino), b"", error)
        raise


def _open(tree: Tree, ino: int, found: Found, flags: int, refusals: Refusals | None) -> OpenFile:
    entry = found.place.entry if found.place else None
    if not isinstance(entry, Attribute):
        kinds = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}
        number = kinds.get(stat.S_IFMT(tree.getattr(ino).mode), errno.ENXIO)
        raise KernelError(number, "only attributes can be opened here", "do_open")
    if flags & _NOT_IN_SYSFS:
        if flags & os.O_DIRECTORY:
            raise KernelError(errno.ENOTDIR, "an attribute is no directory", "do_open")
        raise KernelError(errno.EINVAL, "O_DIRECT does not exist in sysfs", "do_dentry_open")
    assert found.place is not None
    about = _about(found.object)
    mode = file_mode(found.place, about)
    changed = tree.changed(ino)
    if changed is not None and changed.mode is not None:
        mode = stat.S_IFMT(mode) | changed.mode
    access = flags & os.O_ACCMODE
    if access in _WRITE and (not mode & _IWUGO or entry.store is None):
        raise KernelError(errno.EACCES, "the attribute cannot be written, by root neither", "kernfs_fop_open")
    if access in _READ and (not mode & _IRUGO or not (entry.show or entry.sleeping_show or entry.stream)):
        raise KernelError(errno.EACCES, "the attribute cannot be read, by root neither", "kernfs_fop_open")
    return OpenFile(tree, ino, entry, about, mode, refusals, flags)
