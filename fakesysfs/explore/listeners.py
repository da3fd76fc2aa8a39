"""Which programs hear uevents: those with a socket in /proc/net/netlink that belongs to a group.

The kernel's group hears each uevent before the write ends that has sent it. udevd's group (libudev's
monitor "udev") hears of it once udevd has processed it.

Without a socket a program can wait until udevd has nothing to do: `udevadm settle` and `cxl` look at
/run/udev/queue, which is a file of the host. So a step in which udevadm is started counts as one that
hears, and so do the steps of udevadm and cxl. Whether they have to wait or not makes no difference: the step
must conflict with a uevent after it as with one before it.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from fakesysfs.explore.programs import Task
from fakesysfs.ops.footprint import PROCESSED, UEVENTS, Footprint
from fakesysfs.sandbox.linux import OpenedFiles

_NETLINK_KOBJECT_UEVENT = "15"
_OF_THE_KERNEL, _OF_UDEVD = 1, 2
"""Bits of the groups."""
_UDEVADM = "udevadm"
_COMMANDS = frozenset({_UDEVADM, "cxl"})
"""They wait for udevd."""


class Listeners:
    """The programs that hear uevents. `udevd` is the name of udevd among them, which always does; "" without."""

    def __init__(self, udevd: str) -> None:
        self._udevd = udevd
        self._owners: dict[str, str] = {}
        """Sockets by inode number: the program, "" if it is not known."""
        self._heard: dict[str, int] = {}
        self._heard_before: dict[str, int] = {}
        self._udevadm = _started_udevadm() if udevd else None
        """None without inotify. Then each step counts as one that starts udevadm."""
        self._udevadm_ran = False
        """Between the last two looks."""
        self._processes: tuple[str, frozenset[int]] = ("", frozenset())
        """The last one that was made, and those that live."""

    def look(self, tasks: Iterable[Task]) -> int:
        """Look who listens now; returns what anybody hears: UEVENTS, PROCESSED (ops/footprint.py)."""
        found: defaultdict[str, int] = defaultdict(int)
        anybody = UEVENTS | PROCESSED if self._udevd else 0
        for inode, kinds in _sockets():
            if inode not in self._owners:
                self._owners[inode] = _owner(inode, tasks)
            found[self._owners[inode]] |= kinds
            anybody |= kinds
        self._heard_before, self._heard = self._heard, dict(found)
        self._udevadm_ran = self._udevadm is None or self._udevadm.take()
        before, self._processes = self._processes, _processes(tasks)
        if before == self._processes:
            self._udevadm_ran = False  # another run has started it: the file is the host's
        return anybody

    def add_to(self, footprint: Footprint, program: str, command: str) -> None:
        """Add what a step has heard that a command of this program took between the last two looks.

        A socket of which nothing is known counts as everybody's. Any step of udevd may be the last one for an event.
        """
        for heard in (self._heard_before, self._heard):
            footprint.hears |= heard.get(program, 0) | heard.get("", 0)
        if self._udevd and (self._udevadm_ran or command in _COMMANDS):
            footprint.hears |= UEVENTS | PROCESSED
        if program == self._udevd:
            footprint.hears |= UEVENTS
            footprint.notes |= PROCESSED


def _started_udevadm() -> OpenedFiles | None:
    found = (shutil.which(_UDEVADM), shutil.which(_UDEVADM, path="/sbin:/usr/sbin"))
    try:
        return OpenedFiles(path for path in found if path is not None)
    except OSError:
        return None  # a limit of inotify instances


def _processes(tasks: Iterable[Task]) -> tuple[str, frozenset[int]]:
    """The last process that was made in this process's namespace, and the threads that live."""
    last = Path("/proc/loadavg").read_text("ascii").split()[-1]
    return last, frozenset(task.number for task in tasks if not task.ended)


def _sockets() -> Iterator[tuple[str, int]]:
    """The inode numbers of the sockets that hear uevents, and what they hear."""
    for line in Path("/proc/self/net/netlink").read_text("ascii").splitlines()[1:]:
        _, protocol, port, groups, *_, inode = line.split()
        kinds = _kinds(int(groups, 16))
        if protocol == _NETLINK_KOBJECT_UEVENT and port != "0" and kinds:
            yield inode, kinds


def _kinds(groups: int) -> int:
    return UEVENTS * bool(groups & ~_OF_UDEVD) | PROCESSED * bool(groups & ~_OF_THE_KERNEL)


def _owner(inode: str, tasks: Iterable[Task]) -> str:
    target = f"socket:[{inode}]"
    for task in tasks:
        if not task.ended and target in _descriptors(task.number):
            return task.program
    return ""


def _descriptors(process: int) -> Iterator[str]:
    directory = f"/proc/{process}/fd"
    try:
        for name in os.listdir(directory):  # noqa: PTH208  as programs.py
            yield os.readlink(f"{directory}/{name}")  # noqa: PTH115
    except OSError:
        return
