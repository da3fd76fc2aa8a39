"""The reduction misses nothing of real programs: random shell programs, explored with and without it.

Compared is the set of what came of all orders: the results of each program, the exit statuses, the machine. And the
kinds of failures.
"""

from __future__ import annotations

import random
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.explore.test_soundness import KERNELS, MACHINE, MEMORY, Call, calls
from tests.tools.conftest import ROOT, Runner, need
from tests.tools.test_explore import explored, explored_scenario

KEEP = ROOT / "examples/udev-rules/80-keep-memory-online.rules"
CHECK = r"""
{
    cat A B
    echo "$EXPLORE_STATUS_A $EXPLORE_STATUS_B"
    grep -rs '' /sys/devices/system/memory /sys/devices/system/node /sys/devices/platform
    grep -s '' /proc/iomem /proc/meminfo /proc/zoneinfo /sys/module/kmem/refcnt
    find /sys/devices /sys/bus/dax -printf '%y %m %p %l\n'
} 2> /dev/null | LC_ALL=C sort > outcome
name=$(sha256sum < outcome)
mv outcome "outcomes/${name%% *}"
"""
"""Beside the files of the programs, in which each writes its results."""


class Case(NamedTuple):
    """What is explored."""

    kernel: str
    programs: tuple[str, ...]
    options: tuple[str, ...] = ()
    before: str = ""


def in_shell(call: Call) -> str:
    """A call as a shell does it; prints its result."""
    operation, path, data = call
    if operation == "write":
        return f"{{ echo {data} > {path}; }} 2> /dev/null; echo $?"
    if operation in {"read", "ls"}:
        return f"{'cat' if operation == 'read' else 'ls'} {path} 2> /dev/null; echo $?"
    return f"[ -e {path} ]; echo $?"


def program(name: str, what: list[Call]) -> str:
    return "{ " + "; ".join(map(in_shell, what)) + f"; }} > {name}"


def draw(chance: random.Random, kernel: str, steps: int) -> list[Call]:
    """So many calls: writes three times of four, and most of all about the blocks."""
    everything = calls(kernel)
    about_blocks = [call for call in everything if f"{MEMORY}/memory" in call[1]]
    found: list[Call] = []
    while len(found) < steps:
        call = chance.choice(about_blocks if chance.random() < 0.5 else everything)
        if call[0] == "write" or chance.random() < 0.3:
            found.append(call)
    return found


def plain(chance: random.Random, kernel: str) -> Case:
    programs = [draw(chance, kernel, steps) for steps in (chance.randint(2, 3), 2)]
    return Case(kernel, tuple(program(name, what) for name, what in zip("AB", programs, strict=True)))


def inside(chance: random.Random, kernel: str) -> Case:
    """Few calls, but other programs come in within them."""
    before, *programs = (draw(chance, kernel, steps) for steps in (chance.randint(0, 2), chance.randint(1, 2), 1))
    setup = "; ".join(map(in_shell, before)) or "true"
    both = tuple(program(name, what) for name, what in zip("AB", programs, strict=True))
    return Case(kernel, both, ("--inside",), setup)


def with_udevd(chance: random.Random, kernel: str) -> Case:
    """One block goes offline, and the rule puts it back; the program, or another one, does something meanwhile."""
    block = f"{MEMORY}/memory{chance.choice((32, 33))}/state"
    first: list[Call] = [("write", block, "offline"), *draw(chance, kernel, 1)]
    if chance.random() < 0.5:
        first.reverse()
    bound = chance.choice("12")
    programs = [program("A", first)]
    if bound == "1":
        programs.append(program("B", draw(chance, kernel, 1)))
    return Case(kernel, tuple(programs), ("--udev", "--rules", str(KEEP), "--preemptions", bound))


DRAWS = {"plain": plain, "inside": inside, "udevd": with_udevd}


def outcomes(explore: Runner, where: Path, case: Case, *, reduction: bool) -> tuple[set[str], set[str], int]:
    """What came of all orders, the kinds of failures, and how many orders were explored."""
    where.mkdir(mode=0o755)
    (where / "check").write_text(CHECK)
    options = [*case.options, "--machine", str(MACHINE), "--kernel", case.kernel]
    options += ["--setup", f"mkdir -p outcomes; : > A; : > B; {case.before}; true" if case.before else SETUP]
    found = explored(explore, where, *options, "--check", "sh check", programs=case.programs, reduction=reduction)
    result: dict[str, Any] = found.result
    assert "A limit" not in result["covered"], result["covered"]
    assert "repetition" not in found.output, found.output
    seen = {file.name for file in (where / "outcomes").iterdir()}
    return seen, {failure["kind"] for failure in result["failures"]}, result["explored"]


SETUP = "mkdir -p outcomes; : > A; : > B"


def compare(explore: Runner, where: Path, kind: str, seed: int) -> tuple[int, int]:
    """Explore the case of a seed with and without the reduction; returns the numbers of orders."""
    chance = random.Random(seed)  # noqa: S311  a seed that can be repeated
    case = DRAWS[kind](chance, chance.choice(KERNELS))
    everything, kinds, orders = outcomes(explore, where / f"{kind}-{seed}-all", case, reduction=False)
    some, some_kinds, some_orders = outcomes(explore, where / f"{kind}-{seed}-some", case, reduction=True)
    said = f"{kind} {seed} on {case.kernel}: {shlex.join([*case.options, '--', *case.programs])}; before: {case.before}"
    assert some == everything, f"{len(everything - some)} outcomes are missed, {len(some - everything)} are new: {said}"
    assert some_kinds == kinds, said
    assert some_orders <= orders, said
    return orders, some_orders


SEEDS = [
    pytest.param(kind, seed, marks=[] if (kind, seed) == ("plain", 1) else pytest.mark.ci)
    for kind in DRAWS
    for seed in range(1, 6 if kind == "plain" else 4)
]


@pytest.mark.parametrize(("kind", "seed"), SEEDS)
def test_the_same_outcomes(explore: Runner, tmp_path: Path, kind: str, seed: int) -> None:
    if kind == "udevd":
        need("udevadm")
    orders, reduced = compare(explore, tmp_path, kind, seed)
    assert orders > 1
    assert reduced >= 1


ROWS = {
    "02-blocks-and-rule": "./whole 32 33",
    "05-write-and-rule": "./removed",
    "15-disable-region-and-rule": "./disabled",
}
"""Rows of the table with udevd, and their checks."""


@pytest.mark.ci
@pytest.mark.parametrize("row", ROWS)
def test_the_same_outcomes_of_the_rows_with_udevd(explore: Runner, tmp_path: Path, row: str) -> None:
    """Within two preemptions; without a bound only the reduction makes them end."""
    need("udevadm")
    (tmp_path / "check").write_text(CHECK)
    check = f"{ROWS[row]}; status=$?; cd {tmp_path} && sh check; exit $status"
    options = ["--kernel", "7.3", "--preemptions", "2", "--check", check]
    found: list[tuple[set[str], set[str], int]] = []
    for more in (["--no-reduction"], []):
        (tmp_path / "outcomes").mkdir()
        result = explored_scenario(
            explore, tmp_path, *options, *more, str(ROOT / f"examples/explore/table/{row}.toml")
        ).result
        assert not result["cut"], result["covered"]
        seen = {file.name for file in (tmp_path / "outcomes").iterdir()}
        found.append((seen, {failure["kind"] for failure in result["failures"]}, result["explored"]))
        (tmp_path / "outcomes").rename(tmp_path / f"outcomes-{len(found)}")
    everything, some = found
    assert some[:2] == everything[:2]
    assert some[2] <= everything[2]
