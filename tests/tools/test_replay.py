"""Every recording is reproduced, on the model and through a mount, with the real tools.

tests/recordings (with its format) is of real kernels. tests/sessions is written from the
specification, for the kernel that could not be recorded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakesysfs.replay import cli, daxctl_versions, isolated
from fakesysfs.replay.recording import Operation, Session

ROOT = Path(__file__).parents[2]
PLACES = [ROOT / "tests" / "sessions", ROOT / "tests" / "recordings"]

IN_CI = os.environ.get("CI") == "true"
"""Nothing is missing there."""

pytestmark = [
    pytest.mark.mount,
    pytest.mark.tools,
    pytest.mark.skipif(isolated.why_not() is not None and not IN_CI, reason=str(isolated.why_not())),
    pytest.mark.skipif(
        not all(map(daxctl_versions.which, daxctl_versions.TOOLS)) and not IN_CI,
        reason=f"not all of {sorted(daxctl_versions.TOOLS)} are here",
    ),
]

KNOWN = [
    r"write .*notifier-error-inject/memory/actions/\w+/error ''$",
    r"write /sys/devices/system/memory/memory\d+/state ",
    r"raw lseek",
    r"async_poll ",
]
"""What a mount cannot show: the operations in the last exception of FORMAT.md."""
NEEDS_IOCTLS = re.compile(r"sh cxl list .*")
"""What is known on the model, too: no ioctl on /dev/cxl/memN answers."""


def replayed(on: str, *places: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fakesysfs", "replay", "-v", "--on", on, *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return done.stdout


def operations(output: str, kind: str) -> Iterator[str]:
    for line in output.splitlines():
        found = re.match(rf"  {kind} \S+(?: \[.*?\])?: (.*)", line)
        if found is not None:
            yield found[1]


@pytest.mark.parametrize("on", ["model", pytest.param("mount", marks=pytest.mark.ci)])
def test_everything_is_reproduced(on: str) -> None:
    output = replayed(on, *PLACES)
    mismatches = [line for line in output.splitlines() if line.startswith("  mismatch")]
    assert not mismatches, output
    found = re.search(r"^total: (\d+) of (\d+) operations reproduced", output, re.MULTILINE)
    assert found is not None, output
    assert found[1] == found[2]
    assert int(found[2]) > 5_000
    paths = re.search(r"^snapshots: (\d+) of \1 paths reproduced", output, re.MULTILINE)
    assert paths is not None, output
    assert int(paths[1]) > 15_000
    known = [what for what in operations(output, "known") if not NEEDS_IOCTLS.fullmatch(what)]
    assert [what for what in known if not any(re.match(pattern, what) for pattern in KNOWN)] == []
    assert bool(known) is (on == "mount")


@pytest.mark.ci
def test_where_the_recorded_version_of_a_tool_is_missing_another_one_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sessions name two versions. The summary names what is not compared."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sessions = ROOT / "tests" / "recordings" / "sessions" / "7.2"
    output = replayed("model", sessions / "04-daxctl.jsonl", sessions / "05-daxctl-create-destroy.jsonl")
    total = re.search(r"^total: (\d+) of \1 operations reproduced \((\d+) compared in part\)$", output, re.MULTILINE)
    assert total is not None, output
    not_compared = re.findall(r"^compared in part: (\d+) operations without .* stands in for ", output, re.MULTILINE)
    assert sum(map(int, not_compared)) == int(total[2])
    # most of what daxctl does is the same in all versions
    assert int(total[1]) > 4 * int(total[2])


@pytest.mark.parametrize("on", ["model", "mount"])
def test_a_descriptor_is_opened_again_by_its_name_in_proc(tmp_path: Path, on: str) -> None:
    """The number in the path is the recorder's; ENODEV once the attribute is gone."""
    attribute, own = "/sys/bus/dax/devices/dax0.0/target_node", "/proc/self/fd/7"
    nothing: dict[str, Any] = {"dmesg": [], "uevents": []}
    lines: list[Operation] = [
        {"op": "sh", "cmd": "modprobe dax_hmem", "rc": 0, "stdout": "", "stderr": ""},
        {"op": "raw", "label": "open", "calls": [{"fn": "open", "args": [attribute, 0], "ret": "fd1"}], **nothing},
        {"op": "raw", "label": "again", "calls": [{"fn": "open", "args": [own, 0], "ret": "fd2"}], **nothing},
        {"op": "raw", "label": "read", "calls": [{"fn": "read", "args": ["fd2", 9], "ret": "2\n"}], **nothing},
        {"op": "sh", "cmd": "rmmod dax_hmem; ls /sys/bus/dax/devices", "rc": 0, "stdout": "", "stderr": ""},
        {"op": "raw", "label": "again", "calls": [{"fn": "open", "args": [own, 0], "errno": "ENODEV"}], **nothing},
    ]
    path = tmp_path / "session.jsonl"
    session = Session(path, {"profile": "7.3", "name": "x", "variant": "default"}, lines)
    report = cli.replay(session, cli.Place(on))
    raw = [line for line in report.lines if line.what.startswith("raw")]
    assert [line.verdict.kind.value for line in raw] == ["reproduced"] * 4, list(report.details())


def test_an_exception_in_a_replay_is_an_error_with_its_place() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(isolated.ChildError, match="ZeroDivisionError"):
        isolated.in_namespaces(fail)
    assert isolated.in_namespaces(lambda: 7) == 7
