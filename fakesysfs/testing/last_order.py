"""The last order, so that the next one goes on from where it branches off.

Most orders of a search begin as the one before. The steps that both have are not taken again: the machine is restored
to what it was between two steps (ops/checkpoints.py). A coroutine cannot be copied, so the programs run again, on the
results that they got. docs/performance.md has what that saves.
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


class TakenStep(NamedTuple):
    """A step that was taken: what its program needs to go on without it."""

    call: tuple[str, str, str | bytes]
    """The operation, the path and the data of the call that it belongs to."""
    ends: bool
    """Whether the call ended with it, with `value` or `refusal`."""
    value: Any
    refusal: Refusal | None
    look: str
    """What it did, in words, for `Polls`."""
    changed: bool
    order_is_read: int
    """See `Order`: after this step."""

    @staticmethod
    def copy(value: Any) -> Any:
        """The value of a call: one for the program, which may change it, and one to keep."""
        return list(value) if isinstance(value, list) else value


class LastOrder:
    """The steps of the last order on a machine, and checkpoints of the machine between them.

    `roots` are what the machine consists of, as it has booted; see `Checkpoints`.
    """

    def __init__(self, roots: Iterable[object], constant: tuple[type, ...]) -> None:
        self._checkpoints = Checkpoints(roots, constant)
        self._order = Order()
        self._taken: list[TakenStep] = []
        self._numbers: dict[int, int] = {}
        """The number of the checkpoint after so many steps."""

    def common_steps(self, guide: Guide, *, records: bool) -> int:
        """With how many steps of the last order the next one begins, as far as there is a checkpoint after them.

        `records`: the footprints of these steps must be known. The last step of the guide's schedule does not count.
        """
        steps, footprints, expected = self._order.steps, self._order.footprints, guide.expected
        most = min(len(self._taken), len(guide.schedule) - 1, len(steps) if guide.longest is None else guide.longest)
        common = 0
        for position, name in enumerate(guide.schedule[: max(most, 0)]):
            step = steps[position]
            if step.process != name or (records and position >= guide.recorded_from and footprints[position] is None):
                break
            if position < len(expected) and step is not expected[position] and not step.is_same(expected[position]):
                break
            if position + 1 in self._numbers:
                common = position + 1
        return common

    def begin_next(self, guide: Guide, common: int) -> list[TakenStep]:
        """The next order begins with `common` steps of this one. Returns them, for its programs."""
        guide.repeat(self._order, common)
        self._order = guide.order
        del self._taken[common:]
        self._numbers = {steps: number for steps, number in self._numbers.items() if steps <= common}
        return list(self._taken)

    def restore(self, steps: int = 0) -> None:
        """Make the machine what it was after so many steps of the last order; 0: when it had booted.

        No operation may be under way.
        """
        self._checkpoints.restore(self._numbers[steps] if steps else 0)

    def add(self, taken: TakenStep) -> None:
        """A step was taken, after all others."""
        self._taken.append(taken)

    def take_checkpoint(self) -> None:
        """Take a checkpoint after the steps so far, unless the kernel works on something."""
        steps, last = len(self._taken), next(reversed(self._numbers), 0)
        if steps - last < max(1, len(self._numbers) // _CLOSE):
            return
        with contextlib.suppress(CannotCheckpointError):
            self._numbers[steps] = self._checkpoints.take()
