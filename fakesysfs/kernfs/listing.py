"""Listing a directory: names in kernfs's order, from any cookie on (fs/kernfs/dir.c, kernfs_fop_readdir).

A directory of half a million names is worked out in pieces, of names whose nodes are alike: of them only the number is
put into the name and into the inode number.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fakesysfs.kernel.errors import KernelError
from fakesysfs.kernfs.declare import Indexed, Place
from fakesysfs.kernfs.inode import INDEX_MASK, INDEX_SHIFT, Stat, about_of
from fakesysfs.kernfs.order import INDEX_BITS, IndexedOrder, Packed, codes, name_hash

if TYPE_CHECKING:
    from fakesysfs.kernfs.tree import Tree

_FAMILY_SHIFT = 24
_SINGLE = 1 << 29
_CODE_MASK = (1 << INDEX_BITS) - 1
_CHUNK = 256
"""The most names that are worked out together, where nobody asked for more."""
_A_FEW = 16
"""Names that are worked out together when all that were asked for were not enough."""

_hash = functools.lru_cache(maxsize=4096)(name_hash)


class Single(NamedTuple):
    """One name of a directory."""

    name: bytes
    ino: int
    cookie: int
    stat: Stat


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


class DirectoryReader:
    """One open directory: names in kernfs's order, from any cookie on.

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
        self._life = tree.life_of(ino)
        around = tree.group_slot(found)
        if around is None:
            raise KernelError(errno.ENOTDIR, "this is not a directory", "iterate_dir")
        self._around = around
        self._kind = found.kind
        self._about = about_of(found.object)
        self._generation = tree.population.generation
        self._state = self._generation, tree.edits
        self.indexed = bool(found.kind.prefixes(around))
        """Whether the directory has a place for an indexed family."""
        self._order: Sequence[int] | None = None
        self._singles: list[tuple[bytes, int, Place]] = []
        self._families: list[_Family] = []

    def _object(self) -> Any:
        """What the directory is of. As long as nothing came or went anywhere, what it was of before."""
        generation = self._tree.population.generation
        if generation != self._generation:
            found = self._tree.find(self._ino)
            if found is None or self._tree.life_of(self._ino) is not self._life:
                raise KernelError(errno.ENOENT, "the directory was removed", "kernfs_fop_readdir")
            self._kind, self._about, self._generation = found.kind, about_of(found.object), generation
        return self._about

    def _build(self, about: Any) -> Sequence[int]:
        tree, around, kind = self._tree, self._around, self._kind
        singles: list[tuple[bytes, int, Place]] = []
        self._singles = singles
        self._families = []
        order: Any = []
        for place in kind.families(around):
            if isinstance(place.entry, Indexed):
                family = _Family(tree, self._ino, place, len(self._families))
                self._families.append(family)
                keys = family.keys(about)
                if not order:
                    order = keys
                    continue
                for key in keys:
                    self._insert(order, key, family.name(key & INDEX_MASK))
        alone = not order
        for place, value, name in kind.singles(around):
            ino = tree.single(self._ino, about, place)
            if ino is not None:
                key = value << INDEX_BITS | _SINGLE | len(singles)
                singles.append((name, ino, place))
                if alone:
                    order.append(key)
                else:
                    self._insert(order, key, name)
        for place in kind.families(around):
            for text, ino in tree.members(self._ino, about, place):
                name = os.fsencode(text)
                key = _hash(name) << INDEX_BITS | _SINGLE | len(singles)
                singles.append((name, ino, place))
                self._insert(order, key, name)
        return order  # type: ignore[no-any-return]  # a list or an array

    def _insert(self, order: Any, key: int, name: bytes) -> None:
        """Names of equal hash stand in the order of their bytes."""
        value = key >> INDEX_BITS
        start = bisect_left(order, value << INDEX_BITS)
        end = bisect_left(order, value + 1 << INDEX_BITS, lo=start)
        order.insert(bisect_left(order, name, start, end, key=self._name), key)

    def _name(self, key: int) -> bytes:
        code = key & _CODE_MASK
        if code & _SINGLE:
            return self._singles[code & ~_SINGLE][0]
        return self._families[code >> _FAMILY_SHIFT].name(code & INDEX_MASK)

    def entries(self, cookie: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, inode number, cookie) of the names after `cookie` (0: from the start).

        Raises KernelError ENOENT when the directory itself is gone.
        """
        for found in self.listed(cookie):
            if isinstance(found, Single):
                yield found[:3]
            else:
                yield from (entry[1:] for entry in found.entries())

    def listed(self, cookie: int, together: int = _CHUNK) -> Iterator[Single | Members]:
        """The names after `cookie` (0: from the start).

        What is alike is given together: at first at most `together` names, which is what the caller thinks that it
        needs, then a few, then more and more.
        What it found out about one member of a family it takes to hold for all that are alike, as long as nothing
        changes: that must not happen between two steps. Raises KernelError ENOENT when the directory itself is gone.
        """
        about, order = self._object(), self._order
        fresh = cookie == 0 or order is None
        if fresh or order is None:
            self._order = order = self._build(about)
        position = self._after(cookie) if cookie else 0
        state = self._generation, self._tree.edits
        if state != self._state:
            self._state = state
            for family in self._families:
                family.forget()
        more = _A_FEW
        while position < len(order):
            chunk = order[position : position + together]
            position += len(chunk)
            yield from self._in_order(chunk, about, fresh=fresh)
            together, more = more, min(2 * more, _CHUNK)

    def _in_order(self, chunk: Any, about: Any, *, fresh: bool) -> Iterator[Single | Members]:
        """What stands in a piece of the order; `fresh`: that was made just now, so that all single names are there."""
        tree = self._tree
        position = 0
        while position < len(chunk):
            key = chunk[position]
            code = key & _CODE_MASK
            if code & _SINGLE:
                position += 1
                name, ino, place = self._singles[code & ~_SINGLE]
                if fresh or tree.find(ino) is not None:
                    yield Single(name, ino, key, tree.form(ino, place))
                continue
            family = self._families[code >> _FAMILY_SHIFT]
            own = family.own(chunk[position:] if position else chunk)
            position += len(own.keys)
            yield from family.listed(own, about)

    def _after(self, cookie: int) -> int:
        """The position in the order behind a cookie's."""
        order = self._order
        assert order is not None
        value = cookie >> INDEX_BITS
        position = bisect_left(order, value << INDEX_BITS)
        while position < len(order) and order[position] >> INDEX_BITS == value:
            position += 1
            if order[position - 1] == cookie:
                break
        return position


class _Run(NamedTuple):
    """Members of a family that are alike, from `first` to `last`; member n has the inode number `base` + n << 8."""

    first: int
    last: int
    base: int
    stat: Stat


class _Stretch(NamedTuple):
    """Keys of a family that follow one another, the numbers of their members, and the highest of these."""

    keys: array[int]
    numbers: list[int]
    highest: int


def _inos(numbers: list[int], base: int) -> array[int]:
    """`base` + n << 8 for each number n; computed as one number, for that takes a quarter of the time."""
    if base < 0:
        return array("Q", [base + (number << INDEX_SHIFT) for number in numbers])
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

    def keys(self, about: Any) -> array[int]:
        """The keys of all members, and maybe of numbers that are none."""
        runs = list(self._declared.runs(about))
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

    def own(self, keys: array[int]) -> _Stretch:
        """The first keys, as many of the family's as follow one another."""
        high = self._high
        numbers = codes(keys).tolist()
        if high:
            numbers = [code - high for code in numbers]
        highest = max(numbers)
        if highest > INDEX_MASK or (high and min(numbers) < 0):
            end = next(position for position, number in enumerate(numbers) if not 0 <= number <= INDEX_MASK)
            numbers = numbers[:end]
            return _Stretch(keys[:end], numbers, max(numbers))
        return _Stretch(keys, numbers, highest)

    def forget(self) -> None:
        """Something may have changed."""
        self._firsts.clear()
        self._runs.clear()
        self._longest = None
        self._untold.clear()
        self._stats.clear()

    def listed(self, own: _Stretch, about: Any) -> Iterator[Members]:
        """The members that these keys are of."""
        keys, numbers, highest = own
        run = self._longest
        if run is None:
            run = next((found for number in numbers if (found := self._run(about, number)) is not None), None)
            if run is None:
                return
        inos = _inos(numbers, run.base)
        if highest <= run.last and (not run.first or run.first <= min(numbers)):
            yield Members(self._order, numbers, inos, keys, (), run.stat, self._told())
            return
        absent: list[int] = []
        for start, end, stat in self._alike(numbers, run, about, inos, absent):
            gaps = [position - start for position in absent if start <= position < end]
            part = slice(start, end)
            yield Members(self._order, numbers[part], inos[part], keys[part], gaps, stat, self._told())

    def _alike(
        self, numbers: list[int], run: _Run, about: Any, inos: array[int], absent: list[int]
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
                other = self._run(about, number)
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

    def _run(self, about: Any, number: int) -> _Run | None:
        """The members around one, that included, that are alike; None if there is none of that number."""
        position = bisect_right(self._firsts, number) - 1
        if position >= 0 and number <= self._runs[position].last:
            return self._runs[position]
        span = self._declared.run_of(about, number)
        if span is None:
            return None
        tree = self._tree
        if self._declared.directory is not None:
            ino = tree.ino_of(self._declared.directory(about, number))
        else:
            ino = tree.child(self._parent, self._place.slot, number)
        stat = tree.getattr(ino)
        stat = self._stats.setdefault(stat[1:], stat)
        run = _Run(*self._unchanged(span, ino, number), ino - (number << INDEX_SHIFT), stat)
        self._untold.append((run.first, run.last))
        if self._longest is None or run.last - run.first > self._longest.last - self._longest.first:
            self._longest = run
        self._firsts.insert(position + 1, run.first)
        self._runs.insert(position + 1, run)
        return run

    def _unchanged(self, span: tuple[int, int], ino: int, number: int) -> tuple[int, int]:
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
