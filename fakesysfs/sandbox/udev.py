"""A real systemd-udevd in a run.

It hears the uevents of the run's network namespace (`netlink.py`); its rules write into the fake.

- /run is a tmpfs, so udevd's sockets and database are private. Without /run/systemd/system udevd does not take its
  parent for systemd: under systemd an idle udevd kills all processes of its control group.
- The rules are in /run/udev/rules.d; the other directories of rules are covered.
- /dev/char is a tmpfs: udevd makes a link there for each device with a node.
- udevd makes the links of SYMLINK rules in the fake's /dev (kernfs/user_entries.py).

Devices that are there at the start get no uevent: run `udevadm trigger`, as a boot does.

The init of a run starts it, or a command that does so itself (fakesysfs/explore starts one for each order).
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from fakesysfs.fuse.descriptors import close_all_but
from fakesysfs.fuse.mount import MountError
from fakesysfs.sandbox import linux

NONE, DISTRIBUTION = "none", "distribution"

LOG = "/run/udevd.log"

_RULE_DIRECTORIES = (
    "/usr/lib/udev/rules.d",
    "/lib/udev/rules.d",
    "/usr/local/lib/udev/rules.d",
    "/run/udev/rules.d",
    "/etc/udev/rules.d",
)
"""Later ones go before earlier ones (udev(7))."""

_DAEMONS = ("/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/sbin/udevd")
_PRIVATE_RULES = "/run/udev/rules.d"
_QUEUE = "/run/udev/queue"
_NOTIFY = "/run/udev/started"
_READY = b"READY=1"
_PATIENCE_SECONDS = 30
_LOG_TAIL = 5


class Udev(NamedTuple):
    """The program of udevd, and its rules by file name."""

    program: str
    rules: Mapping[str, bytes]


class UdevdError(Exception):
    """udevd did not start: why."""


def find_program() -> str:
    """The program of udevd. Raises MountError."""
    program = next((path for path in _DAEMONS if os.access(path, os.X_OK)), None)
    if program is None:
        raise MountError("systemd-udevd is not installed (Debian: `apt install udev`)", 2)
    return program


def find(rules: Sequence[str]) -> Udev:
    """Find udevd and its rules among the host's files, before the view covers them. Raises MountError.

    `rules`: directories, files, `none`, `distribution`. An empty list means `distribution`.
    """
    program = find_program()
    found: dict[str, bytes] = {}
    if not rules or DISTRIBUTION in rules:
        for directory in _RULE_DIRECTORIES:
            found.update({path.name: path.read_bytes() for path in _rules_in(Path(directory))})
    given: dict[str, Path] = {}
    try:
        for place in rules:
            if place not in {NONE, DISTRIBUTION}:
                for path in _rules_at(Path(place)):
                    if path.name in given:
                        why = f"{path}: {given[path.name]} has the same name; rename one of them"
                        raise MountError(why, 2)
                    given[path.name] = path
        found.update({name: path.read_bytes() for name, path in given.items()})
    except OSError as error:
        raise MountError(f"{error.filename}: {error.strerror}", 2) from None
    return Udev(program, found)


def _rules_at(place: Path) -> list[Path]:
    # not exists() and is_dir(): since Python 3.14 they are False where a directory is closed
    try:
        is_directory = stat.S_ISDIR(place.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MountError(f"{place}: {error.strerror}", 2) from None
    if is_directory:
        found = _rules_in(place)
        if not found:
            raise MountError(f"{place}: no file in this directory ends in .rules", 2)
        return found
    if place.suffix != ".rules":
        raise MountError(f"{place}: udev reads only files that end in .rules", 2)
    return [place]


def _rules_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.rules") if path.is_file())


def prepare(udev: Udev) -> None:
    """In the inner mount namespace, once the view is there. Raises OSError."""
    rules = [path for path in _RULE_DIRECTORIES if os.path.realpath(path) == path and os.path.isdir(path)]  # noqa: PTH112
    for directory in ("/run", "/dev/char", *rules):
        if os.path.isdir(directory):  # noqa: PTH112  /run/udev/rules.d went with /run
            linux.mount("tmpfs", directory, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    private = Path(_PRIVATE_RULES)
    private.mkdir(parents=True)
    for name, text in udev.rules.items():
        (private / name).write_bytes(text)


def start(program: str, environment: Mapping[str, str], options: Sequence[str] = ()) -> int:
    """Start it and wait until it is ready; returns its process id. Raises UdevdError.

    `options` are those of systemd-udevd(8). It must not run yet; what one before has left in /run/udev is removed.
    """
    _remove_what_is_left()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as started:
        started.bind(_NOTIFY)
        pid = os.fork()
        if not pid:
            _be_udevd(program, environment, options)
        ended = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(started, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while True:
                ready = {descriptor for descriptor, _ in poll.poll(_PATIENCE_SECONDS * 1000)}
                if started.fileno() in ready and _READY in started.recv(4096).split(b"\n"):
                    return pid
                if not ready or ended in ready:
                    said = Path(LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:]
                    raise UdevdError(f"{program} did not start: {' / '.join(said) or 'it said nothing'}")
        finally:
            os.close(ended)


def _remove_what_is_left() -> None:
    with os.scandir("/run/udev") as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.path != _PRIVATE_RULES:
                    shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)  # noqa: PTH108  it is a string


def is_busy() -> bool:
    """Whether udevd has an event to process. It removes the file when it has processed the last one."""
    return os.path.lexists(_QUEUE)


def _be_udevd(program: str, environment: Mapping[str, str], options: Sequence[str]) -> NoReturn:
    try:
        os.setsid()
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        close_all_but(set())
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        linux.unblock_signals()
        os.chdir("/")
        told = {**environment, "NOTIFY_SOCKET": _NOTIFY, "SYSTEMD_LOG_TARGET": "console"}
        os.execve(program, ["systemd-udevd", *options], told)  # noqa: S606  no shell is wanted
    except OSError as error:
        os.write(2, f"{program}: {error.strerror}\n".encode())
    finally:
        os._exit(1)
