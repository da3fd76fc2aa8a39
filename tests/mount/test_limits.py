"""Limits with which no server can start: one sentence, status 1, nothing mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakesysfs.fuse import limits
from fakesysfs.fuse.mount_table import mounted_at
from tests.mount.served import AS_NOBODY, NOBODY, PATIENCE_SECONDS, ROOT, fakesysfs

pytestmark = pytest.mark.mount

PYTHON = (sys.executable, "-m", "fakesysfs", "mount")
FOREGROUND = (*PYTHON, "--foreground")
MOUNT_SH = (str(ROOT / "mount.sh"),)


def started(limit: str, *command: str, point: Path, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    script = f'ulimit {limit}; exec "$@"'
    return subprocess.run(
        [*wrapper, "bash", "-c", script, "bash", *command, point],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("fakesysfs: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


@pytest.mark.parametrize("command", [PYTHON, FOREGROUND, MOUNT_SH])
@pytest.mark.parametrize("number", [8, 16, limits.DESCRIPTORS - 1])
def test_too_few_descriptors(tmp_path: Path, number: int, command: tuple[str, ...]) -> None:
    refused(started(f"-n {number}", *command, point=tmp_path), f"ulimit -n {limits.DESCRIPTORS}")
    assert not mounted_at(str(tmp_path))


def test_fewest_descriptors_for_mount_sh(tmp_path: Path) -> None:
    """It looks at the limits itself, before anything is started for which they are too small."""
    refused(started("-n 6", *MOUNT_SH, point=tmp_path), f"ulimit -n {limits.DESCRIPTORS}")


@pytest.mark.parametrize("command", [PYTHON, FOREGROUND, MOUNT_SH])
@pytest.mark.parametrize("number", [100_000, (limits.MEMORY_BYTES >> 10) - 1])
def test_too_little_memory(tmp_path: Path, number: int, command: tuple[str, ...]) -> None:
    refused(started(f"-v {number}", *command, point=tmp_path), f"ulimit -v {limits.MEMORY_BYTES >> 10}")
    assert not mounted_at(str(tmp_path))


_WITH_ONE_PROCESS = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
runpy.run_module("fakesysfs", run_name="__main__")
"""


@pytest.mark.parametrize("options", [[], ["--foreground"]])
def test_too_few_processes(nobodys: Path, options: list[str]) -> None:
    """For the daemon; for the threads of a server."""
    os.chown(nobodys, NOBODY, NOBODY)
    command = [*AS_NOBODY, sys.executable, "-c", _WITH_ONE_PROCESS, "mount", str(nobodys), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    refused(done, "ulimit -u")
    assert not mounted_at(str(nobodys))


def test_too_few_processes_for_mount_sh(nobodys: Path) -> None:
    os.chown(nobodys, NOBODY, NOBODY)
    refused(started("-u 1", *MOUNT_SH, point=nobodys, wrapper=AS_NOBODY), "ulimit -u")
    assert not mounted_at(str(nobodys))


@pytest.mark.parametrize("command", [PYTHON, MOUNT_SH])
@pytest.mark.parametrize(
    "limit", [f"-n {limits.DESCRIPTORS}", "-S -n 16", f"-v {limits.MEMORY_BYTES >> 10}", "-n 4096"]
)
def test_limits_that_do(tmp_path: Path, limit: str, command: tuple[str, ...]) -> None:
    """The soft limit of descriptors is raised."""
    point = tmp_path / "mnt"
    point.mkdir()
    done = started(limit, *command, point=point)
    assert (done.returncode, done.stderr) == (0, "")
    assert (point / "sys/bus/dax/devices").is_dir()
    assert fakesysfs("umount", point, state=tmp_path).returncode == 0
