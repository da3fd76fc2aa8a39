"""/sys/devices/system/memory and its blocks (drivers/base/memory.c). KERNEL.md 2."""

from __future__ import annotations

import errno

from fakesysfs.kernel.kernel import Kernel, kernel_of
from fakesysfs.kernel.kstrtox import kstrtoull
from fakesysfs.kernel.memory_block import DEVPATH, MemoryBlock
from fakesysfs.kernel.zones import PAGE_SHIFT
from fakesysfs.kernfs.declare import RO, RW, WO, DirectoryKind, Entry, Indexed, Kobject, Links
from fakesysfs.sysfs.common import POWER, always_0, driverless_bus_entries, power, subsystem, uevent

MEMORY = "/sys/devices/system/memory"
MAX_NODES_OF_BLOCK = 8


async def _online_show(block: MemoryBlock) -> bool:
    return await block.blocks.online_show(block.index)


def _nodes(block: MemoryBlock) -> dict[str, tuple[Kobject, str]]:
    nodes = (kernel_of(block).nodes[nid].device for nid in block.group.nids)
    return {node.name: (node, f"/sys/devices/system/node/{node.name}") for node in nodes if node is not None}


MEMORY_BLOCK = DirectoryKind[MemoryBlock](
    "memory block",
    lambda block: f"{MEMORY}/memory{block.index}",
    (
        RW(
            "state",
            lambda block: block.status.state,
            lambda block, buffer: block.blocks.state_store(block.index, buffer),
            "online, offline or going-offline. Written: offline, online, online_kernel, online_movable; "
            "EINVAL if it is so already.",
        ),
        RW(
            "online",
            _online_show,
            lambda block, buffer: block.blocks.online_store(block.index, buffer),
            "1 or 0; waits while the block is being offlined. Written: any boolean; success if it is so already.",
        ),
        RO("phys_index", lambda block: f"{block.index:08x}", "Number of the block, hexadecimal."),
        RO("phys_device", always_0, "Always 0."),
        RO(
            "removable",
            lambda block: block.kernel.config.memory_hotremove,
            "1 if the kernel can remove memory (MEMORY_HOTREMOVE), whether or not this block can be offlined.",
        ),
        RO(
            "valid_zones",
            lambda block: " ".join(block.blocks.valid_zones(block.index)),
            "Zone of an online block (none: several); of an offline one the zones it can go to, the default first.",
        ),
        uevent(lambda block: f"{DEVPATH}{block.index}", "memory"),
        subsystem("memory"),
        POWER,
        Links(of=_nodes, slots=MAX_NODES_OF_BLOCK, doc="The nodes that the block belongs to."),
    ),
)


def _runs(kernel: Kernel) -> list[tuple[int, int]]:
    return [(first, last) for first, last, _ in kernel.memory_blocks.runs.groups()]


def _block(kernel: Kernel, index: int) -> MemoryBlock:
    block = kernel.memory_blocks.get(index)
    assert block is not None
    return block


def _exists(kernel: Kernel, index: int) -> bool:
    return kernel.memory_blocks.runs.group_of(index) is not None


def _run(kernel: Kernel, index: int) -> tuple[int, int] | None:
    return kernel.memory_blocks.span(index)


def block_directories() -> Indexed[Kernel]:
    """The family memoryN of directories."""
    return Indexed(
        prefix="memory",
        runs=_runs,
        has=_exists,
        count=lambda kernel: kernel.memory_blocks.count,
        directory=_block,
        run=_run,
        doc="One directory per memory block that exists.",
    )


def block_links() -> Indexed[Kernel]:
    """The family memoryN of links to all blocks."""
    return Indexed(
        prefix="memory",
        runs=_runs,
        has=_exists,
        count=lambda kernel: kernel.memory_blocks.count,
        link=lambda _kernel, index: f"{MEMORY}/memory{index}",
        run=_run,
        doc="Links to all memory blocks.",
    )


def _soft_offline_page_store(kernel: Kernel, buffer: bytes) -> None:
    address = kstrtoull(buffer, 0, "soft_offline_page_store", otherwise=errno.EINVAL)
    kernel.memory_failure.soft_offline_page(address >> PAGE_SHIFT)


def _hard_offline_page_store(kernel: Kernel, buffer: bytes) -> None:
    address = kstrtoull(buffer, 0, "hard_offline_page_store", otherwise=errno.EINVAL)
    kernel.memory_failure.memory_failure(address >> PAGE_SHIFT)


MEMORY_ENTRIES: tuple[Entry[Kernel], ...] = (
    RW(
        "auto_online_blocks",
        lambda kernel: kernel.memory_hotplug.mhp_get_default_online_type().name.lower(),
        lambda kernel, buffer: kernel.memory_hotplug.mhp_set_default_online_type(buffer),
        "Policy for memory that is added: offline, online, online_kernel or online_movable.",
    ),
    RO(
        "block_size_bytes",
        lambda kernel: f"{kernel.memory_blocks.block_size:x}",
        "Size of a memory block in bytes, hexadecimal without 0x.",
    ),
    RO(
        "crash_hotplug",
        always_0,
        "Whether the kernel updates the crash kernel's memory map by itself.",
        visible=lambda kernel: kernel.config.crash_hotplug,
    ),
    WO(
        "soft_offline_page",
        _soft_offline_page_store,
        "A physical address: take its page, which still works, out of use. Its block cannot go online again.",
        visible=lambda kernel: kernel.config.memory_failure,
    ),
    WO(
        "hard_offline_page",
        _hard_offline_page_store,
        "A physical address: treat its page as failed. Its block cannot go online again.",
        visible=lambda kernel: kernel.config.memory_failure,
    ),
    uevent(lambda _kernel: "/devices/system/memory", None),
    power("memory"),
    block_directories(),
)

MEMORY_BUS_ENTRIES = driverless_bus_entries("memory", block_links())
