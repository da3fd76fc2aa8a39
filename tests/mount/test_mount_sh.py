"""./mount.sh as it is typed: odd directories, wrong use, no FUSE. What the set-up does is tests/test_setup.py's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fakesysfs.fuse.mount import IN_A_CONTAINER
from fakesysfs.fuse.mount_table import mounted_at
from tests.mount.served import PATIENCE_SECONDS, ROOT

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(not (ROOT / ".venv/.set-up-base").exists(), reason="the checkout is not set up"),
]


def mount_sh(*arguments: str | Path, cwd: Path, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """One call of it; daemons log to `cwd`."""
    return subprocess.run(
        [*wrapper, ROOT / "mount.sh", *arguments],
        cwd=cwd,
        env={**os.environ, "XDG_STATE_HOME": str(cwd), "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("kernel", ["hotplug-v3", "7.3"])
@pytest.mark.parametrize(
    "name", ["plain", "a b", "it's", "{0}", "-dash", "new\nline", os.fsdecode(b"not text \xff"), "öß"]
)
def test_what_it_prints_can_be_typed(tmp_path: Path, name: str, kernel: str) -> None:
    """Wherever it is mounted and whatever the kernel's word is."""
    point = tmp_path / name
    done = mount_sh(point, "--kernel", kernel, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    try:
        commands = done.stdout.partition(". Try:\n")[2]
        assert "umount" in commands
        script = os.fsencode(f"set -e\n{commands}")
        typed = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (typed.returncode, typed.stderr) == (0, "")
        assert typed.stdout.startswith("online_movable\n")
        assert not mounted_at(str(point))
    finally:
        if mounted_at(str(point)):
            mount_sh("--unmount", point, cwd=tmp_path)


@pytest.mark.parametrize("name", ["a b", os.fsdecode(b"not text \xff"), "-dash"])
def test_unmount(tmp_path: Path, name: str) -> None:
    """What is in the way of a mount and of an unmount is tests/mount/test_umount.py's."""
    assert mount_sh("--", name, cwd=tmp_path).returncode == 0
    done = mount_sh("--unmount", "--", name, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not mounted_at(str(tmp_path / name))


def test_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("missing")
    for arguments in (
        ["file"],
        ["file/below"],
        ["nowhere"],
        ["mnt", "--kernel", "6.1"],
        ["mnt", "--nonsense"],
        ["--unmount", "one", "two"],
        ["--unmount", "-one"],
        ["--"],
    ):
        done = mount_sh(*arguments, cwd=tmp_path)
        assert done.returncode == 2, arguments
        assert done.stderr
    assert "example: ./mount.sh" in mount_sh("--help", cwd=tmp_path).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide the device")
def test_without_the_device_one_sentence_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = 'mount --bind "$0" /dev/fuse && exec "$@"'
    done = mount_sh("mnt", cwd=tmp_path, wrapper=("unshare", "-m", "sh", "-c", script, str(tmp_path / "file")))
    assert done.returncode == 2
    # the words of check_device in fakesysfs/fuse/mount.py
    why = f"/dev/fuse is missing: load the module with `modprobe fuse`; {IN_A_CONTAINER}"
    assert done.stderr == f"fakesysfs: FUSE does not work here: {why}\n"
    assert not (tmp_path / "mnt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user for whom the device is closed")
def test_a_closed_device_is_explained_as_by_the_command(tmp_path: Path) -> None:
    """The mode in the form that chmod takes."""
    as_nobody = ["setpriv", "--reuid", "65534", "--clear-groups"]
    if subprocess.run([*as_nobody, "test", "-r", ROOT / "mount.sh"], check=False).returncode:
        pytest.skip("the checkout is closed to other users")
    script = f'mknod "$0" c 10 229 -m 600 && mount --bind "$0" /dev/fuse && exec {" ".join(as_nobody)} "$@"'
    done = mount_sh("mnt", cwd=tmp_path, wrapper=("unshare", "-m", "sh", "-c", script, str(tmp_path / "device")))
    why = f"/dev/fuse may not be opened by user 65534 (mode 600): be root, or `chmod 666 /dev/fuse`; {IN_A_CONTAINER}"
    assert done.stderr == f"fakesysfs: FUSE does not work here: {why}\n"
