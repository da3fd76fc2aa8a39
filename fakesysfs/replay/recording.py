"""Reading sessions and snapshots: the files that tests/recordings/FORMAT.md describes.

A file is a session if its first line has `"op": "header"`, a snapshot if it has `"header"`. Its name
and its folder mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Value = Any
"""A value in a recording or from a system call. It is only compared and printed."""

Operation = dict[str, Any]
"""One line: `op` selects the kind, `i` numbers it."""

KINDS = frozenset(
    {
        "async_end", "async_poll", "async_signal", "async_start", "bg", "bg_kill", "blocks", "collect",
        "fixture", "header", "iomem", "ls", "memtotal", "note", "pinned", "race", "raw", "read",
        "readdir-raw-order", "sh", "stat", "tainted", "tiers", "timed", "write", "x",
    }
)  # fmt: skip
"""All kinds of operations that the format knows."""

MAX_DEPTH = 64
"""Levels of nesting in one line; the recordings use 5."""

MEMDEVS = "memdevs"
"""A key of a header: which PCI device became which CXL memory device, memN -> path."""

INFORMATIVE = frozenset({"header", "note", "x"})
"""Kinds without an action. They are not counted."""


class RecordingError(Exception):
    """A file cannot be read as a recording; the text names the line and the reason."""


@dataclass(frozen=True, slots=True)
class Session:
    """One recorded session. `operations` excludes the header."""

    path: Path
    header: Operation
    operations: list[Operation]

    @property
    def name(self) -> str:
        """The name in reports, e.g. `7.2/07-unmovable`."""
        return f"{self.header['profile']}/{self.header['name']}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All paths of a machine at one moment: `{path: entry}` in the order of the file."""

    path: Path
    header: Operation
    entries: dict[str, Operation]

    @property
    def name(self) -> str:
        """The name in reports, e.g. `snapshot 7.2/00-boot-no-modules`."""
        return f"snapshot {self.header['profile']}/{self.header['name']}"


def load(path: Path) -> Session | Snapshot:
    """Read one file. Raises RecordingError."""
    lines = list(_lines(path))
    if not lines:
        raise RecordingError(
            f"{path}: the file is empty; expected a session or a snapshot (tests/recordings/FORMAT.md)"
        )
    header, rest = lines[0], lines[1:]
    for key in ("profile", "name"):
        _require(path, [header], key, 1)
    if header.get("op") == "header":
        _require(path, [header], "variant", 1)
        _require(path, rest, "op", 2)
        return Session(path, header, rest)
    if "header" in header:
        _require(path, rest, "path", 2)
        return Snapshot(path, header, {entry["path"]: entry for entry in rest})
    raise RecordingError(f"{path}:1: this is not the header of a session or a snapshot (tests/recordings/FORMAT.md)")


def _require(path: Path, lines: list[Operation], key: str, first: int) -> None:
    for number, line in enumerate(lines, first):
        if not isinstance(line.get(key), str):
            raise RecordingError(f"{path}:{number}: the key {key!r} is missing, or its value is not a string")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        value = _parsed(line, f"{path}:{number}")
        if not isinstance(value, dict):
            raise RecordingError(f"{path}:{number}: the line is not a JSON object")
        yield value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: the file cannot be read: {error}") from error


def _parsed(text: str, where: str) -> Any:
    """The JSON value. Raises RecordingError, which names the place `where`.

    The depth is limited, because the parser's own limit depends on the Python version, and because
    the code that compares and prints the value is recursive.
    """
    too_deep = f"{where}: the value is nested too deeply (more than {MAX_DEPTH} levels)"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordingError(f"{where}: the text is not JSON: {error}") from error
    except RecursionError:
        raise RecordingError(too_deep) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper_than(value, MAX_DEPTH):
        raise RecordingError(too_deep)
    return value


def _is_deeper_than(value: Any, levels: int) -> bool:
    inside = [value]
    for _ in range(levels):
        containers = [item for item in inside if isinstance(item, dict | list)]
        if not containers:
            return False
        inside = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return any(isinstance(item, dict | list) for item in inside)


def find(places: list[Path]) -> list[Path]:
    """All `*.jsonl` files in `places`, sorted by path in each place.

    Raises RecordingError for a place without any.
    """
    found: list[Path] = []
    for place in places:
        files = [place] if place.is_file() else sorted(place.rglob("*.jsonl"))
        if not files:
            raise RecordingError(
                f"{place}: there is no recording (*.jsonl) here" if place.exists() else f"{place}: no such file"
            )
        found += files
    return found


def default_places(start: Path) -> list[Path]:
    """The folders tests/sessions and tests/recordings that exist in the checkout around `start`."""
    for directory in (start, *start.parents):
        tests = directory / "tests"
        places = [tests / name for name in ("sessions", "recordings") if (tests / name).is_dir()]
        if places and (directory / "pyproject.toml").is_file():
            return places
    return []


def machine_facts(path: Path) -> dict[str, Any] | None:
    """The machine.json that belongs to a recording, or None. Raises RecordingError."""
    for directory in path.resolve().parents:
        for candidate in (directory / "machine.json", directory / "recordings" / "machine.json"):
            if candidate.is_file():
                facts = _parsed(_text(candidate), str(candidate))
                return facts if isinstance(facts, dict) else None
    return None
