"""NUMA nodes (drivers/base/node.c; the masks and try_offline_node of mm/memory_hotplug.c).

The device of a node exists while the node is online. A node with memory or CPUs at boot is online
from then on. Another node is online from its first memory block to the removal of its last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.page_alloc import fallback_order, log_zonelists
from fakesysfs.kernel.zones import KERNEL_ZONES, NodeZones

LOCAL_DISTANCE = 10
REMOTE_DISTANCE = 20


@dataclass(slots=True, eq=False)
class NodeDevice:
    """The device `nodeN`."""

    serial: int
    nid: int
    kernel: Core
    nodes: Nodes
    index: int = 0

    @property
    def name(self) -> str:
        """The name of the device."""
        return f"node{self.nid}"

    @property
    def data(self) -> NodeData:
        """The node's pg_data_t."""
        return self.nodes[self.nid]


@dataclass(slots=True, eq=False)
class NodeData:
    """The visible part of pg_data_t. `blocks` is the number of the node's block devices."""

    nid: int
    cpus: tuple[int, ...]
    zones: NodeZones
    blocks: int = 0
    device: NodeDevice | None = None
    hmat_registered: bool = False
    """The HMAT's target of this node was registered. That happens once, with its first online memory."""
    access: bool = False
    """access0 and access1 exist: as a target's, or as those of an initiator of one.

    They go with the device of the node, and nothing makes a target's again.
    """
    access_targets: dict[str, NodeDevice] = field(default_factory=dict)
    """The links of access0/targets and access1/targets. A link stays when its node goes."""
    hugepages: dict[int, int] = field(default_factory=dict)
    """Pages in the persistent pool of hugetlb, by page size in kB."""

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
        self, core: Core, possible: Mapping[int, Sequence[int]], distances: Sequence[Sequence[int]] | None
    ) -> None:
        self._core = core
        self._nodes = {nid: NodeData(nid, tuple(cpus), NodeZones(nid)) for nid, cpus in sorted(possible.items())}
        self._distances = distances
        self._policy_zone = 0
        self.numa_balancing = 0
        """The sysctl. Its default is on if more than one node was online at boot."""

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
        """numa_map_to_online_node: the node itself, or the nearest online one, the lowest number first."""
        if nid not in self._nodes or self._nodes[nid].online:
            return nid
        return min(self.online(), key=lambda other: (self.distance(nid, other), other))

    def managed_kb(self) -> int:
        """MemTotal of the machine."""
        return sum(node.managed_kb for node in self._nodes.values())

    def nearest_initiators(self, nid: int) -> list[int]:
        """The nodes with CPUs that are nearest to a node's memory: the node itself, or one other."""
        cpus = self.with_cpus()
        if nid in cpus:
            return [nid]
        return sorted(cpus, key=lambda other: self.distance(other, nid))[:1]

    def hmat_register_target(self, nid: int) -> list[int]:
        """Make access0 and access1 of an online node, and the links to it, once.

        Returns the nodes that got a link, none after the first time (hmat_hotplug_target).
        """
        node = self._nodes[nid]
        if node.hmat_registered or node.device is None:
            return []
        node.hmat_registered = node.access = True
        initiators = self.nearest_initiators(nid)
        for initiator in initiators:
            # node_init_node_access: an initiator that is no target gets both directories, too.
            self._nodes[initiator].access = True
            self._nodes[initiator].access_targets[node.device.name] = node.device
        return initiators

    def register(self, nid: int) -> None:
        """Put a node online: device and uevent (register_one_node)."""
        node = self._nodes[nid]
        if node.device is None:
            node.device = NodeDevice(self._core.new_serial(), nid, self._core, self)
            self._core.register(node.device)
            self._core.changed("node", node.device)
            if self._core.booted:
                self._core.uevents.send("add", f"/devices/system/node/{node.device.name}", "node")

    def try_offline(self, nid: int) -> None:
        """Take a node offline when it has neither memory blocks nor CPUs (try_offline_node)."""
        node = self._nodes[nid]
        if node.device is None or node.blocks or node.cpus:
            return
        device, node.device, node.access = node.device, None, False
        node.access_targets.clear()
        self._core.unregister(device)
        self._core.changed("node", device)
        self._core.uevents.send("remove", f"/devices/system/node/{device.name}", "node")

    def build_all_zonelists(self, nid: int | None = None, extra_kb: int = 0) -> None:
        """Log the fallback orders of all possible nodes, or of the one node `nid` that comes up.

        `extra_kb` corrects the total when the caller takes several blocks in one step.
        """
        if not self._core.booted:
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
                    self._core.config.max_numnodes,
                ),
            )
            for node in (self.possible if nid is None else [nid])
        ]
        total = (self.managed_kb() + extra_kb) // 4
        self.check_highest_zone()
        log_zonelists(self._core.printk, orders, len(self.online()), total, KERNEL_ZONES[self._policy_zone])

    def check_highest_zone(self) -> None:
        """Note the highest kernel zone that was ever populated: the zone of memory policies.

        check_highest_zone.
        """
        for number, name in enumerate(KERNEL_ZONES):
            if any(node.zones[name].present for node in self._nodes.values()):
                self._policy_zone = max(self._policy_zone, number)
