"""`raw` and `timed` operations: single system calls, on descriptors that stay open across lines.

`calls` is authoritative. Some lines lack the call that their label names (FORMAT.md, Exceptions).
`LABELS` says what to do for such a label, and the recorded result is compared.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import os
import re
from collections.abc import Callable
from typing import Any

from fakesysfs.replay.recording import Operation, Value
from fakesysfs.replay.report import difference
from fakesysfs.replay.target import (
    BlockedError,
    FileStatus,
    NotSupportedError,
    Target,
    errno_name,
    errno_number,
)

Call = dict[str, Any]

_DESCRIPTOR = re.compile(r"fd\d+")
_OWN_DESCRIPTOR = re.compile(r"/proc/self/fd/\d+")
_REOPENED = "fd1"
"""The descriptor that such a path means; its number is the recorder's (FORMAT.md, Exceptions)."""

_STATUS = frozenset({"fstat", "lstat", "stat"})
_FSTAT_COMPARED = (0, 3, 4, 5, 6)
"""Of os.stat_result: mode, nlink, uid, gid, size. Inode, device and times are the guest's."""


class NotOpenError(Exception):
    """A call on a descriptor whose open failed."""


class Descriptors:
    """The descriptors of a session by their recorded names, and the path used last."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.numbers: dict[str, int] = {}
        self.paths: dict[str, str] = {}
        self.last_path = ""

    def open(self, name: str, path: str, flags: int) -> None:
        """Open a file under a recorded name, unless it was opened earlier (`early_opens`)."""
        self.last_path = path
        if name not in self.numbers:
            own = _OWN_DESCRIPTOR.fullmatch(path) is not None
            self.numbers[name] = (
                self.target.reopen(self.numbers[_REOPENED], flags) if own else self.target.open(path, flags)
            )
            self.paths[name] = path

    def close_unused(self, index: int, last_uses: dict[str, int]) -> None:
        """Close what no line after `index` uses, as the recorder did. An open file holds its module."""
        for name in [name for name in self.numbers if last_uses.get(name, index) <= index]:
            self.target.close(self.numbers.pop(name))

    def perform(self, call: Call) -> list[str]:
        """Make one system call. Returns the differences from the recording."""
        what = f"{call['fn']}({', '.join(map(repr, call['args']))})"
        expected: Any = (
            errno_name(errno_number(call["errno"])) if "errno" in call else _comparable(call, call.get("ret"))
        )
        try:
            result = self._call(call)
        except OSError as error:
            got: Any = errno_name(error.errno)
        except BlockedError:
            got = "blocks"
        except NotOpenError:
            got = "not open"
        else:
            got = expected if call["fn"] == "open" and "errno" not in call else _comparable(call, result)
        return difference(what, expected, got)

    def _call(self, call: Call) -> Value:
        name, arguments = call["fn"], _positional(call)
        target = self.target
        if name == "open":
            return self.open(call.get("ret", ""), arguments[0], arguments[1])
        if isinstance(arguments[0], str) and _DESCRIPTOR.fullmatch(arguments[0]):
            if arguments[0] not in self.numbers:
                raise NotOpenError
            number = self.numbers[arguments[0]]
            self.last_path = self.paths[arguments[0]]
            rest = arguments[1:]
            if name == "close":
                del self.numbers[arguments[0]]
                return target.close(number)
            if name in {"read", "pread"}:
                return target.read(number, *rest)
            if name in {"write", "pwrite"}:
                return target.write(number, rest[0].encode("latin-1"), *rest[1:])
            if name == "writev":
                return target.call(name, number, [part.encode("latin-1") for part in rest[0]])
            return target.call(name, number, *rest)
        self.last_path = arguments[0]
        if name == "setxattr":
            arguments[2] = arguments[2].encode("latin-1")
        if name == "readlink":
            return target.readlink(arguments[0])
        if name == "listdir":
            return target.ls(arguments[0])
        if name == "lstat":
            return target.stat(arguments[0])
        return target.call(name, *arguments)


_BY_KEYWORD_ONLY = frozenset({"dir_fd", "src_dir_fd", "dst_dir_fd", "follow_symlinks"})


def _positional(call: Call) -> list[Value]:
    """The arguments in the order of Python's function, without keyword-only ones such as dir_fd."""
    keywords = call.get("kw")
    if not keywords:
        return list(call["args"])
    try:
        signature = inspect.signature(getattr(os, call["fn"]))
    except ValueError:  # some functions have none that inspect can read: utime, and since 3.13 chmod
        return [*call["args"], *(value for name, value in keywords.items() if name not in _BY_KEYWORD_ONLY)]
    return list(signature.bind(*call["args"], **keywords).args)


def _comparable(call: Call, value: Value) -> Value:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, FileStatus):
        return list(value)
    if call["fn"] in _STATUS and isinstance(value, list):
        return [value[position] for position in _FSTAT_COMPARED]
    if call["fn"] == "listdir" and isinstance(value, list):
        return sorted(value)
    return value


def early_opens(operations: list[Operation]) -> dict[int, list[Call]]:
    """Index of an operation -> the opens to do before it.

    Where the call after an open in a `raw` operation is ENODEV, the open was done before the
    preceding unbind (FORMAT.md, Exceptions).
    """
    early: dict[int, list[Call]] = {}
    unbind: int | None = None
    for index, operation in enumerate(operations):
        if operation["op"] == "write" and operation["path"].endswith("/unbind"):
            unbind = index
        calls = operation.get("calls", ()) if operation["op"] == "raw" else ()
        for call, following in itertools.pairwise(calls):
            if call["fn"] == "open" and following.get("errno") == "ENODEV" and unbind is not None:
                early.setdefault(unbind, []).append(call)
    return early


def last_uses(operations: list[Operation]) -> dict[str, int]:
    """Name of a descriptor -> index of the last operation that uses it."""
    found: dict[str, int] = {}
    for index, operation in enumerate(operations):
        for call in operation.get("calls", ()):
            for word in (call.get("ret"), *call["args"][:1]):
                if isinstance(word, str) and _OWN_DESCRIPTOR.fullmatch(word):
                    found[_REOPENED] = index
                elif isinstance(word, str) and _DESCRIPTOR.fullmatch(word):
                    found[word] = index
    return found


# Labels -----------------------------------------------------------------------------------------------------------


def _mmap(descriptors: Descriptors, calls: list[Call]) -> Value:
    target = descriptors.target
    opened = next((call for call in calls if call["fn"] == "open"), None)
    path, flags = (opened["args"][0], opened["args"][1]) if opened else (descriptors.last_path, 2)
    number = target.open(path, flags)
    try:
        return target.call("mmap", number)
    finally:
        target.close(number)


def _chmod_and_stat(descriptors: Descriptors, calls: list[Call]) -> Value:
    first, second = calls
    path = first["args"][0]
    results = [descriptors.target.call("chmod", *first["args"]), oct(descriptors.target.stat(path).mode)]
    return (*results, descriptors.target.call("chmod", *second["args"]))


def _chown_and_stat(descriptors: Descriptors, calls: list[Call]) -> Value:
    first, second = calls
    path = first["args"][0]
    results = [descriptors.target.call("chown", *first["args"]), descriptors.target.stat(path).uid]
    return (*results, descriptors.target.call("chown", *second["args"]))


def _listxattr(descriptors: Descriptors, calls: list[Call]) -> Value:
    del calls
    return descriptors.target.call("listxattr", descriptors.last_path)


def _statfs(descriptors: Descriptors, calls: list[Call]) -> Value:
    del calls
    return descriptors.target.call("statfs", descriptors.last_path)


def _flock(descriptors: Descriptors, calls: list[Call]) -> Value:
    path, flags = calls[0]["args"]
    number = descriptors.target.open(path, flags)
    locked = descriptors.target.call("flock", number)
    return locked, descriptors.target.close(number)


def _poll(descriptors: Descriptors, calls: list[Call]) -> Value:
    """The recorded pairs are (descriptor, events). The descriptor's number is the recorder's."""
    path, flags = calls[0]["args"]
    number = descriptors.target.open(path, flags)
    before = descriptors.target.call("poll", number)
    descriptors.target.read(number, 10)
    after = descriptors.target.call("poll", number)
    descriptors.target.close(number)
    return [before], [after]


def _events_only(result: Value) -> Value:
    return tuple([events for _, events in group] for group in result)


def _other_open(descriptors: Descriptors, calls: list[Call]) -> Value:
    del calls
    return descriptors.target.read_file(descriptors.last_path).decode("latin-1")


LABELS: dict[str, Callable[[Descriptors, list[Call]], Any]] = {
    r"mmap": _mmap,
    r"chmod \d+ \+ stat": _chmod_and_stat,
    r"chown \d+:\d+ \+ stat": _chown_and_stat,
    r"listxattr": _listxattr,
    r"statfs type": _statfs,
    r"flock EX": _flock,
    r"poll before read, after read": _poll,
    r"other open sees": _other_open,
}
"""Label (a pattern) -> the function that does what the recorded `calls` lack."""


def labelled(label: str) -> Callable[[Descriptors, list[Call]], Value] | None:
    """The function of a label, or None."""
    return next((action for pattern, action in LABELS.items() if re.fullmatch(pattern, label)), None)


def by_label(descriptors: Descriptors, operation: Operation) -> list[str]:
    """Do what the label says. Returns the differences from the recorded result."""
    action = labelled(operation["label"])
    if action is None:
        raise NotSupportedError(f"raw operation without calls: {operation['label']}")
    calls = operation.get("calls", [])
    for call in calls:
        if call["fn"] == "close" and call["args"][0] in descriptors.numbers:
            descriptors.perform(call)
    recorded = operation.get("result", operation.get("errno"))
    try:
        got: Any = action(descriptors, calls)
    except OSError as error:
        got = errno_name(error.errno)
    return difference(operation["label"], _parsed(recorded, action), got)


def _parsed(recorded: Value, action: Callable[..., Value]) -> Value:
    """A recorded result as a value. It was recorded as Python prints it, or as `ENAME (text)`."""
    value = recorded
    if isinstance(recorded, str):
        named = re.match(r"(E[A-Z0-9]+)( \(|$)", recorded)
        if named is not None:
            return named[1]
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(recorded)
        if action is _other_open:
            return recorded
    return _events_only(value) if action is _poll else value
