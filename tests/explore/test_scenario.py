"""Searches that are written down: what a file may say, and what it is told if it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakesysfs.explore.scenario import Bounds, Scenario, ScenarioError, ScenarioFile

ROOT = Path(__file__).parents[2]
MACHINE = ROOT / "tests/explore/two-devices.toml"
RULE = ROOT / "examples/udev-rules/80-keep-memory-online.rules"

WHOLE = f"""
title = "two writers"
machine = "{MACHINE}"
kernel = "7.2"
programs = ["one", "two"]
setup = "a"
check = "b"
always = "c"
inside = true
allow_wedged = true
preemptions = 2
limit = 10
seconds = 1.5
jobs = 3

[kernels."7.2"]

[kernels."7.3"]
programs = ["three"]
check = "d"
preemptions = 1
"""


def scenario(where: Path, text: str, **given: Any) -> Scenario:
    """The scenario in a file with this text."""
    file = where / "scenario.toml"
    file.write_text(text)
    return ScenarioFile(str(file)).scenario(machine="default", kernel="hotplug-v3", given=given)


def test_each_key_has_its_place(tmp_path: Path) -> None:
    found = scenario(tmp_path, WHOLE)
    task = found.task
    assert (found.title, found.fake.machine, found.fake.kernel) == ("two writers", str(MACHINE), "7.2")
    assert (task.programs, task.setup, task.check, task.always) == (("one", "two"), "a", "b", "c")
    assert (task.inside, task.allow_wedged, task.udev, task.directory) == (True, True, False, str(tmp_path))
    assert (found.bounds, found.jobs) == (Bounds(2, 10, 1.5), 3)


def test_what_is_given_replaces_what_the_file_says(tmp_path: Path) -> None:
    found = scenario(tmp_path, WHOLE, seconds=7.0, check="e", machine="tiny")
    assert (found.bounds.seconds, found.task.check, found.fake.machine) == (7.0, "e", "tiny")


def test_another_kernel_has_other_programs(tmp_path: Path) -> None:
    found = scenario(tmp_path, WHOLE, kernel="7.3")
    assert (found.task.programs, found.task.check, found.task.setup) == (("three",), "d", "a")
    assert found.bounds == Bounds(1, 10, 1.5)
    assert ScenarioFile(str(tmp_path / "scenario.toml")).kernels == ["7.2", "7.3"]


def test_defaults(tmp_path: Path) -> None:
    found = scenario(tmp_path, 'programs = ["one"]')
    assert (found.title, found.fake.machine, found.fake.kernel) == ("scenario", "default", "hotplug-v3")
    assert (found.bounds, found.jobs) == (Bounds(), 1)


def test_the_first_of_the_kernels_is_the_default(tmp_path: Path) -> None:
    assert scenario(tmp_path, 'programs = ["one"]\n[kernels."7.3"]\n[kernels."7.2"]').fake.kernel == "7.3"


def test_files_are_those_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "machine.toml").write_bytes(MACHINE.read_bytes())
    (tmp_path / "10.rules").write_bytes(RULE.read_bytes())
    text = 'programs = ["one"]\nmachine = "machine.toml"\nudev = true\nrules = ["10.rules"]'
    found = scenario(tmp_path, text)
    assert (found.fake.machine, found.task.rules) == ("machine.toml", ("10.rules",))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('kernl = "7.2"', "kernl: unknown key, expected one of allow_wedged, always, check"),
        ('kernel = "9.9"', "kernel: unknown kernel '9.9' (choose from hotplug-v3"),
        ("kernel = 3", "kernel = 3: expected str"),
        ('machine = "toaster"', "machine: unknown machine 'toaster' (choose from"),
        ('machine = "missing.toml"', "machine: missing.toml: No such file or directory"),
        ("preemptions = -1", "preemptions = -1: expected int >= 0"),
        ("seconds = 0", "seconds = 0: expected float > 0"),
        ("jobs = 0", "jobs = 0: expected int >= 1"),
        ('rules = ["10.rules"]', "rules = ['10.rules']: needs udev = true"),
        ('udev = true\nrules = ["10.rules"]', "10.rules: No such file or directory"),
        ("inside = 1", "inside = 1: expected bool, got int"),
        ('[kernels."9.9"]', "kernels.9.9: unknown kernel '9.9'"),
        (
            '[kernels."7.3"]\nchek = "x"',
            "kernels.7.3.chek: unknown key, expected one of always, check, preemptions, programs, setup",
        ),
        ('[kernels."7.3"]\nprograms = "x"', "kernels.7.3.programs = 'x': expected array"),
        ("title = x", "not TOML: "),
    ],
)
def test_an_error_names_the_file_the_key_and_what_is_allowed(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(ScenarioError) as error:
        scenario(tmp_path, f'programs = ["one"]\n{line}\n')
    assert str(error.value).startswith(f"{tmp_path}/scenario.toml: ")
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("text", "why"), [("", "programs: missing"), ("programs = []", "expected array of length >= 1")]
)
def test_there_must_be_programs(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        scenario(tmp_path, text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"missing\.toml: No such file or directory"):
        ScenarioFile(str(tmp_path / "missing.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ScenarioError, match=r"bytes\.toml: not TOML: not UTF-8 text"):
        ScenarioFile(str(tmp_path / "bytes.toml"))
