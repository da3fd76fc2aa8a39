"""The limits of this process (getrlimit(2)): whether they let a server start, and in words when one is met.

Imports little: a command looks here first, because with too few descriptors or too little memory
the next import may fail.
"""

from __future__ import annotations

import errno
import resource
import sys
import threading

DESCRIPTORS = 64
"""A server has about 20 open."""

MEMORY_BYTES = 256 << 20
"""Address space: a server maps 115 MiB, and at times twice that for its threads."""

THREADS = 2
"""The threads of a server beside its own, or one of them and fusermount3."""

_USUAL_DESCRIPTORS = 1024

_NO_THREAD = "can't start new thread"
"""What Python's RuntimeError says; it has no errno."""


def too_small() -> str | None:
    """Why no server can start here, or None. Raises a low soft limit of descriptors."""
    soft, hard = map(_finite, resource.getrlimit(resource.RLIMIT_NOFILE))
    if hard < DESCRIPTORS:
        return f"{hard} open files are too few: allow {DESCRIPTORS} or more (`ulimit -n {DESCRIPTORS}`)"
    if soft < _USUAL_DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _USUAL_DESCRIPTORS), hard))
    memory = _finite(resource.getrlimit(resource.RLIMIT_AS)[0])
    if memory < MEMORY_BYTES:
        needed = MEMORY_BYTES >> 10
        return f"{memory >> 10} KiB of memory are too little: allow {needed} or more (`ulimit -v {needed}`)"
    return None


def too_few_threads() -> str | None:
    """Why a server could not go on in this process, or None."""
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(THREADS):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        return f"{THREADS} threads cannot be started: allow more processes (`ulimit -u`) or memory (`ulimit -v`)"
    finally:
        end.set()
        for thread in started:
            thread.join()
    return None


def _finite(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def reached(error: BaseException) -> str | None:
    """One sentence, naming the limit, if that is what this error comes from."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(reached, error.exceptions)), None)
    if isinstance(error, MemoryError):
        return "there is too little memory to start: allow more (`ulimit -v`; memory.max of the control group)"
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
