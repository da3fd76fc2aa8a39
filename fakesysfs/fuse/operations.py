"""The handlers: each request of the host, asked of the tree or of an open file.

The rules are the tree's and the open files' (kernfs); here is only what the host's VFS needs to hear so that it says
the same. Handlers that are called often do not await.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import stat
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from fakesysfs.fuse.callers import Opener
from fakesysfs.fuse.driver import OperationDriver
from fakesysfs.fuse.entries import FOREVER, Entries, entry_of
from fakesysfs.fuse.handler import handler, waiting_handler
from fakesysfs.fuse.invalidate import Invalidator
from fakesysfs.fuse.listing import Listings, OpenDirectory
from fakesysfs.fuse.uevent_barrier import UeventBarrier
from fakesysfs.kernfs import (
    Journal,
    KernelError,
    OpenFile,
    Stat,
    Tree,
    open_directory,
    open_file,
)
from fakesysfs.ops.sched import Operation, Waiting, WaitQueue, advance
from fakesysfs.ops.trace import Tracer

log = logging.getLogger(__name__)

_BLOCK_SIZE = 4096
_NAME_MAX = 255
_NOBODY = 0, False
_ABSENT = 0, True
"""The process looked again and found nothing (`_looks_up_again`)."""
_LOOKING_UP_AGAIN = 1000
"""So many processes may be doing that at once; of more, one may have to be told twice."""
_DOTS = 2
"""Cookies 1 and 2 stand behind "." and ".."; those of the tree are larger."""


_POLL_ALWAYS = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
_POLL_READABLE = select.POLLIN | select.POLLRDNORM
_POLL_UNREAD = select.POLLPRI | select.POLLERR


class Mountable(Protocol):
    """What is mounted."""

    @property
    def tree(self) -> Tree:
        """The name space."""

    @property
    def journal(self) -> Journal | None:
        """Where refused system calls and traced writes are written down."""


@runtime_checkable
class WorksInBackground(Protocol):
    """What is mounted and does work that no request asks for."""

    def run_in_background(self, start: Callable[[Operation[None]], None] | None) -> None:
        """Have this work run beside the operations of users: `start` begins one."""


class _Open:
    """An open attribute and the process that opened it: read(2) and write(2) come without their caller (pyfuse3).

    `polled` is what is to wake whoever polls it.
    """

    __slots__ = ("file", "opener", "polled")

    def __init__(self, file: OpenFile, opener: Opener) -> None:
        self.file = file
        self.opener = opener
        self.polled: tuple[WaitQueue, int] | None = None

    def forget_poll(self) -> None:
        if self.polled is not None:
            queue, token = self.polled
            queue.discard(token)
            self.polled = None


class Operations(pyfuse3.Operations):
    """The handlers of one mount.

    `flush`, `fsync` and `fsyncdir` are not implemented: the host then answers them itself, with success.
    `ready` is called when the host has said hello.
    """

    supports_dot_lookup = False

    def __init__(self, sysroot: Mountable, ready: Callable[[], None], uevents: UeventBarrier | None = None) -> None:
        self.sysroot = sysroot
        self._tree = tree = sysroot.tree
        self._journal = sysroot.journal
        self.uevents = uevents
        self._ready = ready
        self.active_handlers = 0
        """Handlers that have not returned."""
        self._entries = Entries()
        self._passing_entries = Entries(seconds=0)
        """For names that the host may not keep: those in contended directories (invalidate.py)."""
        self._listings = Listings(self._entries)
        self._open: dict[int, _Open] = {}
        self._open_directories: dict[int, OpenDirectory] = {}
        self._next_handle = 0
        self._slept_on: Counter[int] = Counter()
        self._looks_up_again: dict[int, tuple[int, bool]] = {}
        """Process -> (inode number that it was told to look up again, whether that was gone then)."""
        self._opener = Opener(0, 0)
        self._seekable = FileInfo(direct_io=True)
        self._not_seekable = FileInfo(direct_io=True, nonseekable=True)
        self._dots = EntryAttributes()
        self._dots.st_mode = stat.S_IFDIR
        self._absent = EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = FOREVER
        self._reply: Callable[[pyfuse3.ReaddirToken, bytes, EntryAttributes, int], bool] = pyfuse3.readdir_reply
        self.invalidator = Invalidator(tree, pyfuse3.invalidate_entry, _forget_attributes, self._in_use)
        self.driver = OperationDriver(self.invalidator.collect)

    @property
    def tracer(self) -> Tracer | None:
        """Who is told of the calls on files."""
        return self._tree.tracer

    async def work_off(self, works: trio.MemoryReceiveChannel[Operation[None]]) -> None:
        """Run work of the kernel that no request waits for, in the order in which it comes.

        The kernel's cxl_bus_wq is an ordered workqueue. Tasks of their own would run in any order.
        """
        try:
            async for work in works:
                await self._work(work)
        finally:
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    works.receive_nowait().close()

    async def _work(self, operation: Operation[None]) -> None:
        """Run one, and have the host forget what it changed."""
        try:
            await self.driver.drive(operation, 0, 0)
        except Exception:
            log.exception("bug: work of the kernel in the background failed")
        if self.invalidator.unsettled:
            await self.invalidator.flush()

    def init(self) -> None:
        """The host is there."""
        self._ready()

    def busy(self) -> bool:
        """A handler waits for something else than a request, another operation or a signal to its caller.

        Callers are asked for signals a little later, if requests come.
        """
        return self.active_handlers > self.driver.blocked_operations or self._has_unseen_changes

    @property
    def _has_unseen_changes(self) -> bool:
        """Something changed that the host has not forgotten yet, or a uevent was not sent yet."""
        return self.invalidator.unsettled or (self.uevents is not None and self.uevents.behind)

    def _in_use(self) -> Iterator[int]:
        for opened in self._open.values():
            yield opened.file.ino
        for directory in self._open_directories.values():
            yield directory.ino

    # Names and attributes -----------------------------------------------------------------------------------------

    @handler
    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """The entry, or inode 0 for an absent name, which the host remembers as well.

        Whoever is about to append hears that the file is empty: the VFS takes the size for the position of a write,
        where kernfs lets it begin at 0.
        """
        kept = self.invalidator.may_be_kept(parent_inode)
        if kept:
            self.invalidator.note(parent_inode, name)
        try:
            ino = self._tree.lookup(parent_inode, name)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                if self._looks_up_again:
                    self._found_nothing(ctx.pid)
                if kept:
                    return self._absent
            raise
        return self._entry_for(self._tree.getattr(ino), ctx, kept=kept)

    def _entry_for(self, found: Stat, ctx: RequestContext, *, kept: bool = True) -> EntryAttributes:
        if self._looks_up_again and self._looks_up_again.get(ctx.pid, _NOBODY)[0] == found.ino:
            entry = entry_of(found)
            entry.st_size = 0
            entry.attr_timeout = 0  # also for whoever is about to append, once the file is open
            return entry
        return self._entries(found) if kept else self._passing_entries(found)

    @handler
    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Attributes; those of a removed node that is open stay, with link count 0."""
        found = self._tree.getattr(inode)
        if not found.nlink and not stat.S_ISDIR(found.mode):
            found = self._getattr_removed(inode, found)
        return self._entry_for(found, ctx)

    def _getattr_removed(self, inode: int, found: Stat) -> Stat:
        """What a removed file, link or group of files was, if it is open.

        Else nobody knows any more: it was removed after the VFS had found it, and there is no such name. Told another
        type than it had, the host would answer EIO.
        """
        for opened in self._open.values():
            if opened.file.ino == inode:
                return opened.file.getattr()
        if any(directory.ino == inode for directory in self._open_directories.values()):
            return found._replace(mode=stat.S_IFDIR | 0o755, size=0)
        raise FUSEError(errno.ENOENT)

    @handler
    def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """chmod, chown, utime. A change of size succeeds and changes nothing."""
        return entry_of(
            self._tree.setattr(
                inode,
                mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
                uid=attr.st_uid if fields.update_uid else None,
                gid=attr.st_gid if fields.update_gid else None,
                atime_ns=attr.st_atime_ns if fields.update_atime else None,
                mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            )
        )

    @handler
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """The target."""
        return self._tree.readlink(inode)

    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> Coroutine[Any, Any, bytes]:
        """The value of one xattr. `ls -l` asks for one of each file: "never set" is said without a coroutine."""
        if self._tree.lacks_xattr(inode, name):
            raise FUSEError(errno.ENODATA)
        return self._getxattr(inode, name)

    @handler
    def _getxattr(self, inode: int, name: bytes) -> bytes:
        return self._tree.getxattr(inode, os.fsdecode(name))

    @handler
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set one xattr."""
        self._tree.setxattr(inode, os.fsdecode(name), value)

    @handler
    def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """The names of the xattrs."""
        return [os.fsencode(name) for name in self._tree.listxattr(inode)]

    @handler
    def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove one xattr."""
        self._tree.removexattr(inode, os.fsdecode(name))

    @handler
    def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """What sysfs says: nothing but the two sizes."""
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = _BLOCK_SIZE
        answer.f_namemax = _NAME_MAX
        return answer

    # Files --------------------------------------------------------------------------------------------------------

    @handler
    def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open an attribute.

        ESTALE has the VFS look the name up again and come back, if there is still something there:
        where the store sleeps, the attribute has another number by now; where it was removed after the VFS had
        found it, only the name can tell whether it is ENOENT (an open without name, by /proc/self/fd, comes back);
        and for O_APPEND, see `lookup`.
        """
        found = self._tree.find(inode)
        again = found is None or flags & os.O_APPEND or (self._slept_on and self._is_slept_on(inode, flags))
        if again or self._looks_up_again:
            self._have_it_looked_up_again(inode, ctx.pid, gone=found is None, again=bool(again))
        opener = self._opener
        if opener.pid != ctx.pid or opener.uid != ctx.uid:
            opener = self._opener = Opener(ctx.pid, ctx.uid)
        file = open_file(self._tree, inode, flags, opener, self._journal, found)
        self._next_handle = handle = self._next_handle + 1
        self._open[handle] = _Open(file, opener)
        answer = self._seekable if file.attribute.seekable else self._not_seekable
        answer.fh = handle
        return answer

    def _is_slept_on(self, inode: int, flags: int) -> bool:
        return self._slept_on[inode] > 0 and flags & os.O_ACCMODE != os.O_RDONLY

    def _found_nothing(self, pid: int) -> None:
        if pid in self._looks_up_again:
            self._looks_up_again[pid] = _ABSENT

    def _have_it_looked_up_again(self, inode: int, pid: int, *, gone: bool, again: bool) -> None:
        """Answer the first open with ESTALE, so that the VFS looks the name up again; it asks twice only.

        The second open is let in, though it may wait for a store that sleeps. If the second lookup found nothing, an
        open of a removed file is ENOENT, and an open of a file that exists is a new one.
        """
        told = self._looks_up_again.pop(pid, None)
        if told == _ABSENT and not gone:
            told = None
        if told is None and again:
            if len(self._looks_up_again) == _LOOKING_UP_AGAIN:
                self._looks_up_again.clear()
            self._looks_up_again[pid] = inode, gone
            raise FUSEError(errno.ESTALE)
        if gone and told != (inode, True):  # it came and went meanwhile
            raise FUSEError(errno.ENOENT)

    @waiting_handler
    def read(self, fh: int, off: int, size: int) -> bytes | Coroutine[Any, Any, bytes]:
        """At most `size` bytes."""
        opened = self._open[fh]
        if opened.file.reading_sleeps:
            return self._read_sleeping(opened, off, size)
        return opened.file.read(off, size)[:size]

    async def _read_sleeping(self, opened: _Open, off: int, size: int) -> bytes:
        file = opened.file
        data = await self.driver.drive(file.read_sleeping(off, size), opened.opener.pid, file.ino)
        if self.invalidator.unsettled:
            # Whoever reads that something happened must find it.
            await self.invalidator.flush()
        return data[:size]

    @waiting_handler
    def write(self, fh: int, off: int, buf: bytes) -> int | Coroutine[Any, Any, int]:
        """One store. It is answered after the host forgot what the store changed, also if it failed.

        A store that does not wait is done here, without a turn of the event loop.
        """
        opened = self._open[fh]
        operation = opened.file.write(buf, opened.opener)
        outcome: int | KernelError
        try:
            return self._write_sleeping(opened, operation, advance(operation))
        except StopIteration as stop:
            outcome = stop.value
        except KernelError as error:
            outcome = error
        finally:
            self.invalidator.collect()
        if self._has_unseen_changes:
            return self._answer_when_seen(outcome)
        if isinstance(outcome, KernelError):
            raise outcome
        return outcome

    async def _write_sleeping(self, opened: _Open, operation: Operation[int], request: Waiting) -> int:
        ino = opened.file.ino
        sleeps = False

        def about_to_sleep() -> None:
            nonlocal sleeps
            sleeps = True
            self._slept_on[ino] += 1
            if self._tree.find(ino) is not None:
                self._tree.realias(ino)

        outcome: int | KernelError
        try:
            outcome = await self.driver.drive(operation, opened.opener.pid, ino, about_to_sleep, request)
        except KernelError as error:
            outcome = error
        finally:
            if sleeps:
                self._slept_on[ino] -= 1
                if not self._slept_on[ino]:
                    del self._slept_on[ino]
        return await self._answer_when_seen(outcome)

    async def _answer_when_seen(self, outcome: int | KernelError) -> int:
        """The outcome of a store, after the host forgot what it changed and its uevents were sent."""
        if self.invalidator.unsettled:
            await self.invalidator.flush()
        if self.uevents is not None and self.uevents.behind:
            await self.uevents.caught_up()
        if isinstance(outcome, KernelError):
            raise outcome
        return outcome

    @handler
    def release(self, fh: int) -> None:
        """The last descriptor is closed."""
        opened = self._open.pop(fh)
        if opened.file.is_stream:
            opened.forget_poll()
            opened.file.close()

    @handler
    def poll(self, inode: int, fh: int, poll_handle: pyfuse3.PollHandle | None, ctx: RequestContext) -> int:
        """As kernfs_generic_poll where nobody ever calls sysfs_notify. Streams tell when there is more to be read."""
        opened = self._open.get(fh)
        if opened is not None and opened.file.is_stream:
            queue = opened.file.waits_on()
            if queue is None:
                return _POLL_READABLE
            if poll_handle is not None:
                opened.forget_poll()
                opened.polled = queue, queue.add(poll_handle.notify)
            return 0
        return _POLL_ALWAYS if opened is None or opened.file.was_read else _POLL_ALWAYS | _POLL_UNREAD

    # Directories --------------------------------------------------------------------------------------------------

    @handler
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a directory."""
        reader = open_directory(self._tree, inode)
        self._next_handle = handle = self._next_handle + 1
        self._open_directories[handle] = OpenDirectory(inode, reader)
        return handle

    @handler
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Names with their attributes, as many as fit."""
        opened = self._open_directories[fh]
        kept = self.invalidator.may_be_kept(opened.ino)
        reply = self._reply
        if start_id < _DOTS:
            entry = self._dots  # of these the host takes the number only
            for cookie, name, ino in ((1, b".", opened.ino), (2, b"..", self._tree.above(opened.ino))):
                entry.st_ino = ino
                if cookie > start_id and not reply(token, name, entry, cookie):
                    return
        if start_id <= _DOTS:
            start_id = 0
        if kept:
            self._note_listing(opened)
            answers = self._listings.after(opened, start_id)
        else:
            answers = opened.reader.listed(start_id, self._passing_entries)
        for name, ino, cookie, entry in answers:
            entry.st_ino = ino
            if not reply(token, name, entry, cookie):
                return

    def _note_listing(self, opened: OpenDirectory) -> None:
        """The host is about to hear the names of a directory: those that may go must be forgotten when they do."""
        held = self.invalidator.held_in(opened.ino)
        state = opened.reader.state
        if held is not None and opened.noted != state:
            opened.noted = state
            names, runs = self._listings.changing(opened)
            for name in names:
                held.add(name)
            for first, last in runs:
                held.numbers.add(first, last)

    @handler
    def releasedir(self, fh: int) -> None:
        """The last descriptor is closed."""
        del self._open_directories[fh]

    # What users make ----------------------------------------------------------------------------------------------

    @handler
    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """Make a link, where that is possible (kernfs/user_entries.py)."""
        self._tree.made_in(parent_inode).symlink(os.fsdecode(name), os.fsdecode(target))
        self.invalidator.note(parent_inode, name)
        return entry_of(self._tree.getattr(self._tree.lookup(parent_inode, name)))

    @handler
    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Make a directory, where that is possible."""
        self._tree.made_in(parent_inode).mkdir(os.fsdecode(name))
        self.invalidator.note(parent_inode, name)
        return entry_of(self._tree.setattr(self._tree.lookup(parent_inode, name), mode=mode))

    @handler
    def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a link that somebody made."""
        self._tree.made_in(parent_inode).unlink(os.fsdecode(name))

    @handler
    def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a directory that somebody made."""
        self._tree.made_in(parent_inode).rmdir(os.fsdecode(name))

    @handler
    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Rename what somebody made, within its directory."""
        made = self._tree.made_in(parent_inode_old)
        if self._tree.made_in(parent_inode_new) is not made:
            raise FUSEError(errno.EXDEV)
        try:
            self._tree.lookup(parent_inode_new, name_new)
            exists = True
        except KernelError:
            exists = False
        made.rename(os.fsdecode(name_old), os.fsdecode(name_new), flags, exists=exists)
        self.invalidator.note(parent_inode_new, name_new)

    # What sysfs has not -------------------------------------------------------------------------------------------

    @handler
    def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Nobody creates files in sysfs (fs/namei.c, lookup_open: a directory without `create`)."""
        raise FUSEError(errno.EACCES)

    @handler
    def _refuse(self, *_what: object) -> NoReturn:
        """The directories of sysfs have none of these operations (fs/namei.c, may_create, vfs_mkdir and the like)."""
        raise FUSEError(errno.EPERM)

    mknod = link = _refuse  # type: ignore[assignment]


def _forget_attributes(ino: int) -> None:
    pyfuse3.invalidate_inode(ino, attr_only=True)
