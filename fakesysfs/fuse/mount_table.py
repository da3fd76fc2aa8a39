"""The table of mounts of a process: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

TYPE = "fuse.fakesysfs"


class Mount(NamedTuple):
    """A line of the table of mounts."""

    id: str
    parent: str
    device: str
    root: str
    """The directory of the file system that is mounted: "/" for all of it."""
    point: str
    type: str
    user: int | None
    """Who mounted it, where that is FUSE's option user_id."""


def mounts(process: str = "self") -> list[Mount]:
    """The mounts of the process's namespace."""
    return parse_mounts(Path(f"/proc/{process}/mountinfo").read_bytes())


def parse_mounts(table: bytes) -> list[Mount]:
    """The mounts in a table of the form of proc_pid_mountinfo(5)."""
    found = []
    for line in table.split(b"\n"):
        before, dash, after = line.partition(b" - ")
        if dash:
            fields = before.split(b" ")
            root, point = (
                os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))
                for field in fields[3:5]
            )
            number, parent, device = (field.decode() for field in fields[:3])
            kind, _, options = after.partition(b" ")
            user = re.search(rb"[ ,]user_id=(\d+)", options)
            owner = int(user[1]) if user else None
            found.append(Mount(number, parent, device, root, point, kind.decode(), owner))
    return found


def device_of(table: bytes, mount: str) -> str | None:
    """The device of the mount with that number; None if the table does not have it. Cheaper than to parse it."""
    number = mount.encode()
    for line in table.split(b"\n"):
        fields = line.split(b" ", 3)
        if fields[0] == number:
            return fields[2].decode()
    return None


def has_device(table: bytes, device: str) -> bool:
    """Whether a table has a mount of that device number ("major:minor"). Cheaper than to parse it."""
    field = f" {device} ".encode()
    return any(field in line.partition(b" - ")[0] for line in table.split(b"\n"))


def stacked_at(real: str, process: str = "self") -> list[Mount]:
    """The mounts at `real`, a path without links: the one on top, which is seen there, comes last.

    `process` is whose table of mounts is read.

    Walks from the root, as the kernel does, because a mount may be hidden by one over a directory
    above it. Touches nothing but the table: a server may ask for its own mount.
    """
    table = mounts(process)
    known = {mount.id for mount in table}
    below = [mount for mount in table if mount.parent not in known or mount.parent == mount.id]
    found = []
    while on_the_way := [mount for mount in below if f"{real}/".startswith(f"{mount.point.rstrip('/')}/")]:
        next_one = min(on_the_way, key=lambda mount: len(mount.point))
        if next_one.point == real:
            found.append(next_one)
        below = [mount for mount in table if mount.parent == next_one.id != mount.id]
    return found


def mounted_at(real: str, process: str = "self") -> Mount | None:
    """The mount on top at `real`, a path without links, if that is one of ours, dead or alive."""
    there = stacked_at(real, process)
    return there[-1] if there and there[-1].type == TYPE else None
