#!/usr/bin/env python3
"""Draw docs/map-before.svg and docs/map-after.svg: the memory of a machine before and after one write.

They are made by `fakesysfs map --svg` in a real run, in which `unplug` is written to the device's attribute.

    .venv/bin/python scripts/draw_map.py [DIRECTORY]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BEFORE, AFTER = "map-before.svg", "map-after.svg"

SCRIPT = """
"$0" -m fakesysfs map --svg "$1"
echo unplug > /sys/bus/dax/devices/dax0.0/hotplug
"$0" -m fakesysfs map --svg "$2"
"""


def draw(directory: Path) -> None:
    """Write both pictures. Raises CalledProcessError if the run fails."""
    command = ["sh", "-ec", SCRIPT, sys.executable, str(directory / BEFORE), str(directory / AFTER)]
    options = ["--machine", "default", "--kernel", "hotplug-v3"]
    subprocess.run([sys.executable, "-m", "fakesysfs", "run", *options, "--", *command], cwd=ROOT, check=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else DOCS).resolve())
