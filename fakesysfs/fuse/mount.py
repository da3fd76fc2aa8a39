"""What must be there before anything is mounted, and how a mount is taken away.

Imports neither pyfuse3 nor trio: a daemon forks after these checks and before those start. Only `import_pyfuse3` does,
which the server calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import os
import shlex
import subprocess
import threading
from pathlib import Path

from fakesysfs.fuse import limits
from fakesysfs.fuse.mount_table import TYPE, Mount, mounted_at, mounts, stacked_at
from fakesysfs.fuse.users import WATCHER, users_of

_DEVICE = "/dev/fuse"
_PATIENCE_SECONDS = 1
_USERS_NAMED = 5

_MNT_FORCE, _MNT_DETACH = 1, 2
_UMOUNT_NOFOLLOW = 8
_libc = ctypes.CDLL(None, use_errno=True)
IN_A_CONTAINER = (
    "in a container it takes `docker run --device /dev/fuse --cap-add SYS_ADMIN` "
    "(where the host has AppArmor, also `--security-opt apparmor=unconfined`)"
)

PYFUSE3 = "pyfuse3>=3.4,<4"
"""The requirement of the extra `mount` in pyproject.toml."""

_OLDEST, _TOO_NEW = (3, 4), (4,)
_INSTALL_PYFUSE3 = (
    f"install it with `pip install '{PYFUSE3}'`, which compiles it "
    "(Debian: first `apt install fuse3 gcc libc6-dev pkg-config libfuse3-dev python3-dev`), "
    "or as Debian 13's package python3-pyfuse3 (docs/install.md)"
)


class MountError(Exception):
    """Why nothing can be mounted, or taken away.

    `status` is the exit status: 2 for wrong use, 1 for the rest.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def as_argument(path: str) -> str:
    """The path as a shell and a command take it, also where it begins with a dash."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def check_limits() -> None:
    """Make sure that this process may have a server's descriptors and memory. Raises MountError."""
    if why := limits.too_small():
        raise MountError(why)


def check_threads() -> None:
    """Make sure that this process can start the threads of a server. Raises MountError."""
    if why := limits.too_few_threads():
        raise MountError(why)


def check(point: str, program: str = "fakesysfs") -> None:
    """Make sure that `point` can be mounted on; mounts whose server died are cleared away.

    Raises MountError. `program` is the command that the message names, as a shell takes it.
    """
    check_library()
    check_device()
    real = os.path.realpath(point)
    if real == "/":
        raise MountError(f"{point}: this would hide the whole system", 2)
    while mounted_at(real) and _is_dead(real):
        _refuse_mounts_inside(point, real)
        take_away_dead(real)
    if mount := mounted_at(real):
        remedy = _whose(mount) or f"`{program} umount {as_argument(point)}` takes it away"
        raise MountError(f"{point}: a fakesysfs is mounted here already; {remedy}")
    try:
        is_directory = os.path.isdir(point) or not os.stat(point)  # noqa: PTH112, PTH116  the reason is wanted
    except OSError as error:
        hint = f"; make it with `mkdir -p {as_argument(point)}`" if error.errno == errno.ENOENT else ""
        raise MountError(f"{point}: {error.strerror}{hint}", 2) from None
    if not is_directory:
        raise MountError(f"{point}: {os.strerror(errno.ENOTDIR)}", 2)


def check_library() -> None:
    """Make sure that pyfuse3 is installed; this does not take the time of its import. Raises MountError."""
    if importlib.util.find_spec("pyfuse3") is None:
        raise MountError(f"a mount needs pyfuse3, which is not installed: {_INSTALL_PYFUSE3}")


def import_pyfuse3() -> None:
    """Import it in the process that serves. Raises MountError where it does not load, or is not `PYFUSE3`."""
    check_library()
    try:
        import pyfuse3  # noqa: PLC0415  see above
    except ImportError as error:
        raise MountError(f"a mount needs pyfuse3, which does not load ({error}): {_INSTALL_PYFUSE3}") from None
    version = pyfuse3.__version__
    if not _OLDEST <= tuple(int(number) for number in version.split(".")[:2]) < _TOO_NEW:
        raise MountError(f"a mount needs {PYFUSE3}, but {version} is installed: {_INSTALL_PYFUSE3}")


def check_device() -> None:
    """Make sure that FUSE can be used. Raises MountError."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
            why = "is missing: load the module with `modprobe fuse`"
        else:
            mode = os.stat(_DEVICE).st_mode & 0o777  # noqa: PTH116
            why = f"may not be opened by user {os.geteuid()} (mode {mode:o}): be root, or `chmod 666 /dev/fuse`"
        raise MountError(f"FUSE does not work here: {_DEVICE} {why}; {IN_A_CONTAINER}", 2) from None


def hides_something(point: str) -> bool:
    """Whether the directory has entries, which a mount over it hides."""
    try:
        with os.scandir(point) as entries:
            return any(entries)
    except OSError:
        return False


def _is_dead(real: str) -> bool:
    """Whether the mount has no server any more. A server that is stopped is not dead.

    Not stat(2): the host answers that from its cache for as long as it likes.
    """
    dead = threading.Event()
    answered = threading.Event()

    def ask() -> None:
        try:
            os.statvfs(real)
        except OSError as error:
            if error.errno in {errno.ENOTCONN, errno.ECONNABORTED}:
                dead.set()
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE_SECONDS)
    return dead.is_set() or (not answered.is_set() and _a_killed_server_is_held())


def _a_killed_server_is_held() -> bool:
    """Whether there is a server that was killed and cannot end, as a thread of it waits for a directory's lock.

    A client has the lock and waits for this server's answer. /proc shows such a server as a zombie with a thread.
    """
    with contextlib.suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and is_zombie(int(entry.name)):
                for thread in (entry / "task").iterdir():
                    if _has_fuse_open(thread):
                        return True
    return False


def is_zombie(process: int) -> bool:
    """Whether its first thread has ended, while it was not waited for or other threads live."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2].startswith(b"Z")
    except OSError:
        return False


def _has_fuse_open(thread: Path) -> bool:
    try:
        return any(os.readlink(entry) == _DEVICE for entry in os.scandir(thread / "fd"))  # noqa: PTH115  many
    except OSError:
        return False


def unmount(point: str) -> None:
    """Take away every fake on top at `point`; their servers end by themselves.

    One in use stays, unless its server is dead. Raises MountError.
    """
    real = os.path.realpath(point)
    there = stacked_at(real)
    if all(mount.type != TYPE for mount in there):
        raise MountError(f"{point}: no fakesysfs is mounted here; `findmnt -t {TYPE}` lists where one is")
    if there[-1].type != TYPE:
        first = f"take that away first with `umount {as_argument(point)}`"
        raise MountError(f"{point}: another file system ({there[-1].type}) is mounted over the fakesysfs; {first}")
    while mount := mounted_at(real):
        _refuse_mounts_inside(point, real)
        error = _try_to_unmount(real, lazily=False)
        # the helper of a server that was killed may have been faster (auto_unmount)
        if error is None or mount != mounted_at(real):
            continue
        if _is_dead(real):
            take_away_dead(real)
        elif "busy" in error and _is_only_watched(mount):
            # `fakesysfs watch` sees that it is gone, and closes its files: then the server ends.
            detach(real)
        else:
            raise MountError(f"{point}: {_why_busy(mount) if 'busy' in error else _whose(mount) or error}")


def take_away_dead(real: str) -> None:
    """Take away a mount whose server is dead, at a path without links, and end the requests that its clients wait in.

    Raises MountError.
    """
    mount = mounted_at(real)
    if mount is None:
        return
    # Root may do so by the system call, which may also unmount; the mount's owner by a file, where fusectl is mounted.
    _libc.umount2(os.fsencode(real), _UMOUNT_NOFOLLOW | _MNT_FORCE)
    with contextlib.suppress(OSError):
        Path("/sys/fs/fuse/connections", mount.device.partition(":")[2], "abort").write_text("1", "ascii")
    if mount == mounted_at(real):
        detach(real)


def detach(real: str) -> None:
    """Take away the mount on top at `real`, a path without links, whatever is open in it.

    Raises MountError.
    """
    mount = mounted_at(real)
    error = _try_to_unmount(real, lazily=True)
    if error and mount == mounted_at(real):
        raise MountError(error)


def _refuse_mounts_inside(point: str, real: str) -> None:
    mount = mounted_at(real)
    for inside in mounts():
        if mount and inside.parent == mount.id != inside.id:
            first = f"take that away first with `umount {as_argument(inside.point)}`"
            raise MountError(f"{point}: another file system ({inside.type}) is mounted in the fakesysfs; {first}")


def _try_to_unmount(real: str, *, lazily: bool) -> str | None:
    """The error message if that fails.

    Not by umount(8): it asks the server about the mount, and waits for ever for one that is
    stopped. Users who may not make the system call take fusermount3.
    """
    if _libc.umount2(os.fsencode(real), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazily else 0)) == 0:
        return None
    if (number := ctypes.get_errno()) != errno.EPERM:
        return os.strerror(number)
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", real]
    try:
        done = subprocess.run(command, env=os.environ | {"LC_ALL": "C"}, capture_output=True, check=False)
    except FileNotFoundError:
        return "fusermount3 is not installed, which unmounts for users other than root"
    return os.fsdecode(done.stderr).strip() if done.returncode else None


def _whose(mount: Mount) -> str | None:
    """Who may take it away, where this user may not."""
    if os.geteuid() in {0, mount.user}:
        return None
    return f"user {mount.user} mounted it: only that user and root can take it away"


def _is_only_watched(mount: Mount) -> bool:
    users = {user.command for user in users_of(mount.device)}
    return users == {WATCHER}


def _why_busy(mount: Mount) -> str:
    users = list(users_of(mount.device))
    if not users:
        return (
            "busy: a process of another user has a file of it open, or its working directory there; "
            "root can name it (`fuser -vm`)"
        )
    named = ", ".join(f"{user.pid} ({user.command})" for user in users[:_USERS_NAMED])
    more = f" and {len(users) - _USERS_NAMED} more" if len(users) > _USERS_NAMED else ""
    return f"busy: process {named}{more} has a file of it open, or its working directory there; end that process first"
