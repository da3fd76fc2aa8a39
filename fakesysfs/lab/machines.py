"""Guests: the memory layouts that sessions are recorded on, as descriptions, and as QEMU's arguments.

tests/recordings/machine.json describes the recorded guest as a session sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node: its memory in bytes, and its CPUs as QEMU writes them (`0-1`)."""

    memory: int
    cpus: str = ""


@dataclass(frozen=True, slots=True)
class Guest:
    """A machine to boot.

    QEMU puts the memory of the nodes one after the other, with a hole from 2 to 4 GiB.
    """

    name: str
    nodes: tuple[Node, ...]
    distances: tuple[tuple[int, ...], ...] = ()
    """Of each node to each, or empty for the default: 10 and 20."""
    kernel_arguments: tuple[str, ...] = ()
    """Words of the kernel's command line: soft-reserved memory, policies."""
    cpu: str = "max,hypervisor=off"
    """QEMU's CPU. A CXL region cannot be committed where the kernel sees a hypervisor."""
    machine: str = "q35"
    hotplug: str = ""
    """What `-m` says beyond the memory of the nodes: slots and the largest size."""
    devices: tuple[str, ...] = ()
    """Further arguments of QEMU."""
    distribution: bool = False
    """Whether the model has a machine with a distribution's configuration for it: oracle-NAME."""
    restorable: bool = True
    """Whether QEMU saves all of its state. It does not save that of CXL devices."""
    modules: tuple[str, ...] = field(
        default=(
            "device_dax", "dax_hmem", "kmem", "fsdev_dax", "dax_cxl", "dax_pmem", "nd_e820", "nd_pmem", "libnvdimm",
            "memory-notifier-error-inject",
        )
    )  # fmt: skip
    """The modules in its initramfs, apart from what they depend on. Nothing is loaded at boot."""

    @property
    def memory(self) -> int:
        """Bytes of all nodes."""
        return sum(node.memory for node in self.nodes)

    def qemu_arguments(self) -> list[str]:
        """QEMU's arguments for machine, CPU, memory and nodes."""
        cpus = sum(_count(node.cpus) for node in self.nodes)
        words = ["-machine", self.machine, "-cpu", self.cpu, "-smp", str(cpus)]
        words += ["-m", f"{self.memory // MIB}M{self.hotplug}"]
        for number, node in enumerate(self.nodes):
            words += ["-object", f"memory-backend-ram,id=node{number},size={node.memory // MIB}M"]
            with_cpus = f",cpus={node.cpus}" if node.cpus else ""
            initiator = ",initiator=0" if "hmat=on" in self.machine else ""
            words += ["-numa", f"node,nodeid={number},memdev=node{number}{with_cpus}{initiator}"]
        for source, row in enumerate(self.distances):
            for destination, distance in enumerate(row):
                if source != destination:
                    words += ["-numa", f"dist,src={source},dst={destination},val={distance}"]
        return [*words, *self.devices]

    def with_arguments(self, name: str, *words: str) -> Guest:
        """The same guest with further words on the kernel's command line."""
        return replace(self, name=name, kernel_arguments=(*self.kernel_arguments, *words))


def _count(cpus: str) -> int:
    if not cpus:
        return 0
    first, _, last = cpus.partition("-")
    return int(last or first) - int(first) + 1


def soft_reserved(start: int, size: int) -> str:
    """The word that makes a range of RAM soft-reserved, as EFI's attribute SP does."""
    return f"memmap={_size(size)}%{start:#x}-1+0xefffffff"


def legacy_pmem(start: int, size: int) -> str:
    """The word that makes a range of RAM persistent memory."""
    return f"memmap={_size(size)}!{start:#x}"


def _size(size: int) -> str:
    return f"{size // MIB}M" if size % GIB else f"{size // GIB}G"


_ORACLE_MEMORY = (
    soft_reserved(0x180000000, 4 * GIB),
    soft_reserved(0x282000000, 600 * MIB),
    legacy_pmem(0x2B0000000, 256 * MIB),
)

DISTRIBUTION = Guest(
    "distribution",
    (Node(3 * GIB, "0-1"), Node(GIB), Node(4 * GIB), Node(GIB)),
    ((10, 15, 20, 25), (15, 10, 20, 25), (20, 20, 10, 30), (25, 25, 30, 10)),
    _ORACLE_MEMORY,
    distribution=True,
)
"""The recorded guest with a distribution's kernel as it comes."""

_DEFAULT = replace(DISTRIBUTION.with_arguments("default", "memhp_default_state=offline"), distribution=False)
"""The recorded guest with the policy of the recorded kernels of a small configuration."""

_HMAT = replace(
    _DEFAULT,
    name="hmat",
    distances=(),
    machine="q35,hmat=on",
    devices=tuple(
        word
        for target, (latency, bandwidth) in enumerate(((5, 200), (10, 100), (20, 50), (30, 40)))
        for word in (
            "-numa",
            f"hmat-lb,initiator=0,target={target},hierarchy=memory,data-type=access-latency,latency={latency}",
            "-numa",
            f"hmat-lb,initiator=0,target={target},hierarchy=memory,data-type=access-bandwidth,bandwidth={bandwidth}M",
        )
    ),
)

_REGIONS = Guest(
    "distribution-regions",
    (Node(3 * GIB, "0-1"), Node(2 * GIB), Node(2 * GIB), Node(GIB)),
    kernel_arguments=(
        soft_reserved(0x180000000, GIB),
        soft_reserved(0x1C0000000, 512 * MIB),
        soft_reserved(0x1F0000000, GIB),
        soft_reserved(0x244000000, 500 * MIB),
    ),
    distribution=True,
)
"""Four regions: two on one node around its RAM, and one that neither begins nor ends with a block."""

_CPUS = Guest(
    "distribution-cpus",
    (Node(4 * GIB, "0-0"), Node(3 * GIB, "1-1")),
    ((10, 31), (31, 10)),
    (soft_reserved(0x140000000, GIB), soft_reserved(0x1C8000000, 1536 * MIB)),
    distribution=True,
)
"""Two nodes with CPUs, RAM and a region each."""

CXL = Guest(
    "cxl",
    (Node(2 * GIB, "0-1"),),
    machine="q35,cxl=on",
    devices=(
        "-object", "memory-backend-ram,id=vmem0,share=on,size=1G",
        "-device", "pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl.1",
        "-device", "cxl-rp,port=0,bus=cxl.1,id=rp13,chassis=0,slot=2",
        "-device", "cxl-type3,bus=rp13,volatile-memdev=vmem0,id=mem0",
        "-M", "cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=4G",
    ),
    restorable=False,
    modules=(*DISTRIBUTION.modules, "cxl_acpi", "cxl_mem", "cxl_pci", "cxl_pmem"),
)  # fmt: skip
"""A machine with one volatile CXL memory device of 1 GiB behind one root port."""


def _cxl(name: str, *devices: str) -> Guest:
    """A guest with CXL devices as QEMU's arguments name them, and with room for hot-plugged memory."""
    words = " ".join(devices).split()
    return replace(CXL, name=name, hotplug=",maxmem=8G,slots=4", devices=tuple(words))


def _bridge(number: int, bus: int) -> str:
    return f"-device pxb-cxl,bus_nr={bus},bus=pcie.0,id=cxl.{number}"


def _root_port(number: int, bridge: int, port: int = 0, chassis: int = 0) -> str:
    """The root port rpNUMBER below a bridge."""
    slot = number + 2
    return f"-device cxl-rp,port={port},bus=cxl.{bridge},id=rp{number},chassis={chassis},slot={slot}"


def _device(number: int, bus: str, size: str = "1G", more: str = "") -> str:
    """A device with volatile memory, and its serial number."""
    return (
        f"-object memory-backend-ram,id=vmem{number},share=on,size={size} "
        f"-device cxl-type3,bus={bus},volatile-memdev=vmem{number},id=dev{number}{more}"
    )


def _serial(number: int) -> str:
    return f",sn={0xC100 + number:#x}"


def _windows(granularity: str) -> str:
    """A window for each of two bridges and one that both share."""
    words = [f"cxl-fmw.{number}.targets.0=cxl.{number + 1},cxl-fmw.{number}.size=4G" for number in range(2)]
    both = "cxl-fmw.2.targets.0=cxl.1,cxl-fmw.2.targets.1=cxl.2,cxl-fmw.2.size=4G"
    return f"-M {','.join([*words, both])},cxl-fmw.2.interleave-granularity={granularity}"


_ONE_WINDOW = "-M cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=4G"
_TWO_BRIDGES = (_bridge(1, 12), _bridge(2, 222))

CXL_GUESTS = (
    _cxl("t1", _bridge(1, 12), _root_port(0, 1), _device(0, "rp0"), _ONE_WINDOW),
    _cxl(
        "t2", _bridge(1, 12), _root_port(0, 1), _root_port(1, 1, 1),
        _device(0, "rp0", more=_serial(0)), _device(1, "rp1", more=_serial(1)), _ONE_WINDOW,
    ),
    _cxl(
        "t3", *_TWO_BRIDGES, _root_port(0, 1), _root_port(1, 2, chassis=1),
        _device(0, "rp0", more=_serial(0)), _device(1, "rp1", more=_serial(1)), _windows("8k"),
    ),
    _cxl(
        "t4", _bridge(1, 12), _root_port(0, 1), "-device cxl-upstream,bus=rp0,id=us0",
        "-device cxl-downstream,port=0,bus=us0,id=sp0,chassis=0,slot=4",
        "-device cxl-downstream,port=1,bus=us0,id=sp1,chassis=0,slot=5",
        _device(0, "sp0", "512M", _serial(0)), _device(1, "sp1", "512M", _serial(1)), _ONE_WINDOW,
    ),
    _cxl(
        "t5", _bridge(1, 12), _root_port(0, 1),
        "-object memory-backend-ram,id=pmem0,share=on,size=1G -object memory-backend-ram,id=lsa0,share=on,size=1M",
        _device(0, "rp0", more=f",persistent-memdev=pmem0,lsa=lsa0{_serial(0)}"), _ONE_WINDOW,
    ),
    _cxl(
        "t6", *_TWO_BRIDGES,
        _root_port(0, 1), _root_port(1, 1, 1), _root_port(2, 2, chassis=1), _root_port(3, 2, 1, chassis=1),
        *(_device(number, f"rp{number}", "256M", _serial(number)) for number in range(4)), _windows("1k"),
    ),
)  # fmt: skip
"""With CXL: one device; two ports; two bridges; a switch; persistent memory; two bridges with two ports each."""

GUESTS = {
    guest.name: guest
    for guest in (
        DISTRIBUTION,
        _DEFAULT,
        replace(_DEFAULT, name="region_idle"),
        replace(_DEFAULT, name="pmem"),
        _HMAT,
        replace(_HMAT, name="distribution-hmat", kernel_arguments=DISTRIBUTION.kernel_arguments, distribution=True),
        DISTRIBUTION.with_arguments("distribution-memmap_on_memory", "memory_hotplug.memmap_on_memory=1"),
        _REGIONS,
        _CPUS,
        _DEFAULT.with_arguments("memmap_on_memory", "memory_hotplug.memmap_on_memory=1"),
        _DEFAULT.with_arguments("slab_debug", "slab_debug=FPU"),
        *(
            base.with_arguments(f"{prefix}-policy-{policy}", f"memhp_default_state={policy}")
            for prefix, base in (("boot", replace(DISTRIBUTION, distribution=False)), ("distribution", DISTRIBUTION))
            for policy in ("offline", "online", "online_kernel", "online_movable")
        ),
        CXL,
        *CXL_GUESTS,
    )
}
"""Name -> guest: the variants of tests/recordings/machine.json, and those of the differential and of CXL."""
