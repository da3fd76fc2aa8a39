"""The files of /proc that follow the model. Their size is 0, as in /proc; each read from the start is a fresh text."""

from __future__ import annotations

import errno

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.kstrtox import kstrtoull
from fakesysfs.kernel.zones import Zone
from fakesysfs.kernfs.declare import Attribute, Entry
from fakesysfs.kernfs.static import StaticDirectories
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


def iomem(kernel: Kernel) -> str:
    """/proc/iomem: two spaces per level, at least eight hexadecimal digits (r_show)."""
    return "".join(
        f"{'  ' * depth}{resource.start:08x}-{resource.end:08x} : {resource.name}\n"
        for depth, resource in kernel.iomem.walk()
    )


def meminfo(kernel: Kernel) -> str:
    """/proc/meminfo: MemTotal follows the online blocks; all of it is free."""
    total = kernel.nodes.managed_kb()
    pages = sum(kernel.nodes[nid].hugepages.get(2048, 0) for nid in kernel.nodes.possible)
    huge_kb = sum(pages * kb for nid in kernel.nodes.possible for kb, pages in kernel.nodes[nid].hugepages.items())
    values = [("MemTotal", total), ("MemFree", total - huge_kb), ("MemAvailable", total - huge_kb)]
    values += [(label, 0) for label in _MEMINFO]
    values += [("CommitLimit", total // 2), ("Committed_AS", 0), ("VmallocTotal", _VMALLOC_TOTAL_KB)]
    values += [(label, 0) for label in _MEMINFO_AFTER]
    lines = [meminfo_line(label, value) for label, value in values]
    for label, count in (
        ("HugePages_Total", pages),
        ("HugePages_Free", pages),
        ("HugePages_Rsvd", 0),
        ("HugePages_Surp", 0),
    ):
        lines.append(f"{label + ':':<18} {count:>5}\n")
    lines.append(meminfo_line("Hugepagesize", 2048))
    lines.append(meminfo_line("Hugetlb", huge_kb))
    return "".join(lines)


def zoneinfo(kernel: Kernel) -> str:
    """/proc/zoneinfo: all zones of the online nodes (zoneinfo_show_print).

    A node's counters stand in its first populated zone.

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
    return "".join(parts)


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


def vmstat(kernel: Kernel) -> str:
    """/proc/vmstat: free pages and the pages of memory maps."""
    return (
        f"nr_free_pages {kernel.nodes.managed_kb() // 4}\n"
        f"nr_memmap_pages {kernel.memory_hotplug.nr_memmap_pages}\n"
        f"nr_memmap_boot_pages {kernel.memory_hotplug.nr_memmap_boot_pages}\n"
    )


def modules(kernel: Kernel) -> str:
    """/proc/modules: the loaded modules, the last first, each with who uses it (m_show)."""

    def line(name: str) -> str:
        users = kernel.modules.users(name)
        kind = kernel.modules.kinds[name]
        flags = " (O)" if kind.out_of_tree else ""
        who = "".join(f"{user}," for user in users) or "-"
        return f"{name} {kind.core_size} {len(users)} {who} Live 0x0000000000000000{flags}\n"

    return "".join(line(name) for name in reversed(kernel.modules.loaded))


def devices(kernel: Kernel) -> str:
    """/proc/devices: the usual character devices and dax."""
    majors = {1: "mem", 5: "/dev/tty", 10: "misc", kernel.config.dax_major: "dax"}
    lines = "".join(f"{major:3d} {name}\n" for major, name in sorted(majors.items()))
    return f"Character devices:\n{lines}\nBlock devices:\n259 blkext\n"


def _nr_hugepages(kernel: Kernel) -> str:
    return f"{sum(kernel.nodes[nid].hugepages.get(2048, 0) for nid in kernel.nodes.possible)}\n"


def _nr_hugepages_store(kernel: Kernel, buffer: bytes) -> None:
    """Pages are taken from the nodes with memory in turn, as many as there is room for."""
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


def _proc(
    name: str, show: object, mode: int = 0o444, store: object = None, doc: str = "", visible: object = None
) -> Attribute:
    return Attribute(name=name, mode=mode, show=show, store=store, size=0, doc=doc, visible=visible)  # type: ignore[arg-type]


def _cmdline(kernel: Kernel) -> str:
    return f"{kernel.config.cmdline}\n"


ENTRIES: tuple[Entry, ...] = (
    _proc("iomem", iomem, doc="Physical memory by owner."),
    _proc("meminfo", meminfo, doc="Memory of the machine in kB."),
    _proc("zoneinfo", zoneinfo, doc="Populated zones."),
    _proc("vmstat", vmstat, doc="Page counters."),
    _proc("modules", modules, doc="Loaded modules."),
    _proc("devices", devices, doc="Major numbers."),
    _proc("cmdline", _cmdline, doc="Boot command line."),
)


def make(static: StaticDirectories) -> None:
    """Make /proc."""
    static.make(
        "/proc/sys/kernel",
        (
            _proc(
                "tainted",
                lambda kernel: f"{kernel.tainted}\n",
                0o644,
                _tainted_store,
                "Why the kernel is tainted: 512 after a WARN, 4096 after an out-of-tree module.",
            ),
            _proc(
                "numa_balancing",
                lambda kernel: f"{kernel.nodes.numa_balancing}\n",
                0o644,
                _numa_balancing_store,
                "Automatic NUMA balancing: 0 off, 1 normal, 2 memory tiering (nothing is balanced here).",
                lambda kernel: kernel.config.numa_migration,
            ),
        ),
    )
    static.make(
        "/proc/sys/vm",
        (_proc("nr_hugepages", _nr_hugepages, 0o644, _nr_hugepages_store, "Huge pages of 2 MiB in all pools."),),
    )
    static.make("/proc/sys")
    static.make("/proc", ENTRIES)
