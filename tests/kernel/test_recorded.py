"""What is recorded of a step on the model: which fields of which objects it read and changed."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import pytest

from fakesysfs import machine
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import find_profile
from fakesysfs.kernel.recorded import ALIASES, hooks
from fakesysfs.ops import recording
from fakesysfs.ops.footprint import EVERYTHING, MACHINE, Footprint
from fakesysfs.ops.sched import Mutex, run

MACHINES = ("default", "cxl", "hmem", "pmem", "tiny")


def booted(name: str = "default") -> Kernel:
    kernel = Kernel(machine.load(name).setup(), find_profile("hotplug-v3"))
    run(kernel.boot())
    return kernel


@pytest.fixture
def hooked() -> Iterator[None]:
    recording.install(hooks())
    yield
    recording.uninstall()


def objects_of(kernel: Kernel) -> Iterator[Any]:
    """All objects of the model that can be reached."""
    kinds = (*hooks().classes, *hooks().recording)
    return (one for one in reached_from(kernel) if isinstance(one, kinds))


def reached_from(kernel: Kernel) -> Iterator[Any]:
    """All that can be reached from a kernel, but for values."""
    seen: dict[int, Any] = {}
    left: list[Any] = [kernel]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        yield one
        if isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, deque)):
            left += list(one)
        elif isinstance(one, types.MethodType):
            left += [one.__self__, one.__func__]
        elif isinstance(one, types.FunctionType):
            left += [cell.cell_contents for cell in one.__closure__ or ()]
        elif type(one).__module__.startswith("fakesysfs."):
            left += [value for _, value in fields_of(one)]


def fields_of(one: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(one, "__dict__", {}).items()
    for base in type(one).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(one, name):
                yield name, getattr(one, name)


def places(footprint: Footprint) -> tuple[set[object], set[object]]:
    return footprint.reads - {MACHINE}, set(footprint.writes)


@pytest.mark.usefixtures("hooked")
def test_what_is_back_at_the_end_was_only_read() -> None:
    kernel = booted()
    lock = kernel.device_hotplug_lock
    with recording.Recorder() as recorder:
        assert lock.trylock()
        lock.unlock()
    reads, writes = places(recorder.footprint)
    assert ("Mutex", "device_hotplug_lock", "locked") in reads
    assert not writes
    with recording.Recorder() as recorder:
        lock.trylock()
    assert places(recorder.footprint) == (set(), {("Mutex", "device_hotplug_lock", "locked")})


@pytest.mark.usefixtures("hooked")
def test_a_container_that_changes_in_place_was_changed() -> None:
    kernel = booted()
    with recording.Recorder() as recorder:
        kernel.memory_blocks.pinned.add(70)
    reads, writes = places(recorder.footprint)
    assert writes == {("MemoryBlocks", "pinned")}
    assert ("Kernel", "memory_blocks") in reads


@pytest.mark.usefixtures("hooked")
def test_a_new_object_is_no_place() -> None:
    with recording.Recorder() as recorder:
        assert Mutex("new").trylock()
    assert places(recorder.footprint) == (set(), set())


@pytest.mark.usefixtures("hooked")
def test_a_block_has_a_place_for_its_state_and_one_for_its_being_there() -> None:
    kernel = booted()
    with recording.Recorder() as recorder:
        run(kernel.memory_blocks.state_store(70, b"offline"))
    assert ("memory", 70) in recorder.footprint.writes
    with recording.Recorder() as listing:
        list(kernel.memory_blocks.of_node(2))
    assert not listing.footprint.conflicts(recorder.footprint)
    with recording.Recorder() as other:
        run(kernel.memory_blocks.state_store(50, b"offline"))
    assert not other.footprint.conflicts(recorder.footprint)
    with recording.Recorder() as same_node:
        run(kernel.memory_blocks.state_store(71, b"offline"))
    assert same_node.footprint.conflicts(recorder.footprint)


@pytest.mark.usefixtures("hooked")
def test_a_recorder_within_another_hands_its_part_on() -> None:
    kernel = booted()
    with recording.Recorder() as outer, recording.Recorder() as inner:
        assert kernel.booted
    assert ("Kernel", "booted") in inner.footprint.reads <= outer.footprint.reads


def test_without_hooks_nothing_is_known() -> None:
    with recording.Recorder() as recorder:
        assert recording.current() is recorder.footprint
    assert recorder.footprint.writes == {EVERYTHING}
    assert recording.current() is None


def test_afterwards_the_classes_are_as_before() -> None:
    before = {kind: dict(vars(kind)) for kind in hooks().classes}
    recording.install(hooks())
    recording.install(hooks())
    recording.uninstall()
    assert Mutex.__dict__.get("__getattribute__") is not None
    recording.uninstall()
    assert {kind: dict(vars(kind)) for kind in hooks().classes} == before


@pytest.mark.parametrize("name", MACHINES)
def test_no_container_is_a_field_of_two_objects(name: str) -> None:
    """It would be two places."""
    never_change = {
        (("Kernel", "_boot_ram"), ("MemoryFailure", "_boot_ram")),
        (("E820Pmem", "_media"), ("Kernel", "pmem")),
        (("CxlPort", "registers"), ("MemdevHardware", "registers")),
    }
    owners: dict[int, list[tuple[str, str, Any]]] = {}
    for one in objects_of(booted(name)):
        for field, value in fields_of(one):
            if isinstance(value, (dict, list, set, deque)):
                owners.setdefault(id(value), []).append((type(one).__name__, field, value))
    shared = {tuple(sorted({(kind, field) for kind, field, _ in some})) for some in owners.values() if len(some) > 1}
    known = never_change | {
        tuple(sorted(pair)) for pair in cast("dict[tuple[str, str], tuple[str, str]]", ALIASES).items()
    }
    assert (("Kernel", "buses"), ("Libnvdimm", "_buses")) in shared <= known


@pytest.mark.parametrize("name", MACHINES)
def test_no_function_keeps_a_container(name: str) -> None:
    """No hook would see a change of it. What a probe keeps for the removal never changes."""
    never_change = {"DeviceDax.probe_dax", "E820Pmem.probe", "HmemPlatform.probe"}
    keep = {
        function.__qualname__.partition(".<locals>")[0]
        for function in reached_from(booted(name))
        if isinstance(function, types.FunctionType)
        and any(isinstance(cell.cell_contents, (dict, list, set, deque)) for cell in function.__closure__ or ())
    }
    assert keep <= never_change


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.usefixtures("hooked")
def test_all_fields_can_be_compared(name: str) -> None:
    """No field holds what changes in place without anybody's knowledge."""
    kernel = booted(name)
    with recording.Recorder() as recorder:
        for one in objects_of(kernel):
            for field, _ in list(fields_of(one)):
                getattr(one, field)
    assert EVERYTHING not in recorder.footprint.writes
