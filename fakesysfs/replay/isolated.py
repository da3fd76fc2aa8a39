"""Playing a session where it may mount: in namespaces of its own, as the init of a `fakesysfs run` has them (sandbox).

Everything that a session mounts and starts ends with the process that played it; what comes out is its return value,
pickled. pyfuse3 has one session per process, so each session has a process of its own anyway.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

from fakesysfs.fuse.mount import MountError, check_device
from fakesysfs.replay.target import NotSupportedError
from fakesysfs.sandbox import linux, namespaces, view
from fakesysfs.sandbox.init import kill_descendants

T = TypeVar("T")


class PlayError(Exception):
    """The process that played ended without a result; the text says how."""


@functools.cache
def why_not() -> str | None:
    """Why nothing can be mounted here, or None: tried once."""
    try:
        check_device()
        in_namespaces(_try_to_mount)
    except (MountError, PlayError) as error:
        return str(error)
    return None


def _try_to_mount() -> None:
    """Mount what nobody serves; it goes with this process."""
    device = os.open("/dev/fuse", os.O_RDWR)
    who = f"user_id={os.getuid()},group_id={os.getgid()}"
    try:
        view.prepare()
        linux.mount("fakesysfs", view.MOUNTPOINT, "fuse", linux.MS_NOSUID, f"fd={device},rootmode=40000,{who}")
    except OSError as error:
        raise MountError(f"FUSE cannot be mounted here: {error.strerror}") from None


def in_process(play: Callable[[], T]) -> tuple[int, int]:
    """Start `play` in a child process: its id, and the descriptor from which `result_of` reads what it returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        _answer(play, writer)
    os.close(writer)
    return child, reader


def result_of(answer: bytes) -> object:
    """What came out of such a process. Raises what `play` raised, or PlayError."""
    if not answer:
        raise PlayError("the process that played the session died")
    result, error = pickle.loads(answer)  # noqa: S301  from our own child
    if error is not None:
        raise error
    return result


def in_namespaces(play: Callable[[], T]) -> T:
    """Call `play` as the init of new namespaces, and return what it returned.

    Raises MountError where they cannot be had, PlayError, or what `play` raised.
    """
    child, reader = in_process(lambda: _launch(play))
    with open(reader, "rb") as file:  # noqa: PTH123  a descriptor
        answer = file.read()
    os.waitpid(child, 0)
    return result_of(answer)  # type: ignore[return-value]  # what `play` returned


def _answer(play: Callable[[], object], writer: int) -> NoReturn:
    """Call `play`, tell what came of it, end."""
    try:
        answer = pickle.dumps((play(), None))
    except (MountError, NotSupportedError, PlayError) as error:
        answer = pickle.dumps((None, error))
    except BaseException as error:  # noqa: BLE001  nothing may get out of the fork
        place = traceback.extract_tb(error.__traceback__)[-1]
        answer = pickle.dumps((None, PlayError(f"bug: {error!r} at {place.filename}:{place.lineno}")))
    with contextlib.suppress(OSError), open(writer, "wb") as file:
        file.write(answer)
    os._exit(0)


def _launch(play: Callable[[], T]) -> object:
    """What the launcher of a run does: the namespaces and their users. The init's answer is handed on."""
    plan = namespaces.plan(network=False)
    if not plan.pid:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    namespaces.enter_as_launcher(plan)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a new user namespace takes it back
    ready, go = os.pipe(), os.pipe()

    def be_init() -> T:
        namespaces.enter_as_init(plan)
        if plan.as_root:
            os.write(ready[1], b"users")
            os.read(go[0], 1)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        return play()

    child, reader = in_process(be_init)
    os.close(ready[1])
    if plan.as_root and os.read(ready[0], 8):
        namespaces.give_users(child)
        os.write(go[1], b"1")
    with open(reader, "rb") as file:  # noqa: PTH123  a descriptor
        answer = file.read()
    os.waitpid(child, 0)
    if not plan.pid:
        kill_descendants()
    return result_of(answer)
