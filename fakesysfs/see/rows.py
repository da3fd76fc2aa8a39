"""Makes rows of a memory map: one for each node and each dax device, in squares.

A square stands for one block, or for a power of two of them if all do not fit. What a square shows is its *look*: the
zone of an online block, or its state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from fakesysfs.see.memory import ONLINE, SEVERAL_ZONES, BlockRun, Device, MemoryMap

ABSENT = "absent"
"""The look of a part of a device that is no memory block."""
DIFFERENT = "different"
"""The look of a square whose blocks differ."""
SEVERAL = "several zones"

LOOKS = ("DMA", "DMA32", "Normal", "HighMem", "Movable", SEVERAL, "offline", "going-offline", ABSENT, DIFFERENT)
"""In the order of the legend."""

NO_NODE = "memory"
"""The row of blocks that belong to no node: a kernel without NUMA has none."""

_SHORTEST_GAP = 8
"""Squares. A gap of fewer is left blank; after a longer one a new line begins."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_UNIT = 1024


class Span(NamedTuple):
    """Neighbouring blocks, or squares, of the same look."""

    first: int
    last: int
    look: str

    @property
    def length(self) -> int:
        """How many blocks or squares."""
        return self.last - self.first + 1


class Row(NamedTuple):
    """A node or a dax device."""

    name: str
    """`node2`, `dax0.0`."""
    spans: tuple[Span, ...]
    """In ascending order, in blocks."""
    more: str = ""
    """What else is known of it: driver and node of a device."""

    def counts(self) -> Counter[str]:
        """How many blocks have which look."""
        counts: Counter[str] = Counter()
        for span in self.spans:
            counts[span.look] += span.length
        return counts


class Line(NamedTuple):
    """A line of squares: the number of its first block, and the squares; None is a blank."""

    block: int
    squares: tuple[str | None, ...]


def size(number: int) -> str:
    """Bytes, in the largest unit that has no fraction."""
    unit = 0
    while number and number % _UNIT == 0 and unit < len(_UNITS) - 1:
        number //= _UNIT
        unit += 1
    return f"{number} {_UNITS[unit]}"


def count_of(number: int, what: str) -> str:
    """`1 block`, `32 blocks`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def rows(memory: MemoryMap) -> list[Row]:
    """The rows of a map: the nodes, then the dax devices."""
    made = [Row(f"node{node}", _of_node(memory.runs, node)) for node in memory.nodes]
    others = tuple(Span(run.first, run.last, look_of(run)) for run in memory.runs if not run.nodes)
    if others:
        made.append(Row(NO_NODE, others))
    return made + [_of_device(memory.runs, device) for device in memory.devices]


def look_of(run: BlockRun) -> str:
    """The zone of an online block, the state of another one."""
    if run.state != ONLINE:
        return run.state
    return SEVERAL if run.zone == SEVERAL_ZONES else run.zone


def summary(memory: MemoryMap) -> str:
    """How much memory there is, in one line."""
    total = sum(run.last - run.first + 1 for run in memory.runs)
    online = sum(run.last - run.first + 1 for run in memory.runs if run.state == ONLINE)
    is_online = "all online" if online == total else f"{size(online * memory.block_size)} online"
    return f"{count_of(total, 'block')} of {size(memory.block_size)}: {size(total * memory.block_size)}, {is_online}"


def title(row: Row, block_size: int) -> str:
    """The counts of a row and what else is known of it, in one line."""
    counts = row.counts()
    parts = []
    if counts:
        total = counts.total()
        words = ", ".join(f"{counts[look]:,} {look}" for look in sorted(counts, key=_order))
        parts.append(f"{count_of(total, 'block')}, {size(total * block_size)}: {words}")
    elif not row.more:
        parts.append("no memory")
    if row.more:
        parts.append(f"({row.more})")
    return " ".join(parts)


def _order(look: str) -> tuple[int, str]:
    """The place of a look in the legend; a zone that nobody knows comes first."""
    return (LOOKS.index(look) if look in LOOKS else -1), look


def looks_in(lines: Iterable[Line]) -> list[str]:
    """The looks that lines show, in the order of the legend."""
    return sorted({look for line in lines for look in line.squares if look is not None}, key=_order)


def _of_node(runs: Iterable[BlockRun], node: int) -> tuple[Span, ...]:
    return tuple(_joined(Span(run.first, run.last, look_of(run)) for run in runs if node in run.nodes))


def _of_device(runs: Sequence[BlockRun], device: Device) -> Row:
    facts = [device.driver or "no driver", *([f"node{device.node}"] if device.node >= 0 else [])]
    if not device.readable:
        facts.append("only root may read where it is")
    elif not device.blocks:
        facts.append("no whole block")
    spans = _joined(span for first, last in device.blocks for span in _within(runs, first, last))
    return Row(device.name, tuple(spans), ", ".join(facts))


def _within(runs: Iterable[BlockRun], first: int, last: int) -> Iterator[Span]:
    """The looks of all blocks of a range; those that do not exist are absent."""
    for run in runs:
        if run.last < first or run.first > last:
            continue
        if run.first > first:
            yield Span(first, run.first - 1, ABSENT)
        end = min(run.last, last)
        yield Span(max(run.first, first), end, look_of(run))
        first = end + 1
    if first <= last:
        yield Span(first, last, ABSENT)


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Neighbours of the same look as one."""
    before: Span | None = None
    for span in spans:
        if before is not None and before.last + 1 == span.first and before.look == span.look:
            before = before._replace(last=span.last)
            continue
        if before is not None:
            yield before
        before = span
    if before is not None:
        yield before


# Squares ----------------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """Rows as lines of squares."""

    scale: int
    """Blocks that a square stands for."""
    lines: tuple[tuple[Line, ...], ...]
    """The lines of each row."""


def lay_out(made: Sequence[Row], columns: int, height: int) -> Layout:
    """Lines of at most `columns` squares each, `height` in all: with so many blocks in a square that they fit.

    There are more than `height` if even one line for each stretch of memory does not fit.
    """
    scale = 1
    while True:
        squares = [_scaled(row.spans, scale) for row in made]
        stretches = [list(_stretches(spans)) for spans in squares]
        needed = [-(-_length(stretch) // columns) for row in stretches for stretch in row]
        if sum(needed) <= height or all(number == 1 for number in needed):
            return Layout(scale, tuple(tuple(_lines(row, columns, scale)) for row in stretches))
        scale *= 2


def _scaled(spans: Sequence[Span], scale: int) -> list[Span]:
    """Spans of squares, each for `scale` blocks; a square whose blocks differ gets a look of its own."""
    if scale == 1:
        return list(spans)
    found: list[Span] = []
    for span in spans:
        first, last = span.first // scale, span.last // scale
        if found and found[-1].last == first:
            # This square has blocks of the span before, too.
            *others, before = found
            found = others if before.first == first else [*others, before._replace(last=first - 1)]
            look = span.look if before.look == span.look else DIFFERENT
            found.append(Span(first, first, look))
            first += 1
        if first <= last:
            found.append(Span(first, last, span.look))
    return list(_joined(found))


def _stretches(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """Spans without a long gap between them."""
    stretch: list[Span] = []
    for span in spans:
        if stretch and span.first - stretch[-1].last > _SHORTEST_GAP:
            yield stretch
            stretch = []
        stretch.append(span)
    if stretch:
        yield stretch


def _length(stretch: Sequence[Span]) -> int:
    return stretch[-1].last - stretch[0].first + 1


def _lines(stretches: Iterable[Sequence[Span]], columns: int, scale: int) -> Iterator[Line]:
    for stretch in stretches:
        squares: list[str | None] = [stretch[0].look] * stretch[0].length
        for before, span in pairwise(stretch):
            squares += [None] * (span.first - before.last - 1)
            squares += [span.look] * span.length
        for place in range(0, len(squares), columns):
            yield Line((stretch[0].first + place) * scale, tuple(squares[place : place + columns]))
