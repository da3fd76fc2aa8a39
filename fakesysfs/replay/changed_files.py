"""Recording what changed in a tree: the operations of a script's line `changes`.

A recorded operation shows what it answers. What it did to the files is shown by `ls`, `stat` and
`read` lines of everything below some directories that is not as it was at the line `changes` before.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from fakesysfs.replay.recording import Operation
from fakesysfs.replay.target import FileStatus, Target

CXL_ROOTS = ("/sys/devices/platform/ACPI0017:00", "/sys/bus/cxl")
"""Where the CXL devices of a machine are, apart from memN, which are below /sys/bus/cxl/devices by their links."""

_SKIPPED = ("ndbus0", "CDAT", "power")
"""The nd bus below the bridge, whose devices are not CXL's; CDAT, which is binary."""


class ChangedFiles:
    """The tree at the last look, and what a new look finds changed."""

    def __init__(self, target: Target) -> None:
        self._target = target
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
        yield {"op": "note", "text": f"cxl state: {changed} of {len(now)} paths changed"}

    def _look(self) -> dict[str, object]:
        """Each path: names of a directory, a result of a read as a tuple, a link's target, or None."""
        found: dict[str, object] = {}
        waiting = [*CXL_ROOTS, *self._memdevs()]
        files: list[str] = []
        while waiting:
            below: list[str] = []
            for path, names in zip(waiting, self._target.ls_all(waiting), strict=True):
                if isinstance(names, OSError):
                    continue
                found[path] = sorted(names)
                below += [f"{path}/{name}" for name in sorted(names) if name not in _SKIPPED]
            waiting = []
            for path in below:
                mode = self._mode(path)
                if stat.S_ISDIR(mode):
                    waiting.append(path)
                elif stat.S_ISLNK(mode):
                    found[path] = self._target.readlink(path)
                elif mode & stat.S_IRUSR:
                    files.append(path)
                else:
                    found[path] = None
        found |= dict(zip(files, self._target.read_results(files), strict=True))
        return dict(sorted(found.items()))

    def _memdevs(self) -> list[str]:
        devices = "/sys/bus/cxl/devices"
        names = self._target.listed(devices) or []
        links = [self._target.readlink(f"{devices}/{name}") for name in sorted(names) if name.startswith("mem")]
        return [f"/sys/{link.removeprefix('../../../')}" for link in links]

    def _mode(self, path: str) -> int:
        """The mode of a path. It is asked once: no name stands for two types of files."""
        if path not in self._status:
            self._status[path] = self._target.stat(path)
        return self._status[path].mode
