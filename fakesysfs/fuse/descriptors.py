"""The file descriptors that a process inherited."""

from __future__ import annotations

import contextlib
import os

_LAST_STANDARD_DESCRIPTOR = 2


def have_standard_descriptors() -> None:
    """Open 0, 1 and 2 where the caller closed them, so that no other file gets their numbers.

    Takes an empty file in memory: /dev/null may be missing, and the caller is to say why.
    """
    for number in range(_LAST_STANDARD_DESCRIPTOR + 1):
        try:
            os.fstat(number)
        except OSError:
            opened = os.memfd_create("closed by the caller")
            assert opened == number, "the lowest number that is free"


def point_at_null(*descriptors: int) -> None:
    """Exchange open files for /dev/null: pipes of the command must end when the command closes them."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    if null not in descriptors:
        os.close(null)


def close_all_but(kept: set[int]) -> None:
    """Close all descriptors from 3 on but these.

    /proc lists them. Their limit would not do: it may be a thousand million, and it may have been
    lowered below the number of an open descriptor.
    """
    try:
        listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  numbers are wanted
    except OSError:
        _close_up_to_the_limit(kept)
        return
    for descriptor in listed:
        if descriptor > _LAST_STANDARD_DESCRIPTOR and descriptor not in kept:
            with contextlib.suppress(OSError):  # the one that listed them is closed already
                os.close(descriptor)


def _close_up_to_the_limit(kept: set[int]) -> None:
    first = _LAST_STANDARD_DESCRIPTOR + 1
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
