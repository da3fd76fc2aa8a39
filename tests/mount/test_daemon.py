"""What the daemon of `mount` keeps of its caller, where it logs, how its start is interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakesysfs.fuse.log import log_file, open_log
from fakesysfs.fuse.mount_table import mounted_at
from tests.mount.served import NOBODY, PATIENCE_SECONDS, ROOT, eventually, fakesysfs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of other users")
MOUNT = f"PYTHONPATH='{ROOT}' '{sys.executable}' -P -m fakesysfs mount"


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    """A mountpoint; what is mounted there is taken away."""
    point = tmp_path / "mnt"
    point.mkdir()
    yield point
    if mounted_at(str(point)):
        assert fakesysfs("umount", point, state=tmp_path).returncode == 0


def bash(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


# What it keeps --------------------------------------------------------------------------------------------------


@pytest.mark.mount
def test_keeps_no_lock(point: Path) -> None:
    done = bash(f"( flock 9; {MOUNT} mnt >/dev/null ) 9>lock && flock --nonblock lock true", point.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert mounted_at(str(point))


@pytest.mark.mount
def test_keeps_no_descriptor_above_the_limit(point: Path) -> None:
    script = f"( flock 900; ulimit -n 128; {MOUNT} mnt >/dev/null ) 900>lock && flock --nonblock lock true"
    done = bash(script, point.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert mounted_at(str(point))


@pytest.mark.mount
def test_keeps_no_pipe(point: Path) -> None:
    """The reader of descriptor 3 comes to an end."""
    assert bash(f"(exec 3>&1; {MOUNT} mnt >/dev/null 2>&1) | cat", point.parent).returncode == 0
    assert mounted_at(str(point))


# Where it logs --------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path, point: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the mountpoint; its directory is there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    log = log_file(str(point))
    assert log is not None
    os.close(open_log(log))
    return log


def test_log_is_emptied_and_closed_to_others(log: Path) -> None:
    log.write_text("old")
    os.close(open_log(log))
    assert log.read_text() == ""
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.parent.stat().st_mode & 0o777 == 0o700


def test_log_that_is_a_link(log: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    log.unlink()
    log.symlink_to(victim)
    with pytest.raises(OSError, match=log.name):
        open_log(log)
    assert victim.read_text() == "precious"


def test_log_with_another_name(log: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    log.unlink()
    log.hardlink_to(victim)
    with pytest.raises(PermissionError):
        open_log(log)
    assert victim.read_text() == "precious"


def test_directory_of_logs_that_is_a_link(log: Path, tmp_path: Path) -> None:
    log.parent.rename(tmp_path / "elsewhere")
    log.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="fakesysfs"):
        open_log(log)


@pytest.mark.parametrize("reader", [False, True])
def test_log_that_is_a_fifo(log: Path, *, reader: bool) -> None:
    log.unlink()
    os.mkfifo(log)
    with contextlib.ExitStack() as stack:
        if reader:
            stack.callback(os.close, os.open(log, os.O_RDONLY | os.O_NONBLOCK))
        with pytest.raises(OSError, match=log.name):
            open_log(log)


@as_root
@pytest.mark.parametrize("whose", [0, 1, 2])
def test_log_of_another_user(log: Path, whose: int) -> None:
    """The log, its directory, the one above."""
    log.write_text("precious")
    os.chown([log, *log.parents][whose], NOBODY, NOBODY)
    with pytest.raises(PermissionError):
        open_log(log)
    assert log.read_text() == "precious"


@as_root
def test_nothing_is_made_in_a_directory_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(home))
    log = log_file("/x")
    assert log is not None
    with pytest.raises(PermissionError):
        open_log(log)
    assert list(home.iterdir()) == []


@pytest.mark.mount
def test_mounts_where_the_directory_of_logs_is_a_loop(point: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    done = fakesysfs("mount", point, state=tmp_path / "loop")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.mount
def test_mounts_without_a_log(log: Path, point: Path) -> None:
    log.unlink()
    os.mkfifo(log)
    done = fakesysfs("mount", point, state=log.parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert log.is_fifo()


def test_each_mountpoint_has_a_log_of_its_own() -> None:
    long = "/x" * 2000
    points = ["/x/y-z", "/x-y/z", "/x/y_z", "/x y/z", "/x\ny", "/ö", os.fsdecode(b"/\xff"), os.fsdecode(b"/\xfe")]
    points += [long + "/1", long + "/2", "/1" + long, "/2" + long, "/" + "ö" * 120, "/" + "字" * 80]
    logs = [log_file(point) for point in points]
    names = [log.name for log in logs if log is not None]
    assert len(set(names)) == len(points)
    for name in names:
        assert len(name.encode()) <= 255
        assert name.replace("\n", "").isprintable()
        assert not name.startswith(".")
    assert names[0].startswith("x-y-z-")


# Its start ------------------------------------------------------------------------------------------------------

_START = """
import os, signal, sys
from pathlib import Path
from fakesysfs.fuse.daemon import in_background

def serve(ready):
    Path(sys.argv[1], "pid").write_text(f"{os.getpid()}\\n")
    if sys.argv[2] == "orphan":
        command = os.getppid()
        while os.getppid() == command:
            signal.sigtimedwait((), 0.005)
        ready("mounted")
    signal.pause()

in_background(serve, "/x")
"""


@contextlib.contextmanager
def starting(tmp_path: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A command whose daemon is about to mount, and the daemon's process."""
    with subprocess.Popen(
        [sys.executable, "-c", _START, tmp_path, how],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # a shell in the background has its children ignore SIGINT, which would be inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as command:
        pid = tmp_path / "pid"
        eventually(lambda: pid.exists() and pid.read_text().endswith("\n"))
        yield command, int(pid.read_text())


def is_alive(pid: int) -> bool:
    """Whether it runs; one that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_during_the_start(tmp_path: Path, number: signal.Signals) -> None:
    with starting(tmp_path, "wait") as (command, daemon):
        os.killpg(command.pid, number)
        assert command.communicate(timeout=PATIENCE_SECONDS) == ("", "")
        assert command.returncode == -number
        assert not is_alive(daemon)


def test_command_that_is_killed_during_the_start(tmp_path: Path) -> None:
    """A mount that nobody was told of is not kept."""
    with starting(tmp_path, "orphan") as (command, daemon):
        command.kill()
        command.wait(PATIENCE_SECONDS)
        eventually(lambda: not is_alive(daemon))


@pytest.mark.mount
@pytest.mark.parametrize("options", [[], ["--foreground"]])
def test_interrupt_before_the_mount(tmp_path: Path, point: Path, options: list[str]) -> None:
    """While it waits for the machine, so that it comes during the start."""
    machine = tmp_path / "machine.toml"
    os.mkfifo(machine)
    command = [sys.executable, "-m", "fakesysfs", "mount", str(point), "--machine", str(machine), *options]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        writer = os.open(machine, os.O_WRONLY)  # returns when the command reads
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_SECONDS)[0] == ""
        os.close(writer)
    assert process.returncode == -signal.SIGINT
    assert not mounted_at(str(point))


# What it says ---------------------------------------------------------------------------------------------------


@pytest.mark.mount
def test_standard_output_that_is_full(point: Path) -> None:
    done = bash(f"{MOUNT} mnt >/dev/full", point.parent)
    assert done.returncode == 0
    assert done.stderr == "fakesysfs: mounted, but standard output cannot be written: No space left on device\n"
    assert mounted_at(str(point))


@pytest.mark.mount
def test_standard_output_that_nobody_reads(point: Path) -> None:
    done = bash(f"exec 3> >(:); wait $!; {MOUNT} mnt >&3", point.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert mounted_at(str(point))


@pytest.mark.mount
def test_directory_that_is_not_empty(point: Path, tmp_path: Path) -> None:
    (point / "hidden").touch()
    done = fakesysfs("mount", point, state=tmp_path)
    assert done.returncode == 0
    assert done.stderr == f"fakesysfs: {point}: the directory is not empty; the mount hides what is in it\n"
    assert not (point / "hidden").exists()


@pytest.mark.mount
def test_hints_for_a_name_with_a_dash(tmp_path: Path) -> None:
    """How to make the directory, and what to do when a fake is mounted there."""

    def hint(done: subprocess.CompletedProcess[str]) -> str:
        return done.stderr.split("`")[1]

    missing = bash(f"{MOUNT} -- '-a b'", tmp_path)
    assert missing.returncode == 2
    assert bash(hint(missing), tmp_path).returncode == 0
    assert bash(f"{MOUNT} -- '-a b'", tmp_path).returncode == 0
    again = bash(f"{MOUNT} -- '-a b'", tmp_path)
    assert again.returncode == 1
    umount = hint(again).replace("fakesysfs umount", f"{MOUNT.removesuffix('mount')} umount")
    assert bash(umount, tmp_path).returncode == 0
    assert not mounted_at(str(tmp_path / "-a b"))
