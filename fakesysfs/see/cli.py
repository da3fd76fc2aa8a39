"""`fakesysfs map`, `watch` and `ps`: what they print, and their exit statuses."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fakesysfs.see import fakes, memory

if TYPE_CHECKING:
    from fakesysfs.see.memory import MemoryMap

_WRONG_USE = 2
_PIPE_WIDTH, _PIPE_HEIGHT = 80, 64
"""Columns and lines where the output is no terminal; the environment's COLUMNS and LINES come first."""
_PROMPT_LINES = 2


def show_map(which: str | None, svg: str | None) -> int:
    """Print a machine's memory map, or write it as a picture; returns the exit status."""
    try:
        place = fakes.place(which)
        place.enter()
        read = memory.read(memory.FilesBelow(place.root, place.control), place.name)
    except (fakes.NotFoundError, memory.NoMemoryError) as error:
        print(f"fakesysfs: {error}", file=sys.stderr)
        return _WRONG_USE
    if svg is not None:
        from fakesysfs.see import svg as picture  # noqa: PLC0415  only one of the two is needed

        Path(svg).write_text(picture.draw(read, place.name), encoding="utf-8")
        return 0
    _print(read, place.name)
    return 0


def _print(read: MemoryMap, heading: str) -> None:
    from rich.console import Console  # noqa: PLC0415  see show_map

    from fakesysfs.see import terminal  # noqa: PLC0415  see show_map

    width, height = shutil.get_terminal_size((_PIPE_WIDTH, _PIPE_HEIGHT + _PROMPT_LINES))
    console = Console(width=width, highlight=False, soft_wrap=True)
    squares = terminal.has_squares(console)
    for line in terminal.draw(read, width, height - _PROMPT_LINES, squares=squares, heading=heading):
        console.print(line)


def watch(which: str | None) -> int:
    """Follow a fake until q; returns the exit status."""
    from fakesysfs.see import watch as following  # noqa: PLC0415  see show_map

    try:
        place = fakes.place(which)
        if place.control is None:
            why = "no fake machine is mounted here, and a real one has no control/ to follow"
            print(f"fakesysfs: {place.name}: {why}; `fakesysfs map {place.name}` shows its memory", file=sys.stderr)
            return _WRONG_USE
        return following.watch(place)
    except (fakes.NotFoundError, following.NoTerminalError) as error:
        print(f"fakesysfs: {error}", file=sys.stderr)
        return _WRONG_USE


def list_fakes() -> int:
    """Print the mounts and the runs; returns the exit status."""
    rows = [("PID", "WHAT", "MACHINE", "KERNEL", "WHERE")]
    for described in fakes.describe(fakes.find()):
        fake = described.fake
        where = " ".join(filter(None, [fake.path, fake.command]))
        rows.append((str(described.pid), described.kind, described.machine, described.kernel, where))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for row in rows:
        print("  ".join([*(f"{word:{width}}" for word, width in zip(row, widths, strict=False)), row[-1]]))
    sys.stdout.flush()
    return os.EX_OK
