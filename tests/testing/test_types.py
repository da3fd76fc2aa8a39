"""A user's project under strict type checkers: what fakesysfs installs has all types."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ci  # type checkers take their time

SAMPLE = Path(__file__).parents[2] / "examples" / "sample-project"

USES = '''
"""All calls that fakesysfs.testing has, and the type of what they return."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import assert_type

import pytest

from fakesysfs.testing import (
    AsyncRunningMachine, AsyncWatch, CannotMountError, LogMessage, Machine, MountedMachine, Refusal, RunningMachine,
    StartedWrite, Uevent, WaitsForeverError, Watch, Write,
)


@pytest.mark.fakesysfs(kernel="7.2", machine="tiny")
def test_common(
    fakesysfs_in_process: RunningMachine,
    fakesysfs_machine: MountedMachine,
    fakesysfs_shared_machine: MountedMachine,
) -> None:
    for machine in (fakesysfs_in_process, fakesysfs_machine, fakesysfs_shared_machine):
        path = Path("/sys/devices/system/memory/memory64/state")
        assert_type(machine.read(path), str)
        assert_type(machine.write(path, b"offline"), int)
        assert_type(machine.ls("/sys"), list[str])
        assert_type(machine.stat("/sys", follow_symlinks=False), os.stat_result)
        assert_type(machine.readlink("/sys/bus/dax/devices/dax0.0"), str)
        assert_type(machine.exists("/sys"), bool)
        assert_type(machine.log, list[LogMessage])
        assert_type(machine.uevents, list[Uevent])
        assert_type(machine.uevents[0].environment, Mapping[str, str])
        assert_type(machine.refused, list[Refusal])
        assert_type(machine.writes, list[Write])
        assert_type(machine.writes[0].seconds, float | None)
        machine.trace_writes(on=False)
        machine.pin(70)
        machine.unpin(70)
        machine.set_unmovable(70, unmovable=False)
        machine.set_latency(online_block=0.5, offline_block=None)
        machine.reset()
        seen = machine.watch()
        assert_type(seen, Watch)
        assert_type(seen.wait_for_uevent("online", "*/memory64", timeout=1), Uevent)
        assert_type(seen.wait_for_log("memory", timeout=1), LogMessage)
        assert_type(machine.wait_until(lambda: len(machine.log), what="a message"), int)


def test_mounted(tmp_path: Path) -> None:
    with pytest.raises(CannotMountError), MountedMachine(tmp_path, machine="default", kernel="7.2") as machine:
        assert_type(machine, MountedMachine)
        assert_type(machine.sys / "bus", Path)
        assert_type(machine.run(["true", tmp_path], check=True).stdout, str)
        assert_type(machine.start("true", stdout=subprocess.PIPE), subprocess.Popen[str])


def test_in_process() -> None:
    with pytest.raises(WaitsForeverError), Machine(kernel="7.2", uid=1000) as machine:
        assert_type(machine, RunningMachine)
        machine.advance(machine.now)
        started = machine.start_write("/control/reset", "1")
        assert_type(started, StartedWrite)
        assert_type(started.finished, bool)
        started.interrupt()
        started.kill()
        assert_type(started.result(), int)


async def asynchronous() -> None:
    async with Machine() as machine:
        assert_type(machine, AsyncRunningMachine)
        assert_type(await machine.read("/control/kernel"), str)
        assert_type(await machine.write("/control/reset", "1"), int)
        seen = machine.watch()
        assert_type(seen, AsyncWatch)
        assert_type(await seen.wait_for_uevent(), Uevent)
        assert_type(await seen.wait_for_log("."), LogMessage)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample project, and a file with all calls; no settings of ours."""
    project = tmp_path_factory.mktemp("types") / "project"
    shutil.copytree(SAMPLE, project, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "tests/test_uses.py").write_text(USES)
    (project / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    return project


def check(project: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=project, capture_output=True, text=True, check=False, timeout=100
    )
    return done.stdout + done.stderr


def mypy(project: Path) -> str:
    return check(project, "mypy", "--strict", "--cache-dir", str(project.parent / "cache"), ".")


def pyright(project: Path) -> str:
    return check(project, "basedpyright", "--pythonpath", sys.executable, ".")


def test_mypy(project: Path) -> None:
    assert mypy(project) == "Success: no issues found in 2 source files\n"


def test_pyright(project: Path) -> None:
    assert "0 errors, 0 warnings, 0 notes" in pyright(project)


def test_wrong_use_is_found(project: Path) -> None:
    """The types are seen: without py.typed a checker would take everything."""
    wrong = project / "tests/test_wrong.py"
    wrong.write_text("from fakesysfs.testing import Machine\n\nMachine().boot()\nMachine(kernel=7.2)\n")
    try:
        assert "arg-type" in mypy(project)
        assert "reportArgumentType" in pyright(project)
    finally:
        wrong.unlink()
