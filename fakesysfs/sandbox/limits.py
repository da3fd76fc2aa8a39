"""Limits of the system that a run meets when it starts, in words."""

from __future__ import annotations

import errno
import resource

_NO_THREAD = "can't start new thread"
"""What Python's RuntimeError says; it has no errno."""


def reached(error: BaseException) -> str | None:
    """One sentence, naming the limit, if that is what this error comes from."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(reached, error.exceptions)), None)
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EAGAIN or (isinstance(error, RuntimeError) and str(error) == _NO_THREAD):
        limit = _limit(resource.RLIMIT_NPROC)
        return (
            f"no further process or thread can be started: RLIMIT_NPROC is {limit} (`ulimit -u`), "
            "and a container may have less (pids.max of its control group)"
        )
    if number == errno.EMFILE:
        return (
            f"no further file can be opened: RLIMIT_NOFILE is {_limit(resource.RLIMIT_NOFILE)} (`ulimit -n`), raise it"
        )
    return None


def _limit(which: int) -> str:
    soft, _ = resource.getrlimit(which)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
