"""What the explorer and its controllers say to each other: lines of JSON on a socket.

A controller runs in the run, beside the programs. So nothing that it says is trusted to be more
than data.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from fakesysfs.explore.order import Step

READY = "ready"


@dataclass(frozen=True, slots=True)
class Task:
    """What is explored: commands for `sh -c`, "" for none."""

    programs: tuple[str, ...]
    setup: str = ""
    check: str = ""
    always: str = ""
    inside: bool = False
    """Whether the kernel's preemption points are steps too."""
    allow_wedged: bool = False
    """Whether an order may leave memory that nobody can take away any more."""
    udev: bool = False
    """Whether a systemd-udevd is one more program."""
    rules: tuple[str, ...] = ()
    """Its rules: files and directories."""
    directory: str = ""
    """Where the commands run; "" is where the explorer runs."""

    @classmethod
    def of(cls, said: dict[str, Any]) -> Task:
        """A task as JSON holds it. Raises TypeError if it is no task."""
        return cls(**{**said, "programs": tuple(said["programs"]), "rules": tuple(said["rules"])})


class Request(NamedTuple):
    """One order to run (see `Guide`)."""

    schedule: Sequence[str]
    loosely: bool
    longest: int | None
    until: int | None = None
    """Start a shell before this step, counted from 1."""
    shown: bool = False
    """Whether the programs' output is shown."""
    described: bool = False
    """Whether the steps say what they changed."""
    recorded: bool = False
    """Whether what the steps read and changed is recorded."""
    sleep: dict[str, list[Any]] | None = None
    """Of a `SleepingGuide`: packed footprints."""
    order_matters: int = 0
    recorded_from: int = 0
    """See `Guide`."""


@dataclass(slots=True)
class Ran:
    """One order that was run."""

    steps: list[Step] = field(default_factory=list)
    runnable: list[tuple[str, ...]] = field(default_factory=list)
    """For each step who could have taken it; one more if nobody was allowed to go on."""
    why: str | None = None
    kind: str = ""
    diverged: tuple[str, str] | None = None
    """What was expected instead of what was found, if the schedule could not be followed."""
    too_long: bool = False
    asleep: bool = False
    order_is_read: int = 0
    """See `Order`."""
    footprints: list[list[Any] | None] = field(default_factory=list)
    """For each step what it read and changed, packed."""
    error: str = ""
    """Why the order could not be run at all."""


class Line:
    """One end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._file = end.makefile("rwb")
        self._socket = end

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it. Raises OSError if something that was said could not be sent."""
        try:
            self._file.close()
        finally:
            self._socket.close()

    def say(self, what: object) -> None:
        """Send one value that JSON can hold. Raises OSError if the other end is gone."""
        self._file.write(json.dumps(what).encode() + b"\n")
        self._file.flush()

    def hear(self) -> Any:
        """The next value. Raises EOFError if the other end is gone."""
        try:
            line = self._file.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise EOFError
        return json.loads(line)

    def say_ran(self, ran: Ran) -> None:
        """Send an order that was run."""
        self.say(asdict(ran))

    def hear_ran(self) -> Ran:
        """Receive one."""
        said = self.hear()
        steps = [step_of(step) for step in said.pop("steps")]
        runnable = [tuple(names) for names in said.pop("runnable")]
        return Ran(steps=steps, runnable=runnable, **said)


def step_of(said: dict[str, Any]) -> Step:
    """A step as JSON holds it. Raises TypeError if it is no step."""
    return Step(**{**said, "changed": tuple(said.get("changed", ()))})
