#!/usr/bin/env python3
"""Draw docs/timeline.png: the race of README.md as a timeline, from a real run in a real browser.

One program removes the memory of a device in one write. Another one wants one of its blocks online, waits for
device_hotplug_lock, and is refused. It needs chromium, and `pip install -e .[browser]`.

    .venv/bin/python scripts/draw_timeline.py [FILE]

The picture says which page it shows: a digest of the page's files is in it, and a test compares it.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from fakesysfs.trace import events
from fakesysfs.trace.events import Event, from_lines
from fakesysfs.trace.timeline import page

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "timeline.png"
PAGE_FILES = ("timeline.html", "timeline.css", "timeline.js")
KEYWORD = b"fakesysfs page"
"""Of the text in the picture that has the digest."""

RACE = """
control=$FAKESYSFS_CONTROL hotplug=/sys/bus/dax/devices/dax0.0/hotplug memory=/sys/devices/system/memory
echo 0.01 > $control/latency/offline_block
(exec -a remover bash -c "echo unplug > $hotplug") &
until grep -q offline $memory/memory68/state; do :; done
(exec -a onliner bash -c "echo online > $memory/memory90/state" 2> /dev/null) &
for block in 72 76 80 84 88; do
    until (exec -a monitor cat $memory/memory$block/state) | grep -q offline; do sleep 0.01; done
done
wait
"""
"""Two controllers, and one who looks on."""


def race() -> list[Event]:
    """The events of a run of RACE. Raises CalledProcessError if it cannot be run."""
    with tempfile.TemporaryDirectory() as where:
        trace = Path(where) / "race.jsonl"
        fake = [sys.executable, "-m", "fakesysfs", "run", "--trace", str(trace), "--", "bash", "-c", RACE]
        subprocess.run(fake, cwd=ROOT, check=True)
        with trace.open("rb") as lines:
            return list(from_lines(lines))


def controllers(happened: list[Event]) -> list[tuple[str, str, str | None]]:
    """What the two wrote, and how they were refused."""
    ended = [event for event in happened if isinstance(event, events.Op) and event.duration is not None]
    return [
        (op.program, op.data, op.errno) for op in ended if op.program in {"remover", "onliner"} and op.op == "write"
    ]


def middle(happened: list[Event]) -> int:
    """The place where about half of the blocks are offline."""
    offline = [
        place for place, event in enumerate(happened) if isinstance(event, events.Blocks) and event.state == "offline"
    ]
    return offline[len(offline) * 2 // 5]


def digest() -> str:
    """Of the files that a page is made of, and of this script."""
    found = hashlib.sha256()
    for file in (*(ROOT / "fakesysfs" / "trace" / name for name in PAGE_FILES), Path(__file__)):
        found.update(file.read_bytes())
    return found.hexdigest()


def shoot(happened: list[Event], file: Path) -> None:
    """Open the page of these events, go to the middle, and take a picture."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  only this needs it

    with tempfile.TemporaryDirectory() as where, sync_playwright() as playwright:
        html = Path(where) / "race.html"
        html.write_text(page(happened, "One write, and another controller"), "utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1080, "height": 800}, color_scheme="light")
        tab.goto(html.as_uri())
        tab.focus("#lanes")
        tab.keyboard.press("r")
        move = "(slider, place) => { slider.value = place; slider.dispatchEvent(new Event('input')); }"
        tab.eval_on_selector("#when", move, middle(happened))
        tab.eval_on_selector("#lanes", "lanes => lanes.blur()")
        details = tab.query_selector("#details").bounding_box()
        tab.wait_for_function("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        clip = {"x": 0, "y": 0, "width": 1080, "height": details["y"] + details["height"] + 12}
        tab.screenshot(path=file, clip=clip, full_page=True)
        browser.close()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of each chunk of a PNG (ISO/IEC 15948)."""
    at = len(b"\x89PNG\r\n\x1a\n")
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        yield picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        at += length + 12


def signed(picture: bytes, text: str) -> bytes:
    """The same picture with a text in it, before its last chunk."""
    end = len(_chunk(b"IEND", b""))
    return picture[:-end] + _chunk(b"tEXt", KEYWORD + b"\0" + text.encode()) + picture[-end:]


def signature(picture: bytes) -> str:
    """The text that `signed` put in; "" without one."""
    texts = [data for kind, data in _chunks(picture) if kind == b"tEXt" and data.startswith(KEYWORD + b"\0")]
    return texts[0].partition(b"\0")[2].decode() if texts else ""


def main(file: Path) -> None:
    """Run the race and draw it."""
    shoot(race(), file)
    file.write_bytes(signed(file.read_bytes(), digest()))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
