"""`fakesysfs timeline`: reads a trace, writes its page."""

from __future__ import annotations

import sys
from pathlib import Path

from fakesysfs.trace.events import from_lines
from fakesysfs.trace.timeline import page

WRONG_USE = 2


def main(trace: str, output: str | None) -> int:
    """Write the page of the file `trace` to `output`, - for standard output; returns the exit status."""
    try:
        with Path(trace).open("rb") as lines:
            text = page(from_lines(lines), Path(trace).name)
    except OSError as error:
        return _refuse(f"{trace}: {error.strerror}")
    except ValueError as error:
        return _refuse(f"{trace}: no JSON lines of `fakesysfs run --trace FILE.jsonl`: {error}")
    if output == "-":
        sys.stdout.write(text)
        return 0
    target = Path(trace).with_suffix(".html") if output is None else Path(output)
    try:
        target.write_text(text, "utf-8")
    except OSError as error:
        return _refuse(f"{target}: {error.strerror}")
    return 0


def _refuse(why: str) -> int:
    sys.stderr.write(f"fakesysfs: {why}\n")
    return WRONG_USE
