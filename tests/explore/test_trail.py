"""An order that goes on from the last one ends as on a machine that has just booted: every field of every object."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
import types
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from fakesysfs.explore.order import Guide, Order
from fakesysfs.explore.reduction import ReducedSearch
from fakesysfs.explore.search import Runner, Search, run_order
from fakesysfs.kernfs.declare import DirectoryKind
from fakesysfs.machine import MachineDescription
from fakesysfs.testing import RunningMachine
from fakesysfs.testing.order_runner import OrderRunner, Scenario
from tests.explore.test_soundness import KERNELS, MACHINE, Call, Outcomes, calls

NOT_COMPARED = (OrderRunner, DirectoryKind, MachineDescription, type, types.ModuleType, itertools.count)
"""The same for all machines, or a number that nobody sees."""


def differences(one: object, other: object) -> Iterator[str]:
    """Where two graphs of objects differ: types, values, and which objects are the same."""
    pairs: dict[int, int] = {}
    keep: list[object] = []
    left: list[tuple[str, Any, Any]] = [("", one, other)]
    while left:
        path, one, other = left.pop()
        if type(one) is not type(other):
            yield f"{path}: {one!r} and {other!r}"
            continue
        if isinstance(one, NOT_COMPARED):
            continue
        inside = list(parts(one, other))
        if not inside and not isinstance(one, (list, dict, set, deque, tuple)):
            if one != other and not isinstance(one, BaseException):
                yield f"{path}: {one!r} and {other!r}"
            continue
        if id(one) in pairs:
            if pairs[id(one)] != id(other):
                yield f"{path}: other objects are the same"
            continue
        if not isinstance(one, tuple):
            pairs[id(one)] = id(other)
            keep += [one, other]
        left += [(f"{path}{name}", its, others) for name, its, others in inside]


def parts(one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """What two objects of one type consist of, pair by pair."""
    match one:
        case str() | bytes() | int() | float():
            return
        case dict():
            yield ".keys", list(one), list(other)
            for key, its, others in zip(one, one.values(), other.values(), strict=False):
                yield f"[{key!r}]", its, others
        case set() | frozenset():
            yield ".len", len(one), len(other)
            yield ".sorted", sorted(map(str, one)), sorted(map(str, other))
        case list() | tuple() | deque():
            yield ".len", len(one), len(other)
            for number, (its, others) in enumerate(zip(one, other, strict=False)):
                yield f"[{number}]", its, others
        case types.FunctionType():
            yield ".code", one.__qualname__, other.__qualname__
            for its, others in zip(one.__closure__ or (), other.__closure__ or (), strict=True):
                yield "()", its.cell_contents, others.cell_contents
        case types.MethodType():
            yield ".func", one.__func__.__qualname__, other.__func__.__qualname__
            yield ".self", one.__self__, other.__self__
        case partial():
            yield ".all", [one.func, one.args, one.keywords], [other.func, other.args, other.keywords]
        case BaseException():
            yield ".args", [str(arg) for arg in one.args], [str(arg) for arg in other.args]
        case _:
            names = fields(one)
            if dataclasses.is_dataclass(one) or names:
                yield ".fields", names, fields(other)
            for name in names:
                yield f".{name}", getattr(one, name, None), getattr(other, name, None)


def fields(one: object) -> list[str]:
    slots = [
        name
        for base in type(one).__mro__
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    ]
    return [*getattr(one, "__dict__", {}), *slots]


class Compared(Runner):
    """Runs each order twice: on from the last one, and on a machine of its own. All must be the same."""

    def __init__(self, scenario: Scenario, seen: Outcomes, *, records: bool) -> None:
        self._scenario = scenario
        self._seen = seen
        self._records = records
        self._runner = OrderRunner(scenario)
        self._runner.records = records
        self.orders = 0
        self.repeated = 0
        """Steps that were not taken again."""

    def run(self, guide: Guide) -> None:
        before = set(self._seen.found)
        try:
            self._runner.run(guide)
        finally:
            self._compare(guide, before)

    def _compare(self, guide: Guide, before: set[object]) -> None:
        self.orders += 1
        after, self._seen.found = self._seen.found, before
        other = OrderRunner(self._scenario)
        other.records = self._records
        order = run_order(other, guide.order.schedule, longest=None)
        assert self._seen.found == after
        assert without_footprints(order) == without_footprints(guide.order)
        for its, others in zip(guide.order.footprints, order.footprints, strict=True):
            if its is not None and others is not None:
                assert (its.reads, its.writes, its.notes) == (others.reads, others.writes, others.notes)
        machines = [(runner._sysroot, runner._machine, runner._tasks) for runner in (self._runner, other)]
        assert list(differences(*machines)) == []


def without_footprints(order: Order) -> Order:
    return dataclasses.replace(order, footprints=[], asleep=False)


def compare(programs: Sequence[Sequence[Call]], kernel: str, **options: Any) -> int:
    """Compare all orders of these programs; returns how many there are."""
    seen = Outcomes()
    before, inside = options.get("before", ()), options.get("inside", False)

    def setup(machine: RunningMachine) -> None:
        for operation, path, data in before:
            assert operation == "write"
            machine.start_write(path, data)

    scenario = Scenario(
        tuple(seen.program(number, what) for number, what in enumerate(programs)),
        str(MACHINE),
        kernel,
        setup if before else None,
        seen.check if options.get("check", True) else None,
        inside=inside,
        longest=1000,
        allow_wedged=options.get("allow_wedged", True),
    )
    records = options.get("records", False)
    runner = Compared(scenario, seen, records=records)
    search = ReducedSearch(limit=30) if records else Search(limit=30)
    search.work(runner)
    assert not search.found.given_up
    return runner.orders


@pytest.fixture(autouse=True)
def _same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)


def draw(chance: random.Random, kernel: str) -> list[list[Call]]:
    everything = calls(kernel)
    writes = [call for call in everything if call[0] == "write"]
    return [
        [chance.choice(writes if chance.random() < 0.7 else everything) for _ in range(chance.randint(1, 3))]
        for _ in range(2)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_every_field_is_as_on_a_machine_that_has_just_booted(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  a seed that can be repeated
    kernel = chance.choice(KERNELS)
    writes = [call for call in calls(kernel) if call[0] == "write"]
    options = {
        "records": chance.random() < 0.5,
        "inside": chance.random() < 0.3,
        "allow_wedged": chance.random() < 0.5,
        "before": [chance.choice(writes) for _ in range(chance.choice((0, 0, 2)))],
    }
    assert compare(draw(chance, kernel), kernel, **options) > 1
