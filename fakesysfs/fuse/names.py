"""Which names the host may hold, and how it is told to forget them.

`Tree.take_changes` says which names came or went. `collect` takes that over after each step of each operation;
a worker thread tells the host, batch after batch; `settled` waits until all that was collected so far has been told.

One thread tells, batch by batch: whoever waits for a batch waits for all before it, whichever store made them.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import trio

from fakesysfs.kernfs import NameChange, Tree, index_in

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
STUCK_LOOKS = 20
"""A store waits no longer when so many looks in a row found that the host forgot nothing (the package's header says
when that happens). Looks, because a machine that is stopped or overloaded for a while lets but one of them pass.
"""

_SWEEP_EVERY = 4096

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


class Names:
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
        self._known: dict[int, Indices] = {}
        self._waiting: list[_Batch] = []
        self._collected = 0
        self._told = 0
        self.unsettled = False
        """Something that was collected has not been told yet."""
        self._progress = 0
        self._ended = False
        self._work = trio.Event()
        self._batch_told = trio.Event()
        # The tree collects changes from the first time that it is asked; before the first lookup nobody holds a name.
        tree.take_changes()

    # What the host holds ------------------------------------------------------------------------------------------

    def note(self, parent: int, name: bytes) -> None:
        """The host is about to be told whether `name` exists."""
        index = self._number(parent, name)
        if index is not None:
            self.known_in(parent).add(index, index)

    def known_in(self, parent: int) -> Indices:
        """The numbers of an indexed family's names in a directory that the host may hold."""
        known = self._known.get(parent)
        if known is None:
            if len(self._known) % _SWEEP_EVERY == _SWEEP_EVERY - 1:
                self._known = {ino: known for ino, known in self._known.items() if self._tree.find(ino) is not None}
            known = self._known[parent] = Indices()
        return known

    def _number(self, parent: int, name: bytes) -> int | None:
        for prefix in self._tree.prefixes_of(parent):
            index = index_in(prefix, name)
            if index is not None:
                return index
        return None

    # What it must forget ------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Take over what changed in the tree and have the host told soon."""
        changes = self._tree.take_changes()
        if not changes:
            return
        names: list[_Forget] = []
        inodes: dict[int, None] = {}
        for change in changes:
            forget = self._forget(change)
            if forget is not None:
                names.append(forget)
            if change.directories:
                inodes[change.parent] = None
        for ino in self._in_use():
            if self._tree.find(ino) is None:
                inodes[ino] = None
        if names or inodes:
            self._waiting.append(_Batch(names, list(inodes)))
            self._collected += 1
            self.unsettled = True
            self._work.set()

    def _forget(self, change: NameChange) -> _Forget | None:
        known = self._known.get(change.parent)
        if change.name is not None:
            index = self._number(change.parent, change.name)
            if index is not None and (known is None or not known.take(index, index)[1].strip(b"\0")):
                return None
            return _Forget(change.parent, change.name)
        if known is None:
            return None
        base, bits = known.take(change.first, change.last)
        if not bits.strip(b"\0"):
            return None
        return _Forget(change.parent, None, change.prefix, base, bits)

    async def settled(self) -> None:
        """Wait until everything collected until now has been told."""
        goal = self._collected
        before, idle = self._progress, 0
        while self._told < goal and idle < STUCK_LOOKS:
            with trio.move_on_after(LOOK_SECONDS):
                await self._batch_told.wait()
                continue
            idle = idle + 1 if self._progress == before else 0
            before = self._progress
        if self._told < goal:
            log.info("the host does not let go of a name: answering before it has")

    async def tell(self) -> None:
        """Tell the host, for as long as the mount lives."""
        try:
            while True:
                await self._work.wait()
                self._work = trio.Event()
                batches, self._waiting = self._waiting, []
                await trio.to_thread.run_sync(self._tell, batches, abandon_on_cancel=True)
                self._told += len(batches)
                self.unsettled = self._told < self._collected
                told, self._batch_told = self._batch_told, trio.Event()
                told.set()
        finally:
            self._ended = True

    def _tell(self, batches: list[_Batch]) -> None:
        """In the worker thread, which nobody waits for when the mount ends."""
        for batch in batches:
            for forget in batch.names:
                for name in forget.names():
                    self._try(self._forget_name, forget.parent, name)
            for ino in batch.inodes:
                self._try(self._forget_attributes, ino)

    def _try(self, tell: Callable[..., None], *what: object) -> None:
        if self._ended:
            return
        try:
            tell(*what)
        except OSError as error:
            if error.errno not in _HARMLESS and not self._ended:
                log.warning("the host did not forget %s: %s", what, error)
        self._progress += 1
