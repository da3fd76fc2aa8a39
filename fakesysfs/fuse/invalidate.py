"""Which names the host may hold, and how we invalidate them.

`Tree.take_changes` says which names came or went. `collect` takes these over after each step of each operation. A
worker thread makes the host forget them, batch after batch. `flush` waits until the host forgot all that was collected
so far.

There is one thread: a store that waits for its batch waits for all batches before it. The thread starts before the
mount and lives as long as the mount, so that a limit of threads reached later stops no store.

Contended directories. To forget a name the host takes the lock of its directory, and each client that looks a name up
there holds that lock until it has run again. With 64 busy clients on two CPUs each name waits for some of them: a store
of 32 names took up to 23 s. So while clients look names up and a store waits, the host may keep no names of that
directory for a while: each use asks the server, and a store has nothing to invalidate there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import trio

from fakesysfs.kernfs import NameChange, Tree, index_in

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
STUCK_LOOKS = 60
"""A store stops waiting after so many looks in a row that found no name forgotten (the package's header says when that
happens). Counted in looks, not seconds, so that a suspended machine does not time out.
"""

CONTENDED_LOOKUPS = 8
"""A directory is contended when so many lookups there were answered while a store waited for the host to forget."""

CONTENDED_SECONDS = 10.0
"""For how long a directory counts as contended."""

STILL_CONTENDED_LOOKUPS = 64
"""A change renews that time when so many lookups came since the last one."""

NO_MEMORY_SECONDS = 0.05
"""How long the thread waits for memory before it tries again to report to the loop."""

_FEW_INODES = 64
"""Inodes whose attributes the loop itself makes the host forget, at most."""

_SWEEP_EVERY = 4096
_NAMES_KEPT = 4096
"""Names of one directory that are remembered one by one, at most."""

_HARMLESS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENOTCONN})
"""The host does not hold the name, or its directory, or the mount at all: nothing to forget."""


class Indices:
    """A set of numbers, one bit for each."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, first: int, last: int) -> None:
        """Put the numbers from `first` to `last` in."""
        bits, start, end = self._bits, first >> 3, last >> 3
        if end >= len(bits):
            bits.extend(bytes(end + 1 - len(bits)))
        low, high = 0xFF << (first & 7) & 0xFF, 0xFF >> (7 - (last & 7))
        if start == end:
            bits[start] |= low & high
            return
        bits[start] |= low
        bits[end] |= high
        bits[start + 1 : end] = b"\xff" * (end - start - 1)

    def take(self, first: int, last: int) -> tuple[int, bytes]:
        """Remove the numbers from `first` to `last`; returns them as (number of the first bit, bits)."""
        start, end = first >> 3, min((last >> 3) + 1, len(self._bits))
        if start >= end:
            return 0, b""
        taken = bytearray(self._bits[start:end])
        taken[0] &= 0xFF << (first & 7) & 0xFF
        if last >> 3 < len(self._bits):
            taken[-1] &= 0xFF >> (7 - (last & 7))
        for position, bits in enumerate(taken, start):
            if bits:
                self._bits[position] &= ~bits
        return start << 3, bytes(taken)


class _Forget(NamedTuple):
    """Names in one directory to be forgotten: `name`, or `prefix` + the numbers in `bits`, counted from `base`."""

    parent: int
    name: bytes | None
    prefix: bytes = b""
    base: int = 0
    bits: bytes = b""

    def names(self) -> Iterator[bytes]:
        if self.name is not None:
            yield self.name
            return
        for position, bits in enumerate(self.bits):
            if bits:
                for bit in range(8):
                    if bits >> bit & 1:
                        yield b"%s%d" % (self.prefix, self.base + position * 8 + bit)


class _Batch(NamedTuple):
    names: list[_Forget]
    inodes: list[int]


class _Held:
    """What the host may hold of one directory: members of indexed families, and other names that may change."""

    __slots__ = ("all", "names", "numbers")

    def __init__(self) -> None:
        self.numbers = Indices()
        self.names: set[bytes] = set()
        self.all = False
        """There were too many names to keep: it may hold any."""

    def add(self, name: bytes) -> None:
        if len(self.names) == _NAMES_KEPT:
            self.all = True
            self.names.clear()
        self.names.add(name)

    def take(self, name: bytes) -> bool:
        if name in self.names:
            self.names.remove(name)
            return True
        return self.all


class _Contention:
    """A contended directory: until when it is one (trio's clock), and the lookups there since its last change."""

    __slots__ = ("lookups", "until")

    def __init__(self, now: float) -> None:
        self.renew(now)

    def renew(self, now: float) -> None:
        self.until = now + CONTENDED_SECONDS
        self.lookups = 0


class Invalidator:
    """The host's cache of names, as far as we must know it.

    `forget_name(parent, name)` and `forget_attributes(inode)` tell the host and may block; they raise OSError. `in_use`
    gives the inode numbers of open files: the host asks for the attributes of one that is gone again (link count 0).
    """

    def __init__(
        self,
        tree: Tree,
        forget_name: Callable[[int, bytes], None],
        forget_attributes: Callable[[int], None],
        in_use: Callable[[], Iterable[int]],
    ) -> None:
        self._tree = tree
        self._forget_name = forget_name
        self._forget_attributes = forget_attributes
        self._in_use = in_use
        self._held: dict[int, _Held] = {}
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="invalidation", daemon=True)
        self._token: trio.lowlevel.TrioToken | None = None
        self._collected_batches = 0
        self._told_batches = 0
        self.unsettled = False
        """Something that was collected has not been told yet."""
        self._progress = 0
        self._stopped = False
        self._thread_ended = trio.Event()
        self._lookups: dict[int, int] = {}
        """The directories of which something is untold, and the lookups there since then."""
        self._contended: dict[int, _Contention] = {}
        self._progressed = trio.Event()
        # The tree collects changes from the first time that it is asked; before the first lookup nobody holds a name.
        tree.take_changes()

    def start(self) -> None:
        """Start the thread that tells the host. To be called in trio's loop; raises RuntimeError if it cannot start."""
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()

    async def stop(self) -> None:
        """Tell the host nothing more, and wait until the thread has ended.

        It may wait for the lock of a directory: the mount must answer requests until this returns.
        """
        self.abandon()
        await self._thread_ended.wait()

    def abandon(self) -> None:
        """Tell the host nothing more. The thread may wait for the host still: the caller does not."""
        self._stopped = True
        self._batches.put(None)

    # What the host holds ------------------------------------------------------------------------------------------

    def may_be_kept(self, parent: int) -> bool:
        """Whether the host may keep what it hears of a name in this directory: not while that is contended."""
        if not self._contended:
            return True
        contention = self._contended.get(parent)
        if contention is None:
            return True
        contention.lookups += 1
        if trio.current_time() < contention.until:
            return False
        del self._contended[parent]
        return True

    def note(self, parent: int, name: bytes) -> None:
        """The host is about to be told whether `name` exists."""
        if parent in self._lookups:
            self._count_lookup(parent)
        table = self._tree.table_of(parent)
        if table is None:
            return
        kind, around = table
        index = _number(kind.prefixes(around), name)
        if index is not None:
            self._held_in(parent).numbers.add(index, index)
        elif kind.may_change(around, name):
            self._held_in(parent).add(name)

    def held_in(self, parent: int) -> _Held | None:
        """What the host may hold of a directory, to be added to by a listing; None if nothing changes there."""
        if parent in self._lookups:
            self._count_lookup(parent)
        return self._held.get(parent) or (None if self._tree.table_of(parent) is None else self._held_in(parent))

    def _held_in(self, parent: int) -> _Held:
        held = self._held.get(parent)
        if held is None:
            if len(self._held) % _SWEEP_EVERY == _SWEEP_EVERY - 1:
                self._held = {ino: held for ino, held in self._held.items() if self._tree.find(ino) is not None}
            held = self._held[parent] = _Held()
        return held

    # What it must forget ------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Take over what changed in the tree and have the host told soon."""
        changes = self._tree.take_changes()
        if not changes:
            return
        names: list[_Forget] = []
        inodes: dict[int, None] = {}
        for change in changes:
            if self._contended:
                self._changed_in(change.parent)
            forget = self._forget(change)
            if forget is not None:
                names.append(forget)
            if change.directories:
                inodes[change.parent] = None
        for ino in self._in_use():
            if self._tree.find(ino) is None:
                inodes[ino] = None
        if not names and not self.unsettled and len(inodes) <= _FEW_INODES:
            # No lock is taken for attributes alone, and the store need not wait for the thread's turn.
            for ino in inodes:
                self._try(self._forget_attributes, ino)
        elif names or inodes:
            for forget in names:
                self._lookups.setdefault(forget.parent, 0)
            self._batches.put(_Batch(names, list(inodes)))
            self._collected_batches += 1
            self.unsettled = True

    def _count_lookup(self, parent: int) -> None:
        self._lookups[parent] += 1
        if self._lookups[parent] == CONTENDED_LOOKUPS:
            now = trio.current_time()
            self._contended = {ino: other for ino, other in self._contended.items() if now < other.until}
            self._contended[parent] = _Contention(now)

    def _changed_in(self, parent: int) -> None:
        contention = self._contended.get(parent)
        if contention is not None and contention.lookups >= STILL_CONTENDED_LOOKUPS:
            contention.renew(trio.current_time())

    def _forget(self, change: NameChange) -> _Forget | None:
        held = self._held.get(change.parent)
        if held is None:
            return None
        if change.name is not None:
            table = self._tree.table_of(change.parent)
            index = None if table is None else _number(table[0].prefixes(table[1]), change.name)
            if index is not None:
                known = bool(held.numbers.take(index, index)[1].strip(b"\0"))
            else:
                known = held.take(change.name)
            return _Forget(change.parent, change.name) if known else None
        base, bits = held.numbers.take(change.first, change.last)
        if not bits.strip(b"\0"):
            return None
        return _Forget(change.parent, None, change.prefix, base, bits)

    async def flush(self) -> None:
        """Wait until everything collected until now has been told."""
        goal = self._collected_batches
        before, idle = self._progress, 0
        while self._told_batches < goal and idle < STUCK_LOOKS:
            with trio.move_on_after(LOOK_SECONDS):
                await self._progressed.wait()
                continue
            idle = idle + 1 if self._progress == before else 0
            before = self._progress
        if self._told_batches < goal:
            log.info("the host does not let go of a name: answering before it has")

    def _took(self, batches: list[_Batch]) -> None:
        """In trio's loop: the host forgot these."""
        self._told_batches += len(batches)
        self.unsettled = self._told_batches < self._collected_batches
        if not self.unsettled:
            self._lookups.clear()
        told, self._progressed = self._progressed, trio.Event()
        told.set()

    def _work(self) -> None:
        """The life of the thread: take what waits, tell the host."""
        while batches := self._next_batches():
            # The thread must outlive a lack of memory: all later stores wait for it.
            try:
                self._tell(batches)
            except Exception:
                with contextlib.suppress(MemoryError):
                    log.exception("the host may not have forgotten a name")
            if not self._report(self._took, batches):
                return
        self._report(self._thread_ended.set)

    def _next_batches(self) -> list[_Batch]:
        """Wait for one and take all that are there; none at the end of the mount."""
        batches = []
        with contextlib.suppress(queue.Empty):
            batch = self._batches.get()
            while batch is not None:
                batches.append(batch)
                batch = self._batches.get_nowait()
            return []
        return batches

    def _report(self, told: Callable[..., object], *what: object) -> bool:
        """Have trio's loop call `told`; returns whether there is one."""
        assert self._token is not None
        while True:
            try:
                self._token.run_sync_soon(told, *what)
            except trio.RunFinishedError:
                return False
            except MemoryError:
                time.sleep(NO_MEMORY_SECONDS)
            else:
                return True

    def _tell(self, batches: list[_Batch]) -> None:
        for batch in batches:
            for forget in batch.names:
                for name in forget.names():
                    self._try(self._forget_name, forget.parent, name)
            for ino in batch.inodes:
                self._try(self._forget_attributes, ino)

    def _try(self, tell: Callable[..., None], *what: object) -> None:
        if self._stopped:
            return
        try:
            tell(*what)
        except OSError as error:
            if error.errno not in _HARMLESS and not self._stopped:
                log.warning("the host did not forget %s: %s", what, error)
        self._progress += 1


def _number(prefixes: Iterable[bytes], name: bytes) -> int | None:
    """The number of a name of an indexed family."""
    for prefix in prefixes:
        index = index_in(prefix, name)
        if index is not None:
            return index
    return None
