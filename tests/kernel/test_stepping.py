"""One block at a time or a whole run at once: the same blocks, zones, messages, uevents, totals and errors.

`fakesysfs.ops.sched.Preemption` decides how far one step of a loop goes. With somebody watching, or with latency, it
is one block, as in Linux; with nobody it is as far as nothing can differ inside. The two are held against each other
here over random operations; one block at a time is the truth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.dax import bus as dax_bus
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_tiers import AccessCoordinate
from fakesysfs.kernel.profile import PROFILES, Mmop, Unbind
from fakesysfs.ops.errors import KernelError
from tests.model import (
    BLOCK,
    FIRST_DAX_BLOCK,
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

BLOCK_WORDS = ("offline", "online", "online_kernel", "online_movable")
NAMES = ("dax0.0", "dax0.1")
WARNS = Unbind.WARN_UNLESS_OFFLINE

PROLOGUES: tuple[list[Operation], ...] = (
    [],
    [("attribute", "dax0.0", "unplug"), ("attribute", "dax0.0", "unplugged"), ("clear", "dax0.0", ("unbind",))],
    # dax0.0 in two ranges, with dax0.1 between them
    [
        ("attribute", "dax0.0", "unplug"),
        ("attribute", "dax0.0", "unplugged"),
        ("clear", "dax0.0", ("unbind",)),
        ("size", "dax0.0", 3),
        ("create", None, None),
        ("size", "dax0.1", 4),
        ("size", "dax0.0", 6),
    ],
    # the same, both bound
    [
        ("attribute", "dax0.0", "unplug"),
        ("attribute", "dax0.0", "unplugged"),
        ("clear", "dax0.0", ("unbind",)),
        ("size", "dax0.0", 3),
        ("create", None, None),
        ("size", "dax0.1", 4),
        ("size", "dax0.0", 6),
        ("clear", "dax0.1", ("bind",)),
        ("clear", "dax0.0", ("bind",)),
    ],
    # every block offline, one in the middle then in a zone of its own
    [
        ("states", (0, BLOCKS - 1), "offline"),
        ("states", (4, 4), "online_movable"),
        ("states", (7, 7), "online_kernel"),
    ],
)
"""Beginnings that chance alone would seldom find. Blocks are counted from the region's first."""


def operations(profile: str) -> st.SearchStrategy[list[Operation]]:
    """Sequences of what a user can do to the memory of the small machine, most of it not in vain."""
    written = [word for word in PROFILES[profile].words_written if word.startswith("unplug")]
    words = [*PROFILES[profile].words_written, *written, *written]
    index = st.integers(0, BLOCKS - 1)
    device = st.sampled_from(["dax0.0", *NAMES])
    some = st.tuples(index, st.integers(0, 3)).map(lambda drawn: (drawn[0], drawn[0] + drawn[1]))
    cycle = st.sampled_from([("unbind", "bind"), ("unbind",), ("bind",)])
    drawn: list[tuple[int, st.SearchStrategy[Operation]]] = [
        (6 if words else 0, st.tuples(st.just("attribute"), device, st.sampled_from(words or ["online"]))),
        (5, st.tuples(st.just("states"), some, st.sampled_from(BLOCK_WORDS))),
        (1, st.tuples(st.just("states"), st.integers(-18, 0).map(lambda at: (at, at)), st.sampled_from(BLOCK_WORDS))),
        (1, st.tuples(st.just("online"), index, st.sampled_from("01"))),
        (3, st.tuples(st.just("clear"), device, cycle)),
        (2, st.tuples(st.just("policy"), st.sampled_from(BLOCK_WORDS), st.none())),
        (2, st.tuples(st.just("online_policy"), st.sampled_from(["contig-zones", "auto-movable"]), st.none())),
        (1, st.tuples(st.just("ratio"), st.integers(0, 400), st.none())),
        (1, st.tuples(st.just("size"), device, st.integers(0, BLOCKS))),
        (1, st.tuples(st.just("create"), st.none(), st.none())),
        (1, st.tuples(st.just("mapping"), device, some)),
        (2, st.tuples(st.just("unmovable"), index, st.booleans())),
        (2, st.tuples(st.just("pinned"), index, st.booleans())),
        (
            1,
            st.tuples(
                st.just("inject"), st.sampled_from(["MEM_GOING_ONLINE", "MEM_GOING_OFFLINE"]), st.sampled_from([0, -12])
            ),
        ),
    ]
    one = st.sampled_from([kind for weight, kind in drawn for _ in range(weight)]).flatmap(lambda kind: kind)
    return st.tuples(st.sampled_from(PROLOGUES), st.lists(one, min_size=20, max_size=50)).map(
        lambda two: [*two[0], *two[1]]
    )


async def _perform(kernel: Kernel, operation: Operation) -> None:
    kind, subject, value = operation
    blocks, bus, hotplug = kernel.memory_blocks, kernel.dax_bus, kernel.memory_hotplug
    device: Any = bus.devices.get(subject) if isinstance(subject, str) else None
    base = kernel.setup.soft_reserved[0].range.start // BLOCK
    if kind == "attribute":
        if device is not None and device.driver is not None and kernel.profile.attribute:
            await device.driver.hotplug_store(device, value.encode())
    elif kind == "states":
        for index in range(base + subject[0], base + subject[1] + 1):
            with contextlib.suppress(KernelError):
                await blocks.state_store(index, value.encode())
    elif kind == "online":
        await blocks.online_store(base + subject, value.encode())
    elif kind == "clear" and "unbind" in value:
        # Blocks offlined by hand first: what is leaked is lost for the rest of the sequence.
        for index in range(base, base + BLOCKS) if kernel.profile.unbind is not WARNS else ():
            with contextlib.suppress(KernelError):
                await blocks.state_store(index, b"offline")
        await bus.unbind_store(bus.drivers["kmem"], subject.encode())
        if "bind" in value:
            await bus.bind_store(bus.drivers["kmem"], subject.encode())
    elif kind == "clear":
        await bus.bind_store(bus.drivers["kmem"], subject.encode())
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
        dax_bus.mapping_store(device, b"%x-%x" % ((base + value[0]) * BLOCK, (base + value[1] + 1) * BLOCK - 1))
    elif kind in {"unmovable", "pinned"} and blocks.get(base + subject) is not None:
        (getattr(blocks, kind).add if value else getattr(blocks, kind).discard)(base + subject)
    elif kind == "inject":
        await kernel.modprobe("memory_notifier_error_inject")
        assert kernel.notifier_err_inject_dir is not None
        kernel.notifier_err_inject_dir.injectors["memory"].actions[subject].debugfs_errno_set(value)


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
@given(data=st.data())
@settings(max_examples=80)
def test_one_block_at_a_time_is_the_same_as_a_run_at_once(profile: str, data: st.DataObject) -> None:
    chosen: dict[str, Any] = data.draw(
        st.fixed_dictionaries(
            {
                "kernel_allocations": st.booleans(),
                "movable_node": st.booleans(),
                "numa_migration": st.booleans(),
                "target_node": st.sampled_from([0, 1, 2]),
                # 28: the region goes over 4 GiB, where the boot span of node 0's DMA32 ends
                "first": st.sampled_from([FIRST_DAX_BLOCK, 28]),
                "policy": st.sampled_from(list(Mmop)),
                "hmat": st.booleans(),
            }
        ),
        label="machine",
    )
    hmat = {0: AccessCoordinate(5, 5, 200, 200), 2: AccessCoordinate(20, 20, 50, 50)} if chosen["hmat"] else {}
    setup = small_setup(
        blocks=BLOCKS,
        policy=chosen["policy"],
        target_node=chosen["target_node"],
        first=chosen["first"],
        performance=hmat,
        config=Config(
            kernel_allocations_on_hotplugged_nodes=chosen["kernel_allocations"],
            movable_node=chosen["movable_node"],
            numa_migration=chosen["numa_migration"],
        ),
    )
    kernels = []
    for stepper in (_watched, _slow, None):
        kernel = Kernel(setup, PROFILES[profile])
        if stepper is not None:
            stepper(kernel)
        drive(kernel.boot())
        kernels.append(kernel)
    assert log_since(kernels[2], 0) == log_since(kernels[1], 0) == log_since(kernels[0], 0)
    assert events_since(kernels[2], 0) == events_since(kernels[1], 0) == events_since(kernels[0], 0)
    compare(kernels, data.draw(operations(profile), label="operations"))
