"""What a search says: a line while it runs, and the report at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, zip_longest
from typing import Protocol

from fakesysfs.explore.minimise import minimise
from fakesysfs.explore.order import Order, Step, program_of
from fakesysfs.explore.reduction import ReducedSearch
from fakesysfs.explore.search import Found, Runner, Search, run_order
from fakesysfs.explore.shards import ShardedSearch

_WIDEST = 60
"""Characters of a result that the table shows."""
_LONG = 40
"""A table of more steps leaves out most of those that only look, and its schedule counts equal names."""
_SHOWN_BEFORE, _SHOWN_AFTER = 1, 4
"""Of many looks of one process: how many of the first and of the last are shown."""


_LOOKS = frozenset({"stat", "read", "readlink", "ls"})
_LONGEST_CYCLE = 8
_MOST_REPETITIONS = 3
_LEFT_OUT = "..."


class DescribingRunner(Runner, Protocol):
    """A runner whose steps can say what they changed."""

    describes: bool
    """Whether they do."""


AnySearch = Search | ReducedSearch | ShardedSearch


def progress(search: AnySearch) -> str:
    """One line: what was found so far, how fast."""
    found = search.found
    rate = (found.explored + found.cut) / search.elapsed if search.elapsed else 0.0
    return (
        f"{found.explored:,} orders explored, {found.failed:,} fail, {found.cut:,} cut, "
        f"{search.pending:,} branches left, {rate:,.0f} a second, {search.elapsed:.0f} seconds"
    )


def reported(runner: DescribingRunner, found: Found, *, shorten: bool = True) -> list[Order]:
    """The failing orders for the report, the shortest first. Each was run again, and says what its steps changed.

    With `shorten` the first of each kind is minimised. An order that differs when it is repeated is `diverged`.
    """
    orders = sorted(found.failures, key=lambda order: order.length)
    shortest: list[Order] = []
    kinds: set[str] = set()
    for order in orders:
        if order.kind not in kinds and shorten:
            kinds.add(order.kind)
            shortest.append(minimise(runner, order))
    schedules = {order.schedule for order in shortest}
    orders = sorted([*shortest, *(o for o in orders if o.schedule not in schedules)], key=lambda order: order.length)
    return repeated(runner, orders[: max(found.failed, 1)])


def repeated(runner: DescribingRunner, orders: Sequence[Order]) -> list[Order]:
    """These failing orders, run again: their steps say what they changed.

    An order that differs when it is repeated stays as it was, and is `diverged`.
    """
    runner.describes = True
    try:
        return [_repeated(runner, order) for order in orders]
    finally:
        runner.describes = False


def _repeated(runner: Runner, order: Order) -> Order:
    again = run_order(runner, order.schedule, expected=order.steps, longest=None)
    if again.why is None:
        order.diverged = again.diverged or "it does not fail"
    elif again.diverged or again.kind != order.kind:
        order.diverged = again.diverged or "it fails in another way"
    return order if order.diverged else again


def text(
    found: Found,
    orders: Sequence[Order],
    *,
    seconds: float,
    preemptions: int | None,
    replay: Callable[[Order], str],
) -> str:
    """The report. `orders` are from `reported`; `replay` says how to run one again."""
    return "\n".join(_lines(found, orders, seconds, preemptions, replay))


def _lines(
    found: Found, orders: Sequence[Order], seconds: float, preemptions: int | None, replay: Callable[[Order], str]
) -> Iterator[str]:
    covered = covered_by(found, preemptions)
    yield f"{found.failed:,} of {found.explored:,} orders fail. {covered}. {seconds:.1f} seconds."
    if found.conflicts and not found.complete:
        yield f"{found.conflicts_both_ways:,} of {found.conflicts:,} conflicting pairs of steps seen both ways."
    for order in found.not_finished[:1]:
        why = f"a repetition differs: {order.diverged}" if order.diverged else f"one has {len(order.steps):,} steps"
        yield f"{found.given_up:,} order{'' if found.given_up == 1 else 's'} given up: {why}"
    kinds: set[str] = set()
    for order in orders:
        if order.kind in kinds:
            continue
        kinds.add(order.kind)
        yield ""
        yield f"The shortest order that fails{' in another way' if len(kinds) > 1 else ''}: {_counted(order)}"
        yield ""
        yield from table(order.steps)
        yield ""
        yield f"  {order.why}"
        if order.diverged:
            yield f"  A repetition of this order differs: {order.diverged}"
        yield f"  Replay it: {replay(order)}"


def covered_by(found: Found, preemptions: int | None) -> str:
    """Which orders were explored, in words."""
    if found.interrupted:
        some = f", after all orders with at most {_preemptions(found.fewest - 1)}" if found.fewest else ""
        return f"A limit cut the search short{some}"
    if found.bounded:
        some = ", but for steps that commute" if found.reduces else ""
        return f"Explored: all with at most {_preemptions(preemptions or 0)}{some}"
    if found.given_up:
        return "Not all orders were explored"
    return f"Explored: all orders{', but for steps that commute' if found.reduces else ''} (complete)"


def _preemptions(number: int) -> str:
    return f"{number} preemption{'' if number == 1 else 's'}"


def _counted(order: Order) -> str:
    return f"{schedule_in_short(order.schedule)} (preemptions: {order.preemptions})"


def schedule_in_short(schedule: Sequence[str]) -> str:
    """The schedule; of a long one the runs of equal names: `A*60 udevd.1*4 A`."""
    if len(schedule) <= _LONG:
        return " ".join(schedule)
    runs = [(name, len(list(names))) for name, names in groupby(schedule)]
    return " ".join(name if count == 1 else f"{name}*{count}" for name, count in runs)


def table(steps: Sequence[Step]) -> Iterator[str]:
    """The steps as a table: number, process, command, operation, result, and what it changed or why it was refused.

    Of a long order it leaves out steps that only look, and rows that repeat themselves.
    """
    rows: list[tuple[str, ...]] = [
        (
            str(number),
            step.process,
            step.command,
            " ".join(filter(None, (step.operation, step.data.strip(), step.path))),
            _short(step.result),
            step.why or ", ".join(step.changed),
        )
        for number, step in enumerate(steps, 1)
    ]
    rows = list(_without_repetitions(rows))
    if len(steps) > _LONG:
        rows = list(_without_looks(rows, steps))
    header: tuple[str, ...] = (
        "step",
        "who",
        "command",
        "operation",
        "result",
        "what it changed, or why it was refused",
    )
    widths = [max(map(len, column)) for column in zip_longest(header, *rows, fillvalue="")]
    for row in (header, *rows):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _without_repetitions(rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Rows that repeat themselves more often than three times are shown once, with a row that says how often."""
    whats = [(program_of(row[1]), *row[2:]) for row in rows]
    position = 0
    while position < len(rows):
        for length in range(1, _LONGEST_CYCLE + 1):
            cycle, end = whats[position : position + length], position + length
            while whats[end : end + length] == cycle:
                end += length
            times = (end - position) // length
            if times > _MOST_REPETITIONS:
                yield from rows[position : position + length]
                what = "this step" if length == 1 else f"these {length} steps"
                yield _LEFT_OUT, "", "", f"{what} {times - 1:,} times more", "", ""
                position = end
                break
        else:
            yield rows[position]
            position += 1


def _without_looks(rows: Sequence[tuple[str, ...]], steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """Of many rows of one process that only look, the first and the last ones, with a row that says how many."""

    def only_looks(row: tuple[str, ...]) -> bool:
        return row[0] != _LEFT_OUT and steps[int(row[0]) - 1].operation in _LOOKS

    for (process, looks), group in groupby(rows, key=lambda row: (row[1], only_looks(row))):
        some = list(group)
        left_out = len(some) - _SHOWN_BEFORE - _SHOWN_AFTER
        if looks and left_out > 1:
            yield from some[:_SHOWN_BEFORE]
            yield _LEFT_OUT, "", "", f"{left_out} steps of {process} that only look", "", ""
            yield from some[-_SHOWN_AFTER:]
        else:
            yield from some


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 3]}..."
