"""How many orders a second `fakesysfs explore` runs of real programs.

    .venv/bin/python benchmarks/explore.py

Two shell programs write words to auto_online_blocks. The rates depend on the host and its load; the
last column, how much faster two workers are, less so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

POLICY = "/sys/devices/system/memory/auto_online_blocks"


def program(words: tuple[str, str], count: int) -> str:
    """A shell program that writes that many words."""
    return "; ".join(f"echo {word} > {POLICY}" for word in islice(cycle(words), count))


def rate(count: int, jobs: int, limit: int) -> float:
    """Orders a second of two programs with that many writes each."""
    programs = program(("online", "offline"), count), program(("online_kernel", "online_movable"), count)
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory, "result.json")
        options = ["--jobs", str(jobs), "--limit", str(limit), "--json", str(result)]
        line = [sys.executable, "-m", "fakesysfs", "explore", *options, "--", *programs]
        subprocess.run(line, check=False, stdout=subprocess.DEVNULL)
        found = json.loads(result.read_text("utf-8"))
    return float(found["explored"] / found["seconds"])


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200, help="orders of each measurement (default: 200)")
    limit = parser.parse_args().limit
    print(f"{'writes':10} {'one worker':>12} {'two workers':>12} {'ratio':>6}")
    for count in (4, 8):
        one, two = rate(count, 1, limit), rate(count, 2, limit)
        print(f"{f'{count} + {count}':10} {one:10.1f}/s {two:10.1f}/s {two / one:6.2f}")


if __name__ == "__main__":
    main()
