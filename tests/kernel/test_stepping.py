"""One block at a time or a whole run at once: the same blocks, zones, messages, uevents, totals and errors.

`fakesysfs.kernel.sched.Preemption` decides how far one step of a loop goes. With somebody watching, or with latency, it is
one block, as in Linux; with nobody it is as far as nothing can differ inside. The two are held against each other here
over random operations; one block at a time is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from fakesysfs.kernel.dax import bus as dax_bus
from fakesysfs.kernel.errors import KernelError
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_tiers import AccessCoordinate
from fakesysfs.kernel.profile import PROFILES, Mmop
from tests.model import (
    BLOCK,
    DAX_START,
    FIRST_DAX_BLOCK,
    booted,
    drive,
    events_since,
    log_since,
    region_of,
    set_policy,
    small_setup,
    world,
)

BLOCKS = 10
Operation = tuple[str, Any, Any]

WORDS = ("unplug", "unplugged", "online", "online_kernel", "online_movable")
BLOCK_WORDS = ("offline", "online", "online_kernel", "online_movable")
NAMES = ("dax0.0", "dax0.1")

PROLOGUES: tuple[list[Operation], ...] = (
    [],
    [("unbind", "dax0.0", None)],
    # dax0.0 in two ranges, with dax0.1 between them
    [
        ("attribute", "dax0.0", "unplug"),
        ("attribute", "dax0.0", "unplugged"),
        *(("state", FIRST_DAX_BLOCK + number, "offline") for number in range(BLOCKS)),
        ("unbind", "dax0.0", None),
        ("size", "dax0.0", 3),
        ("create", None, None),
        ("size", "dax0.1", 4),
        ("size", "dax0.0", 6),
    ],
    # the same, both bound
    [
        ("attribute", "dax0.0", "unplug"),
        ("attribute", "dax0.0", "unplugged"),
        *(("state", FIRST_DAX_BLOCK + number, "offline") for number in range(BLOCKS)),
        ("unbind", "dax0.0", None),
        ("size", "dax0.0", 3),
        ("create", None, None),
        ("size", "dax0.1", 4),
        ("size", "dax0.0", 6),
        ("bind", "dax0.1", None),
        ("bind", "dax0.0", None),
    ],
    # every block offline, one in the middle then in a zone of its own
    [
        *(("state", FIRST_DAX_BLOCK + number, "offline") for number in range(BLOCKS)),
        ("state", FIRST_DAX_BLOCK + 4, "online_movable"),
        ("state", FIRST_DAX_BLOCK + 7, "online_kernel"),
    ],
)
"""Beginnings that chance alone would seldom find."""


def operations(*, flags: bool = True) -> st.SearchStrategy[list[Operation]]:
    """Sequences of what a user can do to the memory of the small machine."""
    index = st.integers(FIRST_DAX_BLOCK, FIRST_DAX_BLOCK + BLOCKS - 1)
    boot_index = st.integers(30, 47)
    device = st.sampled_from(NAMES)
    kinds: list[st.SearchStrategy[Operation]] = [
        st.tuples(st.just("attribute"), device, st.sampled_from(WORDS)),
        st.tuples(st.just("attribute"), device, st.sampled_from(WORDS)),
        st.tuples(st.just("state"), index, st.sampled_from(BLOCK_WORDS)),
        st.tuples(st.just("state"), index, st.sampled_from(BLOCK_WORDS)),
        st.tuples(st.just("state"), boot_index, st.sampled_from(BLOCK_WORDS)),
        st.tuples(st.just("online"), index, st.sampled_from("01")),
        st.tuples(st.just("bind"), device, st.none()),
        st.tuples(st.just("unbind"), device, st.none()),
        st.tuples(st.just("policy"), st.sampled_from(BLOCK_WORDS), st.none()),
        st.tuples(st.just("online_policy"), st.sampled_from(["contig-zones", "auto-movable"]), st.none()),
        st.tuples(st.just("ratio"), st.integers(0, 400), st.none()),
        st.tuples(st.just("size"), device, st.integers(0, BLOCKS)),
        st.tuples(st.just("create"), st.none(), st.none()),
        st.tuples(st.just("mapping"), device, st.tuples(st.integers(0, BLOCKS - 1), st.integers(0, BLOCKS - 1))),
    ]
    if flags:
        kinds += [
            st.tuples(st.just("unmovable"), index, st.booleans()),
            st.tuples(st.just("pinned"), index, st.booleans()),
            st.tuples(st.just("inject"), st.sampled_from(["MEM_GOING_ONLINE", "MEM_GOING_OFFLINE"]), st.sampled_from([0, 0, -12])),
        ]
    return st.tuples(st.sampled_from(PROLOGUES), st.lists(st.one_of(kinds), max_size=25)).map(lambda drawn: [*drawn[0], *drawn[1]])


async def _perform(kernel: Kernel, operation: Operation) -> None:
    kind, subject, value = operation
    blocks, bus, hotplug = kernel.memory_blocks, kernel.dax_bus, kernel.memory_hotplug
    device: Any = bus.devices.get(subject) if isinstance(subject, str) else None
    if kind == "attribute":
        if device is not None and device.driver is not None and kernel.profile.attribute:
            await device.driver.hotplug_store(device, value.encode())
    elif kind == "state":
        await blocks.state_store(subject, value.encode())
    elif kind == "online":
        await blocks.online_store(subject, value.encode())
    elif kind == "bind":
        await bus.bind_store(bus.drivers["kmem"], subject.encode())
    elif kind == "unbind":
        await bus.unbind_store(bus.drivers["kmem"], subject.encode())
    elif kind == "policy":
        set_policy(kernel, subject)
    elif kind == "online_policy":
        hotplug.set_online_policy(subject.encode())
    elif kind == "ratio":
        hotplug.set_auto_movable_ratio(b"%d" % subject)
    elif kind == "size" and device is not None:
        dax_bus.size_store(device, b"%d" % (value * BLOCK))
    elif kind == "create" and len(bus.devices) < len(NAMES):
        await dax_bus.create_store(region_of(kernel), b"1")
    elif kind == "mapping" and device is not None:
        start, end = sorted(value)
        dax_bus.mapping_store(device, b"%x-%x" % (DAX_START + start * BLOCK, DAX_START + (end + 1) * BLOCK - 1))
    elif kind in {"unmovable", "pinned"} and blocks.get(subject) is not None:
        (getattr(blocks, kind).add if value else getattr(blocks, kind).discard)(subject)
    elif kind == "inject":
        hotplug.injected[subject] = value


def perform(kernel: Kernel, operation: Operation) -> tuple[int, int | None]:
    """Do one operation; (errno, the block that refused)."""
    try:
        drive(_perform(kernel, operation), interrupt=True)
    except KernelError as error:
        return error.errno, error.block
    return 0, None


def everything(kernel: Kernel) -> dict[str, object]:
    """What anybody could tell two kernels apart by."""
    return {
        **world(kernel),
        "pending types": {
            index: status.online_type
            for first, last, status in kernel.memory_blocks.runs
            for index in range(first, last + 1)
        },
        "unmovable": sorted(kernel.memory_blocks.unmovable),
        "pinned": sorted(kernel.memory_blocks.pinned),
        "memmap pages": kernel.memory_hotplug.nr_memmap_pages,
        "tainted": kernel.tainted,
        "access": [kernel.nodes[nid].access for nid in kernel.nodes.possible],
        "block counts": [kernel.nodes[nid].blocks for nid in kernel.nodes.possible],
        "states": [getattr(device.driver_data, "state", None) for device in kernel.dax_bus.devices.values()],
    }


def _watched(kernel: Kernel) -> None:
    kernel.preempt.watched = True


def _slow(kernel: Kernel) -> None:
    kernel.preempt.latency.update(online_block=1.0, offline_block=1.0)


def compare(kernels: Sequence[Kernel], done: Sequence[Operation]) -> None:
    """Do the same to all kernels; after each operation all must look alike."""
    for operation in done:
        before = [(kernel.printk.sequence, kernel.uevents.sequence) for kernel in kernels]
        truth, *others = [perform(kernel, operation) for kernel in kernels]
        note(f"{operation} -> {truth}")
        logs = [log_since(kernel, place[0]) for kernel, place in zip(kernels, before, strict=True)]
        events = [events_since(kernel, place[1]) for kernel, place in zip(kernels, before, strict=True)]
        for number, other in enumerate(others, start=1):
            assert other == truth
            assert events[number] == events[0]
            assert logs[number] == logs[0]
            assert everything(kernels[number]) == everything(kernels[0])


@pytest.mark.parametrize("profile", PROFILES)
@given(
    done=operations(),
    kernel_allocations=st.booleans(),
    target_node=st.sampled_from([1, 2]),
    policy=st.sampled_from(list(Mmop)),
    movable_node=st.booleans(),
    hmat=st.booleans(),
)
@settings(max_examples=1500, deadline=None)
def test_one_block_at_a_time_is_the_same_as_a_run_at_once(
    profile: str,
    done: list[Operation],
    kernel_allocations: bool,  # noqa: FBT001  drawn by hypothesis
    target_node: int,
    policy: Mmop,
    movable_node: bool,  # noqa: FBT001
    hmat: bool,  # noqa: FBT001
) -> None:
    more: dict[str, Any] = {}
    if hmat:
        more["performance"] = {0: AccessCoordinate(5, 5, 200, 200), 2: AccessCoordinate(20, 20, 50, 50)}
    kernels = []
    for stepper in (_watched, _slow, None):
        setup = small_setup(
            blocks=BLOCKS, kernel_allocations=kernel_allocations, target_node=target_node, policy=policy, **more
        )
        object.__setattr__(setup.config, "movable_node", movable_node)
        kernel = booted(profile, setup)
        if stepper is not None:
            stepper(kernel)
        kernels.append(kernel)
    compare(kernels, done)
