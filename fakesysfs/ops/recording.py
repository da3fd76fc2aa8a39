"""Records what a step of an operation reads and changes, by hooks on the classes of the model.

While a step is recorded, the first access to each field of an object of the model notes the field's
value; of a list, dict, set or deque a copy. At the step's end the values are compared. What differs was
changed, the rest was read. So a lock that was taken and freed again, or a counter that is back, was only read.

The hooks are in the classes only between `install` and `uninstall`; an ordinary mount never has them.
They see what goes through a field: an attribute of an object, or a container that is one. What is
kept elsewhere must record itself (kernel/memory_block.py, BlockRuns). An object that the step itself makes
needs no record: others get to it through a field only, which the step has changed then.
"""

from __future__ import annotations

import enum
import re
import types
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self

from fakesysfs.ops.footprint import EVERYTHING, MACHINE, Footprint

_MISSING = object()
_VALUES = (
    *(str, bytes, int, float, type(None), range, type, enum.Enum, re.Pattern),
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.BuiltinMethodType, partial),
)
"""What does not change in place. So do named tuples, and dataclasses that are frozen."""

_running: _Recording | None = None
"""The step that is recorded now; hooks look here."""
_fields: dict[type, dict[str, bool]] = {}
"""For each class that was met: which names are fields to record."""
_keys: dict[type, Callable[[Any], Hashable] | None] = {}
"""The same for what tells their objects apart."""
_aliases: Mapping[Hashable, Hashable] = {}
_hooks: Hooks | None = None
_installed = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Which classes are recorded, and how places are named."""

    classes: tuple[type, ...]
    """Their subclasses are recorded too."""
    keys: Mapping[type, Callable[[Any], Hashable]]
    """What tells the objects of a class apart, in every boot of the machine, and never changes.

    The objects of other classes are one place together, field by field.
    """
    ignored: Mapping[type, frozenset[str]]
    """Fields that are no place."""
    aliases: Mapping[Hashable, Hashable]
    """Places that are another place: two objects have the same container."""
    recording: tuple[type, ...] = ()
    """Classes whose objects record themselves, or are no place."""


class _Recording:
    """One step."""

    __slots__ = ("_made", "before", "footprint")

    def __init__(self) -> None:
        self.footprint = Footprint()
        self.footprint.read(MACHINE)
        self.before: dict[tuple[int, str], tuple[Any, Any]] = {}
        """By object and field that was read or is about to be written: the object, and the field's value then."""
        self._made: dict[int, Any] = {}
        """Objects that the step has made. They are kept here, so that no other one gets such an id."""

    def made(self, kobj: Any) -> None:
        self._made[id(kobj)] = kobj

    def touch(self, kobj: Any, name: str, value: Any) -> None:
        """A field that is not in `before` is read, or about to be written; `value` is what it has now."""
        if id(kobj) not in self._made:
            self.before[id(kobj), name] = kobj, self._copy(value)

    def _copy(self, value: Any) -> Any:
        kind = type(value)
        if _known_values.get(kind):
            return value
        if kind is dict:
            return [(key, self._copy(inner)) for key, inner in value.items()]  # their order may be seen
        if kind is set:
            return set(value)
        if kind in {list, deque, tuple}:
            return [self._copy(inner) for inner in value]
        if not _is_value(kind):
            self.footprint.write(EVERYTHING)
        return value

    def compare(self) -> Footprint:
        """What was read and what was changed. Nothing is recorded any more."""
        footprint = self.footprint
        for (_, name), (kobj, before) in self.before.items():
            try:
                now = _get(kobj, name)
            except AttributeError:
                now = _MISSING
            same = now is before or self._copy(now) == before
            (footprint.reads if same else footprint.writes).add(_place(kobj, name))
        return footprint


def _place(kobj: Any, name: str) -> Hashable:
    kind = type(kobj)
    try:
        key = _keys[kind]
    except KeyError:
        assert _hooks is not None
        key = _keys[kind] = next((_hooks.keys[base] for base in kind.__mro__ if base in _hooks.keys), None)
    place = (kind.__name__, name) if key is None else (kind.__name__, key(kobj), name)
    return _aliases.get(place, place)


_known_values: dict[type, bool] = {}


def _is_value(kind: type) -> bool:
    """Whether objects of this class do not change in place, or are recorded themselves."""
    known = _known_values.get(kind)
    if known is None:
        assert _hooks is not None
        frozen = getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)
        known = _known_values[kind] = (
            frozen
            or kind is object
            or issubclass(kind, (*_VALUES, *_hooks.classes, *_hooks.recording))
            or (issubclass(kind, tuple) and kind is not tuple)
        )
    return known


def current() -> Footprint | None:
    """The footprint of the step that is recorded now, for what records itself; None without one."""
    return None if _running is None else _running.footprint


def record_everything() -> None:
    """The step that is recorded now, if any, changes what is not recorded place by place."""
    if _running is not None:
        _running.footprint.write(EVERYTHING)


class Recorder:
    """Records one step: `with Recorder() as recorder: ...`, then `recorder.footprint`.

    One within another records its part, and hands that on. Only one thread may record at a time: the
    hooks do not know who runs. Without hooks the footprint is EVERYTHING.
    """

    __slots__ = ("_around", "_recording", "footprint")

    def __enter__(self) -> Self:
        global _running  # noqa: PLW0603  the hooks have no other place to look
        self._recording = _Recording()
        self.footprint = self._recording.footprint
        self._around = _running
        if not _installed:
            self.footprint.write(EVERYTHING)
        _running = self._recording
        return self

    def __exit__(self, *_exc: object) -> None:
        global _running  # noqa: PLW0603
        _running = None
        try:
            self._recording.compare()
        finally:
            _running = self._around
        if self._around is not None:
            self._around.footprint.add(self.footprint)


# Hooks ----------------------------------------------------------------------------------------------------------------


def _is_field(kind: type, name: str) -> bool:
    found = _fields.setdefault(kind, {})[name] = _find_out(kind, name)
    return found


def _find_out(kind: type, name: str) -> bool:
    assert _hooks is not None
    if name.startswith("__") or any(name in _hooks.ignored.get(base, ()) for base in kind.__mro__):
        return False
    for base in kind.__mro__:
        if name in base.__dict__:
            declared = base.__dict__[name]
            return isinstance(declared, types.MemberDescriptorType) or not hasattr(declared, "__get__")
    return True


_get, _set = object.__getattribute__, object.__setattr__


def _getattribute(kobj: Any, name: str) -> Any:
    """Of all that a step does, this is done most often: 20 times in a write of one word."""
    value = _get(kobj, name)
    if _running is not None:
        kind = type(kobj)
        try:
            is_field = _fields[kind][name]
        except KeyError:
            is_field = _is_field(kind, name)
        if is_field and (id(kobj), name) not in _running.before:
            _running.touch(kobj, name, value)
    return value


def _setattr(kobj: Any, name: str, value: Any) -> None:
    if _running is not None:
        kind = type(kobj)
        try:
            is_field = _fields[kind][name]
        except KeyError:
            is_field = _is_field(kind, name)
        if is_field and (id(kobj), name) not in _running.before:
            try:
                before = _get(kobj, name)
            except AttributeError:
                before = _MISSING
            _running.touch(kobj, name, before)
    _set(kobj, name, value)


def _noting_init(init: Callable[..., None]) -> Callable[..., None]:
    def __init__(kobj: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807  as inspect shows it
        if _running is not None:
            _running.made(kobj)
        init(kobj, *arguments, **keywords)

    return __init__


@cache
def _replacements(classes: tuple[type, ...]) -> list[tuple[type, str, Any, Any]]:
    """What the hooks replace: class, name, the hook, what was there."""
    found: list[tuple[type, str, Any, Any]] = []
    for kind in classes:
        if not any(base in classes for base in kind.__mro__[1:]):
            found += [(kind, "__getattribute__", _getattribute, _MISSING), (kind, "__setattr__", _setattr, _MISSING)]
        if "__init__" in kind.__dict__:
            init = kind.__dict__["__init__"]
            found.append((kind, "__init__", _noting_init(init), init))
    assert not any(name in kind.__dict__ for kind, name, _, before in found if before is _MISSING)
    return found


def install(hooks: Hooks) -> None:
    """Put the hooks into the classes, until as many calls of `uninstall`. A process has one set of hooks."""
    global _hooks, _aliases, _installed  # noqa: PLW0603
    _installed += 1
    if _installed > 1:
        return
    _hooks, _aliases = hooks, hooks.aliases
    for kind, name, hook, _ in _replacements(hooks.classes):
        setattr(kind, name, hook)


def uninstall() -> None:
    """Take the hooks out after the last user."""
    global _installed  # noqa: PLW0603
    _installed -= 1
    if _installed:
        return
    assert _hooks is not None
    for kind, name, _, before in _replacements(_hooks.classes):
        if before is _MISSING:
            delattr(kind, name)
        else:
            setattr(kind, name, before)


def classes_of(modules: Iterable[types.ModuleType], without: tuple[type, ...]) -> tuple[type, ...]:
    """The classes of these modules whose objects can change, and their bases before them."""
    found = [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
        and kind.__module__ == module.__name__
        and not issubclass(kind, (tuple, enum.Enum, BaseException, *without))
        and not getattr(kind, "_is_protocol", False)
        and not getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)
    ]
    return tuple(sorted(found, key=lambda kind: len(kind.__mro__)))
