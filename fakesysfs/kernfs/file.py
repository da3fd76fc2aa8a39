"""Open files: the seq_file buffer, the one-call store, and death with the node.

A read that starts where the last one ended goes on in the same text. Any other read calls `show`
again. A write passes at most 4,096 bytes to `store`, whatever the offset; a longer write is cut
short. When the node is removed, every open file of it answers ENODEV for ever, even if the name
comes back. Recorded in 7.2/02-state-semantics (i=180 to 260).

Sources: fs/kernfs/file.c, fs/seq_file.c.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, NamedTuple, Protocol

from fakesysfs.kernfs.declare import Attribute, Stream
from fakesysfs.kernfs.inode import Stat, kobj_of
from fakesysfs.kernfs.log import LogReader
from fakesysfs.kernfs.tree import Found, NodeOverrides, Tree
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Operation, WaitQueue
from fakesysfs.ops.trace import Process, Tracer, traced

_IRUGO = 0o444
_IWUGO = 0o222
_WRITE = frozenset({os.O_WRONLY, os.O_RDWR})
_READ = frozenset({os.O_RDONLY, os.O_RDWR})
_NOT_IN_SYSFS = os.O_DIRECTORY | os.O_DIRECT


class CallingProcess(Protocol):
    """The process that makes a system call, for the journal only."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    @property
    def command(self) -> str:
        """The name of its command; read only when it is written down."""
        ...

    @property
    def uid(self) -> int:
        """The user that it acts for."""
        ...

    @property
    def process(self) -> Process:
        """All of it for a trace, as it is now."""
        ...


class Caller(NamedTuple):
    """A process of which all is known."""

    pid: int
    command: str
    uid: int = 0

    @property
    def process(self) -> Process:
        """The same for a trace."""
        return Process(self.pid, self.pid, self.command, self.command, self.uid)


class Journal(Protocol):
    """Where refused system calls and traced writes are written down."""

    traces_writes: bool
    """Whether writes are written down too."""

    def refuse(self, caller: CallingProcess, op: str, path: str, data: bytes, error: KernelError) -> None:
        """A call was refused: `op` is `open`, with no data, or `write`."""

    def begin_write(self, caller: CallingProcess, path: str, data: bytes) -> Any:
        """A write begins; returns what `end_write` takes."""

    def end_write(self, write: Any, outcome: int | KernelError) -> None:
        """It ended: the number of bytes taken, or its refusal."""


ABANDONED = KernelError(errno.EIO, "a bug, or the mount ended", "write")
"""The outcome of a traced call that has no other."""


class OpenFile:
    """One open attribute. Made by `open_file`; the caller closes it."""

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_generation",
        "_journal",
        "_kobj",
        "_life",
        "_log",
        "_position",
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
        attribute: Attribute[Any],
        kobj: Any,
        form: tuple[int, int, int],
        changed: NodeOverrides | None,
        journal: Journal | None,
        flags: int,
    ) -> None:
        self._tree = tree
        self._journal = journal
        self.ino = ino
        self._life = tree.identity_of(ino)
        self.attribute = attribute
        self.mode, self._size, _ = form
        """What fstat(2) says once the node is gone; `changed` has what a user changed."""
        self.changed = changed
        self._kobj = kobj
        self._generation = tree.registry.generation
        self._buffer = b""
        self._position = -1
        self._stream: Stream | None = None if attribute.stream is None else attribute.stream(kobj)
        self._log = None if attribute.log is None else LogReader(attribute.log(kobj))
        self.is_stream = attribute.stream is not None
        """Whether a read may wait for more."""
        self._waits = not flags & os.O_NONBLOCK
        self.reading_sleeps = attribute.show is None and attribute.log is None
        """Whether reads must go through `read_sleeping`."""
        self.was_read = False
        """Whether anything was read. From then on poll(2) does not report POLLPRI and POLLERR.

        kernfs_generic_poll.
        """

    @property
    def size(self) -> int:
        """The st_size in bytes, once the node is gone."""
        return self._size if self._log is None else self._log.size

    def getattr(self) -> Stat:
        """fstat(2)."""
        return self._tree.getattr(self.ino, self)

    @property
    def alive(self) -> bool:
        """Whether the node still exists."""
        return self._find() is not None

    def _find(self) -> Found | None:
        return self._tree.find(self.ino) if self._tree.identity_of(self.ino) is self._life else None

    def _object(self, where: str) -> Any:
        """The object of the attribute. It is looked up again only after an object came or went."""
        generation = self._tree.registry.generation
        if generation != self._generation:
            found = self._find()
            if found is None:
                raise KernelError(self.attribute.removed, "the attribute was removed while it was open", where)
            self._kobj, self._generation = kobj_of(found.object), generation
        return self._kobj

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`.

        A log can be read to its end even if the node is gone, as a deleted log file can. Raises
        KernelError: ENODEV if any other node is gone; the errno of `show`.
        """
        if self._log is not None:
            self.was_read = True
            return self._log.read(offset, size)
        kobj = self._object("kernfs_seq_start")
        if not self.attribute.seekable:
            offset = max(self._position, 0)  # a write does not move the position
        if offset == 0 or offset != self._position:
            show = self.attribute.show
            assert show is not None
            self._buffer = _encoded(show(kobj))
            self.was_read = True
        data = self._buffer[offset : offset + size]
        self._position = offset + len(data)
        return data

    async def read_sleeping(self, offset: int, size: int) -> bytes:
        """`read` for an attribute whose `show` sleeps, and for streams."""
        kobj = self._object("kernfs_seq_start")
        if self._stream is not None:
            return await self._stream.read(size, wait=self._waits)
        if self.attribute.sleeping_show is None:
            return self.read(offset, size)
        if offset == 0 or offset != self._position:
            self._buffer = _encoded(await self.attribute.sleeping_show(kobj))
            self.was_read = True
        data = self._buffer[offset : offset + size]
        self._position = offset + len(data)
        return data

    def waits_on(self) -> WaitQueue | None:
        """The queue that wakes a reader of a stream; None if a read would not wait."""
        return None if self._stream is None else self._stream.waits_on()

    def close(self) -> None:
        """Close the file, after its last descriptor."""
        if self._stream is not None:
            self._stream.close()

    def write(self, data: bytes, caller: CallingProcess) -> Operation[int]:
        """write(2): pass the bytes to `store`; returns how many were taken (4,096 at most).

        This operation is a whole store under way, the same for every driver. The journal gets a
        refusal, and the write itself while writes are traced. A write of 0 bytes never reaches the
        store. Raises KernelError: ENODEV if the node is gone; the errno of `store`.
        """
        journal = self._journal
        if journal is None or not journal.traces_writes:
            return self._write(data, caller)
        return self._traced_write(journal, data, caller)

    async def _write(self, data: bytes, caller: CallingProcess) -> int:
        attribute = self.attribute
        data = data[: attribute.max_store]
        try:
            kobj = self._object("kernfs_fop_write_iter")
            if not data and attribute.max_store is not None:
                return 0
            if attribute.store is None:
                raise KernelError(errno.EIO, "this attribute has no store", "sysfs_kf_write")
            operation = attribute.store(kobj, data)
            if operation is not None:
                await operation
        except KernelError as error:
            if self._journal is not None:
                self._journal.refuse(caller, "write", self._tree.path_of(self.ino), data, error)
            raise
        return len(data)

    async def _traced_write(self, journal: Journal, data: bytes, caller: CallingProcess) -> int:
        traced = journal.begin_write(caller, self._tree.path_of(self.ino), data[: self.attribute.max_store])
        outcome: int | KernelError = ABANDONED
        try:
            written = outcome = await self._write(data, caller)
        except KernelError as error:
            outcome = error
            raise
        finally:
            journal.end_write(traced, outcome)
        return written


class TracedFile(OpenFile):
    """An open attribute of a machine that is traced."""

    __slots__ = ("_caller", "_path", "_process", "_tracer")

    def trace(self, tracer: Tracer, caller: CallingProcess, process: Process, path: str) -> None:
        """Tell `tracer` of each read and write. `process` is what `caller` was when it opened `path`."""
        self._tracer = tracer
        self._caller = caller
        self._process = process
        self._path = path

    def _reader(self) -> Process:
        """Who begins to read: a shell opens a file for a command, which is another program by its first read."""
        self._process = self._caller.process
        return self._process

    def read(self, offset: int, size: int) -> bytes:
        """See OpenFile."""
        tracer = self._tracer
        process = self._process if self._position >= 0 else self._reader()
        began = tracer.now()
        try:
            data = OpenFile.read(self, offset, size)
        except KernelError as error:
            tracer.did(process, "read", self._path, began, error)
            raise
        tracer.did(process, "read", self._path, began, len(data), data)
        return data

    async def read_sleeping(self, offset: int, size: int) -> bytes:
        """See OpenFile."""
        process = self._process if self._position >= 0 else self._reader()
        call = self._tracer.begin(process, "read", self._path)
        outcome: int | KernelError = ABANDONED
        data = b""
        try:
            data = await traced(super().read_sleeping(offset, size), call, self._tracer)
            outcome = len(data)
        except KernelError as error:
            outcome = error
            raise
        finally:
            self._tracer.end(call, outcome, data)
        return data

    def write(self, data: bytes, caller: CallingProcess) -> Operation[int]:
        """See OpenFile."""
        return self._write_and_tell(super().write(data, caller), data[: self.attribute.max_store], caller)

    async def _write_and_tell(self, store: Operation[int], data: bytes, caller: CallingProcess) -> int:
        call = self._tracer.begin(caller.process, "write", self._path, data)
        outcome: int | KernelError = ABANDONED
        try:
            taken = outcome = await traced(store, call, self._tracer)
        except KernelError as error:
            outcome = error
            raise
        finally:
            self._tracer.end(call, outcome)
        return taken


def open_file(
    tree: Tree, ino: int, flags: int, caller: CallingProcess, journal: Journal | None = None, found: Found | None = None
) -> OpenFile:
    """open(2) of an existing attribute with the flags of open(2).

    `found` is the tree's last answer for `ino`, if the caller has it. Raises KernelError: EACCES
    when the file's declared mode lacks a direction for everybody, root too (kernfs_fop_open);
    EINVAL for O_DIRECT; ENOTDIR for O_DIRECTORY; EISDIR, ELOOP and ENXIO on other kinds of nodes.
    """
    tracer = None if journal is None else tree.tracer
    if tracer is not None:
        return _open_traced(tree, ino, flags, caller, journal, found, tracer)
    try:
        return _open(tree, ino, found or tree.existing(ino, "kernfs_fop_open"), flags, journal)
    except KernelError as error:
        if journal is not None:
            journal.refuse(caller, "open", tree.path_of(ino), b"", error)
        raise


def _open_traced(
    tree: Tree,
    ino: int,
    flags: int,
    caller: CallingProcess,
    journal: Journal | None,
    found: Found | None,
    tracer: Tracer,
) -> OpenFile:
    process, path, began = caller.process, tree.path_of(ino), tracer.now()
    try:
        file = _open(tree, ino, found or tree.existing(ino, "kernfs_fop_open"), flags, journal, TracedFile)
    except KernelError as error:
        tracer.did(process, "open", path, began, error)
        if journal is not None:
            journal.refuse(caller, "open", path, b"", error)
        raise
    assert isinstance(file, TracedFile)
    file.trace(tracer, caller, process, path)
    tracer.did(process, "open", path, began, 0)
    return file


def _open(
    tree: Tree, ino: int, found: Found, flags: int, journal: Journal | None, kind: type[OpenFile] = OpenFile
) -> OpenFile:
    place = found.place
    entry = None if place is None else place.entry
    if place is None or not isinstance(entry, Attribute):
        kinds = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}
        number = kinds.get(stat.S_IFMT(tree.getattr(ino).mode), errno.ENXIO)
        raise KernelError(number, "only attributes can be opened here", "do_open")
    if flags & _NOT_IN_SYSFS:
        if flags & os.O_DIRECTORY:
            raise KernelError(errno.ENOTDIR, "an attribute is not a directory", "do_open")
        raise KernelError(errno.EINVAL, "sysfs does not support O_DIRECT", "do_dentry_open")
    kobj = kobj_of(found.object)
    form = place.static_stat or (place.mode_of(kobj), place.size_of(kobj), 1)
    changed = tree.changed(ino)
    mode = form[0] if changed is None or changed.mode is None else changed.mode
    access = flags & os.O_ACCMODE
    if access in _WRITE and (not mode & _IWUGO or entry.store is None):
        raise KernelError(errno.EACCES, "the attribute is read-only, even for root", "kernfs_fop_open")
    if access in _READ and (not mode & _IRUGO or not _can_be_read(entry)):
        raise KernelError(errno.EACCES, "the attribute is write-only, even for root", "kernfs_fop_open")
    return kind(tree, ino, entry, kobj, form, changed, journal, flags)


def _encoded(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _can_be_read(attribute: Attribute[Any]) -> bool:
    return bool(attribute.show or attribute.sleeping_show or attribute.stream or attribute.log)
