"""Who polls: repeats the same looks while nothing changes.

A search would follow such a program for ever. So it gives way to the others until something changes (the fairness of
CHESS), and if nobody else can go on, it does not end. A write that is refused is a look, too.
"""

from __future__ import annotations

from collections import Counter, defaultdict

POLLS = 3
"""Equal looks, with nothing changed, after which a program polls."""
LAST_POLLS = 100
"""Equal looks, with nothing changed and nobody else left, after which a program does not end."""
_SHOWN = 4


class Polls:
    """The looks of each program since something changed."""

    def __init__(self) -> None:
        self._looks: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def note(self, program: str, look: str, *, changed: bool) -> None:
        """A program took a step; `look` says what it did and what came of it."""
        if changed:
            self._looks.clear()
        else:
            self._looks[program][look] += 1

    def has_polled(self, program: str, times: int = POLLS) -> bool:
        """Whether a program has looked at the same so often."""
        return max(self._looks[program].values(), default=0) >= times

    def why(self, program: str, command: str) -> str:
        """Why an order fails in which this program does not end."""
        looks = self._looks[program]
        most = max(looks.values(), default=0)
        repeated = [look for look, times in looks.items() if times > most // 2]
        more = f" and {len(repeated) - _SHOWN} more" if len(repeated) > _SHOWN else ""
        return f"{command} does not end: it repeats {', '.join(repeated[:_SHOWN])}{more}, and nothing changes"
