"""Listing a directory: names in kernfs's order, from any cookie on (fs/kernfs/dir.c, kernfs_fop_readdir).

A directory of half a million names is worked out in pieces, of names whose nodes are alike: of them only the number is
put into the name and into the inode number.
"""

from __future__ import annotations

import errno
import functools
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fakesysfs.kernel.errors import KernelError
from fakesysfs.kernfs.declare import Indexed, Place
from fakesysfs.kernfs.inode import INDEX_MASK, INDEX_SHIFT, Stat, about_of
from fakesysfs.kernfs.order import INDEX_BITS, name_hash

if TYPE_CHECKING:
    from fakesysfs.kernfs.tree import Tree

_FAMILY_SHIFT = 24
_SINGLE = 1 << 29
_CODE_MASK = (1 << INDEX_BITS) - 1
_CHUNK = 256
_FEW = 8
"""So many names that are not of the longest run are taken one by one."""

_hash = functools.lru_cache(maxsize=4096)(name_hash)
_NOTHING = Stat(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class Alike(NamedTuple):
    """Names that follow one another in a directory and whose nodes differ in nothing but their inode numbers."""

    names: Sequence[bytes]
    inos: Sequence[int]
    cookies: Sequence[int]
    stat: Stat
    """All of them but for the inode number."""
    runs: Sequence[tuple[int, int]] = ()
    """Members of an indexed family that were found to be there, all names of the family among them (or in what was
    given before).
    """


_alike = tuple.__new__
"""Makes an `Alike`, as `_found` does a `Found`."""


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
        for alike in self.listed(cookie):
            yield from zip(alike.names, alike.inos, alike.cookies, strict=True)

    def listed(self, cookie: int, together: int = _CHUNK) -> Iterator[Alike]:
        """The names after `cookie` (0: from the start), at most so many together that are alike.

        What it found out about one member of a family it takes to hold for all that are alike: nothing may change
        between two steps. Raises KernelError ENOENT when the directory itself is gone.
        """
        about, order = self._object(), self._order
        fresh = cookie == 0 or order is None
        if fresh or order is None:
            self._order = order = self._build(about)
        position = self._after(cookie) if cookie else 0
        for family in self._families:
            family.forget()
        while position < len(order):
            chunk = order[position : position + together]
            position += len(chunk)
            yield from self._in_order(chunk, about, fresh=fresh)

    def _in_order(self, chunk: Sequence[int], about: Any, *, fresh: bool) -> Iterator[Alike]:
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
                    yield _alike(Alike, ((name,), (ino,), (key,), tree.form(ino, place), ()))
                continue
            family = self._families[code >> _FAMILY_SHIFT]
            keys, numbers = family.own(chunk[position:] if position else chunk)
            position += len(keys)
            yield from family.listed(keys, numbers, about)

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


class _Family:
    """An indexed family as one reader sees it: what was looked at once is not looked at again until `forget`."""

    __slots__ = (
        "_declared",
        "_firsts",
        "_format",
        "_high",
        "_longest",
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
        self._format = place.entry.prefix.encode().replace(b"%", b"%%") + b"%d"
        self._firsts: list[int] = []
        self._runs: list[_Run] = []
        self._longest: _Run | None = None
        self._untold: list[tuple[int, int]] = []
        self._stats: dict[tuple[int, ...], Stat] = {}

    def name(self, index: int) -> bytes:
        """The name of one member."""
        return self._format % index

    def keys(self, about: Any) -> array[int]:
        """The keys of all members, and maybe of numbers that are none."""
        runs = list(self._declared.runs(about))
        if not runs:
            return array("Q")
        keys = self._tree.order(self._declared.prefix.encode(), runs[-1][1] + 1)
        high = self._high
        if not high and 2 * sum(last - first + 1 for first, last in runs) >= len(keys):
            return keys[:]
        there = bytearray(len(keys))
        for first, last in runs:
            there[first : last + 1] = b"\1" * (last - first + 1)
        return array("Q", [key | high for key in keys if there[key & INDEX_MASK]])

    def own(self, keys: Sequence[int]) -> tuple[Sequence[int], list[int]]:
        """The first keys, as many of the family's as follow one another, and the numbers of their members."""
        high = self._high
        numbers = [(key & _CODE_MASK) - high for key in keys] if high else [key & _CODE_MASK for key in keys]
        if min(numbers) < 0 or max(numbers) > INDEX_MASK:
            end = next(position for position, number in enumerate(numbers) if not 0 <= number <= INDEX_MASK)
            return keys[:end], numbers[:end]
        return keys, numbers

    def forget(self) -> None:
        """Something may have changed."""
        self._firsts.clear()
        self._runs.clear()
        self._longest = None
        self._untold.clear()
        self._stats.clear()

    def listed(self, keys: Sequence[int], numbers: list[int], about: Any) -> Iterator[Alike]:
        """The members that these keys are of, those that are there."""
        run = self._longest or self._run(about, numbers[0]) or _NO_RUN
        first, last = run.first, run.last
        if first <= min(numbers) and max(numbers) <= last:
            yield self._straight(keys, numbers, run)
            return
        outside = [position for position, number in enumerate(numbers) if not first <= number <= last]
        if len(outside) > _FEW:
            yield from self._mixed(keys, numbers, about)
            return
        start = 0
        for position in outside:
            if start < position:
                yield self._straight(keys[start:position], numbers[start:position], run)
            other = self._run(about, numbers[position])
            start = position + 1
            if other is not None:
                yield self._straight(keys[position:start], numbers[position:start], other)
        if start < len(numbers):
            yield self._straight(keys[start:], numbers[start:], run)

    def _straight(self, keys: Sequence[int], numbers: Sequence[int], run: _Run) -> Alike:
        """Members of one run."""
        form, base = self._format, run.base
        runs, self._untold = self._untold, []
        inodes = [base + (number << INDEX_SHIFT) for number in numbers]
        return Alike([form % number for number in numbers], inodes, keys, run.stat, runs)

    def _mixed(self, keys: Sequence[int], numbers: Sequence[int], about: Any) -> Iterator[Alike]:
        """Members of many runs, in any order."""
        inos: list[int] = []
        start = 0
        first, last, base, stat = _NO_RUN
        for number in numbers:
            if not first <= number <= last:
                run = self._run(about, number)
                if run is None or run.stat is not stat:
                    if inos:
                        yield self._alike(keys, numbers, start, inos, stat)
                    start += len(inos)
                    inos = []
                if run is None:
                    start += 1
                    continue
                first, last, base, stat = run
            inos.append(base + (number << INDEX_SHIFT))
        if inos:
            yield self._alike(keys, numbers, start, inos, stat)

    def _alike(self, keys: Sequence[int], numbers: Sequence[int], start: int, inos: Sequence[int], stat: Stat) -> Alike:
        form, end = self._format, start + len(inos)
        runs, self._untold = self._untold, []
        return Alike([form % number for number in numbers[start:end]], inos, keys[start:end], stat, runs)

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


_NO_RUN = _Run(0, -1, 0, _NOTHING)
