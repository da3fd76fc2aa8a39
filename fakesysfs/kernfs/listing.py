"""Listing a directory: names in kernfs's order, from any cookie on (fs/kernfs/dir.c, kernfs_fop_readdir).

A directory of half a million names is worked out in pieces, of names whose nodes are alike: of them only the number is
put into the name and into the inode number.
"""

from __future__ import annotations

import errno
import os
import sys
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fakesysfs.kernfs.declare import SLOTS, Indexed, Place
from fakesysfs.kernfs.inode import INDEX_MASK, INDEX_SHIFT, Stat, kobj_of
from fakesysfs.kernfs.name_hash import INDEX_BITS, IndexedOrder, Packed, low_words, single_key, sort_key
from fakesysfs.kernfs.tree import PlainEntry, Tree
from fakesysfs.ops.errors import KernelError

_FAMILY_SHIFT = 24
_LOW_MASK = (1 << INDEX_BITS) - 1
_RUNS = 1024
"""Runs of members that are remembered; where there are more, looking again is cheaper than keeping them."""

_LAST = 1 << 63
"""Greater than any key."""
_CHUNK = 256
"""The most names that are worked out together, where nobody asked for more."""
_A_FEW = 16
"""Names that are worked out together when all that were asked for were not enough."""


class Members(NamedTuple):
    """Members of an indexed family that follow one another in a directory and differ in nothing but their numbers."""

    order: IndexedOrder
    numbers: list[int]
    inos: array[int]
    cookies: array[int]
    absent: Sequence[int]
    """Positions in these three of members that are not there."""
    stat: Stat
    """All of them but for the inode number."""
    runs: Sequence[tuple[int, int]]
    """Members of the family that were found to be there, all of these among them (or in what was given before)."""

    def entries(self, start: int = 0) -> Iterator[tuple[int, bytes, int, int]]:
        """(position, name, inode number, cookie) of those from one position on that are there."""
        name, absent = self.order.name, frozenset(self.absent)
        for position in range(start, len(self.numbers)):
            if position not in absent:
                yield position, name(self.numbers[position]), self.inos[position], self.cookies[position]

    def packed(self, start: int) -> Packed | None:
        """The names of those from one position on, of the absent ones too, if the family's order has them ready."""
        numbers, cookies = self.numbers, self.cookies
        first = cookies[start] >> INDEX_BITS << INDEX_BITS | numbers[start]
        last = cookies[-1] >> INDEX_BITS << INDEX_BITS | numbers[-1]
        return self.order.packed(first, last, len(numbers) - start)


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
    """One open directory: names in kernfs's order, from any cookie on. Made by `open_directory`.

    The order is made at the first read and at each rewind. Names removed since then are left out, names added since
    then may be missed, as POSIX lets readdir(3) do. A cookie is the hash of its name and a tie-breaker, so it stays
    good when others go.
    """

    def __init__(self, tree: Tree, ino: int) -> None:
        found = tree.find(ino)
        if found is None:
            raise KernelError(errno.ENOENT, "the directory was removed", "kernfs_fop_readdir")
        self._tree = tree
        self._ino = ino
        self._life = tree.identity_of(ino)
        around = tree.group_slot(found)
        if around is None:
            raise KernelError(errno.ENOTDIR, "this is not a directory", "iterate_dir")
        self._around = around
        self._kind = found.kind
        self._kobj = kobj_of(found.object)
        self._generation = tree.registry.generation
        self._state = self._generation, tree.user_generation
        self._singles: list[PlainEntry] | None = None
        self._members = array("Q")
        """The keys of the members of all indexed families, in order."""
        self._stops: list[int] = []
        """For each single name the position among the members where it stands."""
        self._families: list[_Family] = []
        self._named_in = self._state
        """The state in which the single names were found."""

    def _object(self) -> Any:
        """What the directory is of. As long as nothing came or went anywhere, what it was of before."""
        generation = self._tree.registry.generation
        if generation != self._generation:
            found = self._tree.find(self._ino)
            if found is None or self._tree.identity_of(self._ino) is not self._life:
                raise KernelError(errno.ENOENT, "the directory was removed", "kernfs_fop_readdir")
            self._kind, self._kobj, self._generation = found.kind, kobj_of(found.object), generation
        return self._kobj

    def _build(self, kobj: Any) -> list[PlainEntry]:
        members = array("Q")
        self._families = []
        for place in self._kind.families(self._around):
            if isinstance(place.entry, Indexed):
                family = _Family(self._tree, self._ino, place, len(self._families))
                self._families.append(family)
                keys = family.keys(kobj)
                members = self._merged(members, keys) if members else keys
        singles = self._singles = self._named(kobj)
        self._members = members
        if members:
            self._stops = [self._stop(members, key, name) for key, name, _, _ in singles]
        else:
            self._stops = [0] * len(singles)
        self._named_in = self._generation, self._tree.user_generation
        return singles

    def _named(self, kobj: Any) -> list[PlainEntry]:
        """The names that are of no indexed family, as they are now."""
        tree, around, kind = self._tree, self._around, self._kind
        singles = tree.singles(self._ino, kobj, kind, around)
        for place in kind.families(around):
            if not isinstance(place.entry, Indexed):
                for text, ino in tree.members(self._ino, kobj, place):
                    name = os.fsencode(text)
                    key = single_key(name, SLOTS + len(singles))
                    insort(singles, (key, name, ino, place), key=_sort_key_of)
        return singles

    def _merged(self, one: array[int], other: array[int]) -> array[int]:
        """The keys of both, which are nobody else's: the fewer are put in among the others."""
        few, many = (one, other) if len(one) < len(other) else (other, one)
        for key in few:
            many.insert(self._stop(many, key, self._name(key)), key)
        return many

    def _stop(self, members: array[int], key: int, name: bytes) -> int:
        """The position among members where a name stands."""
        value = key >> INDEX_BITS
        start = bisect_left(members, value << INDEX_BITS)
        end = bisect_left(members, value + 1 << INDEX_BITS, lo=start)
        return bisect_left(members, name, start, end, key=self._name)

    def _name(self, key: int) -> bytes:
        """The name of a member."""
        return self._families[(key & _LOW_MASK) >> _FAMILY_SHIFT].name(key & INDEX_MASK)

    def entries(self, cookie: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, inode number, cookie) of the names after `cookie` (0: from the start).

        Raises KernelError ENOENT when the directory itself is gone.
        """
        for found in self.listed(cookie):
            if isinstance(found, Members):
                yield from (entry[1:] for entry in found.entries())
            else:
                yield from ((name, ino, key) for key, name, ino, _ in found)

    def listed(self, cookie: int, together: int = _CHUNK) -> Iterator[list[PlainEntry] | Members]:
        """The names after `cookie` (0: from the start).

        Members that are alike are given together: at first at most `together` names, which is what the caller thinks
        that it needs, then a few, then more and more. So are single names with no member between them.
        What it found out about one member of a family it takes to hold for all that are alike, as long as nothing
        changes: that must not happen between two steps. Raises KernelError ENOENT when the directory itself is gone.
        """
        kobj, tree, singles = self._object(), self._tree, self._singles
        if cookie == 0 or singles is None:
            singles = self._build(kobj)
        state = self._generation, tree.user_generation
        if state != self._state:
            self._state = state
            for family in self._families:
                family.forget()
        now = None
        if state != self._named_in:
            now = {name: (ino, place) for _, name, ino, place in self._named(kobj)}
        members, stops = self._members, self._stops
        position, single = self._after(cookie, singles) if cookie else (0, 0)
        more = _A_FEW
        while True:
            stop = stops[single] if single < len(stops) else len(members)
            while position < stop:
                chunk = members[position : min(position + together, stop)]
                family = self._families[(chunk[0] & _LOW_MASK) >> _FAMILY_SHIFT]
                own = family.take_own_prefix(chunk, alone=len(self._families) == 1)
                position += len(own.keys)
                together -= len(own.keys)
                yield from family.listed(own, kobj)
                if together <= 0:
                    together, more = more, min(2 * more, _CHUNK)
            end = bisect_right(stops, position, lo=single)
            here, single = singles[single:end], end
            if now is not None:  # of these names those that are there still, with what they stand for
                here = [(key, name, *now[name]) for key, name, _, _ in here if name in now]
            yield here
            if end == len(singles) and position == len(members):
                return

    def _after(self, cookie: int, singles: list[PlainEntry]) -> tuple[int, int]:
        """What stands behind a cookie's: the position among the members, and that among the single names."""
        value = cookie >> INDEX_BITS
        position, single = bisect_left(self._members, value << INDEX_BITS), bisect_left(singles, value, key=_hash_of)
        while True:
            this = self._members[position] if position < len(self._members) else _LAST
            other = singles[single][0] if single < len(singles) else _LAST
            if other >> INDEX_BITS == value and self._stops[single] <= position:
                this = other
                single += 1
            elif this >> INDEX_BITS == value:
                position += 1
            else:
                return position, single
            if this == cookie:
                return position, single


def _sort_key_of(single: PlainEntry) -> tuple[int, bytes]:
    return sort_key(single[0], single[1])


def _hash_of(single: PlainEntry) -> int:
    return single[0] >> INDEX_BITS


class _Run(NamedTuple):
    """Members of a family that are alike, from `first` to `last`; member n has the inode number `base` + n << 8."""

    first: int
    last: int
    base: int
    stat: Stat


class _KeySlice(NamedTuple):
    """Keys of a family that follow one another, the numbers of their members, and the highest of these."""

    keys: array[int]
    numbers: list[int]
    highest: int


def _inos(numbers: list[int], base: int) -> array[int]:
    """`base` + n << 8 for each number n; computed as one number, for that takes a quarter of the time."""
    shifted = int.from_bytes(array("Q", numbers), sys.byteorder) << INDEX_SHIFT
    bases = int.from_bytes(array("Q", (base,)) * len(numbers), sys.byteorder)
    return array("Q", (shifted + bases).to_bytes(8 * len(numbers), sys.byteorder))


class _Family:
    """An indexed family as one reader sees it: what was looked at once is not looked at again until `forget`."""

    __slots__ = (
        "_declared",
        "_firsts",
        "_high",
        "_longest",
        "_order",
        "_parent",
        "_place",
        "_runs",
        "_stats",
        "_tree",
        "_untold",
    )

    def __init__(self, tree: Tree, parent: int, place: Place, number: int) -> None:
        """`number` tells the family's keys from those of the directory's other families."""
        assert isinstance(place.entry, Indexed)
        self._tree = tree
        self._parent = parent
        self._place = place
        self._declared = place.entry
        self._high = number << _FAMILY_SHIFT
        self._order = tree.order(place.entry.prefix.encode())
        self._firsts: list[int] = []
        self._runs: list[_Run] = []
        self._longest: _Run | None = None
        self._untold: list[tuple[int, int]] = []
        self._stats: dict[tuple[int, ...], Stat] = {}

    def name(self, index: int) -> bytes:
        """The name of one member."""
        return self._order.name(index)

    def keys(self, kobj: Any) -> array[int]:
        """The keys of all members, and maybe of numbers that are none."""
        runs = list(self._declared.runs(kobj))
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

    def take_own_prefix(self, keys: array[int], *, alone: bool) -> _KeySlice:
        """The first keys, as many of the family's as follow one another; `alone`: there is no other family."""
        numbers = low_words(keys).tolist()
        if alone:
            return _KeySlice(keys, numbers, max(numbers))
        numbers = [number - self._high for number in numbers]
        end = next((position for position, number in enumerate(numbers) if not 0 <= number <= INDEX_MASK), len(keys))
        return _KeySlice(keys[:end], numbers[:end], max(numbers[:end]))

    def forget(self) -> None:
        """Something may have changed."""
        self._firsts.clear()
        self._runs.clear()
        self._longest = None
        self._untold.clear()
        self._stats.clear()

    def listed(self, own: _KeySlice, kobj: Any) -> Iterator[Members]:
        """The members that these keys are of."""
        keys, numbers, highest = own
        run = self._longest
        if run is None:
            run = next((found for number in numbers if (found := self._run(kobj, number)) is not None), None)
            if run is None:
                return
        inos = _inos(numbers, run.base)
        if highest <= run.last and (not run.first or run.first <= min(numbers)):
            yield Members(self._order, numbers, inos, keys, (), run.stat, self._told())
            return
        absent: list[int] = []
        for start, end, stat in self._split_by_stat(numbers, run, kobj, inos, absent):
            gaps = [position - start for position in absent if start <= position < end]
            part = slice(start, end)
            yield Members(self._order, numbers[part], inos[part], keys[part], gaps, stat, self._told())

    def _split_by_stat(
        self, numbers: list[int], run: _Run, kobj: Any, inos: array[int], absent: list[int]
    ) -> Iterator[tuple[int, int, Stat]]:
        """From where to where these are alike, if most are of `run`.

        For the others their inode numbers are put right, and where there is nothing that is noted.
        """
        first, last, _, usual = run
        other: _Run | None = None
        start = following = 0
        stat = usual
        for position in [position for position, number in enumerate(numbers) if not first <= number <= last]:
            number = numbers[position]
            if other is None or not other.first <= number <= other.last:
                other = self._run(kobj, number)
                if other is None:
                    absent.append(position)
                    continue
            inos[position] = other.base + (number << INDEX_SHIFT)
            if stat is not usual and following < position:
                yield start, following, stat
                start, stat = following, usual
            if other.stat is not stat:
                if start < position:
                    yield start, position, stat
                start, stat = position, other.stat
            following = position + 1
        if stat is not usual and following < len(numbers):
            yield start, following, stat
            start, stat = following, usual
        yield start, len(numbers), stat

    def _told(self) -> list[tuple[int, int]]:
        runs, self._untold = self._untold, []
        return runs

    def _run(self, kobj: Any, number: int) -> _Run | None:
        """The members around one, that included, that are alike; None if there is none of that number."""
        position = bisect_right(self._firsts, number) - 1
        if position >= 0 and number <= self._runs[position].last:
            return self._runs[position]
        span = self._declared.run_of(kobj, number)
        if span is None:
            return None
        tree = self._tree
        if self._declared.directory is not None:
            ino = tree.ino_of(self._declared.directory(kobj, number))
        else:
            ino = tree.child(self._parent, self._place.slot, number)
        stat = tree.getattr(ino)
        stat = self._stats.setdefault(stat[1:], stat)
        run = _Run(*self._run_without_user_changes(span, ino, number), ino - (number << INDEX_SHIFT), stat)
        self._untold.append((run.first, run.last))
        if self._longest is None or run.last - run.first > self._longest.last - self._longest.first:
            self._longest = run
        if len(self._runs) == _RUNS:
            self._firsts.clear()
            self._runs.clear()
            position = -1
        self._firsts.insert(position + 1, run.first)
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
