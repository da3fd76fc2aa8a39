"""`fakesysfs explore --udev`: a real systemd-udevd is one more program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.conftest import ROOT, Runner, need
from tests.tools.test_explore import HOTPLUG, MEMORY, TWO_BLOCKS, UNBIND, explored, run, writes

KEEP = ROOT / "examples/udev-rules/80-keep-memory-online.rules"
REMOVER = f"""
for block in 64 65; do
    [ "$(cat {MEMORY}/memory$block/state)" = offline ] || echo offline > {MEMORY}/memory$block/state
done
{UNBIND}
"""


@pytest.fixture(autouse=True)
def _needs_udev() -> None:
    need("udevadm")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The file of a machine with two blocks that can be taken away."""
    file = tmp_path / "machine.toml"
    file.write_text(TWO_BLOCKS)
    return file


def test_a_rule_that_onlines_races_with_a_remover(
    explore: Runner, tmp_path: Path, machine: Path, on_the_host: list[bytes]
) -> None:
    """Only if udevd has not begun when the driver is taken off, the device is not wedged. No uevent gets out."""
    options = ["--machine", machine.name, "--kernel", "7.2", "--udev", "--rules", str(KEEP)]
    found = explored(explore, tmp_path, *options, "--preemptions", "1", programs=(REMOVER,))
    assert found.status == 1
    assert found.counts == (4, 3, False), found.output
    assert "A repetition of this order differs" not in found.output
    for failure in found.result["failures"]:
        assert failure["why"] == "the device is wedged: memory64 to 65 cannot be taken away any more: no driver has it"
    steps = found.result["failures"][0]["steps"]
    writers = [step["process"] for step in steps if (step["operation"], step["data"]) == ("write", "online")]
    assert writers == ["udevd.1", "udevd.1"]
    assert run(explore, tmp_path, "--replay", "explore-failure.json").returncode == 1
    del on_the_host


def test_one_write_does_not_race_with_the_rule(explore: Runner, tmp_path: Path, machine: Path) -> None:
    """Not even within the write: what udevd has heard by then does not depend on how fast it is told."""
    options = ["--machine", machine.name, "--udev", "--rules", str(KEEP), "--inside"]
    check = f'[ "$(cat {HOTPLUG})" = unplugged ] && ! [ -e {MEMORY}/memory64 ]'
    found = explored(explore, tmp_path, *options, "--check", check, programs=(writes(HOTPLUG, "unplug"),))
    assert (found.result["failed"], found.result["complete"]) == (0, True), found.output


@pytest.mark.parametrize(
    ("look", "all_orders"),
    [("/sys/bus/dax/devices/dax0.0/size", 1), (f"{MEMORY}/memory65/state", 1), (f"{MEMORY}/memory64/state", 2)],
)
def test_what_commutes_with_udevd(explore: Runner, tmp_path: Path, machine: Path, look: str, all_orders: int) -> None:
    """A look at something else than what its rule writes, and times that it sets on nodes in /dev."""
    machine.write_text(TWO_BLOCKS + "\n[kernel]\nkernel_allocations_on_hotplugged_nodes = false\n")
    program = f"echo offline > {MEMORY}/memory64/state; cat {look}"
    options = ["--machine", machine.name, "--kernel", "7.2", "--udev", "--rules", str(KEEP), "--check", "false"]
    found = explored(explore, tmp_path, *options, programs=(program,), reduction=True)
    assert found.counts == (all_orders, all_orders, True), found.output


def test_who_waits_for_udevd_waits_or_comes_before(explore: Runner, tmp_path: Path, machine: Path) -> None:
    """`udevadm settle` has no socket for uevents. The first order has it wait for the rule."""
    state = f"{MEMORY}/memory65/state"
    settles = f"cat {MEMORY}/memory64/state; udevadm settle; cat {state} > state"
    options = ["--machine", machine.name, "--kernel", "7.2", "--udev", "--rules", str(KEEP)]
    options += ["--check", "cat state >> states"]
    found = explored(explore, tmp_path, *options, programs=(f"echo offline > {state}", settles), reduction=True)
    assert found.result["complete"], found.output
    assert set((tmp_path / "states").read_text().split()) == {"online", "offline"}


DAXCTL = "exec daxctl reconfigure-device --force --mode=devdax dax0.0"


def test_daxctl_before_and_after_udevd(explore: Runner, tmp_path: Path, machine: Path) -> None:
    """Its hundred steps are steps as any other's."""
    need("daxctl")
    options = ["--machine", machine.name, "--kernel", "7.2", "--udev", "--rules", str(KEEP), "--preemptions", "0"]
    found = explored(explore, tmp_path, *options, "--check", "false", programs=(DAXCTL,))
    steps = found.result["failures"][0]["steps"]
    written = [Path(step["path"]).name for step in steps if step["operation"] == "write" and step["process"] == "A"]
    assert written == ["state", "state", "remove_id", "unbind", "new_id", "bind"]
    assert "steps of A that only look" in found.output


@pytest.mark.ci
def test_daxctl_races_with_the_rule(explore: Runner, tmp_path: Path, machine: Path) -> None:
    """Where udevd comes before daxctl looks again, daxctl gives up; where it comes after that, the device is wedged."""
    need("daxctl")
    options = ["--machine", machine.name, "--kernel", "7.2", "--udev", "--rules", str(KEEP), "--preemptions", "1"]
    check = f"! [ -e {MEMORY}/memory64 ]"
    found = explored(explore, tmp_path, *options, "--check", check, programs=(DAXCTL,), reduction=True)
    assert 0 < found.result["failed"] < found.result["explored"]
    assert "A repetition of this order differs" not in found.output


def test_each_order_has_a_new_udevd(explore: Runner, tmp_path: Path, machine: Path) -> None:
    """What one has written to /run/udev is gone in the next; what the setup causes is no step."""
    rules = tmp_path / "rules"
    rules.mkdir(mode=0o755)
    (rules / "10-mark.rules").write_text('SUBSYSTEM=="memory", ENV{FOUND}="it"\n')
    options = ["--machine", machine.name, "--udev", "--rules", str(rules)]
    setup = f"ls /run/udev/data 2> /dev/null | wc -l >> seen; echo offline > {MEMORY}/memory64/state"
    check = "ls /run/udev/data | wc -l >> seen; false"
    program = f"cat {MEMORY}/auto_online_blocks"
    found = explored(
        explore, tmp_path, *options, "--setup", setup, "--check", check, "--limit", "3", programs=(program, program)
    )
    assert found.result["explored"] == 2
    seen = (tmp_path / "seen").read_text().split()
    assert set(seen[::2]) == {"0"}
    assert set(seen[1::2]) == {"1"}
    assert {step["process"] for failure in found.result["failures"] for step in failure["steps"]} == {"A.1", "B.1"}


def test_udevd_that_cannot_go_on_is_a_deadlock(explore: Runner, tmp_path: Path, machine: Path) -> None:
    """It waits for a program of a rule, which waits for ever."""
    rules = tmp_path / "rules"
    rules.mkdir(mode=0o755)
    (tmp_path / "wait").write_text(f"#!/bin/sh\nread line < {tmp_path}/fifo\n")
    (tmp_path / "wait").chmod(0o755)
    tmp_path.chmod(0o755)
    (rules / "10-wait.rules").write_text(f'SUBSYSTEM=="memory", PROGRAM="{tmp_path}/wait"\n')
    options = [
        "--machine",
        machine.name,
        "--udev",
        "--rules",
        str(rules),
        "--setup",
        f"[ -e {tmp_path}/fifo ] || mkfifo {tmp_path}/fifo",
    ]
    found = explored(explore, tmp_path, *options, programs=(writes(f"{MEMORY}/memory64/state", "offline"),))
    assert found.counts == (1, 1, True), found.output
    assert found.result["failures"][0]["why"].startswith("nobody can go on: udevd")


def test_an_ordinary_user_may_explore_with_udev(explore_as_nobody: Runner, public_path: Path) -> None:
    need("setpriv")
    public_path.chmod(0o777)
    (public_path / "machine.toml").write_text(TWO_BLOCKS)
    options = ["--machine", "machine.toml", "--kernel", "7.2", "--udev", "--rules", str(KEEP), "--preemptions", "0"]
    found = explored(explore_as_nobody, public_path, *options, programs=(REMOVER,))
    assert found.counts == (1, 0, False), found.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--rules", str(KEEP), "--", "true"], "--rules needs --udev"),
        (["--udev", "--rules", "missing.rules", "--jobs", "2", "--", "true"], "missing.rules: No such file"),
    ],
)
def test_wrong_use(explore: Runner, tmp_path: Path, arguments: list[str], why: str) -> None:
    done = run(explore, tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("fakesysfs: ") == 1
    assert why in done.stderr
