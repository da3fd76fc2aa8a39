"""The log of a daemon: a file for each mountpoint, below the user's directory for state.

Root may run with the HOME or XDG_STATE_HOME of another user, who can put a link or a FIFO where
the log is opened. So every directory on the way must belong to this user or to root, and the log
to this user.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE_BYTES = 150


def log_file(point: str) -> Path | None:
    """Where the daemon of the mount at `point` logs warnings and worse; None without a home."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111  may fail there
    if not state.startswith("/"):
        return None
    return Path(os.path.realpath(state), "fakesysfs", _name(os.path.realpath(point)))


def _name(real: str) -> str:
    """The end of the path for the reader, and a hash of the whole that makes the name distinct."""
    readable = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in real.strip("/"))
    end = readable.encode()[-_READABLE_BYTES:].decode(errors="ignore")
    return f"{end}-{hashlib.sha256(os.fsencode(real)).hexdigest()[:16]}.log"


def open_log(path: Path) -> int:
    """Open it, empty. Raises OSError, also where another user could have changed what is opened."""
    directory = _open_directory(path.parent)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        log = os.open(path.name, flags, 0o600, dir_fd=directory)
    finally:
        os.close(directory)
    found = os.fstat(log)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
        os.close(log)
        raise PermissionError(f"{path}: not a file of this user alone")
    os.ftruncate(log, 0)
    return log


def _open_directory(path: Path) -> int:
    """Open a directory, made if it is missing. `path` is one without links."""
    directory = os.open("/", _DIRECTORY)
    # Root need not be 0: a user namespace may not map it.
    trusted = {os.geteuid(), os.fstat(directory).st_uid}
    try:
        for name in path.parts[1:]:
            below = _open_or_make(name, directory)
            os.close(directory)
            directory = below
            if os.fstat(directory).st_uid not in trusted:
                raise PermissionError(f"{path}: {name} belongs to another user")
        if os.fstat(directory).st_uid != os.geteuid():
            raise PermissionError(f"{path}: belongs to another user")
    except OSError:
        os.close(directory)
        raise
    return directory


def _open_or_make(name: str, where: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=where)
    except FileNotFoundError:
        os.mkdir(name, 0o700, dir_fd=where)
        return os.open(name, _DIRECTORY, dir_fd=where)
