"""A mount that holds the system calls of programs. The explorer releases them one by one.

The explorer (fakesysfs/explore) decides in which order programs take their steps. So the server holds

- each path walk. The host's kernel begins a walk with the attributes of the mount's root, if it may not keep these. It
  asks for them (GETATTR) before it takes any lock. Then the rest of the system call runs through. Where parts of the
  tree are bound elsewhere, as in `fakesysfs run`, each of them is a root. So is a directory for relative paths: one
  that a program has gone to (chdir), or has open. A look (stat, readlink) at a directory that is always there, such as
  /sys/bus, is not held: realpath(3) looks at each part of a path.
- each write but the first to an open file, and each read from the start of a file that was read before. No path is
  walked then. A write holds the lock of the file's inode in the host. So the file gets another inode number first, and
  later opens do not wait.
- a kernel operation that was woken, and each of its preemption points while the kernel is watched.

Both sides talk in packets on a socket, each a JSON array. What programs did goes another way, on a socket that the
explorer hands over as a descriptor: it is not woken by each packet there. The server says

    held TOKEN WHAT THREAD PATH        WHAT is walk, read, write or goes on; PATH may be ""
    asleep TOKEN THREAD TIMED          an operation waits in the kernel; TIMED: a clock ends that
    awake TOKEN                        no more
    closed                             the answer to close
    left BLOCKS                        the answer to take down: [NUMBER, WHY] of each
    did OPERATION PATH DATA RESULT WHY CHANGED
                                       what a program has done since the last release; CHANGED: lines
    recorded FOOTPRINT ORDER           the answer to recorded: what was read and changed since the last release, packed;
                                       of which notes somebody has read the order (bits of ops/footprint.py)
The explorer says

    close WATCHED DESCRIBED RECORDED
                     hold from now on; WATCHED: at preemption points too; DESCRIBED: say what writes changed;
                     RECORDED: record what is read and changed
    open             hold no more; what is held goes on, walks end with EINTR
    free SESSION     processes of this session are not held
    release TOKEN RECORDED
                     let one go on; RECORDED: record what this step reads and changes
    recorded         say what was recorded since the last release
    take down        take all hot-added memory away; the next thing must be a reset

THREAD is the one that opened the file for read, write and goes on (see `callers.py`).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
import stat
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from fakesysfs.fuse.driver import Caller, OperationDriver
from fakesysfs.fuse.entries import entry_of
from fakesysfs.fuse.operations import Mountable, Operations
from fakesysfs.fuse.step_records import StepRecords
from fakesysfs.fuse.system_calls import Call, call_of, is_readlink
from fakesysfs.fuse.uevent_barrier import UeventBarrier
from fakesysfs.kernfs import CallingProcess, Journal, KernelError, Stat, Tree, names_in
from fakesysfs.kernfs.declare import Directory
from fakesysfs.ops.errors import NAMES
from fakesysfs.ops.footprint import ALL_NOTES, EVERYTHING, LOG, REFUSALS, UEVENTS
from fakesysfs.ops.recording import Hooks, current, record_everything
from fakesysfs.ops.sched import Answer, Preempt, Sleep, Wait, Waiting

_PACKET_BYTES = 65536
_SOCKET_BYTES = 1 << 22
_MOST_LEFT = 200
"""Blocks that one packet can name."""
_SHOWN_BYTES = 64
_FOOTPRINT_BYTES = 60_000
"""A longer footprint does not fit into a packet, and becomes EVERYTHING."""

BEGINS = "begins"
"""The result of a write that has begun; if it ends in the same step, another one follows."""

_OF_THE_HOST = frozenset(
    {"null", "zero", "full", "random", "urandom", "tty", "fuse", "pts", "ptmx", "shm", "mqueue", "char"}
    | {"fd", "stdin", "stdout", "stderr", "core", "kmsg"}
)
"""Names in /dev behind which are files of the host, or a root of their own: a walk there is no step."""
_DIRECTORIES = ("/sys", "/dev")
_HOME = "/dev/.fakesysfs"
_SHOWS_ORDER = {
    "/control/kmsg": LOG,
    "/control/dev_kmsg": LOG,
    "/control/uevents": UEVENTS,
    "/sys/kernel/uevent_seqnum": UEVENTS,
    "/control/refused": REFUSALS,
    "/control/": ALL_NOTES,
}
"""Beginnings of paths: what shows the order in which messages were logged, uevents sent and calls refused."""


class _Walk:
    """A path walk that was held: where it began, the system call, how often it will come to its beginning again."""

    __slots__ = ("inode", "registers", "returns")

    def __init__(self, inode: int, registers: str, returns: int) -> None:
        self.inode = inode
        self.registers = registers
        self.returns = returns


class Gate:
    """The server's end of the socket, and what it holds.

    `watch` is called with whether the kernel is to stop at its preemption points. `look` looks at the
    machine, and returns what says how it has changed since. `hooks` and `notes` are needed to record: the first
    returns the hooks for the model, the second how many messages were logged, and how many uevents sent. `take_down`
    takes all hot-added memory away, and returns the blocks that are left, with the reasons.
    """

    def __init__(
        self,
        descriptor: int,
        watch: Callable[[bool], None],
        look: Callable[[], Callable[[], Sequence[str]]],
        hooks: Callable[[], Hooks],
        notes: Callable[[], tuple[int, int]],
        take_down: Callable[[], Mapping[int, str]],
    ) -> None:
        self.records = StepRecords(hooks, notes)
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._notes = self._socket
        self._watch = watch
        self._look = look
        self._take_down = take_down
        self._changes: Callable[[], Sequence[str]] | None = None
        self._tokens = itertools.count(1)
        self._held: dict[int, trio.Event] = {}
        self._free: set[int] = {os.getsid(0)}
        self._pass_once: set[int] = set()
        self._closed = False
        self.walks: dict[int, _Walk] = {}
        """The last walk of each thread that was held at a root."""
        self.starts: Counter[int] = Counter()
        """Directories that programs have gone to, or have open."""

    async def run(self) -> None:
        """Obey until the other end is closed."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            packet, descriptors, _flags, _address = socket.recv_fds(self._socket, _PACKET_BYTES, 1)
            if not packet:
                return
            for descriptor in descriptors:
                self._notes = socket.socket(fileno=descriptor)
            self._obey(*json.loads(packet))

    def _obey(self, word: str, *arguments: Any) -> None:
        if word == "release":
            if (released := self._held.pop(arguments[0], None)) is not None:
                self.records.begin(record=arguments[1])
                released.set()
        elif word == "recorded":
            self.tell("recorded", self.records.say(_FOOTPRINT_BYTES), self.records.order_is_read)
        elif word == "free":
            self._free.add(arguments[0])
        elif word == "close":
            self._closed = True
            watched, described, recorded = arguments
            self._watch(watched)
            if recorded:
                self.records.start()
            self._changes = self._look() if described else None
            self.tell("closed")
        elif word == "take down":
            self.tell("left", list(self._take_down().items())[:_MOST_LEFT])
        elif word == "open":
            self._closed = False
            self.records.stop()
            self._watch(False)  # noqa: FBT003  its only parameter
            self._pass_once.clear()
            self.walks.clear()
            self.starts.clear()
            for released in self._held.values():
                released.set()
            self._held.clear()

    def holds(self, thread: int) -> bool:
        """Whether this thread is to be held. One that has gone had the file open that somebody uses now: yes."""
        if not self._closed:
            return False
        try:
            return thread != 0 and os.getsid(thread) not in self._free
        except ProcessLookupError:
            return True

    def holds_walk(self, thread: int) -> bool:
        """The same for the beginning of a path walk."""
        if thread in self._pass_once:
            self._pass_once.discard(thread)
            return False
        return self.holds(thread)

    def pass_once(self, thread: int) -> None:
        """Do not hold this thread's next walk. The host repeats a walk that it was answered ESTALE."""
        if self._closed:
            self._pass_once.add(thread)

    async def hold(self, what: str, thread: int, path: str = "") -> bool:
        """Hold it until it is released; returns whether holding has ended altogether."""
        if self._closed:
            token = next(self._tokens)
            released = self._held[token] = trio.Event()
            self.tell("held", token, what, thread, path)
            await released.wait()
        return not self._closed

    @contextlib.contextmanager
    def asleep(self, thread: int, request: Sleep | Wait) -> Iterator[None]:
        """Tell that an operation waits in the kernel; what wakes it tells at once that it does no more."""
        if isinstance(request, Sleep):
            record_everything()
        token = next(self._tokens)
        awake = False

        def tell_awake() -> None:
            nonlocal awake
            if not awake:
                awake = True
                self.tell("awake", token)

        self.tell("asleep", token, thread, isinstance(request, Sleep))
        ticket = request.queue.add(tell_awake) if isinstance(request, Wait) else 0
        try:
            yield
        finally:
            tell_awake()
            if isinstance(request, Wait):
                request.queue.discard(ticket)

    def tell(self, *packet: object) -> None:
        """Say it. The explorer may be gone; then this server soon is, too."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.send(json.dumps(packet).encode())

    def note(self, operation: str, path: str, data: str, result: str, why: str = "") -> None:
        """Say what a program did, and what has changed since the last write."""
        changed = self._changes() if self._changes is not None and operation == "write" else ()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._notes.send(json.dumps(("did", operation, path, data, result, why, "\n".join(changed))).encode())


class HoldingDriver(OperationDriver):
    """Runs operations to their end, and holds those that go on after a wait.

    What an operation has changed before a wait is known to all others by then: names, and uevents.
    """

    def __init__(self, stepped: Callable[[], None], gate: Gate, uevents: UeventBarrier | None) -> None:
        super().__init__(stepped)
        self._gate = gate
        self._uevents = uevents

    async def _grant(self, request: Waiting, caller: Caller) -> Answer:
        if not self._gate.holds(caller.opener):
            return await super()._grant(request, caller)
        if self._uevents is not None and self._uevents.behind:
            await self._uevents.caught_up()
        if isinstance(request, Preempt):
            await self._gate.hold("goes on", caller.opener)
            return Answer.WOKEN
        with self._gate.asleep(caller.opener, request):
            answer = await super()._grant(request, caller)
        if answer is Answer.WOKEN:
            await self._gate.hold("goes on", caller.opener)
        if isinstance(request, Sleep) or answer is not Answer.WOKEN:
            record_everything()  # neither time nor signals are recorded
        return answer


class _NotingJournal:
    """A journal that remembers why the last call was refused."""

    def __init__(self, journal: Journal, refused: Callable[[], None]) -> None:
        self._journal = journal
        self._refused = refused
        self.why = ""

    @property
    def traces_writes(self) -> bool:
        return self._journal.traces_writes

    @traces_writes.setter
    def traces_writes(self, on: bool) -> None:
        self._journal.traces_writes = on

    def refuse(self, caller: CallingProcess, op: str, path: str, data: bytes, error: KernelError) -> None:
        self.why = error.why
        self._refused()
        self._journal.refuse(caller, op, path, data, error)

    def begin_write(self, caller: CallingProcess, path: str, data: bytes) -> Any:
        return self._journal.begin_write(caller, path, data)

    def end_write(self, write: Any, outcome: int | KernelError) -> None:
        self._journal.end_write(write, outcome)


class HoldingOperations(Operations):
    """The handlers of a mount that holds."""

    def __init__(
        self, sysroot: Mountable, ready: Callable[[], None], gate: Gate, uevents: UeventBarrier | None = None
    ) -> None:
        super().__init__(sysroot, ready, uevents)
        self._gate = gate
        self.driver = HoldingDriver(self.invalidator.collect, gate, uevents)
        self._noting: _NotingJournal | None = None
        if self._journal is not None:
            self._journal = self._noting = _NotingJournal(self._journal, self._note_refused)
        self._reply = self._reply_kept_shortly
        self._roots = _roots(self._tree)
        self._written: set[int] = set()
        """Handles that were written to."""
        self._opened_in: dict[int, int] = {}
        """The step in which each handle was opened."""

    # What is held -------------------------------------------------------------------------------------------------

    def _entry_for(self, found: Stat, ctx: RequestContext, *, kept: bool = True) -> EntryAttributes:
        if found.ino in self._roots or found.ino in self._gate.starts:
            entry = entry_of(found)
            entry.attr_timeout = 0
            return entry
        return super()._entry_for(found, ctx, kept=kept)

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Attributes. Those of a root begin a path walk."""
        if inode in self._roots:
            path = await self._hold_at_root(inode, ctx.pid)
        elif inode in self._gate.starts:
            path = await self._hold_at_start(inode, ctx.pid)
        else:
            path = ""
        if path:
            self._gate.note("stat", path, "", self._is_there(path))
        return await super().getattr(inode, ctx)

    async def _hold_at_root(self, inode: int, thread: int) -> str:
        """Hold a walk that begins at a root; returns its path, "" if it was not held."""
        if not self._gate.holds_walk(thread):
            return ""
        call = call_of(thread)
        if call.names_no_path or self._is_on_its_way(inode, thread, call):
            return ""
        root = self._roots[inode]
        path = call.path if root in _DIRECTORIES else root
        if root in _DIRECTORIES:
            absolute = path if path.startswith("/") else f"{root}/{path}"
            if _is_of_the_host(absolute) or (call.looks_only and self._is_always_there(absolute)):
                return ""
        self._gate.walks[thread] = _Walk(inode, call.registers, _returns_to_root(path))
        await self._hold_walk(thread, call, path if path.startswith("/") else "")
        return path if path.startswith("/") else ""

    def _is_always_there(self, path: str) -> bool:
        """Whether it is a directory that stands for no object of the kernel, such as /sys/bus."""
        try:
            found = self._tree.find(self._tree.walk(path))
        except KernelError:
            return False
        return found is not None and found.place is None and isinstance(found.object, Directory)

    async def _hold_at_start(self, inode: int, thread: int) -> str:
        """The same for a relative path. A walk that only passes through this directory is not held."""
        if not self._gate.holds_walk(thread):
            return ""
        call = call_of(thread)
        if call.names_no_path or not call.path or call.path.startswith("/"):
            return ""
        if self._is_on_its_way(inode, thread, call):
            return ""
        self._gate.walks[thread] = _Walk(inode, call.registers, int(call.creates))
        path = f"{self._shown_path(inode)}/{call.path}"
        await self._hold_walk(thread, call, path)
        return path

    async def _hold_walk(self, thread: int, call: Call, path: str) -> None:
        if await self._gate.hold("walk", thread, path):
            raise FUSEError(errno.EINTR)
        self._record_names(path)
        if call.goes_there and path:
            with contextlib.suppress(KernelError):
                self._begin_at(self._tree.resolve(path.removeprefix(f"{_HOME}/root")))

    def _record_names(self, path: str) -> None:
        """Record what a walk reads. The host asks only for what it does not know yet."""
        if current() is None:
            return
        if not path.startswith("/"):
            record_everything()
            return
        with contextlib.suppress(KernelError):
            self._tree.getattr(self._tree.resolve(path.removeprefix(f"{_HOME}/root")))

    def _note_refused(self) -> None:
        self._gate.records.refused = True

    def _note_order_is_read(self, path: str) -> None:
        kinds = next((kinds for beginning, kinds in _SHOWS_ORDER.items() if path.startswith(beginning)), 0)
        if not kinds:
            return
        self._gate.records.order_is_read |= kinds
        if (footprint := current()) is not None:
            footprint.hears |= kinds
            if kinds == ALL_NOTES:
                footprint.read(EVERYTHING)

    def _record_use(self, fh: int, ino: int, *, writes: bool) -> None:
        """Record a doubt where an open file is not the model's, or may have been removed since it was opened."""
        if current() is None:
            return
        from_before = self._opened_in.get(fh) != self._gate.records.steps
        if from_before or (writes and self._tree.path_of(ino).startswith("/control/")):
            record_everything()

    def _begin_at(self, inode: int) -> None:
        """Relative walks begin there from now on: the host may not keep its attributes."""
        self._gate.starts[inode] += 1
        with contextlib.suppress(OSError):
            pyfuse3.invalidate_inode(inode, attr_only=True)

    def _is_on_its_way(self, inode: int, thread: int, call: Call) -> bool:
        """Whether it is the same walk: it has come to a root again, by `..`, or to another directory."""
        walk = self._gate.walks.get(thread)
        if walk is None or call.registers != walk.registers:
            return False
        if walk.inode != inode and walk.inode not in self._roots:
            return True
        walk.returns -= 1
        return walk.returns >= 0

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """The target of a link."""
        target = await super().readlink(inode, ctx)
        walk = self._gate.walks.get(ctx.pid)
        if walk is not None and self._gate.holds(ctx.pid):
            path = self._shown_path(inode)
            if is_readlink(walk.registers):
                self._gate.note("readlink", path, "", os.fsdecode(target))
            else:
                walk.returns += _returns_to_root(f"{os.path.dirname(path)}/{os.fsdecode(target)}")  # noqa: PTH120
        return target

    def _is_there(self, path: str) -> str:
        within = path.removeprefix(f"{_HOME}/root")
        try:
            self._tree.resolve(within)
        except KernelError as error:
            return "absent" if error.errno == errno.ENOENT else error.name
        return "present"

    def _have_it_looked_up_again(self, inode: int, pid: int, *, gone: bool, again: bool) -> None:
        try:
            super()._have_it_looked_up_again(inode, pid, gone=gone, again=again)
        except FUSEError as error:
            if error.errno == errno.ESTALE:
                self._gate.pass_once(pid)
            raise

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """At most `size` bytes; a second read from the start is held."""
        opened = self._open[fh]
        file = opened.file
        if not self._gate.holds(opened.opener.pid):
            return await super().read(fh, off, size)
        if file.was_read and off == 0 and not file.is_stream:
            await self._gate.hold("read", opened.opener.pid, self._shown_path(file.ino))
        path = self._shown_path(file.ino)
        self._record_use(fh, file.ino, writes=False)
        try:
            data = await super().read(fh, off, size)
        except FUSEError as error:
            self._gate.note("read", path, "", NAMES.get(error.errno, str(error.errno)))
            raise
        self._note_order_is_read(path.removeprefix(f"{_HOME}/root"))  # in this step, too, if it has waited
        if off == 0 or data:
            self._gate.note("read", path, "", _shown_content(path, data))
        return data

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """One store; each but the first of an open file is held."""
        opened = self._open[fh]
        if not self._gate.holds(opened.opener.pid):
            return await super().write(fh, off, buf)
        ino = opened.file.ino
        path = self._shown_path(ino)
        data = buf[:_SHOWN_BYTES].decode("utf-8", "backslashreplace").rstrip("\n\0")
        if fh in self._written:
            await self._hold_write(opened.opener.pid, ino, path)
        self._written.add(fh)
        self._record_use(fh, ino, writes=True)
        if self._noting is not None:
            self._noting.why = ""
        self._gate.note("write", path, data, BEGINS)
        try:
            written = await super().write(fh, off, buf)
        except FUSEError as error:
            why = "" if self._noting is None else self._noting.why
            self._gate.note("write", path, data, NAMES.get(error.errno, str(error.errno)), why)
            raise
        self._gate.note("write", path, data, f"{written} bytes")
        return written

    def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> Coroutine[Any, Any, EntryAttributes]:
        """chmod, chown, utime. udevd sets the times of a device's node in /dev for each event of it."""
        self._record_names(self._shown_path(inode))  # it may have been opened in an earlier step
        return super().setattr(inode, attr, fields, fh, ctx)

    async def _hold_write(self, opener: int, ino: int, path: str) -> None:
        """Hold a write. The host's lock of this inode stays taken, so the file first gets another number."""
        self._slept_on[ino] += 1
        try:
            if self._tree.find(ino) is not None:
                self._tree.realias(ino)
                self.invalidator.collect()
                if self.invalidator.unsettled:
                    await self.invalidator.flush()
            await self._gate.hold("write", opener, path)
        finally:
            self._slept_on[ino] -= 1
            if not self._slept_on[ino]:
                del self._slept_on[ino]

    async def release(self, fh: int) -> None:
        """The last descriptor is closed."""
        self._written.discard(fh)
        self._opened_in.pop(fh, None)
        await super().release(fh)

    # Notes for the explorer -------------------------------------------------------------------------------------------

    def _shown_path(self, ino: int) -> str:
        try:
            path = self._tree.path_of(ino)
        except KernelError:
            return "(removed)"
        return f"{_HOME}/root{path}" if path.startswith("/control/") else path

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open an attribute."""
        if flags & os.O_ACCMODE != os.O_WRONLY:
            self._note_order_is_read(self._tree.path_of(inode))
        if not self._gate.holds(ctx.pid):
            return await super().open(inode, flags, ctx)
        if (walk := self._gate.walks.get(ctx.pid)) is not None:
            walk.returns = 0  # this was the end of it
        if self._noting is not None:
            self._noting.why = ""
        try:
            opened = await super().open(inode, flags, ctx)
        except FUSEError as error:
            if error.errno != errno.ESTALE:
                why = "" if self._noting is None else self._noting.why
                result = NAMES.get(error.errno, str(error.errno))
                self._gate.note("open", self._shown_path(inode), "", result, why)
            raise
        self._opened_in[opened.fh] = self._gate.records.steps
        self._gate.note("open", self._shown_path(inode), "", "opened")
        return opened

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a directory."""
        holds = self._gate.holds(ctx.pid)
        if holds:
            path = self._shown_path(inode)
            try:
                count = len(names_in(self._tree, self._tree.path_of(inode)))
            except KernelError as error:
                self._gate.note("ls", path, "", error.name)
            else:
                self._gate.note("ls", path, "", f"{count} names")
        handle = await super().opendir(inode, ctx)
        if holds:
            self._begin_at(inode)
        return handle

    async def releasedir(self, fh: int) -> None:
        """The last descriptor is closed."""
        inode = self._open_directories[fh].ino
        await super().releasedir(fh)
        starts = self._gate.starts
        if inode in starts:
            starts[inode] -= 1
            if starts[inode] <= 0:
                del starts[inode]

    def _reply_kept_shortly(
        self, token: pyfuse3.ReaddirToken, name: bytes, entry: EntryAttributes, cookie: int
    ) -> bool:
        if entry.st_ino in self._roots or entry.st_ino in self._gate.starts:
            entry = entry_of(self._tree.getattr(entry.st_ino))
            entry.attr_timeout = 0
        return pyfuse3.readdir_reply(token, name, entry, cookie)


def _roots(tree: Tree) -> dict[int, str]:
    """The inodes with which a path walk begins in a run, and their paths (sandbox/view.py)."""
    files = [f"/proc/{name}" for name in _files(tree, "/proc")]
    roots = {tree.resolve(path): path for path in (*_DIRECTORIES, *files)}
    return {**roots, tree.resolve("/control/dev_kmsg"): "/dev/kmsg"}


def _files(tree: Tree, directory: str) -> Iterator[str]:
    for name in names_in(tree, directory):
        path = f"{directory}/{name}"
        if stat.S_ISDIR(tree.getattr(tree.resolve(path)).mode):
            yield from (f"{name}/{inner}" for inner in _files(tree, path))
        else:
            yield name


def _is_of_the_host(path: str) -> bool:
    """Whether a walk from /sys or /dev leads to nothing that the model changes."""
    if path.startswith("/sys/fs/"):
        return True  # the model has no such directory; programs look for SELinux there
    if path.startswith(f"{_HOME}/"):
        return not path.startswith(f"{_HOME}/root/")
    return path.startswith("/dev/") and path.split("/", 3)[2] in _OF_THE_HOST


def _returns_to_root(path: str) -> int:
    """How often a walk along the path comes to /sys or /dev again after it has begun there."""
    if path.startswith(f"{_HOME}/root/"):
        return int(path.split("/")[4] in {"sys", "dev"})
    returns = 0
    depth = 0
    for name in path.split("/"):
        if name == "..":
            depth -= 1
            returns += depth == 1
        elif name not in {"", "."}:
            depth += 1
    return returns


def _shown_content(path: str, data: bytes) -> str:
    """What was read, in a few words. Times and process numbers are left out: they differ each time."""
    if path.startswith((_HOME, "/dev/kmsg")):
        return "read"
    line, _, more = data.decode("utf-8", "backslashreplace").partition("\n")
    return line if len(line) <= _SHOWN_BYTES and not more else f"{len(data)} bytes"
