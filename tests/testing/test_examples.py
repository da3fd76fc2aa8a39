"""The examples work as they are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

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
