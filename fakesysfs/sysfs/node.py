"""/sys/devices/system/node, memory tiers and CPUs.

drivers/base/node.c, mm/memory-tiers.c, drivers/base/cpu.c. KERNEL.md 3.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable

from fakesysfs.kernel.bitmap import number_list, number_mask
from fakesysfs.kernel.cpu import Cpu
from fakesysfs.kernel.kernel import Kernel, kernel_of
from fakesysfs.kernel.kstrtox import c_string, kstrtobool, kstrtoull, memparse, word_of
from fakesysfs.kernel.memory_failure import RESULTS
from fakesysfs.kernel.memory_tiers import AccessCoordinate, MemoryTier
from fakesysfs.kernel.node import NodeDevice
from fakesysfs.kernfs.declare import (
    PAGE_SIZE,
    RO,
    RW,
    WO,
    DirectoryKind,
    Entry,
    Group,
    Indexed,
    Kobject,
    Links,
    Subdirectories,
)
from fakesysfs.ops.errors import KernelError
from fakesysfs.sysfs.common import POWER, always_0, driverless_bus_entries, power, subsystem, uevent
from fakesysfs.sysfs.memory import MEMORY

NODE = "/sys/devices/system/node"
CPU = "/sys/devices/system/cpu"
TIERING = "/sys/devices/virtual/memory_tiering"

_MEMINFO = (
    "SwapCached", "Active", "Inactive", "Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)",
    "Unevictable", "Mlocked", "Dirty", "Writeback", "FilePages", "Mapped", "AnonPages", "Shmem", "KernelStack",
    "PageTables",
    "SecPageTables", "NFS_Unstable", "Bounce", "WritebackTmp", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim",
    "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages", "FilePmdMapped", "Unaccepted", "Balloon",
    "GPUActive", "GPUReclaim",
)  # fmt: skip
_HUGEPAGE_SIZES = (1048576, 2048)


def meminfo_line(label: str, kilobytes: int) -> str:
    """A line of meminfo, without the node: label, value in kB."""
    return f"{label + ':':<15} {kilobytes:>8} kB"


def _meminfo_show(node: NodeDevice) -> list[str]:
    total = node.data.managed_kb
    huge_kb = sum(pages * kb for kb, pages in node.data.hugepages.items())
    values = [
        ("MemTotal", total),
        ("MemFree", total - huge_kb),
        ("MemUsed", huge_kb),
        *((label, 0) for label in _MEMINFO),
    ]
    lines = [f"Node {node.nid} {meminfo_line(label, value)}" for label, value in values]
    pages = node.data.hugepages.get(2048, 0)
    huge = (("HugePages_Total", pages), ("HugePages_Free", pages), ("HugePages_Surp", 0))
    return [*lines, *(f"Node {node.nid} {label + ':':<16} {value:>5}" for label, value in huge)]


_NUMASTAT = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")


def _numastat_show(_node: NodeDevice) -> list[str]:
    return [f"{key} 0" for key in _NUMASTAT]


def _vmstat_show(node: NodeDevice) -> list[str]:
    return [f"nr_free_pages {node.data.managed_kb // 4}", "nr_zone_inactive_anon 0", "nr_zone_active_anon 0"]


def _distance_show(node: NodeDevice) -> str:
    nodes = kernel_of(node).nodes
    return " ".join(str(nodes.distance(node.nid, other)) for other in nodes.online())


def _block_links() -> Indexed[NodeDevice]:
    def run(node: NodeDevice, index: int) -> tuple[int, int] | None:
        found = kernel_of(node).memory_blocks.runs.alike(index)
        there = found is not None and node.nid in found[2].nids and node.kernel.config.memory_hotplug
        return found[:2] if found is not None and there else None

    def runs(node: NodeDevice) -> Iterable[tuple[int, int]]:
        return kernel_of(node).memory_blocks.of_node(node.nid) if node.kernel.config.memory_hotplug else ()

    return Indexed(
        prefix="memory",
        runs=runs,
        has=lambda node, index: run(node, index) is not None,
        count=lambda node: node.data.blocks,
        link=lambda _node, index: f"{MEMORY}/memory{index}",
        run=run,
        doc="Links to the node's memory blocks.",
    )


def _hugepages(size_kb: int) -> Group[NodeDevice]:
    def nr_show(node: NodeDevice) -> int:
        return node.data.hugepages.get(size_kb, 0)

    def nr_store(node: NodeDevice, buffer: bytes) -> None:
        # The pool never grows beyond the free memory; a free node has room for whole gigantic pages.
        wanted = kstrtoull(buffer, 10, "nr_hugepages_store")
        node.data.hugepages[size_kb] = min(wanted, node.data.managed_kb // size_kb)

    def demote_store(node: NodeDevice, buffer: bytes) -> None:
        _demote(node, kstrtoull(buffer, 10, "demote_store"), size_kb)

    gigantic = (
        WO("demote", demote_store),
        RW("demote_size", lambda _: "2048kB", _demote_size_store),
    )
    return Group(
        name=f"hugepages-{size_kb}kB",
        entries=(
            RW("nr_hugepages", nr_show, nr_store, "Pages in the node's pool."),
            RO("free_hugepages", nr_show, "Free pages in the pool."),
            RO("surplus_hugepages", always_0, "Pages above the pool's size."),
            *(gigantic if size_kb == _HUGEPAGE_SIZES[0] else ()),
        ),
    )


def _demote(node: NodeDevice, count: int, size_kb: int) -> None:
    """Split up to `count` pages of this size into the small ones."""
    count = min(count, node.data.hugepages.get(size_kb, 0))
    small = _HUGEPAGE_SIZES[1]
    node.data.hugepages[size_kb] = node.data.hugepages.get(size_kb, 0) - count
    node.data.hugepages[small] = node.data.hugepages.get(small, 0) + count * (size_kb // small)


def _demote_size_store(_node: NodeDevice, buffer: bytes) -> None:
    """A gigantic page can be split into 2 MiB pages only (demote_size_store)."""
    size, _ = memparse(c_string(buffer))
    if size != _HUGEPAGE_SIZES[1] << 10:
        raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is no smaller size of huge pages", "demote_size_store")


def _memory_failure_show(result: str) -> Callable[[NodeDevice], int]:
    def show(node: NodeDevice) -> int:
        count: int = getattr(kernel_of(node).memory_failure.stats[node.nid], result)
        return count

    return show


def _compact_store(_kobj: object, _buffer: bytes) -> None:
    """Any write succeeds; there is nothing to compact, as no memory is in use (compact_store)."""


_SWAPPINESS = re.compile(rb"swappiness=(max|1?[0-9]{1,2}|200)")


def _reclaim_store(_kobj: object, buffer: bytes) -> None:
    """Check an amount, and maybe `swappiness=` (user_proactive_reclaim).

    There is nothing to reclaim, as no memory is in use.
    """
    text = c_string(buffer).strip()
    _, rest = memparse(text)
    words = rest.split()
    if rest == text or any(_SWAPPINESS.fullmatch(word) is None for word in words):
        raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is no amount of memory", "user_proactive_reclaim")


def _coordinate(node: NodeDevice) -> AccessCoordinate:
    return kernel_of(node).setup.performance[node.nid]


def _is_target(node: NodeDevice) -> bool:
    return node.data.hmat_registered


def _access(name: str) -> Group[NodeDevice]:
    return Group(
        name=name,
        visible=lambda node: node.data.access,
        doc="Performance of the node's memory from its nearest initiators (HMAT).",
        entries=(
            Group(
                name="initiators",
                entries=(
                    RO("read_bandwidth", lambda node: _coordinate(node).read_bandwidth, visible=_is_target),
                    RO("read_latency", lambda node: _coordinate(node).read_latency, visible=_is_target),
                    RO("write_bandwidth", lambda node: _coordinate(node).write_bandwidth, visible=_is_target),
                    RO("write_latency", lambda node: _coordinate(node).write_latency, visible=_is_target),
                    Links(of=_initiators),
                ),
            ),
            Group(name="targets", entries=(Links(of=_targets),)),
            power(name, runtime=False),
            uevent(lambda node: f"/devices/system/node/node{node.nid}/{name}", None),
        ),
    )


def _initiators(node: NodeDevice) -> dict[str, tuple[Kobject, str]]:
    return _node_links(node, kernel_of(node).nodes.nearest_initiators(node.nid)) if _is_target(node) else {}


def _targets(node: NodeDevice) -> dict[str, tuple[Kobject, str]]:
    """The links stay when their nodes go: nothing takes them back."""
    return {name: (target, f"{NODE}/{name}") for name, target in node.data.access_targets.items()}


def _node_links(kobj: NodeDevice | Cpu, nids: list[int]) -> dict[str, tuple[Kobject, str]]:
    devices = [kernel_of(kobj).nodes[nid].device for nid in nids]
    return {device.name: (device, f"{NODE}/{device.name}") for device in devices if device is not None}


def _cpu_links(node: NodeDevice) -> dict[str, tuple[Kobject, str]]:
    cpus = (kernel_of(node).cpus[number] for number in node.data.cpus)
    return {cpu.name: (cpu, f"{CPU}/{cpu.name}") for cpu in cpus}


def _possible_cpus(kernel: Kernel) -> int:
    return max(kernel.cpus) + 1


def _cpulist_size(node: NodeDevice) -> int:
    """st_size of a CPU list in bytes: max(4096, NR_CPUS * 7 / 2)."""
    return max(PAGE_SIZE, node.kernel.config.nr_cpus * 7 // 2)


NODE_KIND = DirectoryKind[NodeDevice](
    "node",
    lambda node: f"{NODE}/node{node.nid}",
    (
        WO("compact", _compact_store, "Any write compacts the node's memory."),
        WO("reclaim", _reclaim_store, "An amount of memory to reclaim from the node."),
        RO("cpulist", lambda node: number_list(node.data.cpus), "CPUs of the node as a list.", size=_cpulist_size),
        RO(
            "cpumap",
            lambda node: number_mask(node.data.cpus, _possible_cpus(kernel_of(node))),
            "CPUs of the node as a mask.",
        ),
        RO("distance", _distance_show, "Distances to the online nodes, ascending by node."),
        RO("meminfo", _meminfo_show, "Memory of the node in kB."),
        RO("numastat", _numastat_show, "Allocation counters of the node (always 0 here)."),
        RO("vmstat", _vmstat_show, "Page counters of the node."),
        uevent(lambda node: f"/devices/system/node/node{node.nid}", "node"),
        subsystem("node"),
        POWER,
        Group(name="hugepages", entries=tuple(_hugepages(size) for size in _HUGEPAGE_SIZES), doc="Huge page pools."),
        Group(
            name="memory_failure",
            visible=lambda node: node.kernel.config.memory_failure,
            doc="Counters of memory errors.",
            entries=tuple(RO(name, _memory_failure_show(name)) for name in RESULTS),
        ),
        Group(name="x86", entries=(), visible=lambda node: node.kernel.config.memory_failure, doc="Empty."),
        _access("access0"),
        _access("access1"),
        Links(of=_cpu_links, doc="Links to the node's CPUs."),
        _block_links(),
    ),
)


def _node_devices(kernel: Kernel) -> dict[str, Kobject]:
    devices = (kernel.nodes[nid].device for nid in kernel.nodes.possible)
    return {device.name: device for device in devices if device is not None}


NODE_ENTRIES: tuple[Entry[Kernel], ...] = (
    RO("possible", lambda kernel: number_list(kernel.nodes.possible), "Nodes that could come up."),
    RO("online", lambda kernel: number_list(kernel.nodes.online()), "Nodes that are up."),
    RO("has_cpu", lambda kernel: number_list(kernel.nodes.with_cpus()), "Nodes with CPUs."),
    RO("has_memory", lambda kernel: number_list(kernel.nodes.with_memory()), "Nodes with an online block."),
    RO(
        "has_normal_memory",
        lambda kernel: number_list(kernel.nodes.with_normal_memory()),
        "Nodes with an online block in a kernel zone.",
    ),
    RO("has_generic_initiator", lambda _: number_list([]), "Nodes with a generic initiator: none."),
    uevent(lambda _kernel: "/devices/system/node", None),
    power("node"),
    Subdirectories(of=_node_devices, doc="One directory per online node."),
)
NODE_BUS_ENTRIES = driverless_bus_entries(
    "node",
    Links(
        of=lambda kernel: {name: (node, f"{NODE}/{name}") for name, node in _node_devices(kernel).items()},
        doc="Links to all nodes.",
    ),
)

# Memory tiers -----------------------------------------------------------------------------------------------------

MEMORY_TIER = DirectoryKind[MemoryTier](
    "memory tier",
    lambda tier: f"{TIERING}/{tier.name}",
    (
        RO("nodelist", lambda tier: number_list(tier.nodes), "Nodes in the tier."),
        uevent(lambda tier: tier.devpath, "memory_tiering"),
        subsystem("memory_tiering"),
        POWER,
    ),
)


def _tiers(kernel: Kernel) -> dict[str, MemoryTier]:
    return {tier.name: tier for tier in kernel.tiers.tiers.values()}


TIERING_ENTRIES: tuple[Entry[Kernel], ...] = (
    uevent(lambda _kernel: "/devices/virtual/memory_tiering", None),
    power("memory_tiering"),
    Subdirectories(of=_tiers, doc="One directory per memory tier: the lower its number, the faster its memory."),
)
TIERING_BUS_ENTRIES = driverless_bus_entries(
    "memory_tiering",
    Links(
        of=lambda kernel: {name: (tier, f"{TIERING}/{name}") for name, tier in _tiers(kernel).items()},
        doc="Links to all tiers.",
    ),
)


def _demotion_enabled_store(kernel: Kernel, buffer: bytes) -> None:
    kernel.tiers.demotion_enabled = kstrtobool(buffer, "demotion_enabled_store")


NUMA_ENTRIES: tuple[Entry[Kernel], ...] = (
    RW(
        "demotion_enabled",
        lambda kernel: "true" if kernel.tiers.demotion_enabled else "false",
        _demotion_enabled_store,
        "Whether reclaim demotes pages to the next tier.",
    ),
)

# CPUs -------------------------------------------------------------------------------------------------------------


def _cpus(kernel: Kernel) -> dict[str, Cpu]:
    return {cpu.name: cpu for cpu in kernel.cpus.values()}


def _all_cpus_show(kernel: Kernel) -> str:
    return number_list(kernel.cpus)


CPU_ENTRIES: tuple[Entry[Kernel], ...] = (
    RO("possible", _all_cpus_show, "CPUs that are possible."),
    RO("present", _all_cpus_show, "CPUs that are present."),
    RO("online", _all_cpus_show, "CPUs that are online."),
    RO("offline", lambda _: "", "CPUs that are offline: none."),
    RO("kernel_max", lambda kernel: kernel.config.nr_cpus - 1, "Highest possible CPU number."),
    uevent(lambda _kernel: "/devices/system/cpu", None),
    power("cpu"),
    Subdirectories(of=_cpus, doc="One directory per CPU."),
)
CPU_BUS_ENTRIES = driverless_bus_entries(
    "cpu",
    Links(
        of=lambda kernel: {name: (cpu, f"{CPU}/{name}") for name, cpu in _cpus(kernel).items()},
        doc="Links to all CPUs.",
    ),
)


def _self_mask(cpu: Cpu) -> str:
    return number_mask([cpu.number], _possible_cpus(kernel_of(cpu)))


def _package_mask(cpu: Cpu) -> str:
    return number_mask(cpu.package, _possible_cpus(kernel_of(cpu)))


CPU_KIND = DirectoryKind[Cpu](
    "cpu",
    lambda cpu: f"{CPU}/{cpu.name}",
    (
        uevent(lambda cpu: f"/devices/system/cpu/{cpu.name}", "cpu"),
        subsystem("cpu"),
        POWER,
        Links(of=lambda cpu: _node_links(cpu, [cpu.nid]), doc="The node of the CPU."),
        Group(
            name="topology",
            doc="Each CPU is a core, each node a package.",
            entries=(
                RO("physical_package_id", lambda cpu: cpu.nid),
                RO("core_id", lambda cpu: cpu.number),
                RO("die_id", always_0),
                RO("core_cpus", _self_mask),
                RO("core_cpus_list", lambda cpu: cpu.number),
                RO("thread_siblings", _self_mask),
                RO("thread_siblings_list", lambda cpu: cpu.number),
                RO("core_siblings", _package_mask),
                RO("core_siblings_list", lambda cpu: number_list(cpu.package)),
                RO("package_cpus", _package_mask),
                RO("package_cpus_list", lambda cpu: number_list(cpu.package)),
            ),
        ),
    ),
)
