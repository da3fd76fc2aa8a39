"""The pictures of the map in the pages: what the machine of today looks like, before and after the write."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakesysfs.see import svg
from fakesysfs.testing import Machine
from tests.see.files import map_of
from tests.test_docs import _script

draw_map = _script("draw_map")
HEADING = "machine default, kernel hotplug-v3"
HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"


def test_the_pictures_are_up_to_date() -> None:
    with Machine() as machine:
        assert svg.draw(map_of(machine), HEADING) == (draw_map.DOCS / draw_map.BEFORE).read_text(encoding="utf-8")
        machine.write(HOTPLUG, "unplug")
        assert svg.draw(map_of(machine), HEADING) == (draw_map.DOCS / draw_map.AFTER).read_text(encoding="utf-8")


@pytest.mark.tools
@pytest.mark.mount
def test_a_real_run_draws_them(tmp_path: Path) -> None:
    draw_map.draw(tmp_path)
    for name in (draw_map.BEFORE, draw_map.AFTER):
        assert (tmp_path / name).read_text() == (draw_map.DOCS / name).read_text(encoding="utf-8")
