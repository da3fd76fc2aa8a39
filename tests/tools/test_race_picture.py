"""The picture in README.md: it is drawn from two real runs beside a real udevd."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.test_docs import _script
from tests.tools.conftest import need

ROOT = Path(__file__).resolve().parents[2]
DEVICE_BLOCKS = range(64, 96)
draw_race = _script("draw_race")

MONITOR = """\
monitor will print the received events for:
KERNEL - the kernel uevent

KERNEL[10.000000] offline  /devices/system/memory/memory64 (memory)
KERNEL[10.500000] change   /devices/platform/x (platform)
KERNEL[11.000000] online   /devices/system/memory/memory64 (memory)
KERNEL[12.000000] offline  /devices/system/memory/memory65 (memory)
KERNEL[14.000000] remove   /devices/system/memory/memory65 (memory)
"""


def rows(picture: str) -> dict[str, list[tuple[float, str]]]:
    """Of each row of blocks, from top to bottom, the widths and colours of its parts."""
    found: dict[str, list[tuple[float, str]]] = {}
    for rect in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}rect"):  # noqa: S314  our own
        if rect.get("height") == str(draw_race.ROW - 1):
            found.setdefault(rect.attrib["y"], []).append((float(rect.attrib["width"]), rect.attrib["fill"]))
    return found


def test_states_over_time() -> None:
    events = draw_race.events_in(MONITOR)
    assert [tuple(event) for event in events] == [
        (10, "offline", 64),
        (11, "online", 64),
        (12, "offline", 65),
        (14, "remove", 65),
    ]
    end = 14 + 4 * draw_race.AFTERWARDS
    states = draw_race.segments(events)
    assert [tuple(state) for state in states[64]] == [("online", 10, 10), ("offline", 10, 11), ("online", 11, end)]
    assert [tuple(state) for state in states[65]] == [("online", 10, 12), ("offline", 12, 14), ("removed", 14, end)]


def test_rows_of_the_picture() -> None:
    race = draw_race.Race(draw_race.events_in(MONITOR), "stuck: <2>")
    picture = draw_race.draw([("title", "wrote", race)])
    first, second = rows(picture).values()
    colours = draw_race.COLOURS
    assert [colour for _, colour in second] == [colours["online"], colours["offline"], colours["removed"]]
    total = draw_race.WIDTH - draw_race.LEFT - draw_race.RIGHT
    assert [round(width / total * 4.4, 2) for width, _ in first] == [0, 1, 3.4]
    assert "stuck: &lt;2&gt;" in picture


def test_the_picture_in_the_readme() -> None:
    text = draw_race.PICTURE.read_text(encoding="utf-8")
    assert "](docs/race.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(rows(text)) == 2 * len(DEVICE_BLOCKS)
    assert re.findall('class="(stuck|removed)"', text) == ["stuck", "removed"]


@pytest.mark.tools
@pytest.mark.mount
def test_two_real_runs() -> None:
    need("udevadm", "/usr/lib/systemd/systemd-udevd")
    stuck = draw_race.race("blocks", "7.2", 0)
    states = draw_race.segments(stuck.events)
    assert sorted(states) == [*DEVICE_BLOCKS]
    assert stuck.outcome.startswith("stuck: ")
    removed = draw_race.race("device", "hotplug-v3", 0.002)
    states = draw_race.segments(removed.events)
    assert {block: states[block][-1].state for block in states} == dict.fromkeys(DEVICE_BLOCKS, "removed")
    assert removed.outcome == "removed"
