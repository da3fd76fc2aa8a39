"""Who polls: repeats the same looks, one after another, while nothing changes.

A search would follow such a program for ever. So it gives way to the others until something changes (the fairness of
CHESS), and if nobody else can go on, it does not end. A write that is refused is a look, too.

To look at the same again is not to poll: daxctl resolves one path several times. A program polls if its last looks are
one sequence over and over.
"""

from __future__ import annotations

from collections import defaultdict

POLLS = 3
"""Equal sequences of looks, with nothing changed, after which a program polls."""
LAST_POLLS = 100
"""Equal sequences, with nothing changed and nobody else left, after which a program does not end."""
_LONGEST = 64
"""Looks of a sequence."""
_SHOWN = 4


class _Looks:
    """The looks of one program since something changed."""

    __slots__ = ("equal", "looks")

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.equal = [0] * (_LONGEST + 1)
        """For each length of a sequence: how many of the last looks are the same as those one length before."""

    def note(self, look: str) -> None:
        looks, equal = self.looks, self.equal
        looks.append(look)
        for length in range(1, min(_LONGEST, len(looks) - 1) + 1):
            equal[length] = equal[length] + 1 if look == looks[-1 - length] else 0

    def repeated(self) -> tuple[int, int]:
        """How often the last sequence came, and its length: the shortest of those that came most often."""
        longest = min(_LONGEST, len(self.looks))
        times, shortest = max((self.equal[length] // length + 1, -length) for length in range(1, longest + 1))
        return times, -shortest


class Polls:
    """The looks of each program since something changed."""

    def __init__(self) -> None:
        self._looks: defaultdict[str, _Looks] = defaultdict(_Looks)

    def note(self, program: str, look: str, *, changed: bool) -> None:
        """A program took a step; `look` says what it did, and its result."""
        if changed:
            self._looks.clear()
        else:
            self._looks[program].note(look)

    def has_polled(self, program: str, times: int = POLLS) -> bool:
        """Whether a program has repeated its last looks so often."""
        looks = self._looks.get(program)
        return looks is not None and len(looks.looks) >= times and looks.repeated()[0] >= times

    def why(self, program: str, command: str) -> str:
        """Why an order fails in which this program does not end."""
        looks = self._looks[program]
        _, length = looks.repeated()
        repeated = list(dict.fromkeys(looks.looks[-length:]))
        more = f" and {len(repeated) - _SHOWN} more" if len(repeated) > _SHOWN else ""
        return f"{command} does not end: it repeats {', '.join(repeated[:_SHOWN])}{more}, and nothing changes"
