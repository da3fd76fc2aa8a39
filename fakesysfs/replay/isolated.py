"""Child processes that replay, and the namespaces in which one may mount.

Each recording has a process of its own: pyfuse3 has one session per process, and a process that
dies takes no other recording along. A recording that needs a mount also has namespaces of its own,
made as `fakesysfs run` makes them (sandbox). What it mounts and starts ends with its process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from typing import Generic, NoReturn, TypeVar

from fakesysfs.fuse.mount import IN_A_CONTAINER, MountError, check_device, check_library
from fakesysfs.replay.target import NotSupportedError
from fakesysfs.sandbox import linux, namespaces, view
from fakesysfs.sandbox.init import kill_descendants

T = TypeVar("T")

_FORK = multiprocessing.get_context("fork")
"""What a child calls cannot be pickled, so it is not spawned. What it returns is pickled."""


class ChildError(Exception):
    """A child process has no result to give; the text says why."""


class Child(Generic[T]):
    """A child process that calls `action`. It dies with the thread that starts it."""

    def __init__(self, action: Callable[[], T]) -> None:
        self.reader, writer = _FORK.Pipe(duplex=False)
        """It is readable once the child has a result or is dead."""
        self._process = _FORK.Process(target=_send_result, args=(action, writer))
        self._process.start()
        writer.close()
        self._received: tuple[T, None] | tuple[None, Exception] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether `receive` has been called."""
        return self._received is not None

    def receive(self) -> None:
        """Wait for the result and for the end of the process."""
        try:
            self._received = self.reader.recv()
        except (EOFError, OSError):
            self._process.join()
            self._received = None, ChildError(f"its process died (exit code {self._process.exitcode})")
        self.reader.close()
        self._process.join()

    def result(self) -> T:
        """Return what `action` returned. Raises the MountError, NotSupportedError or ChildError that it raised.

        Raises ChildError where it raised another exception, and where the process died.
        """
        if self._received is None:
            self.receive()
        assert self._received is not None
        value, error = self._received
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # no error, so a value

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.join()


def _send_result(action: Callable[[], object], writer: Connection) -> NoReturn:
    """Call `action`, send the result and end.

    Nothing that the process has set up is run at its end.
    """
    die_with_parent()
    try:
        result: tuple[object, Exception | None] = action(), None
    except (MountError, NotSupportedError, ChildError) as error:
        result = None, error
    except BaseException as error:  # noqa: BLE001  the parent reports it
        place = traceback.extract_tb(error.__traceback__)[-1]
        result = None, ChildError(f"bug: {error!r} at {place.filename}:{place.lineno}")
    with contextlib.suppress(OSError):
        writer.send(result)
    os._exit(0)


def in_order(actions: Iterable[Callable[[], T]], jobs: int) -> Generator[Child[T], None, None]:
    """Call each action in a child process, `jobs` of them at the same time.

    Yields the ended children in order.
    """
    remaining = iter(actions)
    children: deque[Child[T]] = deque()
    try:
        while True:
            running = {child.reader: child for child in children if not child.ended}
            for action in itertools.islice(remaining, jobs - len(running)):
                child = Child(action)
                children.append(child)
                running[child.reader] = child
            if not running:
                return
            for reader in multiprocessing.connection.wait(list(running)):
                running[reader].receive()  # type: ignore[index]  # a Connection, as given
            while children and children[0].ended:
                yield children.popleft()
    finally:
        for child in children:
            child.kill()


def die_with_parent() -> None:
    """Ask for SIGKILL when the parent dies. A new user namespace takes this back."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)


# Namespaces -------------------------------------------------------------------------------------------------------


@functools.cache
def why_not() -> str | None:
    """Why FUSE cannot be mounted here, or None. It is tried once."""
    try:
        check_library()
        check_device()
        in_namespaces(_try_to_mount)
    except (MountError, ChildError) as error:
        return str(error)
    return None


def _try_to_mount() -> None:
    """Mount FUSE without a server. The mount goes with this process."""
    device = os.open("/dev/fuse", os.O_RDWR)
    who = f"user_id={os.getuid()},group_id={os.getgid()}"
    try:
        view.prepare()
        linux.mount("fakesysfs", view.MOUNTPOINT, "fuse", linux.MS_NOSUID, f"fd={device},rootmode=40000,{who}")
    except OSError as error:
        raise MountError(f"FUSE does not work here: {error.strerror}; {IN_A_CONTAINER}") from None


def in_namespaces(action: Callable[[], T]) -> T:
    """Call `action` as the init of new namespaces, and return what it returned.

    Raises MountError where there can be no namespaces, and what `Child.result` raises.
    """
    return Child(lambda: _launch(action)).result()


def _launch(action: Callable[[], T]) -> T:
    """The part of the launcher of a run: the namespaces, the init and the users of the init."""
    plan = namespaces.plan(network=False)
    if not plan.pid:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    namespaces.enter_as_launcher(plan)
    die_with_parent()
    ours, its = _FORK.Pipe()

    def be_init() -> T:
        namespaces.enter_as_init(plan)
        if plan.as_root:
            its.send("ready for users")
            its.recv()
        die_with_parent()
        return action()

    init = Child(be_init)
    its.close()
    if plan.as_root:
        with contextlib.suppress(EOFError):  # the init failed before, and its result says why
            ours.recv()
            namespaces.give_users(init.pid)
            ours.send("users given")
    init.receive()
    if not plan.pid:
        kill_descendants()
    return init.result()
