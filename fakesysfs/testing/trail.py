"""The trail of the last order: how the next one goes on from where it branches off.

Most orders of a search begin as the one before. Their common steps need not be taken again: the machine is put back
to how it was between two steps (ops/checkpoints.py), and the programs, whose coroutines nobody can copy, run again on
the results that they got. docs/performance.md has what that saves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from fakesysfs.explore.order import Guide, Order
from fakesysfs.ops.checkpoints import CannotCheckpointError, Checkpoints

_CLOSE = 64
"""So many checkpoints are one step apart, the next ones two, and so on: an order of 10,000 steps has some 1,000."""


class Refusal(NamedTuple):
    """The OSError that a program got."""

    errno: int | None
    text: str | None
    path: str | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, error: OSError) -> Refusal:
        """All that makes `error` up."""
        return cls(error.errno, error.strerror, error.filename, tuple(getattr(error, "__notes__", ())))

    def error(self) -> OSError:
        """The same error, made anew: a program may have changed the one that it got."""
        made = OSError(self.errno, self.text, self.path)
        for note in self.notes:
            made.add_note(note)
        made.__suppress_context__ = True
        return made


class Taken(NamedTuple):
    """A step that was taken."""

    call: tuple[str, str, str | bytes]
    """The operation, the path and the data of the call that it belongs to."""
    ends: bool
    """Whether the call ended with it, with `value` or `refusal`."""
    value: Any
    refusal: Refusal | None
    look: str
    """What it did, in words, for `Polls`."""
    changed: bool
    order_is_read: bool
    """See `Order`: after this step."""

    @staticmethod
    def copy(value: Any) -> Any:
        """The value of a call: one for the program, which may change it, and one for the trail."""
        return list(value) if isinstance(value, list) else value


class Trail:
    """The steps of the last order on a machine, and checkpoints of the machine between them.

    `roots` are what the machine consists of, as it has booted; see `Checkpoints`.
    """

    def __init__(self, roots: Iterable[object], constant: tuple[type, ...]) -> None:
        self._checkpoints = Checkpoints(roots, constant)
        self._order = Order()
        self._taken: list[Taken] = []
        self._marks: dict[int, int] = {}
        """The checkpoint after so many steps."""

    def common(self, guide: Guide, *, records: bool) -> int:
        """With how many steps of the last order the next one begins, as far as there is a checkpoint after them.

        `records`: the footprints of these steps must be known. The last step of the guide's schedule is none of them.
        """
        steps, footprints, expected = self._order.steps, self._order.footprints, guide.expected
        most = min(len(self._taken), len(guide.schedule) - 1, len(steps) if guide.longest is None else guide.longest)
        position = marked = 0
        for position, name in enumerate(guide.schedule[: max(most, 0)]):
            step = steps[position]
            if step.process != name or (records and position >= guide.recorded_from and footprints[position] is None):
                break
            if position < len(expected) and step is not expected[position] and not step.is_same(expected[position]):
                break
            if position + 1 in self._marks:
                marked = position + 1
        return marked

    def begin(self, guide: Guide, common: int) -> list[Taken]:
        """The next order begins, with `common` steps of the last one, which are returned: the programs repeat them."""
        guide.repeat(self._order, common)
        self._order = guide.order
        del self._taken[common:]
        self._marks = {steps: number for steps, number in self._marks.items() if steps <= common}
        return list(self._taken)

    def restore(self, steps: int = 0) -> None:
        """Put the machine back, or on, to how it was after so many steps; 0: when it had booted.

        No operation may be under way.
        """
        self._checkpoints.restore(self._marks[steps] if steps else 0)

    def add(self, taken: Taken) -> None:
        """A step was taken, after all others."""
        self._taken.append(taken)

    def mark(self) -> None:
        """Note how the machine is after the steps so far, unless an operation is under way in it."""
        steps, last = len(self._taken), next(reversed(self._marks), 0)
        if steps - last < max(1, len(self._marks) // _CLOSE):
            return
        with contextlib.suppress(CannotCheckpointError):
            self._marks[steps] = self._checkpoints.take()
