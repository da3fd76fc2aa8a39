"""What is wrong with the form of a machine file, in the file's words: key, value, what is allowed.

msgspec finds the place and the reason; it names types where a reader wants the value and the
choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

_PLACE = re.compile(r"^(.*?)(?: - at `(?:key in )?\$(.*)`)?$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_FIELD = re.compile(r"field `([^`]+)`")


def explain(error: msgspec.ValidationError, tables: Mapping[str, Any], form: type[msgspec.Struct]) -> str:
    """One sentence "key = value: expected ..." about `tables`, which are not of `form`."""
    match = _PLACE.match(str(error))
    assert match is not None
    reason, path = match[1], match[2] or ""
    value: Any = tables
    kind: Any = form
    for name, number in _STEP.findall(path):
        kind = _inside(kind, name)
        if name:
            value = value.get(name)
        elif number != "...":
            value = value[int(number)]
    key = path.removeprefix(".").removesuffix("[...]")
    field = _FIELD.search(reason)
    if field is not None:
        place = f"{key}.{field[1]}" if key else field[1]
        if "missing" in reason:
            return f"{place}: missing"
        known = ", ".join(sorted(one.encode_name for one in msgspec.structs.fields(_struct(kind))))
        return f"{place}: unknown key, expected one of {known}"
    choices = _choices(kind)
    if choices:
        return f"{key} = {value!r}: expected one of {', '.join(map(str, choices))}"
    return f"{key} = {value!r}: {reason[:1].lower()}{reason[1:].replace('`', '')}"


def _alternatives(kind: Any) -> list[Any]:
    """The type without annotations, or its alternatives without None."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in {None, tuple, dict, Literal}:
        return [kind]
    return [one for part in get_args(kind) if part is not NoneType for one in _alternatives(part)]


def _struct(kind: Any) -> type[msgspec.Struct]:
    found: type[msgspec.Struct] = next(
        one for one in _alternatives(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)
    )
    return found


def _inside(kind: Any, name: str) -> Any:
    """The type of a struct's field, or of what an array or a table of numbers holds."""
    if name:
        return next(field.type for field in msgspec.structs.fields(_struct(kind)) if field.encode_name == name)
    return next(get_args(one)[1 if get_origin(one) is dict else 0] for one in _alternatives(kind) if get_args(one))


def _choices(kind: Any) -> list[Any]:
    return [choice for one in _alternatives(kind) if get_origin(one) is Literal for choice in get_args(one)]
