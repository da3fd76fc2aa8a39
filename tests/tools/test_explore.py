"""`fakesysfs explore`: real programs in every order of their steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.tools.conftest import Runner, eventually, need
from tests.trace.replayed import data_in

TIMEOUT_SECONDS = 170

MEMORY = "/sys/devices/system/memory"
POLICY = f"{MEMORY}/auto_online_blocks"
STATE = f"{MEMORY}/memory70/state"
HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"

TWO_BLOCKS = """
title = "two memory blocks that can be unplugged"
block_size = "128M"
modules = ["device_dax", "dax_cxl", "kmem"]

[[node]]
id = 0
cpus = "0-1"
memory = [{ start = "0", size = "2G" }]

[[node]]
id = 2

[[dax_region]]
kind = "cxl"
start = "8G"
size = "512M"
target_node = 2
device_size = "256M"

[memory_hotplug]
online_type = "online_movable"
"""

TWO_RANGES = f"""
set -e
echo unplug > {HOTPLUG}
echo dax0.0 > /sys/bus/dax/drivers/kmem/unbind
echo 0 > /sys/bus/dax/devices/dax0.0/size
echo 200000000-207ffffff > /sys/bus/dax/devices/dax0.0/mapping
echo 210000000-217ffffff > /sys/bus/dax/devices/dax0.0/mapping
echo dax0.0 > /sys/bus/dax/drivers/kmem/bind
"""


class Explored(NamedTuple):
    """A search that ended."""

    status: int
    output: str
    result: dict[str, Any]

    @property
    def counts(self) -> tuple[int, int, bool]:
        """Explored, failed, complete."""
        return self.result["explored"], self.result["failed"], self.result["complete"]

    @property
    def schedules(self) -> list[str]:
        """Of the failing orders."""
        return [failure["schedule"] for failure in self.result["failures"]]


def explored(
    explore: Runner, where: Path, *arguments: str, programs: tuple[str, ...], reduction: bool = False
) -> Explored:
    """Explore in the directory `where`."""
    options = [] if reduction else ["--no-reduction"]
    done = run(explore, where, "--json", "result.json", *options, *arguments, "--", *programs)
    assert done.stderr == "", done.stderr
    return Explored(done.returncode, done.stdout, json.loads((where / "result.json").read_text()))


def run(explore: Runner, where: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in the directory `where`."""
    return subprocess.run(
        explore.line(*arguments),
        cwd=where,
        env=explore.environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )


def writes(path: str, *words: str) -> str:
    """A shell program that writes these words to the file."""
    return "; ".join(f"echo {word} > {path}" for word in words)


# Counts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, pytest.param(4, marks=pytest.mark.ci)])
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.ci)])
def test_each_order_is_run_once(explore: Runner, tmp_path: Path, count: int, jobs: int) -> None:
    first = (["online", "offline"] * count)[:count]
    second = (["online_kernel", "online_movable"] * count)[:count]
    programs = writes(POLICY, *first), writes(POLICY, *second)
    found = explored(explore, tmp_path, "--jobs", str(jobs), "--check", "false", programs=programs)
    orders = comb(2 * count, count)
    assert found.counts == (orders, orders, True)
    assert len(set(found.schedules)) == len(found.schedules) == min(orders, 100)


def test_the_last_command_of_a_program_counts(explore: Runner, tmp_path: Path) -> None:
    program = f"echo offline > {STATE}; true"
    found = explored(explore, tmp_path, programs=(program, program))
    assert found.counts == (2, 0, True)
    assert found.status == 0


@pytest.mark.ci
@pytest.mark.parametrize(
    ("first", "second", "orders"),
    [
        ("cat /proc/iomem /proc/iomem", writes(POLICY, "online_kernel"), 3),
        (f"cd {MEMORY}; {writes('auto_online_blocks', 'online', 'offline')}", writes(POLICY, "online_kernel"), 4),
        (f"cd {MEMORY}/..; cd memory; echo online > auto_online_blocks", writes(POLICY, "online_kernel"), 4),
        (f"exec 3> {POLICY}; echo online >&3; echo offline >&3", writes(POLICY, "online_kernel"), 3),
        (f"(echo online > {POLICY}) & (echo offline > {POLICY}) & wait", "true", 2),
        (f"(setsid sh -c 'echo online > {POLICY}' &); (echo offline > {POLICY} &); cat {POLICY}", "true", 6),
        (f"echo x > /dev/null; echo online 2> /dev/null > {POLICY}", writes(POLICY, "online_kernel"), 2),
        (f"echo online_movable >> {POLICY}", writes(POLICY, "online_kernel"), 2),
        (f"[ -d /sys/bus ]; [ -d /sys/class/. ]; cat {POLICY}", writes(POLICY, "online_kernel"), 2),
        ("cat /sys/bus/dax/devices/dax0.0/../../../../sys/bus/dax/devices/dax0.0/hotplug", writes(POLICY, "online"), 2),
    ],
    ids=[
        "files of proc",
        "cd",
        "cd ..",
        "one descriptor",
        "background",
        "other sessions",
        "null",
        "append",
        "always there",
        "links",
    ],
)
def test_what_a_step_is(explore: Runner, tmp_path: Path, first: str, second: str, orders: int) -> None:
    found = explored(explore, tmp_path, "--check", "true", programs=(first, second))
    assert found.counts == (orders, 0, True), found.output


@pytest.mark.ci
@pytest.mark.parametrize(
    ("look", "answers"),
    [
        (f"[ -e {MEMORY}/memory70 ]; echo $?", {"0", "1"}),
        (f"for block in {MEMORY}/memory7?; do echo $block; done | wc -l", {"1", "10"}),
        pytest.param(f"ls -d {MEMORY}/memory7? 2> /dev/null | wc -l", {"0", "10"}, marks=pytest.mark.ci),
        (f"ls {MEMORY} | grep -c 'memory7.'", {"0", "10"}),
    ],
    ids=["exists", "glob", "glob and stat", "ls"],
)
def test_each_answer_of_a_look_occurs(explore: Runner, tmp_path: Path, look: str, answers: set[str]) -> None:
    looking = f"{{ {look}; }} >> {tmp_path}/answers; true"
    found = explored(explore, tmp_path, programs=(looking, writes(HOTPLUG, "unplug", "online_movable")))
    assert found.result["complete"]
    assert found.status == 0, found.output
    assert set((tmp_path / "answers").read_text().split()) >= answers


# Steps that commute ---------------------------------------------------------------------------------------------------

FLIPS = tuple(
    writes(f"{MEMORY}/memory{block}/state", "offline", word) for block, word in ((70, "online_movable"), (50, "online"))
)
"""Two programs on the blocks of two nodes."""
LISTENS = """
import os, socket
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
listener.bind((0, 1))
os.stat("/sys/devices/system/node/node0")
"""


def test_blocks_of_two_nodes_have_one_order(explore: Runner, tmp_path: Path) -> None:
    found = explored(explore, tmp_path, programs=FLIPS, reduction=True)
    assert found.counts == (1, 0, True)
    assert found.result["reduction"]
    assert explored(explore, tmp_path, programs=FLIPS).counts == (6, 0, True)


@pytest.mark.ci
@pytest.mark.parametrize("jobs", [1, 2])
def test_writers_of_one_attribute_commute_nowhere(explore: Runner, tmp_path: Path, jobs: int) -> None:
    programs = (
        writes(POLICY, "online", "offline", "online"),
        writes(POLICY, "online_kernel", "online_movable", "online"),
    )
    options = ["--jobs", str(jobs), "--check", "false"]
    found = explored(explore, tmp_path, *options, programs=programs, reduction=True)
    # The last writes of both are the same word. But the first of them may have changed something.
    assert found.counts[0] == found.counts[1] == len(set(found.schedules))
    everything = explored(explore, tmp_path, *options, programs=programs)
    assert everything.counts == (20, 20, True)
    assert set(found.schedules) <= set(everything.schedules)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("look", "orders"),
    [
        ("cat /sys/bus/dax/devices/dax0.0/size", 1),
        (f"cat {MEMORY}/memory71/valid_zones", 1),
        (f"[ -e {MEMORY}/memory70/state ]", 1),
        (f"cd {MEMORY}; cat memory50/state", 1),
        (f"cat {STATE}", 3),
        ("cat /proc/meminfo", 3),
    ],
)
def test_what_commutes_with_a_change_of_a_block(explore: Runner, tmp_path: Path, look: str, orders: int) -> None:
    found = explored(explore, tmp_path, "--check", "true", programs=(FLIPS[0], look), reduction=True)
    assert found.counts == (orders, 0, True), found.output


REFUSALS = tuple(f"echo offline > {MEMORY}/memory{block}/state 2> /dev/null; true" for block in (70, 50))
UNMOVABLE = "; ".join(f"echo 1 > $FAKESYSFS_CONTROL/blocks/memory{block}/unmovable" for block in (70, 50))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("option", "file", "flips", "refusals"),
    [("--check", "kmsg", 1, 2), ("--check", "uevents", 6, 1), ("--check", "refused", 1, 2), ("--always", "kmsg", 6, 2)],
)
def test_who_reads_the_order_of_messages_sees_each(
    explore: Runner, tmp_path: Path, option: str, file: str, flips: int, refusals: int
) -> None:
    """Of those that were sent: a block that changes its state sends a uevent, one that is refused logs a message."""
    look = f"cat $FAKESYSFS_CONTROL/{file}"
    found = explored(explore, tmp_path, option, look, programs=FLIPS, reduction=True)
    assert found.counts == (flips, 0, True)
    found = explored(explore, tmp_path, "--setup", UNMOVABLE, option, look, programs=REFUSALS, reduction=True)
    assert found.counts == (refusals, 0, True)


@pytest.mark.ci
def test_uevents_conflict_with_those_who_listen(explore: Runner, tmp_path: Path) -> None:
    """And with nobody else: the second program commutes with both others."""
    (tmp_path / "listens.py").write_text(LISTENS)
    look = f"cat {MEMORY}/memory50/state"
    programs = (f"{sys.executable} {tmp_path}/listens.py", look, writes(STATE, "offline"))
    found = explored(explore, tmp_path, programs=programs, reduction=True)
    assert found.counts == (2, 0, True)


# Races ----------------------------------------------------------------------------------------------------------------

CHECKS_THEN_ACTS = f"""[ "$(cat {STATE})" = offline ] || echo offline > {STATE} || exit 7"""
MENDED = f"""[ "$(cat {STATE})" = offline ] || echo offline > {STATE} || [ "$(cat {STATE})" = offline ] || exit 7"""


def test_a_planted_race_is_found_and_mended(explore: Runner, tmp_path: Path) -> None:
    found = explored(explore, tmp_path, programs=(CHECKS_THEN_ACTS, CHECKS_THEN_ACTS))
    assert found.status == 1
    assert found.counts == (6, 4, True)
    failure = found.result["failures"][0]
    assert failure["schedule"] in {"A.1 B.1 A B", "A.1 B.1 B A", "B.1 A.1 A B", "B.1 A.1 B A"}
    last = failure["steps"][-1]
    assert (last["operation"], last["data"], last["result"]) == ("write", "offline", "EINVAL")
    assert last["why"] == "memory70 is already offline"
    assert f"{last['process']} ended with status 7" in failure["why"]
    assert failure["schedule"] in found.output
    mended = explored(explore, tmp_path, programs=(MENDED, MENDED))
    assert mended.status == 0
    assert mended.counts[1:] == (0, True)


PYTHON = """
from pathlib import Path
state = Path({path!r})
if state.exists():
    state.write_text("offline")
"""
PYTHON_MENDED = """
import contextlib, pathlib
with contextlib.suppress(OSError):
    pathlib.Path("{path}").write_text("offline")
"""


@pytest.mark.ci
def test_a_race_of_a_python_program(explore: Runner, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PYTHON.format(path=STATE))
    programs = f"{sys.executable} {tmp_path}/program.py", writes(HOTPLUG, "unplug")
    found = explored(explore, tmp_path, programs=programs)
    assert found.counts == (3, 1, True)
    assert [step["operation"] for step in found.result["failures"][0]["steps"]] == ["stat", "write", "stat"]

    (tmp_path / "program.py").write_text(PYTHON_MENDED.format(path=STATE))
    _, failed, complete = explored(explore, tmp_path, programs=programs).counts
    assert (failed, complete) == (0, True)


WHOLE_OR_GONE = f"""
blocks=$(ls -d {MEMORY}/memory6[4-9] 2> /dev/null | wc -l)
case "$(cat {HOTPLUG}) $blocks" in "unplugged 0" | "online_movable 2") ;; *) exit 1 ;; esac
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kernel", "setup", "block", "counts", "status"),
    [
        pytest.param("hotplug-v3", "true", 64, (10, 0, True), 0, marks=pytest.mark.ci),
        ("hotplug-v3", TWO_RANGES, 66, (10, 0, True), 0),
        pytest.param("hotplug-v3-as-posted", "true", 64, (10, 0, True), 0, marks=pytest.mark.ci),
        ("hotplug-v3-as-posted", TWO_RANGES, 66, (22, 8, True), 1),
    ],
    ids=["one range", "two ranges", "as posted, one range", "as posted, two ranges"],
)
def test_an_unplug_against_an_onliner_of_blocks(
    explore: Runner,
    tmp_path: Path,
    kernel: str,
    setup: str,
    block: int,
    counts: tuple[int, int, bool],
    status: int,
) -> None:
    (tmp_path / "machine.toml").write_text(TWO_BLOCKS)
    options = ["--machine", "machine.toml", "--kernel", kernel, "--setup", setup, "--check", WHOLE_OR_GONE, "--inside"]
    onliner = writes(f"{MEMORY}/memory{block}/state", "offline", "online")
    found = explored(explore, tmp_path, *options, programs=(writes(HOTPLUG, "unplug"), onliner))
    assert found.counts == counts, found.output
    assert found.status == status


# What makes an order fail ---------------------------------------------------------------------------------------------


def test_a_check_gets_the_statuses_and_alone_decides(explore: Runner, tmp_path: Path) -> None:
    programs = f'[ "$(cat {POLICY})" = offline ] && exit 3; true', writes(POLICY, "offline")
    check = '[ "$EXPLORE_STATUS_A" = 3 ] && { echo three >&2; exit 1; }; [ "$EXPLORE_STATUS_B" = 0 ]'
    found = explored(explore, tmp_path, "--check", check, programs=programs)
    assert found.counts == (2, 1, True)
    assert found.result["failures"][0]["why"] == "--check ended with status 1: three"


def test_always_runs_after_each_step(explore: Runner, tmp_path: Path) -> None:
    programs = writes(POLICY, "online", "offline"), writes(POLICY, "online_kernel")
    always = f"cat {POLICY} >> {tmp_path}/seen; ! grep -qx online_kernel {POLICY}"
    found = explored(explore, tmp_path, "--always", always, programs=programs)
    assert set(found.schedules) == {"B", "A B", "A A B"}
    assert found.counts == (3, 3, True)
    assert "--always ended with status 1 after this step" in found.output
    assert set((tmp_path / "seen").read_text().split()) == {"online", "offline", "online_kernel"}


def test_a_deadlock_is_called_one(explore: Runner, tmp_path: Path) -> None:
    for name in "ab":
        os.mkfifo(tmp_path / name)
    programs = [
        f"echo {word} > {POLICY}; read line < {tmp_path}/{name}" for word, name in (("online", "a"), ("offline", "b"))
    ]
    found = explored(explore, tmp_path, programs=tuple(programs))
    assert found.counts == (2, 2, True)
    assert all(failure["why"].startswith("nobody can go on: A (sh)") for failure in found.result["failures"])


@pytest.mark.ci
def test_a_clock_fires_when_nobody_else_can_go_on(explore: Runner, tmp_path: Path) -> None:
    programs = f"echo online > {POLICY}; sleep 0.3; echo offline > {POLICY}", writes(POLICY, "online_kernel", "online")
    found = explored(explore, tmp_path, "--check", "false", programs=programs)
    assert found.counts == (3, 3, True)
    assert all(schedule.endswith("A") for schedule in found.schedules)


def test_a_program_that_polls_gives_way_or_does_not_end(explore: Runner, tmp_path: Path) -> None:
    poll = f'while [ "$(cat {STATE})" != offline ]; do :; done'
    found = explored(explore, tmp_path, programs=(poll, writes(STATE, "offline")), reduction=True)
    assert found.counts == (4, 0, True)
    found = explored(explore, tmp_path, programs=(poll,), reduction=True)
    assert found.counts == (1, 1, True)
    assert found.result["failures"][0]["why"] == (
        f"A does not end: it repeats read {STATE}: online, and nothing changes"
    )


@pytest.mark.ci
def test_a_write_that_waits_in_the_kernel_goes_on_as_a_step(explore: Runner, tmp_path: Path) -> None:
    programs = writes(HOTPLUG, "unplug"), "echo 1 > $FAKESYSFS_CONTROL/pages/unpin"
    pin = "echo 2 > $FAKESYSFS_CONTROL/pages/pin"
    found = explored(explore, tmp_path, "--setup", pin, "--check", "false", programs=programs)
    assert set(found.schedules) == {"A B A", "B A"}
    steps = next(failure["steps"] for failure in found.result["failures"] if failure["schedule"] == "A B A")
    assert [(step["operation"], step["data"], step["result"]) for step in steps] == [
        ("write", "unplug", "begins"),
        ("write", "1", "2 bytes"),
        ("goes on", "unplug", "7 bytes"),
    ]


UNBIND = "echo dax0.0 > /sys/bus/dax/drivers/kmem/unbind"


def test_an_order_that_wedges_the_device(explore: Runner, tmp_path: Path) -> None:
    """On 7.2 the driver leaks the memory that is online when it is unbound."""
    (tmp_path / "machine.toml").write_text(TWO_BLOCKS)
    offline = "; ".join(f"echo offline > {MEMORY}/memory{block}/state" for block in (64, 65))
    options = ["--machine", "machine.toml", "--kernel", "7.2"]
    found = explored(explore, tmp_path, *options, programs=(f"{offline}; true", UNBIND))
    assert found.counts == (3, 2, True)
    assert {failure["why"] for failure in found.result["failures"]} == {
        "the device is wedged: memory64 to 65 cannot be taken away any more: no driver has it"
    }
    assert run(explore, tmp_path, "--replay", "explore-failure.json").returncode == 1
    allowed = explored(explore, tmp_path, *options, "--allow-wedged", programs=(f"{offline}; true", UNBIND))
    assert allowed.counts == (3, 0, True)


def test_what_is_wedged_after_the_setup_fails_no_order(explore: Runner, tmp_path: Path) -> None:
    assert explored(explore, tmp_path, "--setup", UNBIND, programs=("true",)).counts == (1, 0, True)


def test_a_setup_that_fails_is_no_failing_order(explore: Runner, tmp_path: Path) -> None:
    done = run(explore, tmp_path, "--setup", "echo wrong >&2; exit 4", "--", "true", "true")
    assert done.returncode == 2
    assert done.stderr == "fakesysfs: --setup ended with status 4: wrong\n"


# Shards ---------------------------------------------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.parametrize("options", [[], ["--no-reduction"], ["--preemptions", "2"]], ids=["", "all", "bounded"])
def test_shards_together_are_the_search(explore: Runner, tmp_path: Path, options: list[str]) -> None:
    programs = (
        writes(POLICY, "online", "offline", "online"),
        writes(POLICY, "online_kernel", "online_movable", "offline"),
    )
    options = [*options, "--check", f"! grep -qx offline {POLICY}"]
    whole = explored(explore, tmp_path, *options, programs=programs, reduction=True)
    files = []
    for number in (1, 2):
        done = run(explore, tmp_path, *options, "--shard", f"{number}/2", "--json", f"{number}.json", "--", *programs)
        assert done.returncode in {0, 1}, done.stderr
        assert done.stdout.startswith(f"Shard {number}/2:\n")
        files.append(f"{number}.json")
    parts = [json.loads((tmp_path / file).read_text()) for file in files]
    assert all(part["explored"] for part in parts)
    merged = run(explore, tmp_path, "--json", "merged.json", "--merge", *files)
    assert merged.returncode == 1, merged.stderr
    found = json.loads((tmp_path / "merged.json").read_text())
    assert {key: found[key] for key in ("explored", "failed", "complete", "preemptions")} == {
        key: whole.result[key] for key in ("explored", "failed", "complete", "preemptions")
    }
    assert found["explored"] == sum(part["explored"] for part in parts)
    replayed = run(explore, tmp_path, "--replay", "explore-failure.json")
    assert replayed.returncode == 1


@pytest.mark.parametrize(
    ("results", "why"),
    [
        (["1", "1"], "a search in 2 shards needs each of them once, and these are 1, 1"),
        (["1"], "a search in 2 shards needs each of them once, and these are 1"),
        (["1", "other"], "shard 2 is not of the same search as shard 1"),
        (["1", "no shard"], "--merge needs files that `fakesysfs explore --shard --json` has written"),
    ],
)
def test_what_cannot_be_merged(explore: Runner, tmp_path: Path, results: list[str], why: str) -> None:
    shard = {"number": 1, "of": 2, "split": 3, "task": {}, "given_up": 0, "reduced": 0, "bounded": 0}
    known = {
        "1": {"preemptions": None, "shard": shard},
        "other": {"preemptions": None, "shard": {**shard, "number": 2, "split": 4}},
        "no shard": {"preemptions": None},
    }
    for name, result in known.items():
        (tmp_path / name).write_text(json.dumps(result))
    done = run(explore, tmp_path, "--merge", *results)
    assert done.returncode == 2
    assert why in done.stderr


# Exit statuses, files -------------------------------------------------------------------------------------------------


def test_a_search_that_a_limit_ends_is_cut_short(explore: Runner, tmp_path: Path) -> None:
    programs = writes(POLICY, "online", "offline"), writes(POLICY, "online_kernel", "online_movable")
    assert explored(explore, tmp_path, "--limit", "2", programs=programs).status == 3
    bounded = explored(explore, tmp_path, "--preemptions", "0", programs=programs)
    assert (bounded.status, bounded.counts) == (0, (2, 0, False))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no program is given"),
        (["--shard", "3/2", "--", "true"], "--shard 3/2: give a part and how many there are"),
        (["--until", "1", "--", "true"], "--until needs --replay"),
        (["missing.toml"], "missing.toml: No such file or directory"),
        (["--machine", "missing", "--jobs", "2", "--", "true"], "missing"),
        (["--kernel", "missing", "--jobs", "2", "--", "true"], "missing"),
        (["--replay", "missing.json"], "missing.json: No such file or directory"),
        (["--replay", "/dev/null"], "/dev/null: this is no order that `fakesysfs explore` has written"),
    ],
)
def test_wrong_use(explore: Runner, tmp_path: Path, arguments: list[str], why: str) -> None:
    done = run(explore, tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("fakesysfs: ") == 1
    assert why in done.stderr


def test_a_failing_order_is_replayed_from_its_file(explore: Runner, tmp_path: Path) -> None:
    programs = f'[ "$(cat {POLICY})" = offline ] && exit 3; true', writes(POLICY, "offline")
    assert explored(explore, tmp_path, programs=programs).status == 1
    file = tmp_path / "explore-failure.json"
    again = run(explore, tmp_path, "--replay", file.name)
    assert again.returncode == 1
    assert "it fails: A ended with status 3" in again.stdout
    shell = f"cat {POLICY}; exit\n"
    explore.environment["SHELL"] = "/bin/sh"
    before = run(explore, tmp_path, "--replay", file.name, "--until", "1", given=shell)
    after = run(explore, tmp_path, "--replay", file.name, "--until", "2", given=shell)
    assert before.stdout.splitlines()[-1] == "online_movable"
    assert after.stdout.splitlines()[-1] == "offline"
    known = json.loads(file.read_text())
    known["programs"][1] = known["programs"][1].replace("offline", "online")
    file.write_text(json.dumps(known))
    other = run(explore, tmp_path, "--replay", file.name)
    assert other.returncode == 3
    assert "this order cannot be followed any more: step 1 should be" in other.stdout


SCENARIO = f"""
machine = "machine.toml"
kernel = "7.2"
programs = ["./remover", "{UNBIND}"]
"""


def test_a_scenario_file(explore: Runner, tmp_path: Path) -> None:
    """Its commands run where it is, also when an order is replayed from elsewhere. Options replace its keys."""
    where = tmp_path / "scenario"
    where.mkdir(mode=0o755)
    (where / "machine.toml").write_text(TWO_BLOCKS)
    (where / "remover").write_text("#!/bin/sh\n" + writes(f"{MEMORY}/memory64/state", "offline") + "; true\n")
    (where / "remover").chmod(0o755)
    (where / "race.toml").write_text(SCENARIO)
    found = explored_scenario(explore, tmp_path, "scenario/race.toml")
    assert found.counts == (2, 2, True)
    (tmp_path / "elsewhere").mkdir()
    assert run(explore, tmp_path / "elsewhere", "--replay", "../explore-failure.json").returncode == 1
    everything = explored_scenario(
        explore, tmp_path, "scenario/race.toml", "--kernel", "hotplug-v3", "--allow-wedged", "--no-reduction"
    )
    assert everything.counts == (2, 0, True)


def explored_scenario(explore: Runner, where: Path, *arguments: str) -> Explored:
    done = run(explore, where, "--json", "result.json", *arguments)
    assert done.stderr == "", done.stderr
    return Explored(done.returncode, done.stdout, json.loads((where / "result.json").read_text()))


REPLAYS = """
import json, sys
from fakesysfs.explore.messages import Task, step_of
from fakesysfs.explore.search import run_order
from fakesysfs.explore.workers import Worker
from fakesysfs.sandbox.server import Fake

known = json.load(open(sys.argv[1]))
names = ("setup", "check", "always", "inside")
task = Task(tuple(known["programs"]), **{name: known[name] for name in names})
worker = Worker(Fake(known["machine"], known["kernel"]), task)
worker.wait_until_ready()
steps = [step_of(step) for step in known["steps"]]
for _ in range(100):
    order = run_order(worker, known["schedule"].split(), expected=steps, longest=None)
    assert not order.diverged, order.diverged
    assert order.kind == known["kind"], order.why
worker.close()
"""


@pytest.mark.ci
@pytest.mark.parametrize("busy", [0, 4])
def test_a_failing_order_replays_a_hundred_times(explore: Runner, tmp_path: Path, busy: int) -> None:
    assert explored(explore, tmp_path, programs=(CHECKS_THEN_ACTS, CHECKS_THEN_ACTS)).status == 1
    loads = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        line = [sys.executable, "-c", REPLAYS, "explore-failure.json"]
        done = subprocess.run(
            line,
            cwd=tmp_path,
            env=explore.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    finally:
        for load in loads:
            load.kill()
            load.wait()
    assert done.returncode == 0, done.stderr


# Ends -----------------------------------------------------------------------------------------------------------------


def processes_of(explore: Runner) -> dict[str, int]:
    """The processes of a search with one worker, by what they are."""
    children: dict[int, list[int]] = {}
    sessions = {}
    for number in explore.alive():
        try:
            facts = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(facts[1]), []).append(number)
        sessions[number] = int(facts[3])
    found = {}
    above = os.getpid()
    for name in ("explorer", "launcher", "init"):
        for number in children.get(above, [])[:1]:
            found[name] = above = number
    for number in children.get(found.get("init", 0), []):
        found["server" if sessions[number] == number else "controller"] = number
    return found


def endless_search(explore: Runner, where: Path, **how: int) -> subprocess.Popen[str]:
    """Start a search that takes very long; returns when it runs."""
    first = writes(POLICY, *(["online", "offline"] * 20))
    second = writes(POLICY, *(["online_kernel", "online"] * 20))
    search = explore.start("--", f"echo >> {where}/began; {first}", second, **how)
    eventually((where / "began").exists, "the search")
    return search


@pytest.mark.ci
@pytest.mark.parametrize("victim", ["explorer", "launcher", "init", "server", "controller"])
def test_a_kill_leaves_nothing(explore: Runner, tmp_path: Path, victim: str) -> None:
    search = endless_search(explore, tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.kill(processes_of(explore)[victim], signal.SIGKILL)
    assert search.wait(TIMEOUT_SECONDS) == (-signal.SIGKILL if victim == "explorer" else 1)
    # the fixture waits for the end of all processes and mounts


def test_ctrl_c_ends_a_search_with_a_report(explore: Runner, tmp_path: Path) -> None:
    search = endless_search(explore, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    search.send_signal(signal.SIGINT)
    output, errors = search.communicate(timeout=TIMEOUT_SECONDS)
    assert search.returncode == 3, errors
    assert "A limit cut the search short." in output


def test_programs_are_ended_with_their_order(explore: Runner, tmp_path: Path) -> None:
    program = f"sleep 1000 & echo $! >> {tmp_path}/left; echo online > {POLICY}"
    found = explored(explore, tmp_path, programs=(program, "true"))
    assert found.counts == (1, 0, True)
    assert found.result["seconds"] < 100


def test_an_ordinary_user_may_explore(explore_as_nobody: Runner, public_path: Path) -> None:
    need("setpriv")
    public_path.chmod(0o777)
    found = explored(explore_as_nobody, public_path, programs=(CHECKS_THEN_ACTS, CHECKS_THEN_ACTS))
    assert found.counts == (6, 4, True)


# What is called what --------------------------------------------------------------------------------------------------

THREADS = f"""
import threading
def write(word):
    with open({POLICY!r}, "w") as file:
        file.write(word)
threads = [threading.Thread(target=write, args=(word,)) for word in ("online", "offline")]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.ci
def test_threads_take_steps_of_their_own(explore: Runner, tmp_path: Path) -> None:
    (tmp_path / "threads.py").write_text(THREADS)
    program = f"exec {sys.executable} {tmp_path}/threads.py"
    found = explored(explore, tmp_path, "--check", "false", programs=(program,))
    assert found.counts == (2, 2, True)
    names = Counter(step["process"] for failure in found.result["failures"] for step in failure["steps"])
    assert names == {"A.1": 2, "A.2": 2}


@pytest.mark.ci
def test_failing_orders_come_out_as_timelines(explore: Runner, tmp_path: Path) -> None:
    page = tmp_path / "failing.html"
    found = explored(
        explore,
        tmp_path,
        "--html",
        str(page),
        "--check",
        f"grep -q offline {STATE}",
        programs=(f"echo offline > {STATE}", f"echo online > {STATE} || :"),
    )
    assert found.status == 1
    text = page.read_text()
    assert f"Failing order {found.schedules[0]}" in text
    writes = [call for call in data_in(text)["ops"] if call["op"] == "write"]
    assert "offline\n" in [write["data"] for write in writes]
