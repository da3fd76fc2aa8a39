"""Boot memory: from the firmware's map to zones and memory blocks.

arch/x86/kernel/e820.c, mm/mm_init.c.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.memory_block import BlockGroup, BlockStatus, MemoryBlocks, State
from fakesysfs.kernel.memory_hotplug import MemoryHotplug
from fakesysfs.kernel.memory_tiers import MemoryTiers
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.resource import IomemResource
from fakesysfs.kernel.setup import Setup
from fakesysfs.kernel.zones import (
    DMA,
    DMA32,
    DMA32_END_PFN,
    DMA_END_PFN,
    NORMAL,
    PAGE_SHIFT,
    NodeZones,
    zone_name_at_boot,
)

BootRam = Sequence[tuple[int, Range]]
"""(node, range) of the RAM, ascending."""


def boot_memory(
    setup: Setup,
    ram: BootRam,
    core: Core,
    iomem: IomemResource,
    nodes: Nodes,
    blocks: MemoryBlocks,
    tiers: MemoryTiers,
    memory_hotplug: MemoryHotplug,
) -> None:
    """Make the resources, nodes, zones, blocks and tiers of the memory that exists at boot.

    `ram` is what `boot_ram` gives.
    """
    _reserve_resources(setup, ram, iomem)
    _init_nodes(setup, ram, nodes)
    _create_blocks(core, ram, nodes, blocks)
    nodes.check_highest_zone()
    memory_hotplug.nr_memmap_boot_pages = blocks.count * memory_hotplug.memmap_pages_of_block()
    for node in setup.nodes:
        if node.managed_kb is not None:
            _set_managed(nodes[node.nid].zones, node.managed_kb)
    for nid in nodes.with_memory():
        if tiers.has_performance(nid):
            nodes.hmat_register_target(nid)
        tiers.set_node_memory_tier(nid)
    blocks.unmovable.update(setup.unmovable)


def boot_ram(setup: Setup) -> BootRam:
    """The RAM of the machine: the nodes' ranges without the reserved ones."""
    ram: list[tuple[int, Range]] = []
    for node in setup.nodes:
        for span in node.ranges:
            ram += [(node.nid, piece) for piece in _without(span, setup.reserved)]
    return sorted(ram, key=lambda piece: piece[1])


def _reserve_resources(setup: Setup, ram: BootRam, iomem: IomemResource) -> None:
    """Make the entries of /proc/iomem that exist at boot (e820__reserve_resources)."""
    for start, end, name, busy in setup.iomem:
        iomem.request_region(start, end, name, busy=busy)
    pieces = _joined([piece for _, piece in ram])
    for piece in pieces:
        iomem.request_region(piece.start, piece.end, "System RAM")
    for piece in pieces:
        start, end = piece.end + 1, _round_up(piece.end + 1, _ram_alignment(piece.end + 1)) - 1
        if start < end:
            iomem.request_region_with_split(start, end, "RAM buffer")


def _init_nodes(setup: Setup, ram: BootRam, nodes: Nodes) -> None:
    """Put the nodes with RAM or CPUs online, and make their zones."""
    for node in setup.nodes:
        if node.cpus or any(nid == node.nid for nid, _ in ram):
            nodes.register(node.nid)
    nodes.numa_balancing = int(len(nodes.online()) > 1)
    for nid in nodes.possible:
        pieces = [piece for owner, piece in ram if owner == nid]
        if pieces:
            _init_zones(nodes[nid].zones, pieces)


def _init_zones(zones: NodeZones, pieces: Sequence[Range]) -> None:
    """Span each zone over its part of the node, and count the RAM in it."""
    start = -(-pieces[0].start >> PAGE_SHIFT)
    end = (pieces[-1].end + 1) >> PAGE_SHIFT
    for name, low, high in (
        (DMA, 0, DMA_END_PFN),
        (DMA32, DMA_END_PFN, DMA32_END_PFN),
        (NORMAL, DMA32_END_PFN, end),
    ):
        zone = zones[name]
        if max(start, low) < min(end, high):
            zone.grow(max(start, low), min(end, high))
        for piece in pieces:
            first, last = -(-piece.start >> PAGE_SHIFT), (piece.end + 1) >> PAGE_SHIFT
            zone.present += max(min(last, high) - max(first, low), 0)
        zone.present_early = zone.present
        zone.managed_kb = zone.present << PAGE_SHIFT >> 10


def _set_managed(zones: NodeZones, managed_kb: int | Mapping[str, int]) -> None:
    """Set the managed memory of each zone; divide a total in proportion to the pages present."""
    if not isinstance(managed_kb, int):
        for name, kilobytes in managed_kb.items():
            zones[name].managed_kb = kilobytes
        return
    left_kb, left_pages = managed_kb, zones.present()
    for zone in zones:
        if zone.present:
            zone.managed_kb = left_kb * zone.present // left_pages
            left_kb -= zone.managed_kb
            left_pages -= zone.present


class _BlockRun(NamedTuple):
    """Neighbouring blocks of boot memory that differ in nothing but their numbers.

    `present` is the bytes of RAM in each. `zone` is None for blocks that span several zones.
    """

    first: int
    last: int
    nids: tuple[int, ...]
    present: int
    zone: str | None


def _create_blocks(core: Core, ram: BootRam, nodes: Nodes, blocks: MemoryBlocks) -> None:
    """Make the block devices of boot memory (memory_dev_init).

    Blocks that are whole and in one zone are made in bulk. Each other block is looked at alone,
    because it may have holes or span zones or nodes.
    """
    size = blocks.block_size
    runs: list[_BlockRun] = []
    edges: dict[int, list[tuple[int, Range]]] = {}
    for nid, piece in ram:
        whole = _whole_blocks(nid, piece, size)
        runs += whole
        others: list[int] = []
        position = piece.start // size
        for bulk in whole:
            others += range(position, bulk.first)
            position = bulk.last + 1
        others += range(position, piece.end // size + 1)
        for index in others:
            part = Range(max(piece.start, index * size), min(piece.end, index * size + size - 1))
            edges.setdefault(index, []).append((nid, part))
    runs += [_edge_block(index, parts) for index, parts in edges.items()]
    maker = _BlockMaker(core, nodes, blocks)
    for run in sorted(runs, key=lambda run: run.first):
        maker.make(run)


def _whole_blocks(nid: int, piece: Range, size: int) -> list[_BlockRun]:
    """The blocks that a piece of RAM fills, zone by zone. No block is smaller than zone DMA."""
    boundary = DMA32_END_PFN << PAGE_SHIFT
    whole: list[_BlockRun] = []
    for zone, low, high in ((DMA32, DMA_END_PFN << PAGE_SHIFT, boundary), (NORMAL, boundary, piece.end + 1)):
        first, end = -(-max(piece.start, low) // size), min(piece.end + 1, high) // size
        if first < end:
            whole.append(_BlockRun(first, end - 1, (nid,), size, zone))
    return whole


def _edge_block(index: int, parts: Sequence[tuple[int, Range]]) -> _BlockRun:
    """The block of these parts of RAM, by node."""
    nids = tuple(sorted({nid for nid, _ in parts}))
    zones = {zone_name_at_boot(address >> PAGE_SHIFT) for _, part in parts for address in (part.start, part.end)}
    zone = zones.pop() if len(zones) == len(nids) == 1 else None
    return _BlockRun(index, index, nids, sum(part.length for _, part in parts), zone)


class _BlockMaker:
    """Makes block devices, and puts a block into the group of its neighbour if they are alike."""

    def __init__(self, core: Core, nodes: Nodes, blocks: MemoryBlocks) -> None:
        self._core = core
        self._nodes = nodes
        self._blocks = blocks

    def make(self, run: _BlockRun) -> None:
        """Make the devices of a run."""
        first, last, nids, present, zone_name = run
        blocks = self._blocks
        previous = blocks.runs.run(first - 1) if first else None
        zone = self._nodes[nids[0]].zones[zone_name] if zone_name else None
        holes = present != blocks.block_size
        if (
            previous is not None
            and not holes
            and zone is not None
            and previous[2].zone is zone
            and not previous[2].group.holes
        ):
            group = previous[2].group
            group.last = last
        else:
            serial = self._core.new_serial()
            group = BlockGroup(serial, first, last, nids, blocks, present // 1024, holes=holes, early=True)
            self._core.register(group)
        blocks.create(first, last, group, BlockStatus(group, State.ONLINE, zone))


def _without(span: Range, holes: Sequence[Range]) -> list[Range]:
    pieces = [span]
    for hole in holes:
        left: list[Range] = []
        for piece in pieces:
            if hole.end < piece.start or hole.start > piece.end:
                left.append(piece)
                continue
            left += [
                part for part in (Range(piece.start, hole.start - 1), Range(hole.end + 1, piece.end)) if part.length > 0
            ]
        pieces = left
    return pieces


def _joined(pieces: Sequence[Range]) -> list[Range]:
    joined: list[Range] = []
    for piece in sorted(pieces):
        if joined and joined[-1].end + 1 == piece.start:
            joined[-1] = Range(joined[-1].start, piece.end)
        else:
            joined.append(piece)
    return joined


def _ram_alignment(position: int) -> int:
    """64 KiB in the first MiB, 1 MiB up to 16 MiB, then 64 MiB (ram_alignment)."""
    megabyte = position >> 20
    if not megabyte:
        return 64 << 10
    return 1 << 20 if megabyte < 16 else 64 << 20  # noqa: PLR2004


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
