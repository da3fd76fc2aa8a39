"""What works without pyfuse3, which needs a C compiler, and what says how to install it: all that mounts.

The interpreter of each test finds no pyfuse3, as after `pip install fakesysfs` without the extra `mount`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fakesysfs.fuse import mount
from fakesysfs.testing import MountedMachine

ROOT = Path(__file__).resolve().parents[1]
HIDING = """
import importlib.machinery
import sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "pyfuse3" else super().find_spec(name, path, target)

stock = importlib.machinery.PathFinder
sys.meta_path[:] = [Finder if finder is stock else finder for finder in sys.meta_path]
"""
"""A sitecustomize.py: Python runs it at its start."""

SENTENCE = re.compile(
    r"fakesysfs(?: replay)?: a mount needs pyfuse3, which is not installed: install it with `pip install .*\n"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Python starts without pyfuse3, in child processes too."""
    return with_file(tmp_path, "sitecustomize.py", HIDING)


def with_file(directory: Path, name: str, text: str) -> dict[str, str]:
    """An environment in which Python finds this module first."""
    (directory / name).write_text(text, encoding="utf-8")
    return os.environ | {"PYTHONPATH": f"{directory}:{ROOT}"}


def python(environment: dict[str, str], *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


# Works ------------------------------------------------------------------------------------------------------------


def test_a_machine_in_process(environment: dict[str, str]) -> None:
    script = """
import importlib.util
from fakesysfs.testing import Machine, MountedMachine
assert importlib.util.find_spec("pyfuse3") is None, "the test hides it"
with Machine(kernel="7.3") as machine:
    machine.write("/sys/bus/dax/devices/dax0.0/state", "unplugged")
    print(machine.uevents[-1].action)
"""
    done = python(environment, "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "remove\n", "")


def test_a_machine_in_a_trio_program(environment: dict[str, str]) -> None:
    script = """
import trio
from fakesysfs.testing import Machine
async def main():
    async with Machine() as machine:
        print(await machine.read("/sys/bus/dax/devices/dax0.0/hotplug"), end="")
trio.run(main)
"""
    done = python(environment, "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "online_movable\n", "")


def test_list_and_check(environment: dict[str, str]) -> None:
    done = python(environment, "-m", "fakesysfs", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "hotplug-v3" in done.stdout
    machine = "fakesysfs/machine/machines/tiny.toml"
    done = python(environment, "-m", "fakesysfs", "check", machine)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{machine}: valid\n", "")


def test_replay_on_the_model(environment: dict[str, str]) -> None:
    """What needs a shell, and so a mount, is not run; the summary says why."""
    sessions = [f"tests/sessions/hotplug-v3/{name}" for name in ("15-cycles.jsonl", "01-boot-policy-offline.jsonl")]
    done = python(environment, "-m", "fakesysfs", "replay", *sessions)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^total: (\d+) of \1 operations reproduced", done.stdout, re.MULTILINE), done.stdout
    assert "a mount needs pyfuse3" in done.stdout


TESTS = """
def test_in_process(fakesysfs_in_process):
    fakesysfs_in_process.write("/sys/bus/dax/devices/dax0.0/hotplug", "unplug")

def test_mounted(fakesysfs_machine):
    pass
"""


@pytest.mark.parametrize(("options", "result"), [((), "1 skipped"), (("--fakesysfs-require",), "1 error")])
def test_the_fixtures(environment: dict[str, str], tmp_path: Path, options: tuple[str, ...], result: str) -> None:
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    arguments = ("-m", "pytest", "-rsE", "-p", "no:cacheprovider", "--rootdir=.", "-c/dev/null", *options)
    done = python(environment, *arguments, cwd=tmp_path)
    assert re.search(rf"=+ 1 passed, {result} in", done.stdout), done.stdout
    assert "a mount needs pyfuse3, which is not installed" in done.stdout


@pytest.mark.mount
@pytest.mark.tools
def test_a_run_in_a_fake_that_is_mounted(environment: dict[str, str], tmp_path: Path) -> None:
    """The server is another process, of another Python say."""
    attribute = "/sys/bus/dax/devices/dax0.0/hotplug"
    with MountedMachine(tmp_path / "machine") as machine:
        done = python(environment, "-m", "fakesysfs", "run", "--at", str(machine.path), "--", "cat", attribute)
    assert (done.returncode, done.stdout, done.stderr) == (0, "online_movable\n", "")


# Needs it ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "mount .",
        "mount --foreground .",
        "run -- true",
        "run --mount . -- true",
        "run --udev -- true",
        "replay --on mount",
    ],
)
def test_a_command_that_mounts_says_what_to_install(environment: dict[str, str], tmp_path: Path, command: str) -> None:
    arguments = command.split()
    if arguments[0] == "replay":
        arguments.append(str(ROOT / "tests/sessions"))
    done = python(environment, "-m", "fakesysfs", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert SENTENCE.fullmatch(done.stderr), done.stderr
    assert mount.PYFUSE3 in done.stderr


def test_a_mounted_machine_says_what_to_install(environment: dict[str, str], tmp_path: Path) -> None:
    script = """
import sys
from fakesysfs.testing import CannotMountError, MountedMachine
try:
    with MountedMachine(sys.argv[1]):
        pass
except CannotMountError as error:
    print(error)
"""
    done = python(environment, "-c", script, str(tmp_path))
    assert done.stdout.startswith("a mount needs pyfuse3, which is not installed: "), done.stderr


@pytest.mark.mount
@pytest.mark.parametrize(
    "command", ["mount .", "mount --foreground .", "run -- true", "run --mount . -- true", "explore -- true true"]
)
@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("raise ImportError('libfuse3.so.3: not there')", "which does not load (libfuse3.so.3: not there): "),
        ("__version__ = '3.2.1'", "but 3.2.1 is installed: "),
    ],
)
def test_a_pyfuse3_that_does_not_fit(tmp_path: Path, command: str, module: str, why: str) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    done = python(with_file(tmp_path, "pyfuse3.py", module), "-m", "fakesysfs", *command.split(), cwd=point)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fakesysfs: a mount needs pyfuse3")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_sentence_names_the_requirement_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["mount"] == [mount.PYFUSE3]
    assert not any("pyfuse3" in requirement for requirement in project["dependencies"])
