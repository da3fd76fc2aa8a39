"""The soak comes to an end, counts what it did, and fails for a wrong answer."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.soaking.arena import Arena, Flatness, Usage
from tests.soaking.clients import lister
from tests.soaking.report import Tally, added, failures, table

ROOT = Path(__file__).parents[2]


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.soaking", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.mount
def test_a_soak_without_time_goes_round_once() -> None:
    done = soak("0", "--seed", "one", "--only", "clients,fuzz")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "again with --seed one" in done.stdout
    assert done.stdout.rstrip().endswith("no failure")
    assert {"clients: read", "fuzz: write"} <= {line[:24].strip() for line in done.stdout.splitlines()}


def test_unknown_attacks_are_refused() -> None:
    done = soak("--only", "nonsense")
    assert done.returncode == 2
    assert "unknown kind nonsense" in done.stderr


def test_what_an_operation_may_answer() -> None:
    tally = Tally("kind")
    for number in (errno.EBUSY, errno.EIO):
        with tally.operation("write", errno.EBUSY):
            raise OSError(number, os.strerror(number))
    assert (tally.operations, tally.refused, tally.failed["error"]) == (2, 1, 1)
    assert tally.said == ["kind: error: write: EIO, expected success or EBUSY"]
    assert failures([*added([tally, tally]).values()]) == 2
    assert "kind" in table([tally])


def test_a_listing_that_misses_a_name_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "sys/bus/dax/devices").mkdir(parents=True)
    (tmp_path / "sys/bus/dax/devices/more").touch()
    arena = Arena(tmp_path, str(tmp_path), os.getpid())
    attack = lister({"sys/bus/dax/devices": frozenset({"dax0.0"})})
    (tally,) = attack(arena, random.Random(0), time.monotonic() + 0.01)  # noqa: S311
    assert tally.failed["wrong"] == 2 * tally.operations
    assert "misses ['dax0.0']" in tally.said[0]
    assert "has ['more']" in tally.said[1]


def test_a_server_that_grows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Usage(30_000, 10)
    monkeypatch.setattr("tests.soaking.arena.usage", lambda _pid: held)
    monkeypatch.setattr("tests.soaking.host.PATIENCE_SECONDS", 0)
    flatness = Flatness(os.getpid())
    assert [flatness.look(cycle) for cycle in range(4)] == [[]] * 4
    held = Usage(90_000, 11)
    assert len(flatness.look(4)) == 2
