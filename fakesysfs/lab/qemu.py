"""One QEMU process: its start, the ports to its agent and its monitor, its saved states.

The ports are pairs of connected sockets that QEMU inherits: nothing has a name on the host. A saved
state is a file (mapped-ram): another process of the same QEMU goes on from it within a second or
two, where a boot takes many.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from fakesysfs.lab.agent import Agent
from fakesysfs.lab.archive import LabError
from fakesysfs.lab.images import Program

DEVICES = (
    "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
    "-device", "virtio-serial-pci,bus=pcie.0,disable-modern=on,disable-legacy=off",
    "-device", "virtserialport,chardev=agent,name=agent",
)  # fmt: skip
"""What every guest has.

The port's device is a legacy one: without a 64-bit BAR, /proc/iomem has no line of it from 4 GiB up.
"""

_POLL_SECONDS = 0.02
_MONITOR_SECONDS = 120


class QemuError(LabError):
    """QEMU has ended, or refuses a command."""


class StateError(QemuError):
    """QEMU cannot go on from a saved state."""


def _ends_with_parent() -> tuple[str, ...]:
    """The words before a command that end it when this process is killed."""
    setpriv = shutil.which("setpriv")
    return () if setpriv is None else (setpriv, "--pdeathsig", "KILL")


class Qemu:
    """A running QEMU. It ends with this process."""

    def __init__(self, program: Program, arguments: Sequence[str], console: IO[bytes]) -> None:
        """`console`: gets what the guest writes to its first serial port, and QEMU's own errors."""
        self.console = console
        agent, its_agent = socket.socketpair()
        monitor, its_monitor = socket.socketpair()
        ports = [
            "-chardev", f"socket,id=agent,fd={its_agent.fileno()}",
            "-chardev", f"socket,id=monitor,fd={its_monitor.fileno()}", "-qmp", "chardev:monitor",
        ]  # fmt: skip
        try:
            self.process = subprocess.Popen(
                [*_ends_with_parent(), *program.words, *arguments, *ports, *DEVICES],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=os.environ | dict(program.environment),
                pass_fds=(its_agent.fileno(), its_monitor.fileno()),
            )
        finally:
            its_agent.close()
            its_monitor.close()
        self._port, self._monitor = agent, monitor
        self._monitor.settimeout(_MONITOR_SECONDS)
        self._replies = monitor.makefile("rb")
        self.agent = Agent(agent)
        try:
            self._reply("QMP")
            self.command("qmp_capabilities")
        except BaseException:
            self.end()
            raise

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a command of the monitor. Raises QemuError."""
        request = {"execute": name} | ({"arguments": arguments} if arguments else {})
        try:
            self._monitor.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QemuError(f"QEMU has ended: {error.strerror}; {self.said()}") from None
        return self._reply("return")

    def _reply(self, key: str) -> Any:
        while True:
            try:
                line = self._replies.readline()
            except OSError as error:
                raise QemuError(f"QEMU does not answer: {error}; {self.said()}") from None
            if not line:
                raise QemuError(f"QEMU has ended: {self.said()}")
            reply = json.loads(line)
            if "error" in reply:
                raise QemuError(f"QEMU refuses: {reply['error']['desc']}")
            if key in reply:
                return reply[key]

    def said(self, lines: int = 5) -> str:
        """The last lines of the console."""
        self.console.flush()
        name = Path(self.console.name)
        text = name.read_bytes().decode(errors="replace") if name.is_file() else ""
        return " | ".join(line.strip() for line in text.strip().split("\n")[-lines:]) or "it said nothing"

    def save(self, path: Path) -> None:
        """Write the guest's state to a file. The guest stays stopped. Raises QemuError."""
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            self.command("stop")
            self._prepare_migration()
            self.command("migrate", uri=f"file:{part}")
            self._migrated()
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def restore(self, path: Path) -> None:
        """Go on from a saved state. QEMU was started with `-incoming defer`. Raises StateError."""
        try:
            self._prepare_migration()
            self.command("migrate-incoming", uri=f"file:{path}")
            self._migrated()
            self.command("cont")
        except QemuError as error:
            raise StateError(str(error)) from None

    def _prepare_migration(self) -> None:
        self.command("migrate-set-capabilities", capabilities=[{"capability": "mapped-ram", "state": True}])
        self.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40})

    def _migrated(self) -> None:
        while (status := self.command("query-migrate")).get("status") != "completed":
            if status.get("status") == "failed":
                raise QemuError(f"QEMU cannot save or restore the guest: {status.get('error-desc', '')} {self.said()}")
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for port in (self._port, self._monitor):
            with contextlib.suppress(OSError):
                port.close()
        self._replies.close()
