"""How mounts begin and end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakesysfs.fuse.mount import detach
from fakesysfs.fuse.mount_table import mounted_at
from tests.mount.served import (
    AS_NOBODY,
    NOBODY,
    PATIENCE_SECONDS,
    ROOT,
    Served,
    as_nobody,
    eventually,
    fakesysfs,
    served,
    shell,
)

pytestmark = pytest.mark.mount


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_unmounts(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path) as mount, shell("echo NONE > sleep; echo $?", mount.path) as sleeper:
        eventually(lambda: mount.read("sleep") == "1\n")
        mount.server.send_signal(number)
        assert mount.server.wait(PATIENCE_SECONDS) == 0
        assert not mounted_at(str(mount.path))
        assert sleeper.wait(PATIENCE_SECONDS) == 0


def test_lazy_umount_while_files_are_open_and_a_store_sleeps(tmp_path: Path) -> None:
    with served(tmp_path) as mount, shell("echo NONE > sleep", mount.path):
        held = os.open(mount / "value", os.O_RDONLY)
        eventually(lambda: mount.read("sleep") == "1\n")
        detach(str(mount.path))
        assert mount.server.wait(PATIENCE_SECONDS) == 0
        assert not mounted_at(str(mount.path))
        with pytest.raises(OSError, match=r"not connected|abort"):
            os.read(held, 1)
        os.close(held)


def test_plain_umount(tmp_path: Path) -> None:
    with served(tmp_path) as mount:
        assert mount.read("value")
        subprocess.run(["fusermount3", "-u", mount.path], check=True)
        assert mount.server.wait(PATIENCE_SECONDS) == 0


def test_two_mounts_are_independent(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        mounts: list[Served] = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            mounts.append(stack.enter_context(served(tmp_path / name)))
        first, second = mounts
        first.write("present", "- 0 31")
        first.write("value", "first")
        assert os.listdir(first / "family") == []
        assert len(os.listdir(second / "family")) == 32
        assert second.read("value") == "zero\n"


def test_killed_server_is_replaced(tmp_path: Path) -> None:
    point = tmp_path / "real"
    point.mkdir()
    for _ in range(2):
        done = fakesysfs("mount", point, state=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert str(point) in done.stdout
        pid = int((point / "control/pid").read_text())
        os.kill(pid, signal.SIGKILL)
    assert fakesysfs("mount", point, state=tmp_path).returncode == 0
    again = fakesysfs("mount", point, state=tmp_path)
    assert again.returncode == 1
    assert "is mounted here already" in again.stderr
    assert fakesysfs("umount", point, state=tmp_path).returncode == 0
    gone = fakesysfs("umount", point, state=tmp_path)
    assert gone.returncode == 1
    assert "no fakesysfs is mounted" in gone.stderr
    assert [log.read_text() for log in (tmp_path / "fakesysfs").iterdir()] == [""]


def test_remount_at_once_many_times(tmp_path: Path) -> None:
    """The helper that unmounts for a dead server goes by path; it must never hit the next mount."""
    point = tmp_path / "real"
    point.mkdir()
    for _ in range(5):
        assert fakesysfs("mount", point, state=tmp_path).returncode == 0
        assert fakesysfs("umount", point, state=tmp_path).returncode == 0
    assert fakesysfs("mount", point, state=tmp_path).returncode == 0
    assert (point / "sys").is_dir()
    assert fakesysfs("umount", point, state=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mount", "missing"], "mkdir"),
        (["mount", "/etc/passwd"], "/etc/passwd: Not a directory"),
        (["mount", "/"], "hide the whole system"),
        (["mount", ".", "--machine", "nonsense"], "nonsense"),
        (["mount", ".", "--kernel", "nonsense"], "hotplug-v3"),
        (["check", "/nonsense"], "/nonsense"),
        (["mount"], "MNT"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_use(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = fakesysfs(*arguments, state=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_mount_with_closed_descriptors(tmp_path: Path, closed: str) -> None:
    """What is opened in their place is not taken for them."""
    point = tmp_path / "real"
    point.mkdir()
    script = f'exec "$0" -m fakesysfs mount "$1" {closed}'
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    command = ["sh", "-c", script, sys.executable, str(point)]
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
    assert (point / "control/pid").read_text()
    assert fakesysfs("umount", point, state=tmp_path).returncode == 0
    assert [log.read_text() for log in (tmp_path / "fakesysfs").iterdir()] == [""]


def test_from_a_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "gone").mkdir()
    for place, status in ((tmp_path / "real", 0), ("real", 1)):
        script = f"""
cd gone && rmdir ../gone
PYTHONPATH='{ROOT}' '{sys.executable}' -P -m fakesysfs mount '{place}'; echo status $?
PYTHONPATH='{ROOT}' '{sys.executable}' -P -m fakesysfs umount '{tmp_path}/real'
"""
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert f"status {status}\n" in done.stdout
        assert "Traceback" not in done.stderr
        (tmp_path / "gone").mkdir(exist_ok=True)


def test_help_needs_no_fuse() -> None:
    code = "import sys; from fakesysfs.cli import main\ntry: main(['mount', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'trio', 'pyfuse3'} & set(sys.modules), 'imported'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "example:" in done.stdout


def test_foreground(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fakesysfs", "mount", "--foreground", "."]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(".: machine default, kernel hotplug-v3")
        assert (tmp_path / "sys").is_dir()
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_SECONDS) == 0
        assert "fakesysfs umount ." in server.stdout.read()


def test_another_user(nobodys: Path) -> None:
    """Everything belongs to who mounts."""
    with served(nobodys, wrapper=AS_NOBODY, owner=NOBODY) as mount:
        done = as_nobody(
            "stat -c %u value && echo mine > value && cat value secret && echo - 3 3 > present", mount.path
        )
        assert done.stdout.split() == [str(NOBODY), "mine", "secret"], done.stderr
        assert as_nobody("ls family | wc -l", mount.path).stdout == "31\n"


def test_others_are_let_in_only_if_asked(tmp_path: Path, nobodys: Path) -> None:
    point = nobodys / "real"
    point.mkdir()
    attribute = "cat sys/devices/system/memory/block_size_bytes"
    assert fakesysfs("mount", point, state=tmp_path).returncode == 0
    assert as_nobody(attribute, point).returncode != 0
    assert fakesysfs("umount", point, state=tmp_path).returncode == 0
    assert fakesysfs("mount", "--allow-other", point, state=tmp_path).returncode == 0
    assert as_nobody(attribute, point).stdout == "8000000\n"
    assert fakesysfs("umount", point, state=tmp_path).returncode == 0


def test_killed_server_of_another_user(nobodys: Path) -> None:
    """What is left of it can be cleared away by its user."""
    with served(nobodys, wrapper=AS_NOBODY, owner=NOBODY) as mount:
        mount.server.kill()
        mount.server.wait(PATIENCE_SECONDS)
        assert mounted_at(str(mount.path))
        umount = [*AS_NOBODY, sys.executable, "-m", "fakesysfs", "umount", str(mount.path)]
        done = subprocess.run(umount, cwd=ROOT, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert not mounted_at(str(mount.path))
