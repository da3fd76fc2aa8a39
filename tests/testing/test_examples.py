"""The examples work as they are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(
    path
    for path in EXAMPLES.rglob("*")
    if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh", b"#!/bin/bash"))
)


def test_there_are_some() -> None:
    assert len(SCRIPTS) >= 7


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_one(script: Path) -> None:
    shell = "bash" if script.read_bytes().startswith(b"#!/bin/bash") else "sh"
    subprocess.run([shell, "-n", script], check=True)
    assert script.stat().st_mode & 0o111


INSTALLS = [path for path in sorted(EXAMPLES.rglob("*")) if path.is_file() and b"pip install" in path.read_bytes()]


@pytest.mark.parametrize("file", INSTALLS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_an_example_installs_what_exists(file: Path) -> None:
    """A clone, by its path: no index has the package."""
    for line in re.findall(r"pip install (.*)", file.read_text(encoding="utf-8")):
        assert re.search(r'(?:^| )"[^" ]*[./][^" ]*\[mount\]"', line), line
        assert not re.search(r"(?:^| )fakesysfs", line), line


def test_there_is_a_file_for_each_service() -> None:
    names = {path.name for path in INSTALLS if path.parent.name == "ci"}
    assert names == {"Containerfile", "action.yml", "gitlab-ci.yml"}


def test_every_order_of_two_controllers() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    subprocess.run(command, check=True, cwd=EXAMPLES / "explore")


def test_the_page_shows_what_explore_says() -> None:
    """docs/explore.md: its test fails as it says, and its report is that of the example."""
    page = (EXAMPLES.parent / "docs" / "explore.md").read_text(encoding="utf-8")
    python = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    first, report = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert python is not None
    names: dict[str, Any] = {}
    exec(python[1], names)  # noqa: S102  our own page
    with pytest.raises(AssertionError) as failure:
        names["test_two_of_them"]()
    assert _without_time(first) <= _without_time(str(failure.value))

    script = (
        "from test_controllers import *; "
        "print(explore([remove_blocks, keep_online_mended], machine=MACHINE, kernel='7.2', check=not_stuck))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=EXAMPLES / "explore"
    )
    assert _without_time(report) == _without_time(shown.stdout)


def _without_time(text: str) -> set[str]:
    """The lines, without what differs from run to run: seconds, and the path of the machine."""
    lines = (re.sub(r"[\d.]+ seconds|(?<=\], ).*(?=schedule=)", "", line) for line in text.splitlines())
    return {line.replace("..., schedule", "schedule") for line in lines}


@pytest.mark.ci
@pytest.mark.mount
@pytest.mark.tools
def test_sample_project(tmp_path: Path) -> None:
    """Its own tests, with the fixtures, on a copy."""
    project = shutil.copytree(EXAMPLES / "sample-project", tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:trio", "-p", "no:cacheprovider", "--fakesysfs-require"],
        cwd=project, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
