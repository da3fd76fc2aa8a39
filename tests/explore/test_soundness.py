"""The reduction misses nothing: random scenarios on a small machine, with and without it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fakesysfs.explore.order import program_name
from fakesysfs.explore.search import run_order
from fakesysfs.kernfs import Caller, Tree, names_in, open_file
from fakesysfs.ops import sched
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.footprint import Footprint
from fakesysfs.testing import ExploreHandle, RunningMachine, explore
from fakesysfs.testing.order_runner import OrderRunner, Program, Scenario

MACHINE = Path(__file__).with_name("two-devices.toml")
MEMORY, DAX = "/sys/devices/system/memory", "/sys/bus/dax"
BLOCKS = (32, 33, 64, 65)
KERNELS = ("hotplug-v3", "7.3", "7.2")
CALLER = Caller(1, "test")
STEPS = 12
"""Of a sequence whose steps are swapped."""
DIFFERS = {"/sys/kernel/uevent_seqnum"}
"""What shows the order in which things happened, and nothing else."""

Call = tuple[str, str, str]
"""Operation, path, what is written."""


def calls(kernel: str) -> list[Call]:
    """What programs of a scenario do."""
    words = ("offline", "online", "online_movable", "online_kernel", "nonsense")
    found: list[Call] = []
    for block in BLOCKS:
        path = f"{MEMORY}/memory{block}"
        found += [("write", f"{path}/state", word) for word in words]
        found += [("write", f"{path}/online", word) for word in "01"]
        found += [("read", f"{path}/{name}", "") for name in ("state", "online", "valid_zones", "removable")]
        found.append(("exists", path, ""))
    found += [("write", f"{MEMORY}/auto_online_blocks", word) for word in words]
    found += [("read", f"{MEMORY}/auto_online_blocks", ""), ("ls", MEMORY, ""), ("read", "/proc/meminfo", "")]
    whole = {"hotplug-v3": ("hotplug", "unplug"), "7.3": ("state", "unplugged")}.get(kernel)
    for device in ("dax0.0", "dax1.0"):
        if whole is not None:
            path = f"{DAX}/devices/{device}/{whole[0]}"
            found += [("write", path, whole[1]), ("write", path, "online_movable"), ("read", path, "")]
        path = f"{DAX}/devices/{device}"
        found += [
            ("write", f"{DAX}/drivers/{name}", device) for name in ("kmem/unbind", "kmem/bind", "device_dax/bind")
        ]
        found += [("read", f"{path}/{name}", "") for name in ("size", "align", "target_node", "numa_node", "uevent")]
        found += [("write", f"{path}/size", size) for size in ("0", "134217728")]
        found += [("write", f"{path}/align", "4096"), ("ls", path, ""), ("stat", f"{path}/driver", "")]
        found += [("exists", path, ""), ("exists", f"{path}/driver", ""), ("read", f"{path}/mapping0/start", "")]
        found.append(("ls", f"{path}/driver", ""))
    for number in "01":
        region = f"/sys/bus/cxl/devices/dax_region{number}/dax_region"
        found += [("write", f"{region}/create", "1"), ("write", f"{region}/delete", f"dax{number}.0")]
        found += [("read", f"{region}/{name}", "") for name in ("seed", "create", "available_size")]
    for node in "12":
        path = f"/sys/devices/system/node/node{node}"
        found += [("ls", path, ""), ("read", f"{path}/meminfo", ""), ("exists", path, "")]
    found += [("read", f"/sys/devices/system/node/{name}", "") for name in ("online", "has_memory")]
    found += [("ls", f"/sys/{name}", "") for name in ("devices/virtual/memory_tiering", "bus/dax/drivers/kmem")]
    found += [("read", f"/proc/{name}", "") for name in ("iomem", "modules", "zoneinfo")]
    found += [("ls", f"{DAX}/devices", ""), ("read", "/sys/module/kmem/refcnt", "")]
    return found


class Outcomes:
    """What programs saw, and the machine that they left."""

    def __init__(self) -> None:
        self.found: set[object] = set()
        self._results: dict[int, list[str]] = {}

    def program(self, number: int, what: Sequence[Call]) -> Program:
        async def run(m: ExploreHandle) -> None:
            results = self._results[number] = []
            for operation, path, data in what:
                arguments = (path, data) if operation == "write" else (path,)
                try:
                    result = await getattr(m, operation)(*arguments)
                    # Inode numbers and times differ from boot to boot.
                    results.append(f"{result.st_mode:o}" if operation == "stat" else str(result))
                except OSError as error:
                    results.append(str(error.errno))

        return run

    def check(self, machine: RunningMachine) -> None:
        self.found.add((str(self._results), frozenset(machine_value(machine))))


def machine_value(machine: RunningMachine) -> Iterator[tuple[str, object]]:
    """The whole machine: all names, all texts, all links."""
    tree = machine._sysroot.tree
    for top in ("/sys", "/proc"):
        yield from _below(tree, tree.walk(top), top)


def _below(tree: Tree, directory: int, path: str) -> Iterator[tuple[str, object]]:
    names = names_in(tree, path)
    yield path, tuple(sorted(names))
    for name in names:
        ino, below = tree.lookup(directory, name.encode()), f"{path}/{name}"
        mode = tree.getattr(ino).mode
        if stat.S_ISLNK(mode):
            yield below, tree.readlink(ino)
        elif stat.S_ISDIR(mode):
            if name != "power":  # no call of a scenario changes these
                yield from _below(tree, ino, below)
        elif mode & 0o444 and below not in DIFFERS:
            yield below, _text(tree, ino)


def _text(tree: Tree, ino: int) -> object:
    try:
        file = open_file(tree, ino, os.O_RDONLY, CALLER, None)
        return sched.run(file.read_sleeping(0, 1 << 20)) if file.reading_sleeps else file.read(0, 1 << 20)
    except KernelError as error:
        return error.errno


def outcomes(
    programs: Sequence[Sequence[Call]],
    kernel: str,
    *,
    reduction: bool,
    before: Sequence[Call] = (),
    preemptions: int | None = None,
    inside: bool = False,
) -> tuple[set[object], int]:
    """What came of all orders, after the calls `before`, and how many were explored."""
    seen = Outcomes()

    def setup(machine: RunningMachine) -> None:
        for operation, path, data in before:
            if operation == "write":
                with contextlib.suppress(OSError):
                    machine.write(path, data)

    found = explore(
        [seen.program(number, what) for number, what in enumerate(programs)],
        machine=MACHINE,
        kernel=kernel,
        setup=setup,
        check=seen.check,
        reduction=reduction,
        allow_wedged=True,
        preemptions=preemptions,
        inside=inside,
    )
    assert found.complete or preemptions is not None
    assert not found.failed
    return seen.found, found.explored


def draw(chance: random.Random, kernel: str) -> list[list[Call]]:
    """Two or three programs with two to five steps in all; most about blocks, which commute now and then."""
    everything = calls(kernel)
    about_blocks = [call for call in everything if f"{MEMORY}/memory" in call[1]]

    def call() -> Call:
        return chance.choice(about_blocks if chance.random() < 0.7 else everything)

    while True:
        programs = [[call() for _ in range(chance.randint(1, 3))] for _ in range(chance.choice((2, 2, 3)))]
        if 2 <= sum(map(len, programs)) <= 5:
            return programs


def parts(each: int, number: int, first: int = 1000) -> list[object]:
    """A few seeds; in CI further ones in parts, each of which takes less than half a minute."""
    more = [pytest.param(first + part * each, each, marks=pytest.mark.ci) for part in range(number)]
    return [(0, each // 8), *more]


def compare(first: int, number: int, draw_case: Callable[[random.Random, str], dict[str, Any]]) -> None:
    """The search with and without the reduction, for the case that each seed draws: keywords of `outcomes`."""
    explored = reduced = 0
    for seed in range(first, first + number):
        chance = random.Random(seed)  # noqa: S311  a seed that can be repeated
        kernel = chance.choice(KERNELS)
        case = draw_case(chance, kernel)
        all_outcomes, all_orders = outcomes(kernel=kernel, reduction=False, **case)
        some_outcomes, some_orders = outcomes(kernel=kernel, reduction=True, **case)
        assert some_outcomes == all_outcomes, (seed, kernel, case)
        explored, reduced = explored + all_orders, reduced + some_orders
    assert reduced < explored


@pytest.mark.parametrize(("first", "number"), parts(60, 5))
def test_the_same_outcomes(first: int, number: int) -> None:
    compare(first, number, lambda chance, kernel: {"programs": draw(chance, kernel)})


@pytest.mark.parametrize(("first", "number"), parts(60, 3, first=5000))
def test_a_bounded_search_misses_nothing_within_its_bound(first: int, number: int) -> None:
    def case(chance: random.Random, kernel: str) -> dict[str, Any]:
        return {"programs": draw(chance, kernel), "preemptions": chance.randint(0, 2)}

    compare(first, number, case)


@pytest.mark.parametrize(("first", "number"), parts(60, 3, first=7000))
def test_the_same_outcomes_inside_of_operations(first: int, number: int) -> None:
    def case(chance: random.Random, kernel: str) -> dict[str, Any]:
        some = [call for call in calls(kernel) if call[0] == "write" or chance.random() < 0.2]
        before, *programs = [[chance.choice(some) for _ in range(steps)] for steps in (chance.randint(0, 2), 1, 1)]
        programs[0] += [chance.choice(some) for _ in range(chance.randint(0, 1))]
        return {"programs": programs, "before": before, "inside": True}

    compare(first, number, case)


@pytest.mark.parametrize(("first", "number"), parts(2000, 5, first=10_000))
def test_steps_that_commute_can_be_swapped(first: int, number: int) -> None:
    """`number` pairs of calls that the search takes to commute: in the other order same results, same machine.

    A sequence of calls is compared with another one that has many of its pairs the other way round.
    """
    swapped, seed = 0, first
    while swapped < number:
        chance = random.Random(seed)  # noqa: S311  a seed that can be repeated
        seed += 1
        kernel = chance.choice(KERNELS)
        everything = calls(kernel)
        writes = [call for call in everything if call[0] == "write"]
        sequence = [chance.choice(writes if chance.random() < 0.6 else everything) for _ in range(STEPS)]
        seen = Outcomes()
        programs = tuple(seen.program(number, [call]) for number, call in enumerate(sequence))
        runner = OrderRunner(
            Scenario(programs, str(MACHINE), kernel, None, seen.check, inside=False, longest=STEPS, allow_wedged=True)
        )
        runner.records = True
        order = run_order(runner, [program_name(number) for number in range(STEPS)])
        other = shuffled(order.footprints, chance)
        swapped += sum(one > two for one, two in itertools.combinations(other, 2))
        run_order(runner, [program_name(number) for number in other])
        assert len(seen.found) == 1, (seed - 1, kernel, [sequence[number] for number in other])


def shuffled(footprints: Sequence[Footprint | None], chance: random.Random) -> list[int]:
    """The numbers of the steps in an order that differs by swaps of neighbours that commute."""
    order = list(range(len(footprints)))
    for _ in range(len(order) ** 2):
        at = chance.randrange(len(order) - 1)
        one, two = footprints[order[at]], footprints[order[at + 1]]
        assert one is not None
        assert two is not None
        if not one.conflicts(two):
            order[at : at + 2] = order[at + 1], order[at]
    return order
