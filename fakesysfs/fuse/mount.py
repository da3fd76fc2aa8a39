"""What must be there before anything is mounted, which mounts there are, and how one is taken away.

Imports neither pyfuse3 nor trio: a daemon forks after these checks and before those start.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

TYPE = "fuse.fakesysfs"
_DEVICE = "/dev/fuse"
_TABLE = "/proc/self/mountinfo"
IN_A_CONTAINER = (
    "in a container it takes `docker run --device /dev/fuse --cap-add SYS_ADMIN` "
    "(where the host has AppArmor, also `--security-opt apparmor=unconfined`)"
)


class MountError(Exception):
    """Why nothing can be mounted, or taken away. `status` is the exit status: 2 for wrong use, 1 for the rest."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Mount(NamedTuple):
    """A line of the table of mounts."""

    device: str
    point: str
    type: str


def mounts(table: bytes | None = None) -> list[Mount]:
    """The mounts in `table`, by default that of this process's namespace now (proc_pid_mountinfo(5))."""
    found = []
    for line in (Path(_TABLE).read_bytes() if table is None else table).split(b"\n"):
        before, dash, after = line.partition(b" - ")
        if dash:
            fields = before.split(b" ")
            point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields[4])
            found.append(Mount(fields[2].decode(), os.fsdecode(point), after.split(b" ")[0].decode()))
    return found


def mounted_at(real: str) -> Mount | None:
    """The mount on top at `real`, a path without links, if that is one of ours, dead or alive.

    Touches nothing but the table: a server may ask for its own mount.
    """
    there = [mount for mount in mounts() if mount.point == real]
    return there[-1] if there and there[-1].type == TYPE else None


def check(point: str, program: str = "fakesysfs") -> None:
    """Make sure that `point` can be mounted on; a mount whose server died is cleared away.

    Raises MountError; what to do then says `program`.
    """
    check_device()
    real = os.path.realpath(point)
    if real == "/":
        raise MountError(f"{point}: this would hide the whole system", 2)
    if mounted_at(real) and _is_dead(point):
        unmount(point)
    if mounted_at(real):
        umount = f"{program} umount {shlex.quote(point)}"
        raise MountError(f"{point}: a fakesysfs is mounted here already; `{umount}` takes it away")
    try:
        is_directory = os.path.isdir(point) or not os.stat(point)  # noqa: PTH112, PTH116  the reason is wanted
    except OSError as error:
        hint = f"; make it with `mkdir -p {shlex.quote(point)}`" if error.errno == errno.ENOENT else ""
        raise MountError(f"{point}: {error.strerror}{hint}", 2) from None
    if not is_directory:
        raise MountError(f"{point}: not a directory", 2)


def check_device() -> None:
    """Make sure that FUSE can be used. Raises MountError."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
            why = "is missing: load the module with `modprobe fuse`"
        else:
            mode = oct(os.stat(_DEVICE).st_mode & 0o777)  # noqa: PTH116
            why = f"may not be opened by user {os.geteuid()} (mode {mode}): be root, or `chmod 666 /dev/fuse`"
        raise MountError(f"FUSE does not work here: {_DEVICE} {why}; {IN_A_CONTAINER}", 2) from None


def _is_dead(point: str) -> bool:
    """Whether nobody serves the mount. Not stat(2): the host answers that from its cache for as long as it likes."""
    try:
        os.statvfs(point)
    except OSError as error:
        return error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def unmount(point: str) -> None:
    """Take the mount away, whatever is open in it; its server ends by itself.

    Raises MountError.
    """
    real = os.path.realpath(point)
    if not mounted_at(real):
        raise MountError(f"{point}: no fakesysfs is mounted here")
    helpers = (["fusermount3", "-u", "-z", "--"], ["umount", "-l", "--"])
    errors = []
    for helper in helpers if os.geteuid() else reversed(helpers):
        if shutil.which(helper[0]) is None:
            errors.append(f"{helper[0]} is not installed")
            continue
        done = subprocess.run([*helper, real], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        errors.append(done.stderr.strip())
    if mounted_at(real):  # else the helper of a server that was killed was faster (auto_unmount)
        raise MountError("; ".join(errors))
