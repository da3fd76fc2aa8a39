"""What the set-up says where something is missing: the one command that brings it, for this system's package manager.

On a copy of the scripts that is not set up, with a PATH on which there is little. No package manager is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THERE = (
    *("bash", "cat", "cut", "dirname", "env", "flock", "grep", "mktemp", "python3", "readlink", "rm", "sed", "setpriv"),
    *("sh", "sha256sum", "tail", "timeout"),
)
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
INSTALL = {
    "apt-get": "sudo apt-get install python3 python3-venv python3-dev fuse3 libfuse3-dev gcc libc6-dev pkg-config",
    "dnf": "sudo dnf install python3 python3-devel fuse3 fuse3-devel gcc pkgconf-pkg-config",
    "zypper": "sudo zypper install python3 python3-devel fuse3 fuse3-devel gcc pkg-config",
    "pacman": "sudo pacman -S --needed python fuse3 gcc pkgconf",
}


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A copy that belongs to another user, if we can be one. Pytest's own directory is closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        yield copied(Path(directory))


def copied(where: Path) -> Path:
    """Fill it with the scripts and a PATH."""
    for name in ("scripts", "pyproject.toml", "tests/run"):
        target = where / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    commands = where / "bin"
    commands.mkdir()
    for name in THERE:
        found = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
        if found is None:
            pytest.skip(f"{name} is not where every user finds it")
        (commands / name).symlink_to(found)
    if os.geteuid() == 0:
        for path in (where, *where.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
    return where


def set_up(checkout: Path) -> subprocess.CompletedProcess[str]:
    """tests/run as an ordinary user."""
    as_nobody = NOBODY if os.geteuid() == 0 else ()
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout)}
    command = [*as_nobody, "bash", checkout / "tests/run"]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.parametrize("manager", [*INSTALL, None])
def test_an_ordinary_user_is_told_the_command(checkout: Path, manager: str | None) -> None:
    if manager is not None:
        (checkout / "bin" / manager).write_text("#!/bin/sh\necho started >&2\n")
        (checkout / "bin" / manager).chmod(0o755)
    done = set_up(checkout)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    missing, _, command = done.stderr.strip().partition("; install that first")
    assert "fusermount3, gcc, pkg-config, libfuse3's headers" in missing
    assert command == (f": {INSTALL[manager]}" if manager is not None else "")
    assert not (checkout / ".venv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to another user")
def test_somebody_elses_checkout_that_is_not_set_up(checkout: Path) -> None:
    os.chown(checkout, 0, 0)
    checkout.chmod(0o755)
    done = set_up(checkout)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"fakesysfs: {checkout} is not set up for user 65534, who may not write there: use a clone of your own\n"
    )
