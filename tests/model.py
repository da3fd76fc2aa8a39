"""What the tests of the two lowest layers share: a small machine, and drivers for operations. No mount, no clock."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.dax.bus import DaxRegion, DevDax, mapping_store
from fakesysfs.kernel.dax.kmem import Kmem
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import State
from fakesysfs.kernel.profile import PROFILES, Mmop, Profile
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import DaxSetup, NodeSetup, Setup
from fakesysfs.kernfs import Caller, OpenFile, names_in, open_file
from fakesysfs.machine import load
from fakesysfs.ops.errors import NAMES, KernelError
from fakesysfs.ops.sched import Answer, Request, Signals, Wait, advance
from fakesysfs.sysroot import Sysroot

T = TypeVar("T")

BLOCK = 128 << 20
GIB = 1 << 30
FIRST_DAX_BLOCK = 48
"""The small machine's dax0.0 starts here, as the recorded guest's does (0x180000000)."""
DAX_START = FIRST_DAX_BLOCK * BLOCK

CALLER = Caller(1, "pytest")


def span(first: int, last: int) -> Range:
    """Blocks first..last as a range of bytes."""
    return Range(first * BLOCK, (last + 1) * BLOCK - 1)


def small_setup(
    *,
    policy: Mmop = Mmop.ONLINE_MOVABLE,
    first: int = FIRST_DAX_BLOCK,
    blocks: int = 8,
    second: Range | None = None,
    second_node: int = 3,
    kernel_allocations: bool = False,
    modules: tuple[str, ...] = ("device_dax", "dax_hmem", "kmem"),
    region_idle: bool = False,
    target_node: int = 2,
    config: Config | None = None,
    **more: Any,
) -> Setup:
    """Two nodes of DRAM (blocks 0-15, 32-39; 40-47) and an hmem region from block 48 on a node of its own.

    `second` is the range of another region, on node `second_node`. `first` is the region's first block; one below 48
    must be from 2 GiB up, and the DRAM from 4 GiB up then starts behind the region.
    """
    regions = [DaxSetup(range=span(first, first + blocks - 1), target_node=target_node)]
    end = (first + blocks) * BLOCK if first < FIRST_DAX_BLOCK else 0
    nodes = [
        NodeSetup(
            nid=0, cpus=(0, 1), ranges=(Range(0, 2 * GIB - 1), Range(max(4 * GIB, end), max(5 * GIB, end + GIB) - 1))
        ),
        NodeSetup(nid=1, ranges=(Range(max(5 * GIB, end + GIB), 6 * GIB + end - 1),)),
        NodeSetup(nid=2),
    ]
    if second is not None:
        regions.append(DaxSetup(range=second, target_node=second_node))
        nodes.append(NodeSetup(nid=3))
    parameters = {"dax_hmem": (("region_idle", "Y" if region_idle else "N"),)}
    return Setup(
        block_size=BLOCK,
        nodes=tuple(nodes),
        soft_reserved=tuple(regions),
        platform_devices=("hmem_platform.0",),
        default_online_type=policy,
        modules=tuple((name, parameters.get(name, ())) for name in modules),
        config=config or Config(kernel_allocations_on_hotplugged_nodes=kernel_allocations),
        **more,
    )


def drive(operation: Coroutine[Request, Answer, T], *, interrupt: bool = False) -> T:
    """Run an operation alone, every sleep and preemption over at once.

    A wait that a signal ends is ended by one with `interrupt`; any other wait would be for ever, and fails the test.
    """
    answer: Answer | None = None
    while True:
        try:
            request = advance(operation, answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer = Answer.WOKEN
        if isinstance(request, Wait):
            if not interrupt or request.signals is Signals.NONE:
                operation.close()
                pytest.fail(f"waits for ever: {request}")
            answer = Answer.INTERRUPTED


def booted(profile: str | Profile = "hotplug-v3", setup: Setup | None = None, **settings: Any) -> Kernel:
    """A kernel on the small machine (`small_setup` with `settings`), booted."""
    chosen = PROFILES[profile] if isinstance(profile, str) else profile
    kernel = Kernel(setup or small_setup(**settings), chosen)
    drive(kernel.boot())
    return kernel


def with_profile(profile: str, **changes: Any) -> Profile:
    """A profile with some of its behaviours changed."""
    return dataclasses.replace(PROFILES[profile], **changes)


def errno_of(operation: Coroutine[Request, Answer, object], *, interrupt: bool = False) -> int:
    """The errno that an operation fails with, 0 for success."""
    try:
        drive(operation, interrupt=interrupt)
    except KernelError as error:
        return error.errno
    return 0


def name_of(number: int) -> str:
    """An errno as tests write it: "EBUSY", "ok" for success."""
    return NAMES[number] if number else "ok"


def dax(kernel: Kernel, name: str = "dax0.0") -> DevDax:
    """A dax device by name."""
    device = kernel.dax_bus.devices[name]
    assert isinstance(device, DevDax)
    return device


def region_of(kernel: Kernel, number: int = 0) -> DaxRegion:
    """The region of hmem.N."""
    region = kernel.platform_bus.devices[f"hmem.{number}"].driver_data
    assert isinstance(region, DaxRegion)
    return region


def kmem(kernel: Kernel) -> Kmem:
    """The driver kmem."""
    driver = kernel.dax_bus.drivers["kmem"]
    assert isinstance(driver, Kmem)
    return driver


def write_state(kernel: Kernel, word: str | bytes, name: str = "dax0.0", *, interrupt: bool = False) -> str:
    """A write to the whole-device attribute: "ok" or the errno."""
    buffer = word.encode() if isinstance(word, str) else word
    return name_of(errno_of(kmem(kernel).hotplug_store(dax(kernel, name), buffer), interrupt=interrupt))


def read_state(kernel: Kernel, name: str = "dax0.0") -> str:
    """The word that the whole-device attribute shows."""
    return kmem(kernel).hotplug_show(dax(kernel, name))


def with_ranges(profile: str | Profile, *ranges: Range, **settings: Any) -> Kernel:
    """A kernel whose dax0.0 has these ranges of blocks 48-63 and is not bound; kmem's new_id has it (`bind` does)."""
    kernel = booted(profile, blocks=16, region_idle=True, **settings)
    drive(kmem(kernel).new_id_store(b"dax0.0"))  # its probe of an empty device fails, which nobody hears
    for piece in ranges:
        mapping_store(dax(kernel), b"%x-%x" % piece)
    return kernel


def bind(kernel: Kernel, name: str = "dax0.0", driver: str = "kmem") -> str:
    """A write to the driver's `bind`: "ok" or the errno."""
    bus = kernel.dax_bus
    return name_of(errno_of(bus.bind_store(bus.drivers[driver], name.encode())))


def unbind(kernel: Kernel, name: str = "dax0.0", driver: str = "kmem") -> str:
    """A write to the driver's `unbind`: "ok" or the errno."""
    bus = kernel.dax_bus
    return name_of(errno_of(bus.unbind_store(bus.drivers[driver], name.encode())))


def set_policy(kernel: Kernel, word: str) -> None:
    """A write to auto_online_blocks."""
    kernel.memory_hotplug.mhp_set_default_online_type(word.encode())


def block_state(kernel: Kernel, index: int, word: str | bytes, *, interrupt: bool = False) -> str:
    """A write to memoryN/state: "ok" or the errno."""
    buffer = word.encode() if isinstance(word, str) else word
    return name_of(errno_of(kernel.memory_blocks.state_store(index, buffer), interrupt=interrupt))


def block_table(kernel: Kernel) -> dict[int, str]:
    """Every block of hot-added memory: "offline", or the name of its zone."""
    return {
        index: status.zone.name if status.zone is not None else status.state.value
        for first, last, status in kernel.memory_blocks.runs
        for index in range(first, last + 1)
        if index >= FIRST_DAX_BLOCK
    }


def iomem_lines(kernel: Kernel, start: int = DAX_START) -> list[str]:
    """The lines of /proc/iomem from an address on, as blocks: "48-55 name", two spaces per level."""
    return [
        f"{'  ' * depth}{resource.start // BLOCK}-{resource.end // BLOCK} {resource.name}"
        for depth, resource in kernel.iomem.walk()
        if resource.start >= start
    ]


def log_since(kernel: Kernel, sequence: int) -> list[str]:
    """Messages from a number on, as "<level>text"."""
    return [f"<{record.level}>{record.text}" for record in kernel.printk.since(sequence)]


def kmem_log(kernel: Kernel, sequence: int = 0) -> list[str]:
    """The messages of kmem and of removal from a number on, without those on zone lists and demotion."""
    noise = ("Fallback order", "Built ", "Policy zone", "Demotion targets")
    return [line for line in log_since(kernel, sequence) if not line[3:].startswith(noise)]


def events_since(kernel: Kernel, sequence: int) -> list[str]:
    """Uevents from a SEQNUM on, each as "add memory48" or "bind dax0.0"."""
    lines = kernel.uevents.since(sequence)
    return [f"{head.partition('@')[0]} {head.rpartition('/')[2]}" for head, *_ in lines]


def world(kernel: Kernel) -> dict[str, object]:
    """All that an operation without effect must leave as it was: states, zones, totals, /proc/iomem, tiers, nodes."""
    return {
        "blocks": {
            index: (status.state, status.zone.name if status.zone else None, status.group.nids)
            for first, last, status in kernel.memory_blocks.runs
            for index in range(first, last + 1)
        },
        "zones": [
            (zone.nid, zone.name, zone.start, zone.end, zone.present)
            for nid in kernel.nodes.possible
            for zone in kernel.nodes[nid].zones
        ],
        "managed_kb": [kernel.nodes[nid].managed_kb for nid in kernel.nodes.possible],
        "online nodes": kernel.nodes.online(),
        "tiers": {number: kernel.tiers.nodes_of(number) for number in sorted(kernel.tiers.tiers)},
        "iomem": [(depth, item.start, item.end, item.name) for depth, item in kernel.iomem.walk()],
        "devices": [(name, device.driver and device.driver.name) for name, device in kernel.dax_bus.devices.items()],
    }


def online_blocks(kernel: Kernel) -> int:
    """How many hot-added blocks are online."""
    return sum(
        last - first + 1
        for first, last, status in kernel.memory_blocks.runs
        if first >= FIRST_DAX_BLOCK and status.state is State.ONLINE
    )


# The face -----------------------------------------------------------------------------------------------------------


class Face:
    """A booted machine as paths, without a mount."""

    def __init__(self, machine: str = "default", profile: str | Profile = "hotplug-v3") -> None:
        chosen = PROFILES[profile] if isinstance(profile, str) else profile
        self.sysroot = Sysroot.boot(load(machine), chosen, now_ns=lambda: 0)

    @property
    def kernel(self) -> Kernel:
        """The kernel that runs now."""
        return self.sysroot.kernel

    def open(self, path: str, flags: int = os.O_RDONLY) -> OpenFile:
        """open(2)."""
        tree = self.sysroot.tree
        return open_file(tree, tree.resolve(path), flags, CALLER, self.sysroot.journal)

    def read(self, path: str) -> str:
        """The content of a file."""
        return drive(self.open(path).read_sleeping(0, 1 << 24)).decode("utf-8", "surrogateescape")

    def write(self, path: str, data: str | bytes) -> int:
        """One write(2); returns what it returns."""
        buffer = data.encode() if isinstance(data, str) else data
        return drive(self.open(path, os.O_WRONLY).write(buffer, CALLER), interrupt=True)

    def refusal(self, path: str, data: str | bytes) -> str:
        """One write(2): "ok" or the errno."""
        try:
            self.write(path, data)
        except KernelError as error:
            return error.name
        return "ok"

    def names(self, path: str) -> list[str]:
        """readdir."""
        return names_in(self.sysroot.tree, path)
