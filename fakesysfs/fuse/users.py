"""Which processes use a mount, so that it is busy.

Reads /proc only. The files are not asked: a server that is stopped would not answer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fakesysfs.fuse.mount_table import has_device, parse_mounts

WATCHER = "fakesysfs-watch"
"""The process name of the feed of `fakesysfs watch`, which lets a mount go."""

_PLACES = ("cwd", "root")


class User(NamedTuple):
    """A process and the name of its command."""

    pid: int
    command: str


def users_of(device: str) -> Iterator[User]:
    """Processes that have a file open on the device ("major:minor"), or stand in it.

    Those that this user may not look into are left out, and this one, which may have inherited both.
    """
    processes = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()} - {os.getpid()}
    for process in sorted(processes):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            here = Path(f"/proc/{process}")
            if _uses(here, device):
                yield User(process, (here / "comm").read_text(errors="replace").strip())


def _uses(process: Path, device: str) -> bool:
    table = (process / "mountinfo").read_bytes()
    if not has_device(table, device):
        return False
    mounts = {mount.id for mount in parse_mounts(table) if mount.device == device}
    if any(_mount_of(process / place) in mounts for place in _PLACES):
        return True
    return any(_mount_in(entry) in mounts for entry in (process / "fdinfo").iterdir())


def _mount_of(place: Path) -> str | None:
    """The number of the mount that a directory of the process is on."""
    try:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _mount_in(Path(f"/proc/self/fdinfo/{descriptor}"))
    finally:
        os.close(descriptor)


def _mount_in(info: Path) -> str | None:
    """The number of the mount that an open file is on (proc_pid_fdinfo(5))."""
    try:
        lines = info.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)
