"""Kill rounds: programs of ours are killed at a random moment, and nothing may be left of them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fakesysfs.fuse import mount, mount_table
from tests.soaking import host
from tests.soaking.arena import Arena
from tests.soaking.report import Tally

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LONGEST_DELAY = 0.8
"""About twice what a start takes, on a machine with other things to do."""
HELD_SECONDS = 5
"""After that a server that was killed ends only when its mount is taken away."""
FAKESYSFS = (sys.executable, "-m", "fakesysfs")
BUSY = "tests.soaking.busy"
COMPLAINTS = ("bug:", " WARNING ", " ERROR ", " CRITICAL ")
HELPER = "fusermount3"
"""It unmounts for a server that is killed, so it must live."""


class Kind(NamedTuple):
    """A program that is killed."""

    name: str
    arguments: Callable[[str], Sequence[str]]
    serves_outside: bool = True
    """Whether clients beside it find the mount."""
    in_background: bool = False
    ends_with_input: bool = False


def _busy(root: str) -> tuple[str, ...]:
    return (sys.executable, "-m", BUSY, root)


KINDS = (
    Kind("run", lambda _: (*FAKESYSFS, "run", "--", *_busy("/")), serves_outside=False),
    Kind("run --mount", lambda point: (*FAKESYSFS, "run", "--mount", point, "--", *_busy("/"))),
    Kind("mount", lambda point: (*FAKESYSFS, "mount", point), in_background=True),
    Kind("mount --foreground", lambda point: (*FAKESYSFS, "mount", "--foreground", point)),
    Kind(
        "testing server",
        lambda point: (
            *(sys.executable, "-m", "fakesysfs.testing.serve"),
            *(point, "default", "hotplug-v3"),
        ),
        ends_with_input=True,
    ),
)


class Kill:
    """One program, from its start to what is left of it."""

    def __init__(self, arena: Arena, kind: Kind, draw: random.Random, tally: Tally) -> None:
        self._kind = kind
        self._tally = tally
        self._draw = draw
        self._base = arena.base
        self._where = Path(tempfile.mkdtemp(prefix="kill", dir=arena.base))
        self._point = self._where / "mnt"
        self._log = self._where / "output.log"
        self._shared = {arena.point}
        self._client: subprocess.Popen[bytes] | None = None
        self._did = ""
        self._number: signal.Signals | None = None

    def go(self) -> None:
        """Start, kill, look."""
        self._point.mkdir()
        files = host.temporary_files(self._base)
        with self._log.open("wb") as log:
            start = self._program = subprocess.Popen(
                list(self._kind.arguments(str(self._point))),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self._kind.serves_outside:
            self._client = subprocess.Popen(_busy(str(self._point)), start_new_session=True)
        began = time.monotonic()
        time.sleep(self._draw.uniform(0, LONGEST_DELAY))
        self._kill(time.monotonic() - began)
        with self._tally.operation(f"{self._did}: its end"), start:
            self._end()
        self._look(files)
        self._clean_up()

    # The kill -------------------------------------------------------------------------------------------------------

    def _parties(self) -> list[host.Process]:
        """The processes of the program, without the clients but with the command of a run."""
        client = {self._client.pid} if self._client else set()
        found = host.remaining(client)
        commands = {process.pid for process in found if BUSY in host.command_line(process.pid)}
        commands.discard(self._program.pid)
        return [
            process
            for process in found
            if process.name != HELPER and not (process.pid in commands and process.parent in commands | client)
        ]

    def _kill(self, after: float) -> None:
        ways: list[signal.Signals | None] = [*SIGNALS]
        if self._kind.ends_with_input:
            ways.append(None)
        number = self._number = self._draw.choice(ways)
        name = number.name if number else "end of input"
        self._did = f"{self._kind.name}, {name} after {after:.3f} s"
        if number is None:
            assert self._program.stdin is not None
            self._program.stdin.close()
            return
        parties = self._parties()
        victim = self._program.pid
        inside = [process for process in parties if process.pid != victim]
        if inside and number == signal.SIGKILL and self._draw.random() < 0.5:
            chosen = self._draw.choice(inside)
            victim = chosen.pid
            self._did += f" to {chosen.name} ({host.command_line(victim).strip()})"
        elif self._kind.in_background and self._program.poll() is not None and inside:
            victim = inside[0].pid  # the daemon
        if not host.signal_to(victim, number):
            host.signal_to(self._program.pid, signal.SIGTERM)

    def _end(self) -> None:
        """Everything ends by itself, except for a daemon whose starter was killed: that one gets SIGTERM."""

        def ended() -> bool:
            if self._kind.in_background:
                for process in self._parties():
                    host.signal_to(process.pid, signal.SIGTERM)
            return self._program.poll() is not None and not self._parties()

        if self._number == signal.SIGKILL and not host.wait_until(ended, HELD_SECONDS):
            self._umount()
        if not host.wait_until(ended):
            for process in self._parties():
                self._leak(f"runs on: {host.describe(process)}")
                host.signal_to(process.pid, signal.SIGKILL)

    # What is left ---------------------------------------------------------------------------------------------------

    def _umount(self) -> None:
        """A thread of a server that was killed may wait for a client which waits for it (fuse/__init__.py)."""
        with self._tally.operation(f"{self._did}: umount"):
            done = subprocess.run([*FAKESYSFS, "umount", self._point], capture_output=True, text=True, check=False)
            self._tally.expect(done.returncode == 0, f"{self._did}: umount says {done.stderr}")

    def _leak(self, text: str) -> None:
        self._tally.fail("leak", f"{self._did}: {text}")

    def _look(self, files: set[str]) -> None:
        if self._client is not None:
            self._end_client()
        if os.geteuid() and mount_table.mounted_at(str(self._point)):
            # No helper unmounts for a user's server (see fuse/session.py): the command must.
            self._umount()
        if not host.wait_until(lambda: not self._mounts()):
            self._leak(f"mounts: {self._mounts()}")
        if not host.wait_until(lambda: not host.remaining()):
            left = "\n".join(map(host.describe, host.remaining()))
            self._leak(f"processes:\n{left}")
        if left_files := host.temporary_files(self._base) - files:
            self._leak(f"files: {sorted(left_files)}")
        self._check_output()

    def _end_client(self) -> None:
        assert self._client is not None
        os.killpg(self._client.pid, signal.SIGKILL)
        if not host.wait_until(lambda: not self._clients()):
            left = "\n".join(map(host.describe, self._clients()))
            self._leak(f"clients cannot be killed:\n{left}")
        self._client.poll()

    def _clients(self) -> list[host.Process]:
        """The killed clients that have not ended: in state D."""
        assert self._client is not None
        self._client.poll()
        return [process for process in host.remaining() if BUSY in host.command_line(process.pid)]

    def _mounts(self) -> list[mount_table.Mount]:
        return [found for found in host.own_mounts(self._base) if found.point not in self._shared]

    def _clean_up(self) -> None:
        """What this kill left must not be taken for another one's."""
        for left in self._mounts():
            with contextlib.suppress(mount.MountError):
                mount.unmount(left.point)
        for log in self._state_logs():
            log.unlink()
        shutil.rmtree(self._where, ignore_errors=True)

    def _state_logs(self) -> list[Path]:
        return list((self._base / "state").rglob("*.log"))

    def _check_output(self) -> None:
        for log in (self._log, *self._state_logs()):
            text = log.read_text(errors="replace")
            complains = any(word in text for word in COMPLAINTS)
            # Python itself says so when the signal comes before our first line.
            traceback = "Traceback" in text and "KeyboardInterrupt" not in text
            self._tally.expect(not complains and not traceback, f"{self._did}: {log.name}:\n{text}")


def kill_rounds(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Kill one program after the other until the time is up."""
    tallies = []
    while time.monotonic() < until:
        kind = draw.choice(KINDS)
        tally = Tally(f"kill {kind.name}", rounds=1)
        Kill(arena, kind, draw, tally).go()
        tallies.append(tally)
    return tallies
