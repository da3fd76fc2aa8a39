"""Checkpoints of objects: all that can be reached from some roots is put back, in place, to how it was.

A search runs thousands of orders on one machine. To boot it again for each takes as long as the steps of the order.
To put back what has changed takes a tenth of that (docs/performance.md).

The objects need not cooperate. A walk finds what can change: dicts (those of instances too), lists, sets, deques,
slots, cells of closures. A checkpoint keeps a copy of each, and later ones of those that differ from the last
checkpoint. The cycle collector's own walk (`gc.get_referents`) shows which do: a look at the 390 things of the default
machine takes as long as one write. Objects keep their identity; one that was made after a checkpoint is dropped.

What cannot be put back: a coroutine that has begun, or a type that this module does not know. Then no checkpoint is
taken. Not put back are exceptions, and what never changes by the caller's word (`constant`). A thing that never changed
before, and in which a value is replaced by an equal one, counts as unchanged until the two differ: to compare by `==`,
which asks for identity first, takes a twentieth of `is`.
"""

from __future__ import annotations

import enum
import re
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from gc import get_referents
from itertools import chain, count
from operator import is_
from typing import Any, NamedTuple

_HEAP_TYPE = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: the class was made at run time, so its fields are in slots or a dict."""

_VALUES: tuple[type, ...] = (
    *(str, bytes, int, float, complex, types.NoneType, types.EllipsisType, range, enum.Enum, re.Pattern),
    *(type, types.ModuleType, types.CodeType, types.GenericAlias, BaseException),
    count,  # it numbers what has no other order; a number that is left out does no harm
)
_UNCHANGING: tuple[type, ...] = (
    *(tuple, frozenset, partial, types.MappingProxyType),
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType),
)
"""What does not change by itself, and may refer to what does. So do dataclasses that are frozen."""

_LATELY = 100
"""Looks after which a thing that did not move is looked at together with the still ones again."""

_Members = tuple[types.MemberDescriptorType, ...]


class CannotCheckpointError(Exception):
    """Something can be reached that cannot be put back."""


class _Way(NamedTuple):
    """How things of one type are copied and put back."""

    copy: Callable[[Any], Any]
    put_back: Callable[[Any, Any], None]
    look: Callable[[Any], list[Any]] = get_referents
    """What a thing refers to. It differs if the thing does."""


class _Through(NamedTuple):
    """Things of this type do not change; what they refer to may."""

    referents: Callable[[Any], Iterable[Any]]


class _Checkpoint(NamedTuple):
    """What differs from the checkpoint before."""

    changes: dict[int, tuple[Any, Any]]
    """By the number of the thing: a copy from the checkpoint before, and one from this."""
    things: int
    """How many things are known."""
    met: int


class Checkpoints:
    """Checkpoints of all that can be reached from `roots`, each after the one before.

    Things of the types `constant`, and what only they refer to, never change. Raises CannotCheckpointError if not even
    the first checkpoint, number 0, can be taken.
    """

    def __init__(self, roots: Iterable[Any], constant: tuple[type, ...] = ()) -> None:
        self._values = (*_VALUES, *constant)
        self._kinds: dict[type, _Way | _Through | None] = {}
        self._met: dict[int, Any] = {}
        """By id all that was found, without values. It keeps things alive, so that no other one gets such an id."""
        self._things: list[Any] = []
        """All that can change, in the order in which it was found."""
        self._ways: list[_Way] = []
        self._copies: list[Any] = []
        """Of each thing, from the checkpoint where we are."""
        self._seen: list[list[Any]] = []
        """What each refers to there."""
        self._still: list[int] = []
        """Things that never differed; one look compares them all."""
        self._still_things: tuple[Any, ...] = ()
        self._still_seen: list[Any] = []
        self._still_dicts: list[dict[Any, Any]] = []
        """Those among them whose keys can change."""
        self._still_keys: list[Any] = []
        self._moving: list[int] = []
        """Things that differed lately, or are newer than the first checkpoint."""
        self._looks = 0
        self._moved_lately: set[int] = set()
        self._log: list[_Checkpoint] = []
        self.at = 0
        """The number of the checkpoint that was taken or restored last."""
        self._find(roots)
        self._log.append(_Checkpoint({}, len(self._things), len(self._met)))
        self._keep_still(range(len(self._things)))

    def take(self) -> int:
        """Take a checkpoint after the one where we are; later ones are forgotten. Returns its number.

        Raises CannotCheckpointError; then everything stays as it was.
        """
        self._forget_after(self.at)
        changes: dict[int, tuple[Any, Any]] = {}
        moved = self._moved()
        try:
            for number in moved:
                thing = self._things[number]
                changes[number] = self._copies[number], self._ways[number].copy(thing)
                self._find(self._ways[number].look(thing))
        except CannotCheckpointError:
            self._forget_after(self.at)
            raise
        for number, (_, now) in changes.items():
            self._copies[number] = now
            self._seen[number] = self._ways[number].look(self._things[number])
        self._moving += range(self._log[-1].things, len(self._things))
        self._log.append(_Checkpoint(changes, len(self._things), len(self._met)))
        self.at += 1
        return self.at

    def restore(self, number: int) -> None:
        """Put everything back, or on, to how it was at a checkpoint."""
        wanted = {thing: self._copies[thing] for thing in self._moved()}
        for checkpoint in reversed(self._log[number + 1 : self.at + 1]):
            wanted.update((thing, before) for thing, (before, _) in checkpoint.changes.items())
        for checkpoint in self._log[self.at + 1 : number + 1]:
            wanted.update((thing, then) for thing, (_, then) in checkpoint.changes.items())
        for which, copy in wanted.items():
            thing, way = self._things[which], self._ways[which]
            way.put_back(thing, copy)
            self._copies[which] = copy
            self._seen[which] = way.look(thing)
        self.at = number

    # What has changed -------------------------------------------------------------------------------------------------

    def _moved(self) -> list[int]:
        """The things that differ from the checkpoint where we are."""
        known, things, ways, seen = self._log[self.at].things, self._things, self._ways, self._seen
        moved = []
        for number in self._moving:
            if number < known:
                then, now = seen[number], ways[number].look(things[number])
                if len(then) != len(now) or not all(map(is_, then, now)):
                    moved.append(number)
        if get_referents(*self._still_things) != self._still_seen or self._look_at_keys() != self._still_keys:
            begun = [number for number in self._still if ways[number].look(things[number]) != seen[number]]
            self._moving += begun
            moved += begun
            self._keep_still(sorted(set(self._still).difference(begun)))
        self._moved_lately.update(moved)
        self._looks += 1
        if self._looks == _LATELY:
            old = self._log[0].things
            resting = {number for number in self._moving if number < old and number not in self._moved_lately}
            self._moving = [number for number in self._moving if number not in resting]
            self._keep_still(sorted({*self._still, *resting}))
            self._looks = 0
            self._moved_lately.clear()
        return moved

    def _keep_still(self, numbers: Iterable[int]) -> None:
        self._still = list(numbers)
        self._still_things = tuple(self._things[number] for number in self._still)
        self._still_seen = get_referents(*self._still_things)
        self._still_dicts = [self._things[number] for number in self._still if self._ways[number] is _DICT]
        self._still_keys = self._look_at_keys()

    def _look_at_keys(self) -> list[Any]:
        return list(chain.from_iterable(self._still_dicts))

    def _forget_after(self, number: int) -> None:
        """Forget later checkpoints, and the things that only they know."""
        _, things, met = self._log[number]
        del self._log[number + 1 :]
        if len(self._met) == met:
            return
        for listed in (self._things, self._ways, self._copies, self._seen):
            del listed[things:]
        self._moving = [number for number in self._moving if number < things]
        while len(self._met) > met:
            self._met.popitem()

    # What can change --------------------------------------------------------------------------------------------------

    def _find(self, some: Iterable[Any]) -> None:
        """Note these things, and all that they refer to."""
        met, kinds = self._met, self._kinds
        left = list(some)
        while left:
            thing = left.pop()
            kind = type(thing)
            try:
                how = kinds[kind]
            except KeyError:
                how = kinds[kind] = self._how(kind)
            if how is None or id(thing) in met:
                continue
            met[id(thing)] = thing
            if isinstance(how, _Through):
                left += how.referents(thing)
            else:
                left += self._add(thing, how)
            if kind.__dictoffset__ and kind.__flags__ & _HEAP_TYPE:
                fields = vars(thing)
                met[id(fields)] = fields
                left += self._add(fields, _FIELDS)

    def _add(self, thing: Any, way: _Way) -> list[Any]:
        """Add a thing that can change; returns what it refers to."""
        self._things.append(thing)
        self._ways.append(way)
        self._copies.append(way.copy(thing))
        self._seen.append(way.look(thing))
        return self._seen[-1]

    def _how(self, kind: type) -> _Way | _Through | None:
        """How things of a type are kept; None for values."""
        if issubclass(kind, self._values):
            return None
        if kind is types.FunctionType:
            return _Through(_of_function)
        if issubclass(kind, _UNCHANGING) or getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
            return _Through(get_referents)
        if kind in _WAYS:
            return _WAYS[kind]
        if not all(base is object or base.__flags__ & _HEAP_TYPE for base in kind.__mro__):
            raise CannotCheckpointError(f"{kind.__module__}.{kind.__qualname__} cannot be put back")
        members = tuple(member for base in kind.__mro__ for member in vars(base).values() if type(member) is _MEMBER)
        if members:
            return _Way(partial(_copy_slots, members), partial(_put_slots_back, members))
        return _Through(_nothing)


_MEMBER = types.MemberDescriptorType
_NOTHING = object()
"""What an empty slot or cell holds."""


def _of_function(function: types.FunctionType) -> Iterable[Any]:
    return (*(function.__closure__ or ()), function.__defaults__, function.__kwdefaults__)


def _nothing(_thing: Any) -> Iterable[Any]:
    """All that an instance without slots refers to is in its dict."""
    return ()


def _look_at_dict(thing: dict[Any, Any]) -> list[Any]:
    """The collector passes over keys that are text."""
    return [*thing, *thing.values()]


def _put_dict_back(thing: dict[Any, Any], copy: dict[Any, Any]) -> None:
    if len(thing) != len(copy) or not all(map(is_, thing, copy)):
        dict.clear(thing)
    dict.update(thing, copy)


def _put_list_back(thing: list[Any], copy: list[Any]) -> None:
    thing[:] = copy


def _put_set_back(thing: set[Any], copy: set[Any]) -> None:
    thing.clear()
    thing.update(copy)


def _put_deque_back(thing: deque[Any], copy: list[Any]) -> None:
    thing.clear()
    thing.extend(copy)


def _copy_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _NOTHING


def _put_cell_back(cell: types.CellType, copy: Any) -> None:
    if copy is not _NOTHING:
        cell.cell_contents = copy
    elif _copy_cell(cell) is not _NOTHING:
        del cell.cell_contents


def _copy_slots(members: _Members, thing: Any) -> list[Any]:
    return [_get_slot(member, thing) for member in members]


def _get_slot(member: types.MemberDescriptorType, thing: Any) -> Any:
    try:
        return member.__get__(thing)
    except AttributeError:
        return _NOTHING


def _put_slots_back(members: _Members, thing: Any, copy: list[Any]) -> None:
    for member, value in zip(members, copy, strict=True):
        if value is not _NOTHING:
            member.__set__(thing, value)
        elif _get_slot(member, thing) is not _NOTHING:
            member.__delete__(thing)


_DICT = _Way(dict, _put_dict_back, _look_at_dict)
_FIELDS = _Way(dict, _put_dict_back)
"""Of the dict of an instance, whose keys change with the number of values only."""
_WAYS: dict[type, _Way] = {
    dict: _DICT,
    defaultdict: _DICT,
    list: _Way(list, _put_list_back),
    set: _Way(set, _put_set_back),
    deque: _Way(list, _put_deque_back),
    types.CellType: _Way(_copy_cell, _put_cell_back),
}
