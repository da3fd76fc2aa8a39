#!/usr/bin/env python3
"""How long after a write `fakesysfs watch` shows it, and what it costs while nothing happens.

.venv/bin/python benchmarks/watch.py [MACHINE]
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import statistics
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

from fakesysfs.testing import MountedMachine

WRITES = 40
QUIET_SECONDS = 0.3
IDLE_SECONDS = 10
BLOCKS = "/sys/devices/system/memory"


def read_until_quiet(terminal: int) -> None:
    """Read what comes until nothing has come for a while."""
    while select.select([terminal], [], [], QUIET_SECONDS)[0]:
        os.read(terminal, 1 << 16)


def read_until(terminal: int, text: bytes) -> None:
    """Read until `text` is shown."""
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 1 << 16)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    fields = [Path(f"/proc/{one}/stat").read_bytes().rpartition(b")")[2].split() for one in (pid, *children)]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def main(name: str) -> None:
    """Print the figures of one machine."""
    with tempfile.TemporaryDirectory() as directory, MountedMachine(directory, machine=name) as machine:
        pid, terminal = pty.fork()
        if not pid:
            os.environ["TERM"] = "xterm-256color"
            os.execv(sys.executable, [sys.executable, "-m", "fakesysfs", "watch", str(machine.path)])  # noqa: S606
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))
        read_until(terminal, b"operations")
        read_until_quiet(terminal)
        block = max(int(name.removeprefix("memory")) for name in machine.ls("/sys/bus/memory/devices"))
        taken = []
        before = cpu_seconds(pid)
        for number in range(WRITES):
            state = ("offline", "online_movable")[number % 2]
            machine.write(f"{BLOCKS}/memory{block}/state", state)
            written = time.monotonic()
            read_until(terminal, f'"{state}": {len(state)} bytes'.encode())
            taken.append((time.monotonic() - written) * 1000)
            read_until_quiet(terminal)
        each = (cpu_seconds(pid) - before) / WRITES * 1000
        print(f"{name}: {each:.0f} ms of CPU for each write")
        print(f"{name}: shown after {statistics.median(taken):.0f} ms (median), {max(taken):.0f} ms at most")
        before = cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        print(f"{name}: {cpu_seconds(pid) - before:.2f} s of CPU in {IDLE_SECONDS} s without an event")
        os.write(terminal, b"q")
        with contextlib.suppress(OSError):  # the end of the terminal
            read_until_quiet(terminal)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "default")
