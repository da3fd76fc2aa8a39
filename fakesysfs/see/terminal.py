"""Draws a memory map in a terminal, in colour or as plain text.

With colours a block is a square. Without (a pipe, NO_COLOR, a terminal that has none, an encoding without squares) it
is a letter, so that nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from fakesysfs.see.rows import (
    ABSENT,
    DIFFERENT,
    SEVERAL,
    Layout,
    Line,
    Row,
    count_of,
    lay_out,
    looks_in,
    rows,
    size,
    summary,
    title,
)

if TYPE_CHECKING:
    from rich.console import Console

    from fakesysfs.see.memory import MemoryMap

SQUARE, HOLLOW, DIVIDED = "■", "□", "▤"

COLOURS = {
    "DMA": "magenta",
    "DMA32": "cyan",
    "Normal": "blue",
    "HighMem": "bright_cyan",
    "Movable": "green",
    SEVERAL: "bright_magenta",
    "offline": "yellow",
    "going-offline": "red",
    ABSENT: "bright_black",
    DIFFERENT: "white",
}
LETTERS = {
    "DMA": "d",
    "DMA32": "D",
    "Normal": "N",
    "HighMem": "H",
    "Movable": "M",
    SEVERAL: "s",
    "offline": "o",
    "going-offline": "g",
    ABSENT: ".",
    DIFFERENT: "*",
}
_UNKNOWN_COLOUR, _UNKNOWN_LETTER = "bright_white", "?"

GROUP = 8
"""Squares between two blanks."""
_MOST_COLUMNS = 128
_NAME = "bold"
_DIM = "bright_black"
_EDGE = 1


def has_squares(console: Console) -> bool:
    """Whether blocks are coloured squares there, not letters."""
    return console.color_system is not None and not console.no_color and console.encoding.startswith("utf")


def draw(memory: MemoryMap, width: int, height: int, *, squares: bool, heading: str = "") -> list[Text]:
    """The lines of a map for a terminal of `width` columns; about `height` of them.

    `heading` begins the first line.
    """
    made = rows(memory)
    label = max([len(row.name) for row in made] + [len(str(_last_block(memory)))], default=0)
    columns = columns_in(width - label - 2 * _EDGE)
    first = _wrapped(f"{heading}: {summary(memory)}" if heading else summary(memory), width)
    titles = [_wrapped(title(row, memory.block_size), max(width - label - _EDGE, 1)) for row in made]
    # The last lines are the legend; with a scale it has another one.
    around = len(first) + sum(map(len, titles)) + 2
    layout = lay_out(made, columns, max(height - around, len(made)))
    drawn = [Text(line) for line in first]
    for row, words, lines in zip(made, titles, layout.lines, strict=True):
        drawn += _row(row, words, lines, label, squares=squares)
    return [*drawn, *_legend(layout, memory.block_size, width, squares=squares)]


def columns_in(width: int) -> int:
    """How many squares fit: a power of two, so that lines begin at round numbers."""
    columns = 1
    while columns < _MOST_COLUMNS and taken_by(2 * columns) <= width:
        columns *= 2
    return columns


def taken_by(columns: int) -> int:
    """The width of a line of squares."""
    return columns + (columns - 1) // GROUP


def _last_block(memory: MemoryMap) -> int:
    numbers = [run.last for run in memory.runs]
    return max([*numbers, *(last for device in memory.devices for _, last in device.blocks)], default=0)


def _row(row: Row, words: Sequence[str], lines: Iterable[Line], label: int, *, squares: bool) -> Iterator[Text]:
    for number, part in enumerate(words):
        yield Text.assemble((f"{row.name if not number else '':{label}}", _NAME), " " * _EDGE, part)
    for line in lines:
        text = Text.assemble((f"{line.block:{label}}", _DIM), " " * _EDGE)
        # Neighbours of the same look are one piece: a piece takes longer than a square.
        place = 0
        for look, alike in groupby(line.squares):
            sign, colour = _square(look, squares=squares)
            piece = ""
            for _ in alike:
                piece += f" {sign}" if place and place % GROUP == 0 else sign
                place += 1
            text.append(piece, colour)
        text.rstrip()
        yield text


def _square(look: str | None, *, squares: bool) -> tuple[str, str]:
    """A character and its style."""
    if look is None:
        return " ", ""
    if not squares:
        return LETTERS.get(look, _UNKNOWN_LETTER), ""
    return {ABSENT: HOLLOW, DIFFERENT: DIVIDED}.get(look, SQUARE), COLOURS.get(look, _UNKNOWN_COLOUR)


def _legend(layout: Layout, block_size: int, width: int, *, squares: bool) -> Iterator[Text]:
    entries = [
        Text.assemble(_square(look, squares=squares), " ", look)
        for look in looks_in(line for lines in layout.lines for line in lines)
    ]
    if layout.scale > 1:
        blocks = f"{count_of(layout.scale, 'block')}, {size(layout.scale * block_size)}"
        entries.append(Text(f"one {'square' if squares else 'letter'}: {blocks}"))
    line = Text()
    for entry in entries:
        if line and len(line) + 2 + len(entry) > width:
            yield line
            line = Text()
        if line:
            line.append("  ")
        line.append_text(entry)
        line.truncate(width)
    if line:
        yield line


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words; a word that is too long is cut."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines += [word[place : place + width] for place in range(0, len(word), width)]
    return lines or [""]
