"""Memory types and tiers (mm/memory-tiers.c).

The memory type of a node has an "abstract distance". Nodes with memory form a tier if their
distances are in the same chunk. A tier exists while one of its nodes has an online block. All
drivers share the type of a distance (patch 1 of the series: `mt_get_memory_type`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fakesysfs.kernel.bitmap import number_list
from fakesysfs.kernel.core import Core
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.printk import INFO

MEMTIER_CHUNK_BITS = 7
MEMTIER_ADISTANCE_DRAM = 4 * 128 + 64
MEMTIER_DEFAULT_LOWTIER_ADISTANCE = MEMTIER_ADISTANCE_DRAM * 5


class AccessCoordinate(NamedTuple):
    """Performance of a node's memory from its nearest initiator (HMAT).

    Latencies are in ns, bandwidths in MB/s.
    """

    read_latency: int
    write_latency: int
    read_bandwidth: int
    write_bandwidth: int


@dataclass(slots=True, eq=False)
class MemoryDevType:
    """struct memory_dev_type."""

    adistance: int
    nodes: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class NodeMemoryType:
    """struct node_memory_type_map: the type of a node, and how many devices associated it."""

    memtype: MemoryDevType | None = None
    count: int = 0


@dataclass(slots=True, eq=False)
class MemoryTier:
    """A tier device, `memory_tierN`."""

    serial: int
    number: int
    kernel: Core
    tiers: MemoryTiers
    index: int = 0

    @property
    def name(self) -> str:
        """The name of the device."""
        return f"memory_tier{self.number}"

    @property
    def devpath(self) -> str:
        """The path below /sys."""
        return f"/devices/virtual/memory_tiering/{self.name}"

    @property
    def nodes(self) -> list[int]:
        """The nodes in the tier, ascending."""
        return self.tiers.nodes_of(self.number)


class MemoryTiers:
    """The types and tiers, and the nodes of each."""

    def __init__(self, core: Core, nodes: Nodes, performance: Mapping[int, AccessCoordinate]) -> None:
        self._core = core
        self._nodes = nodes
        self._performance = performance
        self._types: dict[int, MemoryDevType] = {}
        self._node_types: dict[int, NodeMemoryType] = {}
        self.tiers: dict[int, MemoryTier] = {}
        self.demotion_enabled = False

    def has_performance(self, nid: int) -> bool:
        """Does the firmware's HMAT describe this node?"""
        return nid in self._performance

    def mt_get_memory_type(self, adistance: int) -> MemoryDevType:
        """The type of this abstract distance; the first call makes it."""
        return self._types.setdefault(adistance, MemoryDevType(adistance))

    def mt_calc_adistance(self, nid: int, default: int) -> int:
        """The abstract distance of a node: its performance compared with that of node 0.

        Returns `default` without HMAT data. The arithmetic is in integers, from left to right
        (mt_perf_to_adistance).
        """
        perf, dram = self._performance.get(nid), self._performance.get(0)
        if perf is None or dram is None:
            return default
        value = (
            MEMTIER_ADISTANCE_DRAM
            * (perf.read_latency + perf.write_latency)
            // (dram.read_latency + dram.write_latency)
        )
        return value * (dram.read_bandwidth + dram.write_bandwidth) // (perf.read_bandwidth + perf.write_bandwidth)

    def init_node_memory_type(self, nid: int, memtype: MemoryDevType) -> None:
        """Associate a node with a type, unless it has another type, and count the associations."""
        held = self._node_types.setdefault(nid, NodeMemoryType())
        if held.memtype is None:
            held.memtype = memtype
        if held.memtype is memtype:
            held.count += 1

    def clear_node_memory_type(self, nid: int, memtype: MemoryDevType | None) -> None:
        """Take one association back; the node loses its type with the last one.

        `memtype` None takes back an association with any type.
        """
        held = self._node_types.setdefault(nid, NodeMemoryType())
        if memtype is None or held.memtype is memtype:
            held.count -= 1
        if not held.count:
            held.memtype = None

    def nodes_of(self, number: int) -> list[int]:
        """The nodes of a tier, ascending."""
        return sorted(
            nid
            for memtype in self._types.values()
            if memtype.adistance >> MEMTIER_CHUNK_BITS == number
            for nid in memtype.nodes
        )

    def tier_of(self, nid: int) -> int | None:
        """The number of the tier of a node, None without one."""
        return next(
            (memtype.adistance >> MEMTIER_CHUNK_BITS for memtype in self._types.values() if nid in memtype.nodes), None
        )

    def set_node_memory_tier(self, nid: int) -> None:
        """The node got its first online memory (memtier_hotplug_callback, MEM_ONLINE)."""
        held = self._node_types.setdefault(nid, NodeMemoryType())
        if held.memtype is None:
            # No driver set the type: the distance is that of HMAT, or DRAM's (set_node_memory_tier).
            adistance = self.mt_calc_adistance(nid, MEMTIER_ADISTANCE_DRAM)
            self.init_node_memory_type(nid, self.mt_get_memory_type(adistance))
        memtype = held.memtype
        assert memtype is not None
        memtype.nodes.add(nid)
        number = memtype.adistance >> MEMTIER_CHUNK_BITS
        if number not in self.tiers:
            tier = self.tiers[number] = MemoryTier(self._core.new_serial(), number, self._core, self)
            self._core.register(tier)
            self._core.changed("tier", tier)
            if self._core.booted:
                self._core.uevents.send("add", tier.devpath, "memory_tiering")
        self._establish_demotion_targets()

    def clear_node_memory_tier(self, nid: int) -> None:
        """The node lost its last online memory (memtier_hotplug_callback, MEM_OFFLINE)."""
        number = self.tier_of(nid)
        for memtype in self._types.values():
            memtype.nodes.discard(nid)
        if number is not None and not self.nodes_of(number):
            tier = self.tiers.pop(number)
            self._core.unregister(tier)
            self._core.changed("tier", tier)
            self._core.uevents.send("remove", tier.devpath, "memory_tiering")
        self._establish_demotion_targets()

    def _establish_demotion_targets(self) -> None:
        """Log the demotion targets of each node.

        establish_demotion_targets; only with NUMA_MIGRATION.
        """
        core = self._core
        if not core.config.numa_migration or not core.booted:
            return
        numbers = sorted(self.tiers)
        for nid in self._nodes.with_memory():
            number = self.tier_of(nid)
            lower = [
                node for other in numbers if number is not None and other > number for node in self.nodes_of(other)
            ]
            preferred = self._preferred(nid, number, numbers)
            if not preferred:
                core.printk(INFO, f"Demotion targets for Node {nid}: null")
                continue
            core.printk(
                INFO,
                f"Demotion targets for Node {nid}: "
                f"preferred: {number_list(preferred)}, fallback: {number_list(sorted(lower))}",
            )

    def _preferred(self, nid: int, number: int | None, numbers: list[int]) -> list[int]:
        following = next((other for other in numbers if number is not None and other > number), None)
        if following is None:
            return []
        candidates = self.nodes_of(following)
        distance: Callable[[int], int] = lambda node: self._nodes.distance(nid, node)  # noqa: E731
        nearest = min(map(distance, candidates))
        return [node for node in candidates if distance(node) == nearest]
