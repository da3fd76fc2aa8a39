"""NUMA nodes (drivers/base/node.c; the masks and try_offline_node of mm/memory_hotplug.c).

A node's device exists while the node is online: from boot for a node with memory or CPUs, else from the first memory
block that is added to it to the removal of the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fakesysfs.kernel.page_alloc import fallback_order, log_zonelists
from fakesysfs.kernel.zones import KERNEL_ZONES, NodeZones

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel

LOCAL_DISTANCE = 10
REMOTE_DISTANCE = 20


@dataclass(slots=True, eq=False)
class NodeDevice:
    """The device `nodeN`."""

    serial: int
    nid: int
    kernel: Kernel
    index: int = 0

    @property
    def name(self) -> str:
        """The name of the device."""
        return f"node{self.nid}"

    @property
    def data(self) -> NodeData:
        """What the kernel keeps of the node."""
        return self.kernel.nodes[self.nid]


@dataclass(slots=True, eq=False)
class NodeData:
    """pg_data_t, as far as it is visible. `blocks` is the number of the node's block devices."""

    nid: int
    cpus: tuple[int, ...]
    zones: NodeZones
    blocks: int = 0
    device: NodeDevice | None = None
    access: bool = False
    """access0 and access1 exist: from the first online memory on, where there is HMAT data."""
    hugepages: dict[int, int] = field(default_factory=dict)
    """Pages of hugetlb by size in kB, persistent pool."""

    @property
    def managed_kb(self) -> int:
        """The node's MemTotal."""
        return self.zones.managed_kb()

    @property
    def online(self) -> bool:
        """Is the node in the online mask?"""
        return self.device is not None


class Nodes:
    """All possible nodes."""

    def __init__(
        self, kernel: Kernel, possible: Mapping[int, Sequence[int]], distances: Sequence[Sequence[int]] | None
    ) -> None:
        self._kernel = kernel
        self._nodes = {nid: NodeData(nid, tuple(cpus), NodeZones(nid)) for nid, cpus in sorted(possible.items())}
        self._distances = distances
        self._policy_zone = 0
        self.numa_balancing = 0
        """The sysctl: on by default where more than one node was there at boot."""

    def __getitem__(self, nid: int) -> NodeData:
        return self._nodes[nid]

    def __contains__(self, nid: object) -> bool:
        return nid in self._nodes

    @property
    def possible(self) -> list[int]:
        """The numbers of all possible nodes."""
        return list(self._nodes)

    def online(self) -> list[int]:
        """The numbers of the online nodes."""
        return [nid for nid, node in self._nodes.items() if node.online]

    def with_memory(self) -> list[int]:
        """has_memory: nodes with an online block."""
        return [nid for nid, node in self._nodes.items() if node.zones.present()]

    def with_normal_memory(self) -> list[int]:
        """has_normal_memory: nodes with an online block in a kernel zone."""
        return [nid for nid, node in self._nodes.items() if node.zones.present_normal()]

    def with_cpus(self) -> list[int]:
        """has_cpu."""
        return [nid for nid, node in self._nodes.items() if node.cpus]

    def distance(self, one: int, other: int) -> int:
        """node_distance."""
        if self._distances is not None:
            return self._distances[one][other]
        return LOCAL_DISTANCE if one == other else REMOTE_DISTANCE

    def nearest_online(self, nid: int) -> int:
        """numa_map_to_online_node: the node itself, or the nearest online one (lowest number first)."""
        if nid not in self._nodes or self._nodes[nid].online:
            return nid
        return min(self.online(), key=lambda other: (self.distance(nid, other), other))

    def managed_kb(self) -> int:
        """MemTotal of the machine."""
        return sum(node.managed_kb for node in self._nodes.values())

    def register(self, nid: int) -> None:
        """Put a node online: device and uevent (register_one_node)."""
        node = self._nodes[nid]
        if node.device is None:
            node.device = NodeDevice(self._kernel.new_serial(), nid, self._kernel)
            self._kernel.register(node.device)
            self._kernel.changed("node", node.device)
            if self._kernel.booted:
                self._kernel.uevents.send("add", f"/devices/system/node/{node.device.name}", "node")

    def try_offline(self, nid: int) -> None:
        """Take a node offline when it has neither memory blocks nor CPUs (try_offline_node)."""
        node = self._nodes[nid]
        if node.device is None or node.blocks or node.cpus:
            return
        device, node.device, node.access = node.device, None, False
        self._kernel.unregister(device)
        self._kernel.changed("node", device)
        self._kernel.uevents.send("remove", f"/devices/system/node/{device.name}", "node")

    def build_all_zonelists(self, nid: int | None = None, extra_kb: int = 0) -> None:
        """Log the fallback orders: of every possible node, or of one node that is coming up, without itself.

        `extra_kb` corrects the total for blocks that the caller takes in one step.
        """
        if not self._kernel.booted:
            return
        load: dict[int, int] = {}
        memory = set(self.with_memory())
        cpus = set(self.with_cpus())
        orders = [
            (
                node,
                fallback_order(
                    node,
                    self.possible,
                    memory.__contains__,
                    self.distance,
                    cpus.__contains__,
                    load,
                    self._kernel.config.max_numnodes,
                ),
            )
            for node in (self.possible if nid is None else [nid])
        ]
        total = (self.managed_kb() + extra_kb) // 4
        self.check_highest_zone()
        log_zonelists(self._kernel.printk, orders, len(self.online()), total, KERNEL_ZONES[self._policy_zone])

    def check_highest_zone(self) -> None:
        """The highest kernel zone that was ever populated is what memory policies are about (check_highest_zone)."""
        for number, name in enumerate(KERNEL_ZONES):
            if any(node.zones[name].present for node in self._nodes.values()):
                self._policy_zone = max(self._policy_zone, number)
