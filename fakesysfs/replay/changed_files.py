"""What changed in a tree: the operations of a script's line `changes`, and the check of a recording's notes of them.

A recorded operation shows what it answers. What it did to the files is shown by `ls`, `stat` and
`read` lines of everything below some directories that is not as it was at the line `changes` before.
The note behind these lines says that nothing else has changed.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence

from fakesysfs.replay.recording import Operation
from fakesysfs.replay.target import FileStatus, Target

CXL_ROOTS = ("/sys/devices/platform/ACPI0017:00", "/sys/bus/cxl")
"""Where the CXL devices of a machine are, apart from memN, which are below /sys/bus/cxl/devices by their links."""

_SKIPPED = ("ndbus0", "CDAT", "power")
"""The nd bus below the bridge, whose devices are not CXL's; CDAT, which is binary."""


NOTE = "cxl state: "
"""How the note begins that says how many paths changed."""

_ROOT0 = "/sys/devices/platform/ACPI0017:00/root0"
FIXED = frozenset(
    {
        "cap_pmem", "cap_ram", "cap_type2", "cap_type3", "dev", "devtype", "firmware_version", "label_storage_size",
        "locked", "modalias", "numa_node", "payload_max", "power", "qos_class", "serial", "subsystem", "target_type",
        "wakeup",
    }
)  # fmt: skip
"""Files of CXL devices that never change."""
_NOT_CHECKED = frozenset({*FIXED, "firmware", "uevent"})
_DAX = re.compile(r"dax(?:_region)?\d")
_LOOKS = frozenset({"ls", "read", "stat"})
_ABSENT = object()


def _end(path: str) -> tuple[str, str]:
    """A device and its file: they tell apart all that changes, whichever links lead there."""
    *_, device, name = path.rsplit("/", 2)
    return device, name


class ChangedFiles:
    """The tree at the last look, and what a new look finds changed."""

    def __init__(self, target: Target, fixed: Collection[str] = (), *, checks: bool = False) -> None:
        """`fixed`: names of files that are left out, because they never change.

        `checks`: only what a note of a recording is checked by (`unmentioned`).
        """
        self._target = target
        self._checks = checks
        self._skipped = frozenset((*_SKIPPED, *(_NOT_CHECKED if checks else fixed)))
        self._status: dict[str, FileStatus] = {}
        self._seen: dict[str, object] = {}

    def operations(self) -> Iterator[Operation]:
        """The operations that show the changes, without answers, and a note that says how many there are."""
        now = self._look()
        gone = [path for path in self._seen if path not in now]
        vanished = set(gone)
        changed = 0
        for path in gone:
            changed += 1
            if path.rpartition("/")[0] not in vanished:
                yield {"op": "stat", "path": path}
        for path, value in now.items():
            if path in self._seen and self._seen[path] == value:
                continue
            changed += 1
            if path not in self._seen:
                yield {"op": "stat", "path": path}
            if isinstance(value, list):
                yield {"op": "ls", "path": path}
            elif isinstance(value, tuple):
                yield {"op": "read", "path": path, "off": None}
        self._seen = now
        yield {"op": "note", "text": f"{NOTE}{changed} of {len(now)} paths changed"}

    def unmentioned(self, operations: Iterable[Operation]) -> list[str]:
        """The paths that are not as they were at the last look, and that no operation looks at.

        Only paths of CXL devices, and of links only that they are there. What happened to the names of a directory
        shows in what is below it. The first look finds none.
        """
        before, now = self._seen, self._look()
        self._seen = now
        if not before:
            return []
        mentioned = {_end(operation["path"]) for operation in operations if operation["op"] in _LOOKS}
        names = {name for _, name in mentioned}
        found: list[str] = []
        for path in sorted(before.keys() | now.keys()):
            value, other = before.get(path, _ABSENT), now.get(path, _ABSENT)
            if value == other:
                continue
            is_there = _ABSENT not in (value, other)
            if is_there and isinstance(other, list):
                continue
            if _end(path) in mentioned or (not is_there and not names.isdisjoint(path.split("/"))):
                continue
            found.append(path)
        return found

    def _look(self) -> dict[str, object]:
        """Each path: names of a directory, a result of a read as a tuple, a link's target, or None."""
        found: dict[str, object] = {}
        waiting = [*([_ROOT0] if self._checks else CXL_ROOTS), *self._memdevs()]
        files: list[str] = []
        links: list[str] = []
        while waiting:
            below: list[str] = []
            for path, names in zip(waiting, self._target.ls_all(waiting), strict=True):
                if isinstance(names, OSError):
                    continue
                found[path] = sorted(names)
                below += [f"{path}/{name}" for name in sorted(names) if self._looks_at(name)]
            waiting = []
            for path, mode in zip(below, self._modes(below), strict=True):
                if stat.S_ISDIR(mode):
                    waiting.append(path)
                elif stat.S_ISLNK(mode):
                    links.append(path)
                elif mode & stat.S_IRUSR:
                    files.append(path)
                else:
                    found[path] = None
        targets = [None] * len(links) if self._checks else self._target.readlinks(links)
        found |= dict(zip(links, targets, strict=True))
        found |= dict(zip(files, self._target.read_results(files), strict=True))
        return dict(sorted(found.items()))

    def _looks_at(self, name: str) -> bool:
        return name not in self._skipped and not (self._checks and _DAX.match(name))

    def _memdevs(self) -> list[str]:
        devices = "/sys/bus/cxl/devices"
        names = self._target.listed(devices) or []
        links = self._target.readlinks([f"{devices}/{name}" for name in sorted(names) if name.startswith("mem")])
        return [f"/sys/{link.removeprefix('../../../')}" for link in links]

    def _modes(self, paths: Sequence[str]) -> list[int]:
        """The modes of paths. Each is asked once: no name stands for two types of files."""
        new = [path for path in paths if path not in self._status]
        self._status |= dict(zip(new, self._target.stats(new), strict=True))
        return [self._status[path].mode for path in paths]
