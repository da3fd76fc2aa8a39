"""The shell that `fakesysfs run` starts if no command is given. It says that it is on a fake machine."""

from __future__ import annotations

import os
from pathlib import Path

from fakesysfs.sandbox.known import VISIBLE

_MARK = "debian_chroot"
"""What Debian's bash shows in parentheses at the beginning of its prompt (/etc/bash.bashrc)."""


def name() -> str:
    """The user's shell."""
    return os.environ.get("SHELL") or "sh"


def prepare(environment: dict[str, str]) -> list[str]:
    """The command line of the shell. Marks its prompt in `environment`, and greets a user at a terminal."""
    environment.setdefault(_MARK, "fakesysfs")
    if os.isatty(0) and os.isatty(2):
        machine, kernel = (Path(VISIBLE, "control", name).read_text("utf-8").strip() for name in ("machine", "kernel"))
        where = "/sys, /dev and /proc are a fake machine's"
        os.write(2, f"fakesysfs: {where}: machine {machine}, kernel {kernel}; `exit` leaves it\n".encode())
    return [name()]
