#!/usr/bin/env python3
"""Draw docs/race.svg, the picture in README.md: two removals of one device's memory beside a real systemd-udevd.

Both are run for this (examples/race): block by block on kernel 7.2, and in one write on hotplug-v3. The picture has a
row for each memory block; its colour is the block's state over time, as the uevents tell.

    .venv/bin/python scripts/draw_race.py [FILE]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
RACE = ROOT / "examples" / "race"
RULE = ROOT / "examples" / "udev-rules" / "80-keep-memory-online.rules"
PICTURE = ROOT / "docs" / "race.svg"

SCRIPT = """
udevadm monitor --kernel >"$1" &
until grep -q "^KERNEL - " "$1"; do :; done
"$0/contest" "$2" 0 "$3" 0 0
kill $!
"""
"""udevadm says when it listens, and then when each event came."""

EVENT = re.compile(r"KERNEL\[(?P<time>[0-9.]+)\] (?P<action>\w+) +/devices/system/memory/memory(?P<block>[0-9]+) ")

WIDTH, LEFT, RIGHT = 880, 92, 24
ROW = 4
"""Height of a block's row, in pixels as all that follows."""
ABOVE, BELOW = 60, 40
AFTERWARDS = 0.1
COLOURS = {"online": "#2da44e", "offline": "#d4a72c", "removed": "#eaeef2"}
STATE_AFTER = {"online": "online", "offline": "offline", "remove": "removed"}
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .small { fill: #59636e; font-size: 12px }
  .code { font: 12px ui-monospace, monospace }
  .stuck { fill: #cf222e; font-weight: 600 }
  .removed { fill: #1a7f37; font-weight: 600 }
"""


class Event(NamedTuple):
    """A uevent of a memory block."""

    time: float
    """Seconds."""
    action: str
    block: int


class Race(NamedTuple):
    """One removal beside udevd: the uevents, and what became of the device."""

    events: Sequence[Event]
    outcome: str


class Segment(NamedTuple):
    """A block's state from one time to another, in seconds."""

    state: str
    begin: float
    end: float


def race(protocol: str, kernel: str, offline_latency: float) -> Race:
    """Remove the memory of dax0.0 beside a systemd-udevd. Raises CalledProcessError if it cannot be run."""
    with tempfile.NamedTemporaryFile(mode="r", encoding="utf-8") as monitor:
        command = ["sh", "-c", SCRIPT, str(RACE), monitor.name, protocol, str(offline_latency)]
        fake = ["run", "--kernel", kernel, "--udev", "--rules", str(RULE), "--", *command]
        done = subprocess.run(
            [sys.executable, "-m", "fakesysfs", *fake], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        return Race(events_in(monitor.read()), done.stdout.splitlines()[-1].partition(" (exit")[0])


def events_in(text: str) -> list[Event]:
    """The uevents of memory blocks in the output of `udevadm monitor`."""
    return [Event(float(found["time"]), found["action"], int(found["block"])) for found in EVENT.finditer(text)]


def span(events: Sequence[Event]) -> tuple[float, float]:
    """What the picture shows, in seconds: all events, and a little of what is then."""
    begin, end = events[0].time, events[-1].time
    return begin, end + (end - begin) * AFTERWARDS


def segments(events: Sequence[Event]) -> dict[int, list[Segment]]:
    """The states of each block over time. Before the first event of all it is online."""
    begin, end = span(events)
    found: dict[int, list[Segment]] = {}
    for event in events:
        states = found.setdefault(event.block, [Segment("online", begin, end)])
        states[-1] = states[-1]._replace(end=event.time)
        states.append(Segment(STATE_AFTER[event.action], event.time, end))
    return found


def draw(panels: Sequence[tuple[str, str, Race]]) -> str:
    """The picture: of each panel a title, what the program wrote, and the race."""
    parts: list[str] = []
    top = 8
    for title, wrote, one in panels:
        top = _panel(parts, top, title, wrote, one)
    x = LEFT
    for state, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="{top + 4}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{top + 14}" class="small">{state}</text>')
        x += 90
    height = top + 32
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#d1d9e0"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(parts: list[str], top: int, title: str, wrote: str, one: Race) -> int:
    begin, end = span(one.events)
    scale = (WIDTH - LEFT - RIGHT) / (end - begin)
    rows = sorted(segments(one.events).items())
    first = top + ABOVE
    bottom = first + ROW * len(rows)
    parts.append(f'<text x="{LEFT}" y="{top + 24}" class="title">{escape(title)}</text>')
    parts.append(f'<text x="{LEFT}" y="{top + 46}" class="code">{escape(wrote)}</text>')
    took = f"{(one.events[-1].time - begin) * 1000:.0f} ms"
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{top + 46}" text-anchor="end" class="small">{took}</text>')
    for position, (block, states) in enumerate(rows):
        y = first + ROW * position
        if position in {0, len(rows) - 1}:
            parts.append(f'<text x="{LEFT - 8}" y="{y + 8}" text-anchor="end" class="small">memory{block}</text>')
        for state, start, stop in states:
            x, width = LEFT + (start - begin) * scale, (stop - start) * scale
            colour = COLOURS[state]
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" fill="{colour}"/>')
    kind = one.outcome.partition(":")[0]
    parts.append(f'<text x="{LEFT}" y="{bottom + 20}" class="{kind}">{escape(one.outcome)}</text>')
    return bottom + BELOW


def main(file: Path) -> None:
    """Run both and draw them."""
    panels = [
        (
            "Linux 7.2, block by block: a udev rule puts each block online again",
            "for each block: echo offline > memoryN/state; then echo dax0.0 > kmem/unbind",
            race("blocks", "7.2", 0),
        ),
        (
            "With the series, in one write: the rule finds nothing to put online",
            "echo unplug > dax0.0/hotplug",
            race("device", "hotplug-v3", 0.002),
        ),
    ]
    file.write_text(draw(panels), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
