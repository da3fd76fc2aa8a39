"""How a mount is taken away: `fakesysfs umount` and `./mount.sh --unmount` do the same."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

from fakesysfs.fuse.mount_table import mounted_at, mounts
from tests.mount.served import AS_NOBODY, NOBODY, PATIENCE_SECONDS, ROOT, Served, eventually, served, shell

pytestmark = pytest.mark.mount
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount other file systems")

COMMANDS: dict[str, list[str | Path]] = {
    "umount": [sys.executable, "-m", "fakesysfs", "umount"],
    "mount.sh": [ROOT / "mount.sh", "--unmount"],
}
Umount = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=COMMANDS)
def umount(request: pytest.FixtureRequest) -> Umount:
    return lambda point, wrapper=(): run(*wrapper, *COMMANDS[request.param], point)


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence."""
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@contextlib.contextmanager
def foreign(where: Path) -> Iterator[Path]:
    """Another file system there, with a file in it that must outlive the test."""
    subprocess.run(["mount", "-t", "tmpfs", "foreign", where], check=True)
    try:
        (where / "precious").touch()
        yield where
        assert (where / "precious").exists()
    finally:
        subprocess.run(["umount", where], check=True)


USES = {"open file": "exec sleep 1000 3<mnt/value", "working directory": "cd mnt && exec sleep 1000"}


@contextlib.contextmanager
def user(mount: Served, how: str, wrapper: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process that uses the mount."""
    command = shlex.join([*wrapper, "sh", "-c", USES[how]])
    with shell(f"exec {command}", mount.path.parent) as process:
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        yield process


def kill(mount: Served) -> None:
    """Kill the server and, so that nothing clears the mount away, its helper (auto_unmount)."""
    kill_both(mount.server.pid)
    mount.server.wait(PATIENCE_SECONDS)
    assert mounted_at(str(mount.path))


def kill_both(server: int) -> None:
    for pid in [*children(server), server]:
        os.kill(pid, signal.SIGKILL)


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize("how", USES)
def test_in_use(tmp_path: Path, umount: Umount, how: str) -> None:
    with served(tmp_path) as mount:
        with user(mount, how) as process:
            assert f"process {process.pid} (sleep)" in refused(umount(mount.path))
            assert mount.read("value")
        process.wait()
        succeeded(umount(mount.path))
        assert mount.server.wait(PATIENCE_SECONDS) == 0
        assert not mounted_at(str(mount.path))


def test_in_use_as_another_user(nobodys: Path, umount: Umount) -> None:
    with served(nobodys, wrapper=AS_NOBODY, owner=NOBODY) as mount:
        with user(mount, "open file", AS_NOBODY) as process:
            assert f"process {process.pid} (sleep)" in refused(umount(mount.path, wrapper=AS_NOBODY))
        process.wait()
        succeeded(umount(mount.path, wrapper=AS_NOBODY))
        assert mount.server.wait(PATIENCE_SECONDS) == 0


@as_root
def test_of_another_user(nobodys: Path, umount: Umount) -> None:
    with served(nobodys) as mount:
        assert "user 0 mounted it" in refused(umount(mount.path, wrapper=AS_NOBODY))
        assert mount.read("value")


def test_in_use_while_the_server_is_stopped(tmp_path: Path, umount: Umount) -> None:
    """Nobody answers, but it is not dead."""
    with served(tmp_path) as mount, user(mount, "open file") as process:
        mount.server.send_signal(signal.SIGSTOP)
        try:
            assert f"process {process.pid} (sleep)" in refused(umount(mount.path))
        finally:
            mount.server.send_signal(signal.SIGCONT)


def test_nothing_is_mounted(tmp_path: Path, umount: Umount) -> None:
    assert "no fakesysfs is mounted here" in refused(umount(tmp_path))
    assert "no fakesysfs is mounted here" in refused(umount(tmp_path / "missing"))


@as_root
def test_another_file_system_alone(tmp_path: Path, umount: Umount) -> None:
    with foreign(tmp_path):
        assert "no fakesysfs is mounted here" in refused(umount(tmp_path))


@as_root
def test_another_file_system_on_top(tmp_path: Path, umount: Umount) -> None:
    with served(tmp_path) as mount:
        with foreign(mount.path):
            assert "(tmpfs) is mounted over the fakesysfs" in refused(umount(mount.path))
        assert mount.read("value")
        succeeded(umount(mount.path))
        assert mount.server.wait(PATIENCE_SECONDS) == 0


@as_root
@pytest.mark.parametrize("dead", [False, True])
def test_another_file_system_inside(tmp_path: Path, umount: Umount, *, dead: bool) -> None:
    """The hint can be followed, also when the server is dead."""
    with served(tmp_path) as mount:
        subprocess.run(["mount", "-t", "tmpfs", "foreign", mount / "family"], check=True)
        (mount / "family/precious").touch()
        if dead:
            kill(mount)
        sentence = refused(umount(mount.path))
        hint = sentence.split("`")[1]
        assert hint == f"umount {mount.path}/family"
        assert [found for found in mounts() if found.point == f"{mount.path}/family"]
        assert run("sh", "-c", hint).returncode == 0
        succeeded(umount(mount.path))
        assert not mounted_at(str(mount.path))
        mount.server.wait(PATIENCE_SECONDS)


@as_root
def test_hidden_by_another_file_system(tmp_path: Path, umount: Umount) -> None:
    """What is seen at the path is a plain directory, whatever the table of mounts has for it."""
    with served(tmp_path) as mount:
        with foreign(tmp_path):
            mount.path.mkdir()
            assert "no fakesysfs is mounted here" in refused(umount(mount.path))
        assert mount.read("value")


@as_root
def test_stacked(tmp_path: Path, umount: Umount) -> None:
    """All that are on top are taken away."""
    (tmp_path / "other").mkdir()
    with served(tmp_path) as mount, served(tmp_path / "other") as other:
        subprocess.run(["mount", "--bind", other.path, mount.path], check=True)
        assert sum(found.point == str(mount.path) for found in mounts()) == 2
        succeeded(umount(mount.path))
        assert not any(found.point == str(mount.path) for found in mounts())
        assert mount.server.wait(PATIENCE_SECONDS) == 0
        assert other.read("value")


@pytest.mark.parametrize("how", USES)
def test_dead_is_cleared_whatever_uses_it(tmp_path: Path, umount: Umount, how: str) -> None:
    with served(tmp_path) as mount, user(mount, how):
        kill(mount)
        succeeded(umount(mount.path))
        assert not mounted_at(str(mount.path))


@as_root
def test_in_a_user_namespace(tmp_path: Path, umount: Umount) -> None:
    (tmp_path / "mnt").mkdir()
    script = """
"$1" -m fakesysfs mount "$0" >/dev/null || exit 77
shift
exec 3<"$0/control/pid"
"$@"; echo $?
exec 3<&-
"$@"; echo $?
"""
    command = umount(tmp_path / "mnt").args
    done = run("unshare", "-Urm", "sh", "-c", script, tmp_path / "mnt", sys.executable, *command)
    if done.returncode == 77:
        pytest.skip(f"no mount in a user namespace here: {done.stderr}")
    assert done.stdout == "1\n0\n", done.stderr
    assert "(sh)" in done.stderr


def test_mount_sh_needs_no_set_up(tmp_path: Path) -> None:
    """A checkout whose .venv is gone; and a system without Python, where it says what to do."""
    for name in ("mount.sh", "scripts", "fakesysfs"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    for name in ("bash", "dirname", "readlink", "env"):
        found = shutil.which(name)
        assert found is not None
        (bin_directory / name).symlink_to(found)
    with served(tmp_path) as mount:
        done = subprocess.run(
            [tmp_path / "mount.sh", "--unmount", mount.path],
            env={"PATH": str(bin_directory)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"`fusermount3 -u -z -- {shlex.quote(str(mount.path))}`" in refused(done)
        assert mount.read("value")
        succeeded(run(tmp_path / "mount.sh", "--unmount", mount.path))
        assert mount.server.wait(PATIENCE_SECONDS) == 0
    assert not list(tmp_path.glob(".venv*"))


def threads_of(process: int) -> list[str]:
    return os.listdir(f"/proc/{process}/task")


def state_of(process: int, thread: int) -> str:
    """Its state as in proc_pid_stat(5)."""
    return Path(f"/proc/{process}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]


@contextlib.contextmanager
def aborted(mount: Served) -> Iterator[None]:
    """The connection is aborted at the end, so that all processes can end whatever fails."""
    found = mounted_at(str(mount.path))
    assert found is not None
    connections = mount.path.parent / "connections"
    connections.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "fusectl", connections], check=True)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has ended
            (connections / found.device.partition(":")[2] / "abort").write_text("1")
        subprocess.run(["umount", connections], check=True)


@contextlib.contextmanager
def thread_waits_for_a_lock(mount: Served, pid: int) -> Iterator[tuple[IO[str], list[subprocess.Popen[str]]]]:
    """Clients that have the directory's lock, which a thread of server `pid` waits for, and wait for the server.

    The server answers once the file is closed.
    """
    first, second = fifos = [mount.path.parent / name for name in ("first", "second")]
    for fifo in fifos:
        os.mkfifo(fifo)
    assert mount.read("family/memory3/state")
    with contextlib.ExitStack() as stack:
        stack.enter_context(shell(f"exec echo {first} {second} > hang", mount.path))
        held = stack.enter_context(first.open("w"))
        clients = [
            stack.enter_context(shell(f"exec stat family/memory{number}", mount.path)) for number in range(77, 82)
        ]
        stack.enter_context(aborted(mount))
        waits = {"request_wait_answer", "fuse_lock_inode"}  # the host asks for one name of a directory at a time
        eventually(lambda: all(Path(f"/proc/{client.pid}/wchan").read_text() in waits for client in clients))
        held.close()
        until_answered = stack.enter_context(second.open("w"))
        eventually(lambda: any(state_of(pid, int(number)) == "D" for number in threads_of(pid)))
        yield until_answered, clients


@as_root
def test_killed_server_whose_thread_waits_for_a_lock(tmp_path: Path, umount: Umount) -> None:
    """A client holds the lock and waits for an answer that never comes: neither of them can end."""
    with served(tmp_path) as mount, thread_waits_for_a_lock(mount, mount.server.pid):
        kill_both(mount.server.pid)
        eventually(lambda: state_of(mount.server.pid, mount.server.pid) == "Z")
        succeeded(umount(mount.path))
        assert mount.server.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        assert not mounted_at(str(mount.path))


@as_root
@pytest.mark.parametrize("ends_by", ["SIGTERM", "umount"])
def test_server_ends_while_its_thread_waits_for_a_lock(tmp_path: Path, ends_by: str) -> None:
    """It answers the clients first: they hold the lock."""
    with served(tmp_path) as mount, thread_waits_for_a_lock(mount, mount.server.pid) as (until_answered, clients):
        if ends_by == "SIGTERM":
            mount.server.terminate()
        else:
            succeeded(run("umount", "-l", mount.path))
        until_answered.close()
        assert [client.wait(PATIENCE_SECONDS) for client in clients] == [1] * len(clients)
        assert mount.server.wait(PATIENCE_SECONDS) == 0
        assert not mounted_at(str(mount.path))


@as_root
def test_killed_server_of_a_run_whose_thread_waits_for_a_lock(tmp_path: Path) -> None:
    """The guardian takes the mount away, and the server and its clients end."""
    guardian = [sys.executable, "-m", "tests.mount.guarded"]
    with served(tmp_path, wrapper=guardian) as mount:
        (server,) = children(mount.server.pid)
        with thread_waits_for_a_lock(mount, server) as (_, clients):
            kill_both(server)
            assert mount.server.wait(PATIENCE_SECONDS) == -signal.SIGKILL & 0xFF
            assert not mounted_at(str(mount.path))
            assert [client.wait(PATIENCE_SECONDS) for client in clients] == [1] * len(clients)
