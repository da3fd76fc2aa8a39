"""The pseudo-terminals of a run: what lies at /dev/pts.

/dev/ptmx is a link to pts/ptmx, because the kernel looks for a pseudo-terminal beside the ptmx that was opened
(fs/devpts/inode.c, devpts_acquire): a mount of the single node /dev/ptmx does not work.

Most distributions close the host's pts/ptmx to all but root (its mode is 000). A user who may open it gets the host's
pseudo-terminals. Other users get a devpts of their own, in which the terminals of the command keep their names: the
host's cover those of the same numbers there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

from fakesysfs.sandbox import linux

_HOST = "/dev/pts"
_TIOCGPTN = 0x80045430


def mount(directory: str) -> set[int]:
    """Mount the pseudo-terminals on `directory`; returns the descriptors that keep them. Raises OSError."""
    if os.access(f"{_HOST}/ptmx", os.R_OK | os.W_OK):
        linux.mount(_HOST, directory, "", linux.MS_BIND | linux.MS_REC)
        return set()
    linux.mount("devpts", directory, "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "mode=620,ptmxmode=666")
    kept = set()
    for number in _terminals_of_the_caller():
        # Without the name where too many terminals are in use to get this number.
        with contextlib.suppress(OSError):
            kept.add(_take(directory, number))
            linux.mount(f"{_HOST}/{number}", f"{directory}/{number}", "", linux.MS_BIND)
    return kept


def _terminals_of_the_caller() -> set[int]:
    found = set()
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            directory, _, number = os.ttyname(descriptor).rpartition("/")
            if directory == _HOST and number.isdecimal():
                found.add(int(number))
    return found


def _take(directory: str, number: int) -> int:
    """Open new pseudo-terminals, which get the lowest free numbers, until one has this number; the others are freed."""
    others: list[int] = []
    try:
        while True:
            master = os.open(f"{directory}/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            got = struct.unpack("=I", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))[0]
            if got == number:
                return master
            others.append(master)
            if got > number:
                raise FileExistsError(number)
    finally:
        for master in others:
            os.close(master)
