"""What the tests of `fakesysfs run` share: running it, and that nothing of a run is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fakesysfs.fuse.mount_table import TYPE, mounts
from fakesysfs.sandbox.netlink import NETLINK_KOBJECT_UEVENT

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60

MARK = "FAKESYSFS_TEST_MARK"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here mounts and starts tools."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.mount)
            item.add_marker(pytest.mark.tools)


def need(*tools: str) -> None:
    """Skip where a tool is not installed; continuous integration has them all."""
    missing = [tool for tool in tools if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing:
        why = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


def need_poll() -> None:
    """Skip where the server does not hear of poll(2), and the host answers it by itself."""
    if not hasattr(pytest.importorskip("pyfuse3"), "PollHandle"):
        pytest.skip("pyfuse3 before 3.5 does not hear of poll(2)")


def eventually(holds: Callable[[], object], what: str = "it") -> None:
    """Return as soon as it holds; fail if it does not within reason."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"{what} never came true"
        time.sleep(0.01)


def processes_with(mark: str) -> list[int]:
    """Processes that were started with this mark in their environment and have not ended."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal() and int(directory.name) != os.getpid():
            try:
                environment = (directory / "environ").read_bytes()
                state = (directory / "stat").read_bytes().rpartition(b")")[2].split()[0]
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment and state not in {b"Z", b"X"}:
                found.append(int(directory.name))
    return found


class Runner:
    """Runs `fakesysfs run`, or another command of it. `wrapper` is put before the command line."""

    def __init__(self, mark: str, wrapper: Sequence[str] = (), command: str = "run") -> None:
        self.mark = mark
        self.wrapper = wrapper
        self.command = command
        self.environment = os.environ | {MARK: mark}
        self.started: list[subprocess.Popen[str]] = []

    def line(self, *arguments: str | Path) -> list[str | Path]:
        """The whole command line."""
        return [*self.wrapper, sys.executable, "-m", "fakesysfs", self.command, *arguments]

    def __call__(self, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.line(*arguments),
            cwd=ROOT,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def shell(self, script: str, *options: str) -> str:
        """What a bash script prints; it must not fail, nor must any of its commands."""
        done = self(*options, "--", "bash", "-euo", "pipefail", "-c", script)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str | Path, **how: object) -> subprocess.Popen[str]:
        """Start it."""
        line = self.line(*arguments)
        process: subprocess.Popen[str] = subprocess.Popen(line, cwd=ROOT, env=self.environment, text=True, **how)  # type: ignore[call-overload]
        self.started.append(process)
        return process

    def alive(self) -> list[int]:
        """All processes of all runs."""
        return processes_with(self.mark)


def _runner(where: Path, wrapper: Sequence[str] = (), command: str = "run") -> Iterator[Runner]:
    runner = Runner(uuid.uuid4().hex, wrapper, command)
    yield runner
    try:
        eventually(lambda: not runner.alive(), "the end of all processes")
        # Not all mounts of the host: others may be at work there too.
        private = (str(where), "/sys", "/dev", "/proc")
        eventually(lambda: not any(at.type == TYPE and at.point.startswith(private) for at in mounts()), "unmounting")
    finally:
        for pid in runner.alive():
            os.kill(pid, signal.SIGKILL)
        for process in runner.started:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.wait()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Runner]:
    """`fakesysfs run`, of which nothing may be left at the end."""
    yield from _runner(tmp_path)


NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@pytest.fixture
def explore(tmp_path: Path) -> Iterator[Runner]:
    """`fakesysfs explore`, of which nothing may be left at the end."""
    yield from _runner(tmp_path, command="explore")


@pytest.fixture
def run_as_nobody(public_path: Path) -> Iterator[Runner]:
    """The same as a user without any rights, who can reach `public_path`."""
    need_other_users()
    yield from _runner(public_path, AS_NOBODY)


@pytest.fixture
def explore_as_nobody(public_path: Path) -> Iterator[Runner]:
    """`fakesysfs explore` as that user."""
    need_other_users()
    yield from _runner(public_path, AS_NOBODY, "explore")


def need_other_users() -> None:
    """Skip where fakesysfs cannot be run as a user without any rights."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    script = "import fakesysfs.sysroot, fakesysfs.fuse.session; open('/dev/fuse', 'r+b', 0)"
    needs = [*AS_NOBODY, sys.executable, "-c", script]
    done = subprocess.run(needs, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"closed to other users: {done.stderr.splitlines()[-1]}")
    if subprocess.run([*AS_NOBODY, "unshare", "-Ur", "true"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are closed to ordinary users")


@pytest.fixture
def on_the_host() -> Iterator[list[bytes]]:
    """What a listener on the host heard, once the test asks: in the end there must be nothing of memory."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) as listener:
        listener.bind((0, 1))
        listener.setblocking(False)  # noqa: FBT003  so it is
        heard: list[bytes] = []
        yield heard
        while True:
            try:
                heard.append(listener.recv(8192))
            except BlockingIOError:
                break
        ours = [event for event in heard if b"memory" in event or b"dax" in event or b"/node" in event]
        assert ours == []
