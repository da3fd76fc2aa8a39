"""Listing a directory: names in kernfs's order, from any cookie on (fs/kernfs/dir.c, kernfs_fop_readdir).

A directory of half a million names is listed name by name. What lstat(2) shows is looked up once for each run of
members that differ in nothing but their numbers (`Indexed.run`).
"""

from __future__ import annotations

import errno
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from fakesysfs.kernfs.declare import SLOTS, Indexed, Place
from fakesysfs.kernfs.inode import INDEX_MASK, INDEX_SHIFT, Stat, kobj_of
from fakesysfs.kernfs.name_hash import INDEX_BITS, SINGLE, single_key, sort_key
from fakesysfs.kernfs.tree import PlainEntry, Tree
from fakesysfs.ops.errors import KernelError

_FAMILY_SHIFT = 24
_FAMILY_MASK = (1 << INDEX_BITS) - (1 << _FAMILY_SHIFT)
_RUNS = 1024
"""The most runs of members that a reader remembers. If there are more, a look costs less than the memory."""

_CHUNK = 256
"""Keys that are copied out of the order together."""

T = TypeVar("T")


def open_directory(tree: Tree, ino: int) -> DirectoryReader:
    """opendir(3) of a directory. Raises KernelError: ENOENT if it is gone, ENOTDIR for a file or link."""
    return DirectoryReader(tree, ino)


def names_in(tree: Tree, path: str) -> list[str]:
    """The names in a directory in the kernel's order, by its absolute path (for in-process use).

    Raises KernelError: ENOENT, ENOTDIR, ELOOP.
    """
    reader = open_directory(tree, tree.resolve(path))
    return [os.fsdecode(name) for name, _, _ in reader.entries(0)]


class DirectoryReader:
    """One open directory: names in kernfs's order, from any cookie on.

    The first read and each rewind make the order. A reader leaves out names that were removed since then and may miss
    names that were added, as POSIX allows for readdir(3). A cookie is the hash of its name and a tie-breaker, so it
    stays good when other names go, and in another reader. Raises KernelError: ENOTDIR, ENOENT.
    """

    def __init__(self, tree: Tree, ino: int) -> None:
        found = tree.find(ino)
        if found is None:
            raise KernelError(errno.ENOENT, "the directory was removed", "kernfs_fop_readdir")
        around = tree.group_slot(found)
        if around is None:
            raise KernelError(errno.ENOTDIR, "this is not a directory", "iterate_dir")
        self._tree = tree
        self._ino = ino
        self._identity = tree.identity_of(ino)
        self._around = around
        self._kind = found.kind
        self._object = found.object
        self._kobj = kobj_of(found.object)
        self._generation = tree.registry.generation
        self._keys: array[int] | None = None
        self._names: dict[int, bytes] = {}
        """The names of the keys that belong to no indexed family."""
        self._families: list[_Family] = []
        self._state = -1, -1
        """The state that the next three and the families' runs hold for."""
        self._plain: dict[bytes, tuple[int, Place]] = {}
        """The inode numbers and places of the names that belong to no indexed family."""

    def rewind(self) -> None:
        """The next listing works the order out again."""
        self._keys = None

    @property
    def state(self) -> tuple[int, int]:
        """Two numbers; what any directory lists is the same as long as they are. Raises KernelError ENOENT.

        ENOENT tells that the directory itself is gone.
        """
        tree = self._tree
        generation = tree.registry.generation
        if generation != self._generation:
            found = tree.find(self._ino)
            if found is None or tree.identity_of(self._ino) is not self._identity:
                raise KernelError(errno.ENOENT, "the directory was removed", "kernfs_fop_readdir")
            self._kind, self._object, self._generation = found.kind, found.object, generation
            self._kobj = kobj_of(found.object)
        return generation, tree.user_generation

    def changing(self) -> tuple[list[bytes], list[tuple[int, int]]]:
        """The names here now that may go: single ones, and the (first, last) numbers of indexed families.

        Raises KernelError ENOENT.
        """
        self._refresh()
        names = [name for name, (_, place) in self._plain.items() if place.passing]
        return names, [run for family in self._families for run in family.declared.runs(self._kobj)]

    def entries(self, cookie: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, inode number, cookie) of the names after `cookie` (0: from the start). Raises KernelError ENOENT."""
        return (entry[:3] for entry in self.listed(cookie, lambda _: None))

    def listed(self, cookie: int, describe: Callable[[Stat], T]) -> Iterator[tuple[bytes, int, int, T]]:
        """As `entries`, and with each name what `describe` makes of what lstat(2) shows.

        `describe` is called once for members that differ in nothing but their numbers; the inode number that it gets
        may be another name's. Nothing may change between two steps of the iterator.
        """
        self._refresh()
        keys = self._keys
        if cookie == 0 or keys is None:
            keys = self._keys = self._order()
        kobj, stat_of, names = self._kobj, self._tree.static_stat, self._names
        plain, families = self._plain, self._families
        current, pattern = -1, b""
        first, last, base, stat = _NO_RUN
        described = describe(stat)
        for start in range(_after(keys, cookie), len(keys), _CHUNK):
            for key in keys[start : start + _CHUNK]:
                number = key & INDEX_MASK
                if current != key & _FAMILY_MASK:
                    if key & SINGLE:
                        name = names[key]
                        found = plain.get(name)
                        if found is not None:
                            yield name, found[0], key, describe(stat_of(*found))
                        continue
                    current = key & _FAMILY_MASK
                    family = families[current >> _FAMILY_SHIFT]
                    pattern, (first, last, base, stat) = family.pattern, family.longest
                    described = describe(stat)
                if first <= number <= last:
                    yield pattern % number, base + (number << INDEX_SHIFT), key, described
                    continue
                run = families[current >> _FAMILY_SHIFT].run(kobj, number)
                if run is None:
                    continue
                other = describe(run.stat)
                yield pattern % number, run.base + (number << INDEX_SHIFT), key, other
                if run.last - run.first > last - first:
                    described, (first, last, base, _) = other, run

    def _refresh(self) -> None:
        """Look again what is here, if anything changed."""
        state = self.state
        if state != self._state:
            self._state = state
            self._families = [
                _Family(self._tree, self._ino, place, number) for number, place in enumerate(self._indexed())
            ]
            self._plain = {name: (ino, place) for _, name, ino, place in self._named()}

    def _indexed(self) -> list[Place]:
        return [place for place in self._kind.families(self._around) if isinstance(place.entry, Indexed)]

    def _order(self) -> array[int]:
        """The keys of all names, in kernfs's order, and maybe of absent members of families."""
        named = self._named()
        self._names = {key: name for key, name, _, _ in named}
        keys = array("Q", self._names)
        for family in self._families:
            keys = self._merged(keys, family.keys(self._kobj))
        return keys

    def _named(self) -> list[PlainEntry]:
        """The names that belong to no indexed family, in kernfs's order."""
        tree, around, kind, kobj = self._tree, self._around, self._kind, self._kobj
        named = tree.singles(self._ino, kobj, kind, around)
        declared = len(named)
        for place in kind.families(around):
            if not isinstance(place.entry, Indexed):
                for text, ino in tree.members(self._ino, self._object, place):
                    name = os.fsencode(text)
                    named.append((single_key(name, SLOTS + len(named)), name, ino, place))
        if len(named) > declared:
            named.sort(key=_sort_key_of)
        return named

    def _merged(self, one: array[int], other: array[int]) -> array[int]:
        """The keys of both in one order: the fewer are inserted among the others."""
        few, many = (one, other) if len(one) < len(other) else (other, one)
        for key in few:
            value = key >> INDEX_BITS
            start = bisect_left(many, value << INDEX_BITS)
            end = bisect_left(many, value + 1 << INDEX_BITS, lo=start)
            many.insert(bisect_left(many, self._name(key), start, end, key=self._name), key)
        return many

    def _name(self, key: int) -> bytes:
        if key & SINGLE:
            return self._names[key]
        return self._families[(key & _FAMILY_MASK) >> _FAMILY_SHIFT].pattern % (key & INDEX_MASK)


def _sort_key_of(entry: PlainEntry) -> tuple[int, bytes]:
    return sort_key(entry[0], entry[1])


def _after(keys: array[int], cookie: int) -> int:
    """The position behind the name that has this cookie, or behind the names of its hash."""
    if not cookie:
        return 0
    value = cookie >> INDEX_BITS
    start = bisect_left(keys, value << INDEX_BITS)
    end = bisect_left(keys, value + 1 << INDEX_BITS, lo=start)
    return next((position + 1 for position in range(start, end) if keys[position] == cookie), end)


class _Run(NamedTuple):
    """Members of a family that differ in nothing but their numbers, from `first` to `last`.

    Member n has the inode number `base` + n << 8.
    """

    first: int
    last: int
    base: int
    stat: Stat


_NO_RUN = _Run(0, -1, 0, Stat(0, 0, 0, 0, 0, 0, 0, 0, 0, 0))


class _Family:
    """An indexed family in one state of the tree: it looks at one member of each run."""

    __slots__ = ("_firsts", "_high", "_order", "_parent", "_place", "_runs", "_tree", "declared", "longest", "pattern")

    def __init__(self, tree: Tree, parent: int, place: Place, number: int) -> None:
        """`number` tells the family's keys from those of the directory's other families."""
        assert isinstance(place.entry, Indexed)
        self._tree = tree
        self._parent = parent
        self._place = place
        self._high = number << _FAMILY_SHIFT
        self._firsts: list[int] = []
        self._runs: list[_Run] = []
        self.declared = place.entry
        prefix = place.entry.prefix.encode()
        self.pattern = prefix.replace(b"%", b"%%") + b"%d"
        """Makes names of numbers."""
        self._order = tree.order(prefix)
        self.longest = _NO_RUN
        """The longest run that was found so far."""

    def keys(self, kobj: Any) -> array[int]:
        """The keys of all members, and maybe of numbers that are absent."""
        runs = list(self.declared.runs(kobj))
        if not runs:
            return array("Q")
        keys = self._order.keys(runs[-1][1] + 1)
        high = self._high
        if not high and 2 * sum(last - first + 1 for first, last in runs) >= len(keys):
            return keys[:]
        there = bytearray(len(keys))
        for first, last in runs:
            there[first : last + 1] = b"\1" * (last - first + 1)
        return array("Q", [key | high for key in keys if there[key & INDEX_MASK]])

    def run(self, kobj: Any, number: int) -> _Run | None:
        """The run around a number; None if there is no such member."""
        position = bisect_right(self._firsts, number) - 1
        if position >= 0 and number <= self._runs[position].last:
            return self._runs[position]
        span = self.declared.run_of(kobj, number)
        if span is None:
            return None
        tree = self._tree
        if self.declared.directory is not None:
            ino = tree.ino_of(self.declared.directory(kobj, number))
        else:
            ino = tree.child(self._parent, self._place.slot, number)
        first, last = self._run_without_user_changes(span, ino, number)
        run = _Run(first, last, ino - (number << INDEX_SHIFT), tree.getattr(ino))
        if last - first > self.longest.last - self.longest.first:
            self.longest = run
        if len(self._runs) == _RUNS:
            self._firsts.clear()
            self._runs.clear()
            position = -1
        self._firsts.insert(position + 1, first)
        self._runs.insert(position + 1, run)
        return run

    def _run_without_user_changes(self, span: tuple[int, int], ino: int, number: int) -> tuple[int, int]:
        """As much of the members around one as no user changed anything on, or that one alone."""
        changed = self._tree.all_changed
        if not changed:
            return span
        if ino in changed:
            return number, number
        first, last = span
        base = ino - (number << INDEX_SHIFT)
        for other in changed:
            index = other - base >> INDEX_SHIFT
            if other == base + (index << INDEX_SHIFT) and first <= index <= last:
                if index < number:
                    first = index + 1
                else:
                    last = index - 1
        return first, last
