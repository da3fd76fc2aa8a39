"""What was refused during a run, for `fakesysfs run --explain`: read by a process in it, told by the launcher."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

from fakesysfs.sandbox.known import VISIBLE

_SHOWN_CHARACTERS = 64


def _lines() -> list[str]:
    with contextlib.suppress(OSError):  # its server has ended
        return Path(VISIBLE, "control/refused.jsonl").read_text("ascii").splitlines()
    return []


def _number(line: str) -> int:
    number: int = json.loads(line)["seq"]
    return number


def count() -> int:
    """The number of the next refusal."""
    lines = _lines()
    return _number(lines[-1]) + 1 if lines else 0


def since(first: int) -> list[str]:
    """The refusals from number `first` on, lines of control/refused.jsonl. After a reset all, as it begins anew."""
    lines = _lines()
    was_reset = bool(lines) and _number(lines[-1]) < first
    return [line for line in lines if was_reset or _number(line) >= first]


def explanation(lines: Sequence[str]) -> str:
    """What to tell the user: a line for each refusal."""
    if not lines:
        return "no operation was refused"
    how_many = f"{len(lines)} operations were" if len(lines) > 1 else "1 operation was"
    return "\n  ".join([f"{how_many} refused:", *map(_told, lines)])


def _told(line: str) -> str:
    fields = json.loads(line)
    data = json.dumps(fields["data"])
    if len(data) > _SHOWN_CHARACTERS:
        data = f'{data[:_SHOWN_CHARACTERS]}..."'
    what = f"{fields['op']} {fields['path']}" + (f" {data}" if fields["op"] == "write" else "")
    message = os.strerror(getattr(errno, fields["errno"], 0))
    why = f"{fields['errno']} ({message}): {fields['reason']} [{fields['func']}]"
    return f"{fields['pid']} {fields['comm']}: {what}: {why}"
