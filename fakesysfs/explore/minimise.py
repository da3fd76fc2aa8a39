"""The shortest failing order: fewest preemptions, then fewest switches, then fewest steps.

A search finds some failing order first, seldom a short one. Each attempt here moves all steps of
one process that follow one another next to other steps of it, runs that order, and keeps it if it
fails in the same way and is shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from fakesysfs.explore.order import Order
from fakesysfs.explore.search import Runner, run_order

ATTEMPTS = 200
"""Orders that are tried for one failure."""


def minimise(runner: Runner, order: Order, attempts: int = ATTEMPTS) -> Order:
    """The shortest order that was found to fail as `order` does; `order` itself if no shorter one was found."""
    shortest = order
    tried = {order.schedule}
    while attempts:
        for schedule in _merged(shortest.schedule):
            if not attempts:
                break
            if schedule in tried:
                continue
            tried.add(schedule)
            attempts -= 1
            found = run_order(runner, schedule, loosely=True, longest=4 * len(order.steps))
            fails = found.why is not None and found.kind == order.kind and not (found.diverged or found.too_long)
            tried.add(found.schedule)
            if fails and found.length < shortest.length:
                shortest = found
                break
        else:
            break
    return shortest


def _merged(schedule: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Schedules with fewer switches: each run of steps of one process moved to another run of it."""
    runs = [tuple(names) for _, names in groupby(schedule)]
    for moved, run in enumerate(runs):
        for to, other in enumerate(runs):
            if to != moved and other[0] == run[0]:
                rest = [names for number, names in enumerate(runs) if number not in {moved, to}]
                at = min(moved, to)
                for place in sorted({at, max(moved, to) - 1}):
                    merged = [*rest[:place], run + other, *rest[place:]]
                    yield tuple(name for names in merged for name in names)
