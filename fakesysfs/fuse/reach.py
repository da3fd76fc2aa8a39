"""Ends a server whose mount no other process can reach.

A mount made inside `unshare -m` is in that mount namespace only. The server is a process of the namespace and keeps it
alive, so the kernel never takes the mount away. So the server looks which other processes have its mount in their
table of mounts (/proc/PID/mountinfo), and ends when none has. It does not end where /proc hides the processes of
others (`hidepid`), as it cannot know.

Usually process 1 has the mount, and the server watches nothing. Else it watches one such process by a pidfd; when that
ends it looks for the next.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import trio

from fakesysfs.fuse.mount_table import has_device

RETRY_SECONDS = 5.0
"""How long to wait before the next try where /proc cannot be read or a process cannot be watched."""


async def until_unreachable(device: str) -> None:
    """Wait until no other process has the mount of that device number in its table.

    For ever if process 1 has it, or if this process may not know.
    """
    if not os.access("/proc/1/mountinfo", os.R_OK):
        await trio.sleep_forever()
    while True:
        try:
            other = next(_processes_with(device), None)
            if other is None:
                return
            if other == 1:
                await trio.sleep_forever()
            watched = os.pidfd_open(other)
        except ProcessLookupError:
            continue
        except OSError:
            await trio.sleep(RETRY_SECONDS)
            continue
        try:
            await trio.lowlevel.wait_readable(watched)
        finally:
            os.close(watched)


def _processes_with(device: str) -> Iterator[int]:
    """The processes, this one and its children excepted, whose table has that device.

    The children are libfuse's helpers. Raises OSError where /proc cannot be read.
    """
    own = os.getpid()
    with os.scandir("/proc") as entries:
        numbers = sorted(int(entry.name) for entry in entries if entry.name.isdecimal())
    for number in numbers:
        if number != own and _has(number, device) and _parent(number) != own:
            yield number


def _has(process: int, device: str) -> bool:
    try:
        with open(f"/proc/{process}/mountinfo", "rb") as table:  # noqa: PTH123  many times a look
            return has_device(table.read(), device)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    except OSError as error:
        if error.errno == errno.EINVAL:  # a zombie has no namespace
            return False
        raise


def _parent(process: int) -> int:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123  as above
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError):
        return 0
