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

from fakesysfs.kernfs.declare import Attribute, Stream
from fakesysfs.kernfs.inode import Stat, kobj_of
from fakesysfs.kernfs.log import LogReader
from fakesysfs.kernfs.tree import Found, NodeOverrides, Tree, file_mode, file_size
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Operation, WaitQueue

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
    """One open attribute. UserEntries by `open_file`; to be closed."""

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_generation",
        "_kobj",
        "_life",
        "_log",
        "_position",
        "_refusals",
        "_size",
        "_stream",
        "_tree",
        "_waits",
        "attribute",
        "changed",
        "ino",
        "is_stream",
        "mode",
        "reading_sleeps",
        "was_read",
    )

    def __init__(
        self,
        tree: Tree,
        ino: int,
        attribute: Attribute,
        kobj: Any,
        form: tuple[int, int, int],
        changed: NodeOverrides | None,
        refusals: Refusals | None,
        flags: int,
    ) -> None:
        self._tree = tree
        self._refusals = refusals
        self.ino = ino
        self._life = tree.identity_of(ino)
        self.attribute = attribute
        self.mode, self._size, _ = form
        """What fstat(2) says once the node is gone, but for what a user changed: `changed`."""
        self.changed = changed
        self._kobj = kobj
        self._generation = tree.registry.generation
        self._buffer = b""
        self._position = -1
        self._stream: Stream | None = None if attribute.stream is None else attribute.stream(kobj)
        self._log = None if attribute.log is None else LogReader(attribute.log(kobj))
        self.is_stream = attribute.stream is not None
        """A reader may have to wait for more."""
        self._waits = not flags & os.O_NONBLOCK
        self.reading_sleeps = attribute.show is None and attribute.log is None
        """Reads must go through `read_sleeping`."""
        self.was_read = False
        """Something was read: from then on poll(2) no longer reports POLLPRI and POLLERR (kernfs_generic_poll)."""

    @property
    def size(self) -> int:
        """The st_size once the node is gone."""
        return self._size if self._log is None else self._log.size

    def getattr(self) -> Stat:
        """What fstat(2) says."""
        return self._tree.getattr(self.ino, self)

    @property
    def alive(self) -> bool:
        """Is the node still there?"""
        return self._find() is not None

    def _find(self) -> Found | None:
        return self._tree.find(self.ino) if self._tree.identity_of(self.ino) is self._life else None

    def _object(self, where: str) -> Any:
        """What the attribute is of. As long as nothing came or went anywhere, what it was of before."""
        generation = self._tree.registry.generation
        if generation != self._generation:
            found = self._find()
            if found is None:
                raise KernelError(self.attribute.removed, "the attribute was removed while it was open", where)
            self._kobj, self._generation = kobj_of(found.object), generation
        return self._kobj

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`.

        A log can be read to its end when the node is gone, as a deleted log file can.
        Raises KernelError: ENODEV when another node is gone, whatever `show` refuses with.
        """
        if self._log is not None:
            self.was_read = True
            return self._log.read(offset, size)
        kobj = self._object("kernfs_seq_start")
        if not self.attribute.seekable:
            offset = max(self._position, 0)  # writes do not move it
        if offset == 0 or offset != self._position:
            show = self.attribute.show
            assert show is not None
            text = show(kobj)
            self._buffer = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            self.was_read = True
        data = self._buffer[offset : offset + size]
        self._position = offset + len(data)
        return data

    async def read_sleeping(self, offset: int, size: int) -> bytes:
        """As `read`, for an attribute whose `show` sleeps and for streams."""
        kobj = self._object("kernfs_seq_start")
        if self._stream is not None:
            return await self._stream.read(size, wait=self._waits)
        if self.attribute.sleeping_show is None:
            return self.read(offset, size)
        if offset == 0 or offset != self._position:
            self._buffer = (await self.attribute.sleeping_show(kobj)).encode()
            self.was_read = True
        data = self._buffer[offset : offset + size]
        self._position = offset + len(data)
        return data

    def waits_on(self) -> WaitQueue | None:
        """What wakes a reader of a stream that would wait now; None: none would."""
        return None if self._stream is None else self._stream.waits_on()

    def close(self) -> None:
        """The last descriptor is closed."""
        if self._stream is not None:
            self._stream.close()

    async def write(self, data: bytes, caller: Caller) -> int:
        """Hand the bytes to `store`; returns how many were taken (4,096 at most).

        A write of 0 bytes never reaches the store. Raises KernelError: ENODEV when the node is gone, whatever the store
        refuses with; a refusal is noted with its caller.
        """
        try:
            taken, operation = self.store(data)
            if operation is not None:
                await operation
        except KernelError as error:
            self.refused(error, data, caller)
            raise
        return taken

    def store(self, data: bytes) -> tuple[int, Operation[None] | None]:
        """As `write`, up to where the store might sleep: how many bytes it takes, and what is left to be awaited.

        Who uses this tells `refused` of a refusal, at once or later.
        """
        attribute = self.attribute
        kobj = self._object("kernfs_fop_write_iter")
        limit = attribute.max_store
        if limit is not None:
            if not data:
                return 0, None
            data = data[:limit]
        if attribute.store is None:
            raise KernelError(errno.EIO, "this attribute has no store", "sysfs_kf_write")
        return len(data), attribute.store(kobj, data)

    def refused(self, error: KernelError, data: bytes, caller: Caller) -> None:
        """Note that the store refused the bytes of a write."""
        if self._refusals is not None:
            self._refusals.add(caller, self._tree.path_of(self.ino), data[: self.attribute.max_store], error)


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
    place = found.place
    entry = None if place is None else place.entry
    if place is None or not isinstance(entry, Attribute):
        kinds = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}
        number = kinds.get(stat.S_IFMT(tree.getattr(ino).mode), errno.ENXIO)
        raise KernelError(number, "only attributes can be opened here", "do_open")
    if flags & _NOT_IN_SYSFS:
        if flags & os.O_DIRECTORY:
            raise KernelError(errno.ENOTDIR, "an attribute is not a directory", "do_open")
        raise KernelError(errno.EINVAL, "O_DIRECT does not exist in sysfs", "do_dentry_open")
    kobj = kobj_of(found.object)
    form = place.form or (file_mode(place, kobj), file_size(entry, kobj), 1)
    changed = tree.changed(ino)
    mode = form[0] if changed is None or changed.mode is None else changed.mode
    access = flags & os.O_ACCMODE
    if access in _WRITE and (not mode & _IWUGO or entry.store is None):
        raise KernelError(errno.EACCES, "the attribute is read-only, even for root", "kernfs_fop_open")
    if access in _READ and (not mode & _IRUGO or not _can_be_read(entry)):
        raise KernelError(errno.EACCES, "the attribute is write-only, even for root", "kernfs_fop_open")
    return OpenFile(tree, ino, entry, kobj, form, changed, refusals, flags)


def _can_be_read(attribute: Attribute) -> bool:
    return bool(attribute.show or attribute.sleeping_show or attribute.stream or attribute.log)
