"""What happened on a machine from some point on, and waiting for something to happen.

A `Watch` keeps only the next number of each of the machine's lists at the time it was made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar

from fakesysfs.testing.records import LogMessage, Refusal, Uevent, Write

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

T = TypeVar("T")

PATIENCE_SECONDS = 60.0


class Lists(Protocol):
    """The part of a machine that a watch uses."""

    def _numbered(self, name: str) -> tuple[int, list[tuple[int, Any]]]:
        """How often the machine was reset, and the entries of a list with their numbers."""


class Events:
    """What Watch and AsyncWatch share."""

    def __init__(self, machine: Lists) -> None:
        self._lists = machine
        self._from: dict[str, tuple[int, int]] = {}
        """How often the machine had been reset, and the number of the list's next entry."""
        for name in ("log", "uevents", "refused", "writes"):
            resets, entries = machine._numbered(name)  # noqa: SLF001  the machine's other half
            self._from[name] = resets, _next_number(entries)

    def _since(self, name: str) -> list[Any]:
        resets, entries = self._lists._numbered(name)  # noqa: SLF001  the same
        then, first = self._from[name]
        if then != resets or _next_number(entries) < first:  # booted again, or emptied by `trace_writes`
            first = 0
        return [record for number, record in entries if number >= first]

    @property
    def log(self) -> list[LogMessage]:
        """The kernel log since then."""
        return self._since("log")

    @property
    def uevents(self) -> list[Uevent]:
        """The uevents since then, in order."""
        return self._since("uevents")

    @property
    def refused(self) -> list[Refusal]:
        """System calls that were refused since then, and why."""
        return self._since("refused")

    @property
    def writes(self) -> list[Write]:
        """Writes that began since then, if they are traced (`trace_writes`)."""
        return self._since("writes")

    def _uevent(self, action: str | None, devpath: str) -> Uevent | None:
        for event in self.uevents:
            if action in {None, event.action} and fnmatchcase(event.devpath, devpath):
                return event
        return None

    def _message(self, pattern: str) -> LogMessage | None:
        return next((message for message in self.log if re.search(pattern, message.text)), None)


class Waiting(Lists, Protocol):
    """A machine with a blocking wait."""

    def wait_until(self, condition: Callable[[], T], timeout: float = PATIENCE_SECONDS, what: str = "") -> T:
        """Return what `condition` returns once that is true."""


class Watch(Events):
    """What happened since `machine.watch()`. After a reset, since that.

    The waits return the first match since then, at once if it has happened already. Each call
    returns the same match; for a later one make another watch. They raise TimeoutError after
    `timeout` seconds; its text lists what happened instead.
    """

    def __init__(self, machine: Waiting) -> None:
        super().__init__(machine)
        self._machine = machine

    def wait_for_uevent(
        self, action: str | None = None, devpath: str = "*", *, timeout: float = PATIENCE_SECONDS
    ) -> Uevent:
        """The first uevent of that action (None: of any).

        `devpath` is a pattern as in fnmatch: `*/memory64`.
        """
        try:
            found = self._machine.wait_until(lambda: self._uevent(action, devpath), timeout)
        except TimeoutError:
            came = [f"{event.action}@{event.devpath}" for event in self.uevents]
            wanted = f"{action or '*'}@{devpath}"
            raise TimeoutError(f"no uevent {wanted} in {timeout:g} seconds, but {_some(came)}") from None
        assert found is not None
        return found

    def wait_for_log(self, pattern: str, *, timeout: float = PATIENCE_SECONDS) -> LogMessage:
        """The first kernel log message in which the regular expression `pattern` is found."""
        try:
            found = self._machine.wait_until(lambda: self._message(pattern), timeout)
        except TimeoutError:
            came = [message.text for message in self.log]
            raise TimeoutError(f"no message {pattern!r} in {timeout:g} seconds, but {_some(came)}") from None
        assert found is not None
        return found


class AwaitingLists(Lists, Protocol):
    """A machine with an awaitable wait."""

    async def _wait_for(self, look: Callable[[], T | None]) -> T:
        """Wait until `look` finds something in the log or among the uevents."""


class AsyncWatch(Events):
    """What happened since `machine.watch()` on an AsyncRunningMachine. After a reset, since that.

    The waits return the first match since then. They have no timeout; the event loop's timeouts end
    them.
    """

    def __init__(self, machine: AwaitingLists) -> None:
        super().__init__(machine)
        self._machine = machine

    async def wait_for_uevent(self, action: str | None = None, devpath: str = "*") -> Uevent:
        """The first uevent of that action (None: of any).

        `devpath` is a pattern as in fnmatch: `*/memory64`.
        """
        return await self._machine._wait_for(lambda: self._uevent(action, devpath))  # noqa: SLF001  the other half

    async def wait_for_log(self, pattern: str) -> LogMessage:
        """The first kernel log message in which the regular expression `pattern` is found."""
        return await self._machine._wait_for(lambda: self._message(pattern))  # noqa: SLF001  the same


def _next_number(entries: list[tuple[int, Any]]) -> int:
    return entries[-1][0] + 1 if entries else 0


_SHOWN = 10


def _some(came: list[str]) -> str:
    if not came:
        return "nothing at all"
    dots = "..., " if len(came) > _SHOWN else ""
    return dots + ", ".join(came[-_SHOWN:])
