"""/sys/devices/system/node, memory tiers and CPUs (drivers/base/node.c, mm/memory-tiers.c, drivers/base/cpu.c).

KERNEL.md 3.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable
from typing import Any

from fakesysfs.kernel.bitmap import number_list, number_mask
from fakesysfs.kernel.cpu import Cpu
from fakesysfs.kernel.kernel import Kernel, kernel_of
from fakesysfs.kernel.kstrtox import c_string, kstrtobool, kstrtoull, memparse, word_of
from fakesysfs.kernel.memory_tiers import MemoryTier
from fakesysfs.kernel.node import NodeDevice
from fakesysfs.kernfs.declare import (
    Attribute,
    DirectoryKind,
    Entry,
    Group,
    Indexed,
    Kobject,
    Links,
    Subdirectories,
)
from fakesysfs.ops.errors import KernelError
from fakesysfs.sysfs.common import POWER, bus_entries, on, subsystem, uevent
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
    return f"{label + ':':<15} {kilobytes:>8} kB\n"


def _meminfo(node: NodeDevice) -> str:
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
    lines += [f"Node {node.nid} {label + ':':<16} {value:>5}\n" for label, value in huge]
    return "".join(lines)


def _numastat(_node: NodeDevice) -> str:
    keys = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")
    return "".join(f"{key} 0\n" for key in keys)


def _vmstat(node: NodeDevice) -> str:
    data = node.data
    lines = {"nr_free_pages": data.managed_kb // 4, "nr_zone_inactive_anon": 0, "nr_zone_active_anon": 0}
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def _distance(node: NodeDevice) -> str:
    nodes = kernel_of(node).nodes
    return " ".join(str(nodes.distance(node.nid, other)) for other in nodes.online()) + "\n"


def _block_links() -> Indexed:
    def run(node: NodeDevice, index: int) -> tuple[int, int] | None:
        found = kernel_of(node).memory_blocks.runs.run(index)
        there = found is not None and node.nid in found[2].group.nids and node.kernel.config.memory_hotplug
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


def _hugepages(size_kb: int) -> Group:
    def nr_store(node: NodeDevice, buffer: bytes) -> None:
        # The pool never grows beyond what is free; gigantic pages of a fully free node come out whole.
        wanted = kstrtoull(buffer, 10, "nr_hugepages_store")
        node.data.hugepages[size_kb] = min(wanted, node.data.managed_kb // size_kb)

    def number(node: NodeDevice) -> str:
        return f"{node.data.hugepages.get(size_kb, 0)}\n"

    gigantic: tuple[Entry, ...] = (
        Attribute(name="demote", mode=0o200, store=lambda node, buffer: _demote(node, buffer, size_kb)),
        Attribute(name="demote_size", mode=0o644, show=on("2048kB"), store=_demote_size_store),
    )
    return Group(
        name=f"hugepages-{size_kb}kB",
        entries=(
            Attribute(name="nr_hugepages", mode=0o644, show=number, store=nr_store, doc="Pages in the node's pool."),
            Attribute(name="free_hugepages", mode=0o444, show=number, doc="Free pages in the pool."),
            Attribute(name="surplus_hugepages", mode=0o444, show=on("0"), doc="Pages above the pool's size."),
            *(gigantic if size_kb == _HUGEPAGE_SIZES[0] else ()),
        ),
    )


def _demote(node: NodeDevice, buffer: bytes, size_kb: int) -> None:
    count = min(kstrtoull(buffer, 10, "demote_store"), node.data.hugepages.get(size_kb, 0))
    small = _HUGEPAGE_SIZES[1]
    node.data.hugepages[size_kb] = node.data.hugepages.get(size_kb, 0) - count
    node.data.hugepages[small] = node.data.hugepages.get(small, 0) + count * (size_kb // small)


def _demote_size_store(_node: NodeDevice, buffer: bytes) -> None:
    """Of a gigantic page only 2 MiB pages can be made (demote_size_store)."""
    size, _ = memparse(c_string(buffer))
    if size != _HUGEPAGE_SIZES[1] << 10:
        raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is no smaller size of huge pages", "demote_size_store")


def _compact(_kobj: object, _buffer: bytes) -> None:
    """Whatever is written: no memory is in use (compact_store)."""


_SWAPPINESS = re.compile(rb"swappiness=(max|1?[0-9]{1,2}|200)")


def _reclaim(_kobj: object, buffer: bytes) -> None:
    """An amount, and maybe `swappiness=`; there is nothing to reclaim: no memory is in use (user_proactive_reclaim)."""
    text = c_string(buffer).strip()
    _, rest = memparse(text)
    words = rest.split()
    if rest == text or any(_SWAPPINESS.fullmatch(word) is None for word in words):
        raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is no amount of memory", "user_proactive_reclaim")


def _performance(field: str) -> Callable[[Any], str]:
    def show(node: NodeDevice) -> str:
        return f"{getattr(kernel_of(node).setup.performance[node.nid], field)}\n"

    return show


def _access(name: str) -> Group:
    fields = ("read_bandwidth", "read_latency", "write_bandwidth", "write_latency")
    return Group(
        name=name,
        visible=lambda node: node.data.access,
        doc="Performance of the node's memory from its nearest initiators (HMAT).",
        entries=(
            Group(
                name="initiators",
                entries=(
                    *(Attribute(name=field, mode=0o444, show=_performance(field)) for field in fields),
                    Links(of=_initiators),
                ),
            ),
            Group(name="targets", entries=(Links(of=_targets),)),
            POWER,
            uevent(lambda node: f"/devices/system/node/node{node.nid}/{name}", None),
        ),
    )


def _nearest_initiators(node: NodeDevice) -> list[int]:
    nodes = kernel_of(node).nodes
    cpus = nodes.with_cpus()
    if node.nid in cpus:
        return [node.nid]
    return sorted(cpus, key=lambda nid: nodes.distance(nid, node.nid))[:1]


def _initiators(node: NodeDevice) -> dict[str, tuple[Kobject, str]]:
    return _node_links(node, _nearest_initiators(node))


def _targets(node: NodeDevice) -> dict[str, tuple[Kobject, str]]:
    nodes = kernel_of(node).nodes
    others = [nodes[nid].device for nid in nodes.online() if nodes[nid].access]
    return _node_links(
        node, [other.nid for other in others if other is not None and node.nid in _nearest_initiators(other)]
    )


def _node_links(kobj: NodeDevice | Cpu, nids: list[int]) -> dict[str, tuple[Kobject, str]]:
    devices = [kernel_of(kobj).nodes[nid].device for nid in nids]
    return {device.name: (device, f"{NODE}/{device.name}") for device in devices if device is not None}


def _cpu_links(node: NodeDevice) -> dict[str, tuple[Kobject, str]]:
    cpus = (kernel_of(node).cpus[number] for number in node.data.cpus)
    return {cpu.name: (cpu, f"{CPU}/{cpu.name}") for cpu in cpus}


def _possible_cpus(kernel: Kernel) -> int:
    return max(kernel.cpus) + 1


def cpulist_size(kobj: Any) -> int:
    """st_size of a CPU list: max(4096, NR_CPUS * 7 / 2)."""
    nr_cpus: int = kobj.kernel.config.nr_cpus
    return max(4096, nr_cpus * 7 // 2)


NODE_KIND = DirectoryKind(
    "node",
    lambda node: f"{NODE}/node{node.nid}",
    (
        Attribute(name="compact", mode=0o200, store=_compact, doc="Any write compacts the node's memory."),
        Attribute(name="reclaim", mode=0o200, store=_reclaim, doc="An amount of memory to reclaim from the node."),
        Attribute(
            name="cpulist",
            mode=0o444,
            size=cpulist_size,
            show=lambda node: number_list(node.data.cpus) + "\n",
            doc="CPUs of the node as a list.",
        ),
        Attribute(
            name="cpumap",
            mode=0o444,
            show=lambda node: number_mask(node.data.cpus, _possible_cpus(kernel_of(node))) + "\n",
            doc="CPUs of the node as a mask.",
        ),
        Attribute(name="distance", mode=0o444, show=_distance, doc="Distances to the online nodes, ascending by node."),
        Attribute(name="meminfo", mode=0o444, show=_meminfo, doc="Memory of the node in kB."),
        Attribute(name="numastat", mode=0o444, show=_numastat, doc="Allocation counters of the node (always 0 here)."),
        Attribute(name="vmstat", mode=0o444, show=_vmstat, doc="Page counters of the node."),
        uevent(lambda node: f"/devices/system/node/node{node.nid}", "node"),
        subsystem("node"),
        POWER,
        Group(name="hugepages", entries=tuple(_hugepages(size) for size in _HUGEPAGE_SIZES), doc="Huge page pools."),
        Group(
            name="memory_failure",
            visible=lambda node: node.kernel.config.memory_failure,
            doc="Counters of memory errors.",
            entries=tuple(
                Attribute(name=name, mode=0o444, show=on("0"))
                for name in ("total", "ignored", "failed", "delayed", "recovered")
            ),
        ),
        Group(name="x86", entries=(), visible=lambda node: node.kernel.config.memory_failure, doc="Empty."),
        _access("access0"),
        _access("access1"),
        Links(of=_cpu_links, doc="Links to the node's CPUs."),
        _block_links(),
    ),
)


def _mask(name: str, nodes: Callable[[Any], list[int]], doc: str) -> Attribute:
    return Attribute(name=name, mode=0o444, show=lambda kernel: number_list(nodes(kernel)) + "\n", doc=doc)


def _node_devices(kernel: Kernel) -> dict[str, Kobject]:
    devices = (kernel.nodes[nid].device for nid in kernel.nodes.possible)
    return {device.name: device for device in devices if device is not None}


NODE_ENTRIES: tuple[Entry, ...] = (
    _mask("possible", lambda kernel: kernel.nodes.possible, "Nodes that could come up."),
    _mask("online", lambda kernel: kernel.nodes.online(), "Nodes that are up."),
    _mask("has_cpu", lambda kernel: kernel.nodes.with_cpus(), "Nodes with CPUs."),
    _mask("has_memory", lambda kernel: kernel.nodes.with_memory(), "Nodes with an online block."),
    _mask(
        "has_normal_memory",
        lambda kernel: kernel.nodes.with_normal_memory(),
        "Nodes with an online block in a kernel zone.",
    ),
    _mask("has_generic_initiator", lambda _kernel: [], "Nodes with a generic initiator: none."),
    uevent(lambda _kernel: "/devices/system/node", None),
    POWER,
    Subdirectories(of=_node_devices, doc="One directory per online node."),
)
NODE_BUS_ENTRIES = bus_entries(
    "node",
    Links(
        of=lambda kernel: {name: (node, f"{NODE}/{name}") for name, node in _node_devices(kernel).items()},
        doc="Links to all nodes.",
    ),
)

# Memory tiers -----------------------------------------------------------------------------------------------------

MEMORY_TIER = DirectoryKind(
    "memory tier",
    lambda tier: f"{TIERING}/{tier.name}",
    (
        Attribute(
            name="nodelist",
            mode=0o444,
            show=lambda tier: number_list(tier.nodes) + "\n",
            doc="Nodes in the tier.",
        ),
        uevent(lambda tier: tier.devpath, "memory_tiering"),
        subsystem("memory_tiering"),
        POWER,
    ),
)


def _tiers(kernel: Kernel) -> dict[str, MemoryTier]:
    return {tier.name: tier for tier in kernel.tiers.tiers.values()}


TIERING_ENTRIES: tuple[Entry, ...] = (
    uevent(lambda _kernel: "/devices/virtual/memory_tiering", None),
    POWER,
    Subdirectories(of=_tiers, doc="One directory per memory tier: the lower its number, the faster its memory."),
)
TIERING_BUS_ENTRIES = bus_entries(
    "memory_tiering",
    Links(
        of=lambda kernel: {name: (tier, f"{TIERING}/{name}") for name, tier in _tiers(kernel).items()},
        doc="Links to all tiers.",
    ),
)


def _demotion_store(kernel: Kernel, buffer: bytes) -> None:
    kernel.tiers.demotion_enabled = kstrtobool(buffer, "demotion_enabled_store")


NUMA_ENTRIES: tuple[Entry, ...] = (
    Attribute(
        name="demotion_enabled",
        mode=0o644,
        show=lambda kernel: f"{str(kernel.tiers.demotion_enabled).lower()}\n",
        store=_demotion_store,
        doc="Whether reclaim demotes pages to the next tier.",
    ),
)

# CPUs -------------------------------------------------------------------------------------------------------------


def _cpus(kernel: Kernel) -> dict[str, Cpu]:
    return {cpu.name: cpu for cpu in kernel.cpus.values()}


CPU_ENTRIES: tuple[Entry, ...] = (
    *(
        Attribute(
            name=name, mode=0o444, show=lambda kernel: number_list(kernel.cpus) + "\n", doc=f"CPUs that are {name}."
        )
        for name in ("possible", "present", "online")
    ),
    Attribute(name="offline", mode=0o444, show=on(""), doc="CPUs that are offline: none."),
    Attribute(
        name="kernel_max",
        mode=0o444,
        show=lambda kernel: f"{kernel.config.nr_cpus - 1}\n",
        doc="Highest possible CPU number.",
    ),
    uevent(lambda _kernel: "/devices/system/cpu", None),
    POWER,
    Subdirectories(of=_cpus, doc="One directory per CPU."),
)
CPU_BUS_ENTRIES = bus_entries(
    "cpu",
    Links(
        of=lambda kernel: {name: (cpu, f"{CPU}/{name}") for name, cpu in _cpus(kernel).items()},
        doc="Links to all CPUs.",
    ),
)


def _topology(name: str, show: Callable[[Cpu], str]) -> Attribute:
    return Attribute(name=name, mode=0o444, show=lambda cpu: f"{show(cpu)}\n")


def _self_mask(cpu: Cpu) -> str:
    return number_mask([cpu.number], _possible_cpus(kernel_of(cpu)))


def _package_mask(cpu: Cpu) -> str:
    return number_mask(cpu.package, _possible_cpus(kernel_of(cpu)))


CPU_KIND = DirectoryKind(
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
                _topology("physical_package_id", lambda cpu: str(cpu.nid)),
                _topology("core_id", lambda cpu: str(cpu.number)),
                _topology("die_id", lambda _cpu: "0"),
                _topology("core_cpus", _self_mask),
                _topology("core_cpus_list", lambda cpu: str(cpu.number)),
                _topology("thread_siblings", _self_mask),
                _topology("thread_siblings_list", lambda cpu: str(cpu.number)),
                _topology("core_siblings", _package_mask),
                _topology("core_siblings_list", lambda cpu: number_list(cpu.package)),
                _topology("package_cpus", _package_mask),
                _topology("package_cpus_list", lambda cpu: number_list(cpu.package)),
            ),
        ),
    ),
)
