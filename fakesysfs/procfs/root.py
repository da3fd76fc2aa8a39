"""The files of /proc that follow the model. Their size is 0; a read at offset 0 makes a new text."""

from __future__ import annotations

import errno

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.kstrtox import kstrtoull
from fakesysfs.kernel.zones import PAGE_SHIFT, Zone
from fakesysfs.kernfs.declare import RO, RW, Entry
from fakesysfs.kernfs.static import StaticTables
from fakesysfs.ops.errors import KernelError
from fakesysfs.sysfs.node import meminfo_line

_MEMINFO = (
    "Buffers", "Cached", "SwapCached", "Active", "Inactive", "Active(anon)", "Inactive(anon)", "Active(file)",
    "Inactive(file)", "Unevictable", "Mlocked", "SwapTotal", "SwapFree", "Zswap", "Zswapped", "Dirty", "Writeback",
    "AnonPages", "Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables",
    "SecPageTables", "NFS_Unstable", "Bounce", "WritebackTmp",
)  # fmt: skip
_MEMINFO_AFTER = (
    "VmallocUsed", "VmallocChunk", "Percpu", "HardwareCorrupted", "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped",
    "FileHugePages", "FilePmdMapped", "CmaTotal", "CmaFree", "Unaccepted", "Balloon", "GPUActive", "GPUReclaim",
)  # fmt: skip
_NODE_STATS = (
    "nr_inactive_anon", "nr_active_anon", "nr_inactive_file", "nr_active_file", "nr_unevictable", "nr_slab_reclaimable",
    "nr_slab_unreclaimable", "nr_isolated_anon", "nr_isolated_file", "workingset_nodes", "workingset_refault_anon",
    "workingset_refault_file", "workingset_activate_anon", "workingset_activate_file", "workingset_restore_anon",
    "workingset_restore_file", "workingset_nodereclaim", "nr_anon_pages", "nr_mapped", "nr_file_pages", "nr_dirty",
    "nr_writeback", "nr_shmem", "nr_shmem_hugepages", "nr_shmem_pmdmapped", "nr_file_hugepages", "nr_file_pmdmapped",
    "nr_anon_transparent_hugepages", "nr_vmscan_write", "nr_vmscan_immediate_reclaim", "nr_dirtied", "nr_written",
    "nr_throttled_written", "nr_kernel_misc_reclaimable", "nr_foll_pin_acquired", "nr_foll_pin_released",
    "nr_kernel_stack", "nr_page_table_pages", "nr_sec_page_table_pages", "nr_iommu_pages", "nr_swapcached",
    "pgpromote_success", "pgpromote_candidate", "pgdemote_kswapd", "pgdemote_direct",
    "pgdemote_khugepaged", "nr_hugetlb",
)  # fmt: skip
_ZONE_STATS = (
    "nr_free_pages", "nr_zone_inactive_anon", "nr_zone_active_anon", "nr_zone_inactive_file", "nr_zone_active_file",
    "nr_zone_unevictable", "nr_zone_write_pending", "nr_mlock", "nr_free_cma", "numa_hit", "numa_miss", "numa_foreign",
    "numa_interleave", "numa_local", "numa_other",
)  # fmt: skip
_NUMA_BALANCING_MAX = 4
_VMALLOC_TOTAL_KB = 13743895347199


def _iomem_show(kernel: Kernel) -> list[str]:
    """/proc/iomem: two spaces per level, at least eight hexadecimal digits (r_show)."""
    return [
        f"{'  ' * depth}{resource.start:08x}-{resource.end:08x} : {resource.name}"
        for depth, resource in kernel.iomem.walk()
    ]


def _meminfo_show(kernel: Kernel) -> list[str]:
    """/proc/meminfo: MemTotal follows the online blocks; all of it is free."""
    total = kernel.nodes.managed_kb()
    pages = sum(kernel.nodes[nid].hugepages.get(2048, 0) for nid in kernel.nodes.possible)
    huge_kb = sum(pages * kb for nid in kernel.nodes.possible for kb, pages in kernel.nodes[nid].hugepages.items())
    values = [("MemTotal", total), ("MemFree", total - huge_kb), ("MemAvailable", total - huge_kb)]
    values += [(label, 0) for label in _MEMINFO]
    values += [("CommitLimit", total // 2), ("Committed_AS", 0), ("VmallocTotal", _VMALLOC_TOTAL_KB)]
    corrupted = kernel.memory_failure.num_poisoned_pages << PAGE_SHIFT >> 10
    lines = [meminfo_line(label, value) for label, value in values]
    lines += [meminfo_line(label, 0) for label in _MEMINFO_AFTER]
    lines[lines.index(meminfo_line("HardwareCorrupted", 0))] = f"HardwareCorrupted: {corrupted:>5} kB"
    for label, count in (
        ("HugePages_Total", pages),
        ("HugePages_Free", pages),
        ("HugePages_Rsvd", 0),
        ("HugePages_Surp", 0),
    ):
        lines.append(f"{label + ':':<18} {count:>5}")
    return [*lines, meminfo_line("Hugepagesize", 2048), meminfo_line("Hugetlb", huge_kb)]


def _zoneinfo_show(kernel: Kernel) -> bytes:
    """/proc/zoneinfo: all zones of the online nodes (zoneinfo_show_print).

    The first populated zone of a node shows the node's counters.

    Differs knowingly: no page sets (`pagesets`), and watermarks are 0.
    """
    parts: list[str] = []
    for nid in kernel.nodes.online():
        zones = list(kernel.nodes[nid].zones)
        first = next((zone for zone in zones if zone.present), None)
        for zone in (*zones, Zone(nid, "Device")):
            parts.append(f"Node {nid}, zone {zone.name:>8}")
            if zone is first:
                parts.append("\n  per-node stats" + "".join(f"\n      {name:<12} 0" for name in _NODE_STATS))
            parts.append(_zone_pages(zone))
    return "".join(parts).encode()


def _zone_pages(zone: Zone) -> str:
    managed = zone.managed_kb // 4
    text = (
        f"\n  pages free     {managed}\n        boost    0\n        min      0\n        low      0\n        high     0"
        f"\n        promo    0\n        spanned  {zone.end - zone.start}\n        present  {zone.present}"
        f"\n        managed  {managed}\n        cma      0\n        protection: (0, 0, 0, 0, 0)"
    )
    if not zone.present:
        return f"{text}\n"
    text += "".join(f"\n      {name:<12} {managed if name == 'nr_free_pages' else 0}" for name in _ZONE_STATS)
    return (
        f"{text}\n  node_unreclaimable:  0\n  start_pfn:           {zone.start}"
        "\n  reserved_highatomic: 0\n  free_highatomic:     0\n"
    )


def _vmstat_show(kernel: Kernel) -> list[str]:
    """/proc/vmstat: free pages and the pages of memory maps."""
    return [
        f"nr_free_pages {kernel.nodes.managed_kb() // 4}",
        f"nr_memmap_pages {kernel.memory_hotplug.nr_memmap_pages}",
        f"nr_memmap_boot_pages {kernel.memory_hotplug.nr_memmap_boot_pages}",
    ]


def _modules_show(kernel: Kernel) -> list[str]:
    """/proc/modules: the loaded modules, the last one first, each with its users (m_show)."""

    def line(name: str) -> str:
        users = kernel.modules.users(name)
        kind = kernel.modules.kinds[name]
        flags = " (O)" if kernel.modules.is_out_of_tree(name) else ""
        who = "".join(f"{user}," for user in users) or "-"
        return f"{name} {kind.core_size} {len(users)} {who} Live 0x0000000000000000{flags}"

    return [line(name) for name in reversed(kernel.modules.loaded)]


def _devices_show(kernel: Kernel) -> list[str]:
    """/proc/devices: the usual character devices and dax."""
    majors = {1: "mem", 5: "/dev/tty", 10: "misc", kernel.config.dax_major: "dax"}
    lines = (f"{major:3d} {name}" for major, name in sorted(majors.items()))
    return ["Character devices:", *lines, "", "Block devices:", "259 blkext"]


def _nr_hugepages_show(kernel: Kernel) -> int:
    return sum(kernel.nodes[nid].hugepages.get(2048, 0) for nid in kernel.nodes.possible)


def _nr_hugepages_store(kernel: Kernel, buffer: bytes) -> None:
    """Take pages from the nodes with memory in turn, as many as fit."""
    wanted = kstrtoull(buffer, 10, "hugetlb_sysctl_handler")
    nids = kernel.nodes.with_memory()
    for position, nid in enumerate(nids):
        share = wanted // (len(nids) - position)
        node = kernel.nodes[nid]
        node.hugepages[2048] = min(share, node.managed_kb // 2048)
        wanted -= node.hugepages[2048]


def _tainted_store(kernel: Kernel, buffer: bytes) -> None:
    kernel.tainted |= kstrtoull(buffer, 10, "proc_taint")


def _numa_balancing_store(kernel: Kernel, buffer: bytes) -> None:
    mode = kstrtoull(buffer, 10, "sysctl_numa_balancing")
    if mode > _NUMA_BALANCING_MAX:
        raise KernelError(errno.EINVAL, f"{mode} is not one of 0 to {_NUMA_BALANCING_MAX}", "proc_dointvec_minmax")
    kernel.nodes.numa_balancing = mode


ENTRIES: tuple[Entry[Kernel], ...] = (
    RO("iomem", _iomem_show, "Physical memory by owner."),
    RO("meminfo", _meminfo_show, "Memory of the machine in kB."),
    RO("zoneinfo", _zoneinfo_show, "Populated zones."),
    RO("vmstat", _vmstat_show, "Page counters."),
    RO("modules", _modules_show, "Loaded modules."),
    RO("devices", _devices_show, "Major numbers."),
    RO("cmdline", lambda kernel: kernel.config.cmdline, "Boot command line."),
)

SYS_KERNEL_ENTRIES: tuple[Entry[Kernel], ...] = (
    RW(
        "tainted",
        lambda kernel: kernel.tainted,
        _tainted_store,
        "Why the kernel is tainted: 512 after a WARN, 4096 after an out-of-tree module.",
    ),
    RW(
        "numa_balancing",
        lambda kernel: kernel.nodes.numa_balancing,
        _numa_balancing_store,
        "Automatic NUMA balancing: 0 off, 1 normal, 2 memory tiering (nothing is balanced here).",
        visible=lambda kernel: kernel.config.numa_migration,
    ),
)

SYS_VM_ENTRIES: tuple[Entry[Kernel], ...] = (
    RW("nr_hugepages", _nr_hugepages_show, _nr_hugepages_store, "Huge pages of 2 MiB in all pools."),
)


def declare(tables: StaticTables[Kernel]) -> None:
    """Declare /proc."""
    tables.declare("/proc/sys/kernel", SYS_KERNEL_ENTRIES, file_size=0)
    tables.declare("/proc/sys/vm", SYS_VM_ENTRIES, file_size=0)
    tables.declare("/proc/sys")
    tables.declare("/proc", ENTRIES, file_size=0)
