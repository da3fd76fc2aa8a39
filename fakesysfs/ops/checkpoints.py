"""Checkpoints of objects: all that can be reached from some roots is restored, in place, to what it was.

A search runs thousands of orders on one machine. To restore it takes a tenth of the time of a boot, and the steps with
which an order begins as the one before need not be taken again (docs/performance.md).

The objects need not cooperate. A walk finds what can change: dicts (those of instances too), lists, sets, deques,
slots, cells of closures. A checkpoint keeps a copy of each, and a later checkpoint a copy of each that differs from
the one before. The garbage collector's own walk (`gc.get_referents`) tells which do: for the 390 objects of the
default machine that takes as long as a write does. Objects keep their identity. One that was made after a checkpoint is
dropped.

What cannot be restored: a coroutine, or a type that this module does not know. Then no checkpoint is taken. What is
not restored: exceptions, and what the caller calls `constant`. To compare by `is` takes 25 times as long as by `==`,
which asks for identity first. So a value that is replaced by an equal one, in an object that has not changed lately,
counts as a change only once the two differ.
"""

from __future__ import annotations

import enum
import re
import struct
import sys
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from gc import get_referents
from itertools import chain, count
from operator import is_
from typing import Any, NamedTuple

_HEAP_TYPE = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: the class was made at run time, so its fields are in slots or in a dict."""

_VALUES: tuple[type, ...] = (
    *(str, bytes, int, float, complex, types.NoneType, types.EllipsisType, range, enum.Enum, re.Pattern),
    *(type, types.ModuleType, types.CodeType, types.GenericAlias, BaseException),
    count,  # it numbers what has no other order, so a number that is left out does no harm
)
_IMMUTABLE: tuple[type, ...] = (
    *(tuple, frozenset, partial, types.MappingProxyType),
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType),
)
"""What does not change, and may refer to what does. So are dataclasses that are frozen."""

_FIELDS_ARE_IN_INSTANCES = sys.version_info >= (3, 13)
"""Where the collector finds the fields of an instance that has a dict. In older versions they are in the dict."""

_LATELY = 100
"""An object that did not change in so many comparisons is compared together with the others again."""

_Members = tuple[types.MemberDescriptorType, ...]


class CannotCheckpointError(Exception):
    """Something can be reached that cannot be restored."""


class _Mutable(NamedTuple):
    """How the objects of a type are copied, restored and compared."""

    copy: Callable[[Any], Any]
    restore: Callable[[Any, Any], None]
    referents: Callable[[Any], list[Any]] = get_referents
    """What an object refers to. An object has changed if that differs."""


class _Immutable(NamedTuple):
    """The objects of a type do not change; what they refer to may."""

    referents: Callable[[Any], Iterable[Any]]


class _Checkpoint(NamedTuple):
    """What differs from the checkpoint before."""

    changes: dict[int, tuple[Any, Any]]
    """By the number of the object: its copy of the checkpoint before, and that of this one."""
    objects: int
    """How many objects that can change are known."""
    reached: int


class Checkpoints:
    """Checkpoints of all that can be reached from `roots`, each after the one before.

    Objects of the types `constant`, and what only they refer to, never change. Raises CannotCheckpointError if not even
    the first checkpoint, number 0, can be taken.
    """

    def __init__(self, roots: Iterable[Any], constant: tuple[type, ...] = ()) -> None:
        self._values = (*_VALUES, *constant)
        self._kinds: dict[type, _Mutable | _Immutable | None] = {}
        self._reached: dict[int, Any] = {}
        """All that was found, by id, without values. That keeps it alive, so that nothing else has such an id."""
        self._objects: list[Any] = []
        """Those that can change, in the order in which they were found."""
        self._owners: list[Any] = []
        """Of the dict of an instance the instance, of each other object itself."""
        self._ways: list[_Mutable] = []
        self._copies: list[Any] = []
        """Of each object, that of the current checkpoint."""
        self._referents: list[list[Any]] = []
        """What each refers to there."""
        self._quiet: list[int] = []
        """Objects that have not changed lately: all are compared at once."""
        self._quiet_objects: tuple[Any, ...] = ()
        self._quiet_referents: list[Any] = []
        self._quiet_dicts: list[dict[Any, Any]] = []
        """Those among them whose keys can change."""
        self._quiet_keys: list[Any] = []
        self._busy: list[int] = []
        """Objects that have changed lately, or are newer than the first checkpoint."""
        self._comparisons = 0
        self._changed_lately: set[int] = set()
        self._log: list[_Checkpoint] = []
        self.current = 0
        """The number of the checkpoint that was taken or restored last."""
        self._walk(roots)
        self._log.append(_Checkpoint({}, len(self._objects), len(self._reached)))
        self._keep_quiet(range(len(self._objects)))

    def take(self) -> int:
        """Take a checkpoint after the current one; later ones are forgotten. Returns its number.

        Raises CannotCheckpointError; then everything stays as it was.
        """
        self._forget_later()
        changes: dict[int, tuple[Any, Any]] = {}
        try:
            for number in self._changed():
                way, one = self._ways[number], self._objects[number]
                changes[number] = self._copies[number], way.copy(one)
                self._walk(way.referents(one))
        except CannotCheckpointError:
            self._forget_later()
            raise
        for number, (_, now) in changes.items():
            self._copies[number] = now
            self._referents[number] = self._ways[number].referents(self._objects[number])
        self._busy += range(self._log[-1].objects, len(self._objects))
        self._log.append(_Checkpoint(changes, len(self._objects), len(self._reached)))
        self.current += 1
        return self.current

    def restore(self, number: int) -> None:
        """Make everything what it was at a checkpoint, an earlier or a later one."""
        wanted = {which: self._copies[which] for which in self._changed()}
        for checkpoint in reversed(self._log[number + 1 : self.current + 1]):
            wanted.update((which, before) for which, (before, _) in checkpoint.changes.items())
        for checkpoint in self._log[self.current + 1 : number + 1]:
            wanted.update((which, then) for which, (_, then) in checkpoint.changes.items())
        for which, copy in wanted.items():
            way, one = self._ways[which], self._objects[which]
            way.restore(one, copy)
            self._copies[which] = copy
            self._referents[which] = way.referents(one)
        self.current = number

    def _forget_later(self) -> None:
        """Forget the checkpoints after the current one, and the objects that only they know."""
        _, objects, reached = self._log[self.current]
        del self._log[self.current + 1 :]
        if len(self._reached) == reached:
            return
        for known in (self._objects, self._owners, self._ways, self._copies, self._referents):
            del known[objects:]
        self._busy = [number for number in self._busy if number < objects]
        while len(self._reached) > reached:
            self._reached.popitem()

    # What has changed -------------------------------------------------------------------------------------------------

    def _changed(self) -> list[int]:
        """The objects that differ from the current checkpoint."""
        known, objects, ways, referents = self._log[self.current].objects, self._objects, self._ways, self._referents
        changed = []
        for number in self._busy:
            if number < known:
                then, now = referents[number], ways[number].referents(objects[number])
                if len(then) != len(now) or not all(map(is_, then, now)):
                    changed.append(number)
        if get_referents(*self._quiet_objects) != self._quiet_referents or self._keys_of_quiet() != self._quiet_keys:
            begun = [number for number in self._quiet if ways[number].referents(objects[number]) != referents[number]]
            self._busy += begun
            changed += begun
            self._keep_quiet(sorted(set(self._quiet).difference(begun)))
        self._changed_lately.update(changed)
        self._comparisons += 1
        if self._comparisons == _LATELY:
            self._let_rest()
        return changed

    def _let_rest(self) -> None:
        """Objects that have not changed lately are quiet from now on."""
        old = self._log[0].objects
        resting = {number for number in self._busy if number < old and number not in self._changed_lately}
        self._busy = [number for number in self._busy if number not in resting]
        self._keep_quiet(sorted({*self._quiet, *resting}))
        self._comparisons = 0
        self._changed_lately.clear()

    def _keep_quiet(self, numbers: Iterable[int]) -> None:
        self._quiet = list(numbers)
        some = [self._objects[number] for number in self._quiet]
        if _FIELDS_ARE_IN_INSTANCES:
            some += [self._owners[number] for number in self._quiet if self._ways[number] is _FIELDS]
        self._quiet_objects = tuple(some)
        self._quiet_referents = get_referents(*self._quiet_objects)
        self._quiet_dicts = [self._objects[number] for number in self._quiet if self._ways[number] is _DICT]
        self._quiet_keys = self._keys_of_quiet()

    def _keys_of_quiet(self) -> list[Any]:
        return list(chain.from_iterable(self._quiet_dicts))

    # What can change --------------------------------------------------------------------------------------------------

    def _walk(self, some: Iterable[Any]) -> None:
        """Find what can be reached from these."""
        reached, kinds = self._reached, self._kinds
        left = list(some)
        while left:
            one = left.pop()
            kind = type(one)
            try:
                way = kinds[kind]
            except KeyError:
                way = kinds[kind] = self._way_of(kind)
            if way is None or id(one) in reached:
                continue
            reached[id(one)] = one
            left += way.referents(one) if isinstance(way, _Immutable) else self._add(one, one, way)
            if kind.__dictoffset__ and kind.__flags__ & _HEAP_TYPE:
                fields = vars(one)
                reached[id(fields)] = fields
                left += self._add(fields, one, _FIELDS)

    def _add(self, one: Any, owner: Any, way: _Mutable) -> list[Any]:
        """Add an object that can change. Returns what it refers to."""
        self._objects.append(one)
        self._owners.append(owner)
        self._ways.append(way)
        self._copies.append(way.copy(one))
        self._referents.append(way.referents(one))
        return self._referents[-1]

    def _way_of(self, kind: type) -> _Mutable | _Immutable | None:
        """What to do with the objects of a type; None for values."""
        if issubclass(kind, self._values):
            return None
        if kind is types.FunctionType:
            return _Immutable(_of_function)
        if issubclass(kind, _IMMUTABLE) or getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
            return _Immutable(get_referents)
        if kind in _BUILT_IN:
            return _BUILT_IN[kind]
        if not all(base is object or base.__flags__ & _HEAP_TYPE for base in kind.__mro__):
            raise CannotCheckpointError(f"a {kind.__qualname__} cannot be restored: see fakesysfs/ops/checkpoints.py")
        members = tuple(member for base in kind.__mro__ for member in vars(base).values() if type(member) is _MEMBER)
        if kind.__basicsize__ > object.__basicsize__ + _POINTER * (
            len(members) + 2
        ):  # it hides something, as array does
            raise CannotCheckpointError(f"a {kind.__qualname__} cannot be restored: see fakesysfs/ops/checkpoints.py")
        if members:
            return _Mutable(partial(_copy_slots, members), partial(_restore_slots, members))
        return _Immutable(_of_instance)


_POINTER = struct.calcsize("P")
"""Bytes of a slot. Two more point to the dict and to weak references."""
_MEMBER = types.MemberDescriptorType
_NOTHING = object()
"""What an empty slot or cell holds."""


def _of_function(function: types.FunctionType) -> Iterable[Any]:
    return (*(function.__closure__ or ()), function.__defaults__, function.__kwdefaults__)


def _of_instance(_one: Any) -> Iterable[Any]:
    """All that an instance without slots refers to is in its dict."""
    return ()


def _of_dict(one: dict[Any, Any]) -> list[Any]:
    """The collector passes over keys that are text."""
    return [*one, *one.values()]


def _of_fields(one: dict[str, Any]) -> list[Any]:
    return [*one.values()]


def _restore_dict(one: dict[Any, Any], copy: dict[Any, Any]) -> None:
    if len(one) != len(copy) or not all(map(is_, one, copy)):
        one.clear()
    one.update(copy)


def _restore_list(one: list[Any], copy: list[Any]) -> None:
    one[:] = copy


def _restore_set(one: set[Any], copy: set[Any]) -> None:
    one.clear()
    one.update(copy)


def _restore_deque(one: deque[Any], copy: list[Any]) -> None:
    one.clear()
    one.extend(copy)


def _copy_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _NOTHING


def _restore_cell(cell: types.CellType, copy: Any) -> None:
    if copy is not _NOTHING:
        cell.cell_contents = copy
    elif _copy_cell(cell) is not _NOTHING:
        del cell.cell_contents


def _copy_slots(members: _Members, one: Any) -> list[Any]:
    return [_get_slot(member, one) for member in members]


def _get_slot(member: types.MemberDescriptorType, one: Any) -> Any:
    try:
        return member.__get__(one)
    except AttributeError:
        return _NOTHING


def _restore_slots(members: _Members, one: Any, copy: list[Any]) -> None:
    for member, value in zip(members, copy, strict=True):
        if value is not _NOTHING:
            member.__set__(one, value)
        elif _get_slot(member, one) is not _NOTHING:
            member.__delete__(one)


_DICT = _Mutable(dict, _restore_dict, _of_dict)
_FIELDS = _Mutable(dict, _restore_dict, _of_fields)
"""Of the dict of an instance, whose keys change with the number of values only."""
_BUILT_IN: dict[type, _Mutable] = {
    dict: _DICT,
    defaultdict: _DICT,
    list: _Mutable(list, _restore_list),
    set: _Mutable(set, _restore_set),
    deque: _Mutable(list, _restore_deque),
    types.CellType: _Mutable(_copy_cell, _restore_cell),
}
