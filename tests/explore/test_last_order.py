"""An order that goes on from the last one ends as on a machine that has just booted: every field of every object."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import inspect
import itertools
import random
import re
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from fakesysfs import machine
from fakesysfs.explore.order import Guide, Order
from fakesysfs.explore.reduction import ReducedSearch
from fakesysfs.explore.search import Search, run_order
from fakesysfs.kernfs.declare import DirectoryKind
from fakesysfs.kernfs.name_hash import IndexedOrder
from fakesysfs.kernfs.namei import ResolvedPaths
from fakesysfs.machine import MachineDescription
from fakesysfs.testing import ExploreHandle, RunningMachine
from fakesysfs.testing.order_runner import OrderRunner, Scenario
from tests.explore.test_soundness import KERNELS, MACHINE, Call, Outcomes, calls

NOT_COMPARED = (
    OrderRunner,
    DirectoryKind,
    MachineDescription,
    type,
    types.ModuleType,
    itertools.count,
    ResolvedPaths,
    IndexedOrder,
)
"""The same for all machines; a number that nobody sees; caches, of which one depends on whether steps are recorded."""
VALUES = (str, bytes, int, float, enum.Enum, re.Pattern)


def every_field(roots: object) -> Iterator[str]:
    """All that can be reached, line by line: values, and which objects are the same."""
    names: dict[int, str] = {}
    keep: list[object] = []
    left = deque([("", roots)])
    while left:
        name, one = left.popleft()
        if isinstance(one, NOT_COMPARED):
            continue
        if one is None or isinstance(one, VALUES):
            yield f"{name} = {one!r}"
            continue
        if isinstance(one, (set, frozenset)):
            yield f"{name} = {sorted(map(str, one))}"
            continue
        if id(one) in names:
            yield f"{name} is {names[id(one)]}"
            continue
        keep.append(one)
        if not isinstance(one, tuple):
            names[id(one)] = name
        inside = list(parts(one))
        yield f"{name}: {type(one).__name__} of {len(inside)}"
        left += [(f"{name}{part}", its) for part, its in inside]


def parts(one: Any) -> Iterator[tuple[str, Any]]:
    """What an object consists of."""
    match one:
        case dict():
            for key, its in one.items():
                yield f"[{key if isinstance(key, VALUES) else type(key)!r}]", its
        case list() | tuple() | deque():
            for number, its in enumerate(one):
                yield f"[{number}]", its
        case types.FunctionType():
            yield ".name", one.__qualname__
            for number, cell in enumerate(one.__closure__ or ()):
                yield f"({number})", cell.cell_contents
        case types.MethodType():
            yield ".func", one.__func__
            yield ".self", one.__self__
        case partial():
            yield ".all", [one.func, one.args, one.keywords]
        case BaseException():
            yield ".text", str(one)
        case _:
            for field in fields(one):
                yield f".{field}", getattr(one, field, "nothing")


def fields(one: object) -> list[str]:
    slots = [
        name
        for base in type(one).__mro__
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    ]
    return [*getattr(one, "__dict__", {}), *slots]


class Compared:
    """Runs each order twice: on from the last one, and on a machine of its own. All must be the same."""

    def __init__(self, scenario: Scenario, *, records: bool) -> None:
        self._scenario = dataclasses.replace(scenario, check=self._check)
        self._users_check = scenario.check
        self._records = records
        self._runner = self._new_runner()
        self._running = self._runner
        self._fields: list[list[str]] = []
        self.orders = 0
        self.repeated = 0
        """Steps that were not taken again."""

    def _new_runner(self) -> OrderRunner:
        runner = OrderRunner(self._scenario)
        runner.records = self._records
        return runner

    def _check(self, machine: RunningMachine) -> None:
        runner = self._running
        self._fields.append(list(every_field((runner._sysroot, machine, runner._tasks))))
        if self._users_check is not None:
            self._users_check(machine)  # may change the machine

    def run(self, guide: Guide) -> None:
        self._fields.clear()
        self._running = self._runner
        self.repeated += self._runner._last.common_steps(guide, records=self._records)
        self._runner.run(guide)
        self.orders += 1
        self._running = self._new_runner()
        order = run_order(self._running, guide.order.schedule, longest=None)
        assert without_footprints(order) == without_footprints(guide.order)
        for its, others in zip(guide.order.footprints, order.footprints, strict=True):
            if its is not None and others is not None:
                assert (its.reads, its.writes, its.notes) == (others.reads, others.writes, others.notes)
        if len(self._fields) > 1:
            now, fresh = self._fields
            assert sorted(set(now) ^ set(fresh)) == []


def without_footprints(order: Order) -> Order:
    return dataclasses.replace(order, footprints=[])


@pytest.fixture(autouse=True)
def _same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)


def one_case(chance: random.Random) -> Compared:
    """A random scenario, and its search."""
    kernel = chance.choice(KERNELS)
    everything = calls(kernel)
    writes = [call for call in everything if call[0] == "write"]

    def some(least: int, most: int) -> list[Call]:
        return [
            chance.choice(writes if chance.random() < 0.7 else everything) for _ in range(chance.randint(least, most))
        ]

    before = [call for call in some(0, 2) if call[0] == "write"] if chance.random() < 0.3 else []
    latency = chance.random() < 0.1

    def setup(machine: RunningMachine) -> None:
        if latency:
            machine.set_latency(offline_block=1.0)
        for _, path, data in before:
            with contextlib.suppress(OSError):
                machine.start_write(path, data)

    def check(machine: RunningMachine) -> None:
        for _, path, data in after:
            with contextlib.suppress(OSError):
                machine.write(path, data)

    after = [call for call in some(0, 2) if call[0] == "write"]
    seen = Outcomes()
    scenario = Scenario(
        tuple(seen.program(number, some(1, 3)) for number in range(chance.choice((2, 2, 3)))),
        str(MACHINE),
        kernel,
        setup if before or latency else None,
        check if after else None,
        inside=chance.random() < 0.2,
        longest=1000,
        allow_wedged=chance.random() < 0.5,
    )
    runner = Compared(scenario, records=chance.random() < 0.5)
    search = ReducedSearch(limit=40) if runner._records else Search(limit=40)
    search.work(runner)
    assert not search.found.given_up
    return runner


@pytest.mark.parametrize(
    ("first", "number"), [(0, 8), *(pytest.param(part, 25, marks=pytest.mark.ci) for part in (1000, 1025, 1050, 1075))]
)
def test_every_field_is_as_on_a_machine_that_has_just_booted(first: int, number: int) -> None:
    cases = [one_case(random.Random(seed)) for seed in range(first, first + number)]  # noqa: S311  can be repeated
    assert sum(case.repeated for case in cases) > sum(case.orders for case in cases) > number


async def shake(m: ExploreHandle) -> None:
    """What changes a machine most."""
    path = "/sys/bus/dax/devices/dax0.0"
    for name, word in (("hotplug", "unplug"), ("hotplug", "online"), ("driver/unbind", "dax0.0")):
        with contextlib.suppress(OSError):
            await m.write(f"{path}/{name}", word)
    for name, word in (("latency/offline_block", "1"), ("modules/unload", "kmem"), ("writes", "1"), ("reset", "1")):
        with contextlib.suppress(OSError):
            await m.write(f"/control/{name}", word)
    for path in ("/control/kmsg", "/control/uevents", "/control/refused", "/proc/iomem"):
        await m.read(path)
    await m.ls("/sys/devices/system/memory")


@pytest.mark.parametrize("name", sorted(machine.builtin()))
def test_after_any_order_the_machine_is_as_it_has_booted(name: str) -> None:
    runner = OrderRunner(
        Scenario((shake,), name, "hotplug-v3", None, None, inside=False, longest=100, allow_wedged=False)
    )
    roots = runner._sysroot, runner._machine, runner._tasks
    booted = list(every_field(roots))
    for _ in range(2):
        order = run_order(runner)
        assert not order.why
        changed = list(every_field(roots))
        assert changed != booted
        runner._boot()
        assert list(every_field(roots)) == booted


# The same search as with a boot for each order ------------------------------------------------------------------------

MEMORY = "/sys/devices/system/memory"
STATE = f"{MEMORY}/memory64/state"
POLICY = f"{MEMORY}/auto_online_blocks"
DEVICE = "/sys/bus/dax/devices/dax1.0/hotplug"


class Programs:
    """Programs that write down all that they get."""

    def __init__(self) -> None:
        self.got: list[object] = []

    async def looks(self, m: ExploreHandle) -> None:
        names = await m.ls(MEMORY)
        self.got.append(tuple(names))
        names.clear()  # it is the program's own
        self.got.append((await m.stat(POLICY)).st_mode)
        self.got.append(await m.read(POLICY))

    async def is_refused(self, m: ExploreHandle) -> None:
        for word in ("nonsense", "offline", "offline"):
            try:
                self.got.append(await m.write(STATE, word))
            except OSError as error:
                self.got.append((type(error), *error.args, error.filename, error.__notes__, error.__suppress_context__))
                error.__notes__.clear()

    async def polls(self, m: ExploreHandle) -> None:
        while await m.exists(STATE):
            self.got.append("there")

    async def reads_the_log(self, m: ExploreHandle) -> None:
        self.got.append((await m.read("/control/kmsg.jsonl")).count("offline"))
        self.got.append(await m.read(POLICY))
        self.got.append(await m.read(POLICY))

    async def unplugs(self, m: ExploreHandle) -> None:
        self.got.append(await m.read(POLICY))
        self.got.append(await m.write(DEVICE, "unplug"))

    async def writes(self, m: ExploreHandle) -> None:
        for word in ("online", "offline", "online"):
            self.got.append(await m.write(POLICY, word))

    async def raises(self, m: ExploreHandle) -> None:
        await m.read(STATE)
        raise RuntimeError("no")


def pin(machine: RunningMachine) -> None:
    machine.pin(64)


def begin_a_write(machine: RunningMachine) -> None:
    machine.pin(64)
    machine.start_write(STATE, "offline")


def make_slow(machine: RunningMachine) -> None:
    machine.set_latency(offline_block=3600, online_block=1)


@pytest.mark.parametrize(
    ("names", "setup", "inside"),
    [
        ("looks writes", None, False),
        ("looks is_refused", None, False),
        ("is_refused is_refused", pin, False),
        ("polls unplugs", None, False),
        ("reads_the_log is_refused", None, False),
        ("reads_the_log writes", None, False),
        ("unplugs unplugs", None, True),
        ("unplugs looks", make_slow, False),
        ("is_refused writes", make_slow, True),
        ("raises writes", None, False),
        ("looks writes", begin_a_write, False),
    ],
)
@pytest.mark.parametrize("records", [False, True])
def test_the_search_is_the_same(
    names: str,
    setup: Callable[[RunningMachine], None] | None,
    inside: bool,  # noqa: FBT001  parameters
    records: bool,  # noqa: FBT001
) -> None:
    programs = Programs()

    def check(machine: RunningMachine) -> bool:
        return machine.read(POLICY) != "offline\n"

    scenario = Scenario(
        tuple(getattr(programs, name) for name in names.split()),
        str(MACHINE),
        "hotplug-v3",
        setup,
        check,
        inside=inside,
        longest=1000,
        allow_wedged=False,
    )

    def searched(*, boots_again: bool) -> list[object]:
        runner = OrderRunner(scenario)
        runner.records, runner.boots_again = records, boots_again
        seen: list[object] = []

        class Noted:
            """Writes down all that an order shows."""

            def run(self, guide: Guide) -> None:
                programs.got.clear()
                try:
                    runner.run(guide)
                finally:
                    seen.append((without_footprints(guide.order), list(programs.got)))

        search = ReducedSearch(limit=60) if records else Search(limit=60)
        search.work(Noted())
        return seen

    found, expected = searched(boots_again=False), searched(boots_again=True)
    assert found == expected
    assert len(found) > 1 or records


def test_what_the_setup_began_is_ended_before_the_next_order() -> None:
    runner = OrderRunner(
        Scenario((), str(MACHINE), "hotplug-v3", begin_a_write, None, inside=False, longest=9, allow_wedged=True)
    )
    run_order(runner)
    (task,) = runner._tasks.tasks
    assert inspect.getcoroutinestate(task.operation) == inspect.CORO_SUSPENDED
    run_order(runner)
    assert inspect.getcoroutinestate(task.operation) == inspect.CORO_CLOSED


def test_a_program_that_does_something_else_when_it_is_repeated() -> None:
    numbers = itertools.count()

    async def differs(m: ExploreHandle) -> None:
        number = next(numbers)
        await m.read(POLICY)
        await m.write(POLICY, "online" if number % 2 else "offline")
        await m.read(POLICY)

    scenario = Scenario(
        (differs, Programs().looks), str(MACHINE), "hotplug-v3", None, None, inside=False, longest=9, allow_wedged=True
    )
    search = Search()
    search.work(OrderRunner(scenario))
    assert not search.found.complete
    diverged = search.found.not_finished[0].diverged
    assert diverged.startswith('step 2 should be "A: write offline')
    assert 'and is "A: write online' in diverged


def test_a_listing_is_the_same_in_each_order() -> None:
    seen: list[tuple[str, ...]] = []

    def check(machine: RunningMachine) -> None:
        seen.append(tuple(machine.ls(MEMORY)))

    runner = OrderRunner(
        Scenario((), str(MACHINE), "hotplug-v3", None, check, inside=False, longest=9, allow_wedged=True)
    )
    for _ in range(3):
        run_order(runner)
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert "memory65" in seen[0]
