"""The files of /proc that follow the model. Their size is 0, as in /proc; each read from the start is a fresh text."""

from __future__ import annotations

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.kstrtox import kstrtoull
from fakesysfs.kernfs.declare import Attribute, Entry
from fakesysfs.kernfs.static import StaticDirectories
from fakesysfs.sysfs.node import meminfo_line

_MEMINFO = (
    "Buffers", "Cached", "SwapCached", "Active", "Inactive", "Active(anon)", "Inactive(anon)", "Active(file)",
    "Inactive(file)", "Unevictable", "Mlocked", "SwapTotal", "SwapFree", "Zswap", "Zswapped", "Dirty", "Writeback", "AnonPages",
    "Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables",
    "SecPageTables", "NFS_Unstable", "Bounce", "WritebackTmp",
)  # fmt: skip
_MEMINFO_AFTER = (
    "VmallocUsed", "VmallocChunk", "Percpu", "HardwareCorrupted", "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped",
    "FileHugePages", "FilePmdMapped", "CmaTotal", "CmaFree", "Unaccepted", "Balloon", "GPUActive", "GPUReclaim",
)  # fmt: skip
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
    for label, count in (("HugePages_Total", pages), ("HugePages_Free", pages), ("HugePages_Rsvd", 0), ("HugePages_Surp", 0)):
        lines.append(f"{label + ':':<18} {count:>5}\n")
    lines.append(meminfo_line("Hugepagesize", 2048))
    lines.append(meminfo_line("Hugetlb", huge_kb))
    return "".join(lines)


def zoneinfo(kernel: Kernel) -> str:
    """/proc/zoneinfo: the populated zones with their spans."""
    parts: list[str] = []
    for nid in kernel.nodes.possible:
        for zone in kernel.nodes[nid].zones:
            if not zone.present:
                continue
            parts.append(
                f"Node {nid}, zone {zone.name:>8}\n"
                f"  pages free     {zone.present}\n"
                f"        spanned  {zone.end - zone.start}\n"
                f"        present  {zone.present}\n"
                f"        managed  {zone.present}\n"
                f"  start_pfn:           {zone.start}\n"
            )
    return "".join(parts)


def vmstat(kernel: Kernel) -> str:
    """/proc/vmstat: free pages and the pages of added memory maps."""
    boot_kb = sum(kernel.early_kernel_pages.values()) * 4
    boot_pages = boot_kb * 1024 // 64 // 4096
    return (
        f"nr_free_pages {kernel.nodes.managed_kb() // 4}\n"
        f"nr_memmap_pages {kernel.memory_hotplug.nr_memmap_pages}\n"
        f"nr_memmap_boot_pages {boot_pages}\n"
    )


def modules(kernel: Kernel) -> str:
    """/proc/modules: the loaded modules, the last first."""
    return "".join(f"{name} 16384 0 - Live 0x0000000000000000\n" for name in reversed(kernel.modules.loaded))


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


def _proc(name: str, show: object, mode: int = 0o444, store: object = None, doc: str = "") -> Attribute:
    return Attribute(name=name, mode=mode, show=show, store=store, size=0, doc=doc)  # type: ignore[arg-type]


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
                "Why the kernel is tainted: 512 after a WARN.",
            ),
        ),
    )
    static.make(
        "/proc/sys/vm",
        (_proc("nr_hugepages", _nr_hugepages, 0o644, _nr_hugepages_store, "Huge pages of 2 MiB in all pools."),),
    )
    static.make("/proc/sys")
    static.make("/proc", ENTRIES)

