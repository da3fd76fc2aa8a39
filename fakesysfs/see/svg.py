"""Draws a memory map as a picture, for pages and reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from fakesysfs.see.rows import (
    ABSENT,
    DIFFERENT,
    SEVERAL,
    Layout,
    Line,
    count_of,
    lay_out,
    looks_in,
    rows,
    size,
    summary,
    title,
)

if TYPE_CHECKING:
    from fakesysfs.see.memory import MemoryMap

COLOURS = {
    "DMA": "#8250df",
    "DMA32": "#1b7c83",
    "Normal": "#0969da",
    "HighMem": "#54aeff",
    "Movable": "#2da44e",
    SEVERAL: "#bf3989",
    "offline": "#d4a72c",
    "going-offline": "#cf222e",
    ABSENT: "#ffffff",
    DIFFERENT: "#59636e",
}
_UNKNOWN_COLOUR = "#1f2328"

# All in pixels.
WIDTH, MARGIN = 720, 16
LEFT = 88
SQUARE, STEP, GROUP_GAP = 13, 15, 6
GROUP, COLUMNS = 8, 32
TEXT_LINE, TITLE_GAP, ROW_GAP = 22, 4, 10
MOST_LINES = 32
"""Lines of squares. For more memory a square stands for more blocks."""

_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .heading { font-weight: 600; font-size: 15px }
  .name { font: 600 13px ui-monospace, monospace }
  .number { font: 11px ui-monospace, monospace; fill: #59636e }
  .small { font-size: 12px; fill: #59636e }
  .absent { stroke: #8c959f; stroke-dasharray: 2 2 }
"""


def draw(memory: MemoryMap, heading: str) -> str:
    """The picture, as a file. It is the same for the same map and heading."""
    made = rows(memory)
    layout = lay_out(made, COLUMNS, MOST_LINES)
    parts: list[str] = []
    below = MARGIN + 14
    parts += [_text(MARGIN, below, heading, "heading"), _text(MARGIN, below + TEXT_LINE, summary(memory), "small")]
    below += TEXT_LINE
    for row, lines in zip(made, layout.lines, strict=True):
        below += TEXT_LINE + ROW_GAP
        parts += [_text(MARGIN, below, row.name, "name"), _text(LEFT, below, title(row, memory.block_size), "small")]
        below += TITLE_GAP
        for line in lines:
            below += STEP
            parts += _line(line, below, layout.scale)
    below += TEXT_LINE + ROW_GAP
    parts += _legend(layout, memory.block_size, below)
    height = below + MARGIN
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label={quoteattr(heading)}>'
    )
    around = [f"<title>{escape(heading)}</title>", f"<style>{_STYLE}</style>"]
    background = f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>'
    return "\n".join([opening, *around, background, *parts, "</svg>\n"])


def _text(left: int, base: int, text: str, kind: str) -> str:
    return f'<text x="{left}" y="{base}" class="{kind}">{escape(text)}</text>'


def _line(line: Line, base: int, scale: int) -> Iterator[str]:
    yield f'<text x="{LEFT - 8}" y="{base}" text-anchor="end" class="number">{line.block}</text>'
    for place, look in enumerate(line.squares):
        if look is not None:
            first = line.block + place * scale
            left = LEFT + place * STEP + place // GROUP * GROUP_GAP
            which = f"memory{first}" if scale == 1 else f"memory{first} to memory{first + scale - 1}"
            yield _square(left, base, look, f"{which}: {look}")


def _square(left: int, base: int, look: str, tip: str = "") -> str:
    colour = COLOURS.get(look, _UNKNOWN_COLOUR)
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    above = base - SQUARE + 2
    if look == ABSENT:  # an outline, half of which lies outside of the rectangle
        where = f'x="{left + 0.5}" y="{above + 0.5}" width="{SQUARE - 1}" height="{SQUARE - 1}" class="absent"'
    else:
        where = f'x="{left}" y="{above}" width="{SQUARE}" height="{SQUARE}"'
    return f'<rect {where} fill="{colour}">{inside}</rect>'


_LETTER_WIDTH = 8
"""Wide enough for a letter of the legend in any font."""


def _legend(layout: Layout, block_size: int, base: int) -> Iterator[str]:
    left = LEFT
    for look in looks_in(line for lines in layout.lines for line in lines):
        yield _square(left, base, look)
        yield _text(left + SQUARE + 5, base, look, "small")
        left += SQUARE + 14 + len(look) * _LETTER_WIDTH
    if layout.scale > 1:
        blocks = f"one square: {count_of(layout.scale, 'block')}, {size(layout.scale * block_size)}"
        yield _text(left, base, blocks, "small")
