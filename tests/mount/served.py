"""A served mount for tests, and processes that use it and must not hang the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fakesysfs.fuse.mount_table import mounted_at

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 20


NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def as_nobody(command: str, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
    """Run a shell command as another user."""
    return subprocess.run(
        [*AS_NOBODY, "sh", "-c", 'cd "$0" && ' + command, cwd], capture_output=True, text=True, check=False
    )


def fakesysfs(*arguments: object, state: Path) -> subprocess.CompletedProcess[str]:
    """Run a command; `state` is where daemons write their logs."""
    return subprocess.run(
        [sys.executable, "-m", "fakesysfs", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XDG_STATE_HOME": str(state)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def eventually(holds: Callable[[], object]) -> None:
    """Return as soon as it holds; fail if it does not within reason."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@dataclass
class Served:
    """A mount of the toy with its server."""

    path: Path
    server: subprocess.Popen[str]
    log: Path
    output: Path
    expected_in_log: list[str] = field(default_factory=list)
    """Parts of lines that the test expects in the log."""

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def read(self, name: str) -> str:
        """The whole file."""
        return (self.path / name).read_text()

    def write(self, name: str, data: bytes | str) -> int:
        """What one write of `data` returns."""
        file = os.open(self.path / name, os.O_WRONLY)
        try:
            return os.write(file, data.encode() if isinstance(data, str) else data)
        finally:
            os.close(file)

    def stores(self) -> list[bytes]:
        """What reached the stores of `value` since the last call."""
        found: list[bytes] = eval(self.read("stores"))  # noqa: S307  our own toy's
        self.write("stores", "\n")
        return found

    def logged(self) -> list[str]:
        """Lines of the log that nobody expected."""
        lines = [line for line in self.log.read_text().splitlines() if " ERROR " in line or " WARNING " in line]
        return [line for line in lines if not any(part in line for part in self.expected_in_log)]


@contextlib.contextmanager
def served(where: Path, *, loop: str = "fast", wrapper: Sequence[str] = (), owner: int = -1) -> Iterator[Served]:
    """Mount the toy at `where`/mnt for as long as this lasts; it must live until then unless the test ended it.

    `wrapper` is a command that runs the server, `owner` who owns the mountpoint.
    """
    point = where / "mnt"
    point.mkdir()
    os.chown(point, owner, owner)
    log, output = where / "log", where / "output"
    with log.open("w") as errors, output.open("w") as out:
        server = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "tests.mount.toy", point],
            stdout=out,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=os.environ | {"FAKESYSFS_PYFUSE3": "documented" if loop == "stock" else ""},
        )
    with server:
        try:
            eventually(lambda: output.read_text().startswith("ready") or server.poll() is not None)
            assert server.poll() is None, log.read_text()
            mount = Served(point, server, log, output)
            yield mount
            if server.returncode is None:
                assert server.poll() is None, f"the server died: {log.read_text()}"
                server.terminate()
                assert server.wait(PATIENCE_SECONDS) == 0, log.read_text()
                assert not mounted_at(str(point))
            assert not mount.logged()
        finally:
            if server.poll() is None:
                server.kill()


@contextlib.contextmanager
def shell(command: str, where: Path) -> Iterator[subprocess.Popen[str]]:
    """A shell command at work in the directory `where`; killed at the end."""
    process = subprocess.Popen(
        ["sh", "-c", command], cwd=where, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with _ended(process):
        yield process


@contextlib.contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python program at work; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # a shell in the background has its children ignore SIGINT, which would be inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    with _ended(process):
        yield process


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a process at the end. One that waits in a mount ends with the server, which is ended after it."""
    try:
        yield
    finally:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
        assert process.stdout is not None
        process.stdout.close()


def finished(process: subprocess.Popen[str]) -> str:
    """What the process printed until its end."""
    return process.communicate(timeout=PATIENCE_SECONDS)[0]
