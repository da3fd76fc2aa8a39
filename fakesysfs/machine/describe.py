"""The form of a machine file, and all checks of it.

msgspec checks types and unknown keys. `MachineDescription` checks the rest: ranges that overlap,
nodes that do not exist. Every error names the file, the key, the value and the allowed values.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.cxl.core.hdm import SZ_256M as CXL_ALIGN
from fakesysfs.kernel.cxl.core.region import GRANULARITIES, WAYS
from fakesysfs.kernel.cxl.setup import CxlDeviceSetup, CxlSetup, CxlWindow
from fakesysfs.kernel.memory_block import ONLINE_TYPES
from fakesysfs.kernel.memory_hotplug import Parameters
from fakesysfs.kernel.memory_tiers import AccessCoordinate
from fakesysfs.kernel.modules import CXL_MODULES, MODULE_KINDS
from fakesysfs.kernel.node import LOCAL_DISTANCE
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import DaxSetup, NodeSetup, Setup
from fakesysfs.machine.explain import explain
from fakesysfs.ops.errors import KernelError

MAX_NODES = 1024
PAGE_SIZE = 4096
MIN_BLOCK = 128 << 20
MAX_ADDRESS = 1 << 52
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([KMGTP]?)")

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")

KernelZone = Literal["DMA", "DMA32", "Normal"]
OnlineType = Literal["offline", "online", "online_kernel", "online_movable"]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class MachineError(Exception):
    """An error in a machine file: its place, the value and the allowed values."""


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class Span(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A piece of physical memory.

    `start` and `size` are written as "128M", "0x180000000" or a number of bytes.
    """

    start: str | int
    size: str | int


class Reserved(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A piece of a node's memory that is not RAM, and its name in /proc/iomem, if it has one."""

    start: str | int
    size: str | int
    name: str | None = None


class Iomem(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Another entry of /proc/iomem. An entry that is not `busy` can have other entries inside it."""

    start: str | int
    size: str | int
    name: str
    busy: bool = True


class NodeSection(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A possible node.

    `cpus` is written as "0-1,4". A node without `memory` comes online when memory is added to it.
    """

    id: int
    cpus: str = ""
    memory: tuple[Span, ...] = ()


class Hmat(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Performance of a node's memory: latencies in ns, bandwidths in MB/s."""

    node: int
    read_latency: int
    write_latency: int
    read_bandwidth: int
    write_bandwidth: int


class DaxRegionSection(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Memory for dax devices.

    `device_size` is the size of the first device; the default is the whole region. `online_type` is
    the policy of the region's driver; the default is the system's. The start binds the first device
    to `driver`. `soft_reserved` are the ranges that the region takes out of RAM; the default is the
    region itself. `namespace` is the mode of persistent memory at the start: devdax, the default, is
    a dax region whose first bytes describe it, and raw is a block device.
    """

    kind: Literal["hmem", "cxl", "pmem"]
    start: str | int
    size: str | int
    target_node: int
    align: str | int = "2M"
    device_size: str | int | None = None
    online_type: OnlineType | None = None
    driver: Literal["device_dax", "kmem", "fsdev_dax"] | None = None
    namespace: Literal["devdax", "raw"] | None = None
    soft_reserved: tuple[Span, ...] | None = None


class CxlWindowSection(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A range of addresses that firmware routes to CXL host bridges.

    With more than one bridge it is interleaved between them, `granularity` bytes for each in turn.
    `node` is the node of its memory.
    """

    start: str | int
    size: str | int
    bridges: tuple[Natural, ...]
    granularity: int = 256
    node: int


class CxlDeviceSection(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A CXL memory device.

    `path` has the PCI addresses below the bridge: a root port, for each switch its upstream and its
    downstream port, the device. `ports` has the port number of the root port and of each downstream
    port. `ram` and `pmem` are the sizes of its volatile and its persistent memory, `lsa` the size of
    its label storage.
    """

    bridge: Natural
    path: tuple[str, ...]
    ports: tuple[Natural, ...]
    ram: str | int = 0
    pmem: str | int = 0
    lsa: str | int = 0
    serial: Natural = 0


class CxlSection(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """CXL hardware: windows, host bridges and memory devices.

    `bridges` are the numbers of the host bridges, which are those of their PCI buses, in the order in
    which the kernel finds them; `registers` are the addresses of their component registers, for
    /proc/iomem. No region exists at the start: `cxl create-region` makes one.

    The kernel probes all devices at once, so that their numbers are a matter of chance. `memdevs` has
    the PCI addresses of mem0, mem1, ...; `probe_order` has them in the order in which their endpoints
    are made. The default of both is the order of `devices`.
    """

    windows: tuple[CxlWindowSection, ...]
    bridges: tuple[Annotated[int, msgspec.Meta(ge=1, le=255)], ...]
    registers: tuple[str | int, ...] = ()
    devices: tuple[CxlDeviceSection, ...] = ()
    memdevs: tuple[str, ...] | None = None
    probe_order: tuple[str, ...] | None = None


class Unmovable(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A block of boot memory that cannot be offlined, and the reason."""

    block: Natural
    why: str


class MemoryHotplugSection(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The policy of memory hotplug: auto_online_blocks and the parameters of memory_hotplug."""

    online_type: OnlineType = "online"
    memmap_on_memory: bool = False
    online_policy: Literal["contig-zones", "auto-movable"] = "contig-zones"
    auto_movable_ratio: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)] = 301
    auto_movable_numa_aware: bool = True


class KernelSection(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Kernel configuration (upper case) and boot options."""

    # The same options as in fakesysfs.kernel.config.Config, under the names of a file.

    cmdline: str = ""
    movable_node: bool = False
    kernel_allocations_on_hotplugged_nodes: bool = True
    dax_major: Annotated[int, msgspec.Meta(ge=1, le=511)] = 254
    cxl_major: Annotated[int, msgspec.Meta(ge=1, le=511)] = 249
    nr_cpus: Annotated[int, msgspec.Meta(ge=1, le=8192)] = 8192
    max_numnodes: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1024
    out_of_tree_modules: tuple[str, ...] = ()
    pm: bool = msgspec.field(default=True, name="PM")
    memory_hotplug: bool = msgspec.field(default=True, name="MEMORY_HOTPLUG")
    memory_hotremove: bool = msgspec.field(default=True, name="MEMORY_HOTREMOVE")
    memory_failure: bool = msgspec.field(default=True, name="MEMORY_FAILURE")
    crash_hotplug: bool = msgspec.field(default=True, name="CRASH_HOTPLUG")
    numa_migration: bool = msgspec.field(default=True, name="NUMA_MIGRATION")
    pinctrl: bool = msgspec.field(default=True, name="PINCTRL")
    dev_dax_kmem_protected: bool = msgspec.field(default=False, name="DEV_DAX_KMEM_PROTECTED")


class Latency(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Seconds that a block takes to go online or offline, after the start of the machine."""

    online_block: Seconds = 0.0
    offline_block: Seconds = 0.0


class _File(_Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    title: str = ""
    block_size: str | int
    node: tuple[NodeSection, ...]
    distances: tuple[tuple[Annotated[int, msgspec.Meta(ge=10, le=255)], ...], ...] | None = None
    hmat: tuple[Hmat, ...] = ()
    dax_region: tuple[DaxRegionSection, ...] = ()
    cxl: CxlSection | None = None
    reserved: tuple[Reserved, ...] = ()
    iomem: tuple[Iomem, ...] = ()
    unmovable: tuple[Unmovable, ...] = ()
    mem_total_kB: dict[str, Natural | dict[KernelZone, Natural]] = {}  # noqa: N815  the unit of /proc/meminfo
    modules: tuple[str, ...] = ()
    memory_hotplug: MemoryHotplugSection = MemoryHotplugSection()
    kernel: KernelSection = KernelSection()
    latency: Latency = Latency()


class MachineDescription:
    """A checked machine file. `text` is the text of the file."""

    def __init__(self, name: str, description: _File, source: str, text: str) -> None:
        self.name = name
        self.title = description.title
        self.text = text
        self._source = source
        self._description = description
        self._setup = self._build()

    def setup(self) -> Setup:
        """The machine in the kernel's terms: all that a kernel boots with."""
        return self._setup

    # Checks -------------------------------------------------------------------------------------------------------

    def _fail(self, key: str, value: object, allowed: str) -> MachineError:
        return MachineError(f"{self._source}: {key} = {value!r}: {allowed}")

    def _size(self, key: str, value: str | int) -> int:
        if isinstance(value, int):
            number = value
        else:
            match = _SIZE.fullmatch(value)
            if match is None:
                raise self._fail(key, value, 'expected bytes, as a number or like "128M", "0x180000000"')
            number = int(match[1], 0 if match[1][:2] in {"0x", "0X"} else 10) * _UNITS[match[2]]
        if not 0 <= number <= MAX_ADDRESS:
            raise self._fail(key, value, "expected 0 to 4P (52 address bits)")
        return number

    def _range(self, key: str, span: Span | Reserved | Iomem | DaxRegionSection | CxlWindowSection) -> Range:
        start, size = self._size(f"{key}.start", span.start), self._size(f"{key}.size", span.size)
        if not size:
            raise self._fail(f"{key}.size", span.size, "expected more than 0 bytes")
        if start + size > MAX_ADDRESS:
            raise self._fail(f"{key}.size", span.size, "expected to end below 4P (52 address bits)")
        return Range(start, start + size - 1)

    def _disjoint(self, named: list[tuple[str, Range]]) -> None:
        ordered = sorted(named, key=lambda item: item[1])
        for (one, first), (other, second) in pairwise(ordered):
            if second.start <= first.end:
                where = f"{second.start:#x}-{second.end:#x}"
                raise self._fail(other, where, f"overlaps {one} ({first.start:#x}-{first.end:#x})")

    def _cpus(self, key: str, text: str) -> tuple[int, ...]:
        cpus: set[int] = set()
        for part in filter(None, text.split(",")):
            match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part.strip())
            if match is None or int(match[2] or match[1]) < int(match[1]):
                raise self._fail(key, text, 'expected CPU numbers like "0-1,4"')
            cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
        return tuple(sorted(cpus))

    def _build(self) -> Setup:
        file = self._description
        block_size = self._size("block_size", file.block_size)
        if block_size < MIN_BLOCK or block_size & (block_size - 1):
            raise self._fail("block_size", file.block_size, "expected a power of two, at least 128M")
        nodes = self._nodes()
        known = {node.nid for node in nodes}
        if not any(node.ranges for node in nodes):
            raise self._fail("node", [node.nid for node in nodes], "expected at least one node with memory")
        kinds: dict[str, list[DaxSetup]] = {"hmem": [], "cxl": [], "pmem": []}
        taken: list[tuple[str, Range]] = []
        for number, region in enumerate(file.dax_region):
            key = f"dax_region[{number}]"
            span = self._range(key, region)
            if region.soft_reserved is None:
                taken.append((key, span))
            else:
                keys = [f"{key}.soft_reserved[{position}]" for position in range(len(region.soft_reserved))]
                taken += [
                    (name, self._range(name, piece)) for name, piece in zip(keys, region.soft_reserved, strict=True)
                ]
            if region.target_node not in known:
                raise self._fail(f"{key}.target_node", region.target_node, f"expected one of the nodes {sorted(known)}")
            align = self._size(f"{key}.align", region.align)
            if align not in {4096, 2 << 20, 1 << 30}:
                raise self._fail(f"{key}.align", region.align, "expected 4K, 2M or 1G")
            for what, value in (("start", span.start), ("size", span.length)):
                if value % max(align, 2 << 20):
                    raise self._fail(
                        f"{key}.{what}", getattr(region, what), f"expected a multiple of {max(align, 2 << 20)}"
                    )
            device_size = None if region.device_size is None else self._size(f"{key}.device_size", region.device_size)
            if device_size is not None and (device_size > span.length or device_size % max(align, 2 << 20)):
                allowed = f"expected at most the region's size and a multiple of {max(align, 2 << 20)}"
                raise self._fail(f"{key}.device_size", region.device_size, allowed)
            if region.kind == "pmem" and device_size is not None:
                allowed = 'not allowed with kind = "pmem": such a region is one device'
                raise self._fail(f"{key}.device_size", region.device_size, allowed)
            if region.kind != "pmem" and region.namespace is not None:
                raise self._fail(f"{key}.namespace", region.namespace, 'expected only with kind = "pmem"')
            online_type = None if region.online_type is None else ONLINE_TYPES[region.online_type]
            kinds[region.kind].append(
                DaxSetup(
                    range=span,
                    target_node=region.target_node,
                    align=align,
                    device_size=device_size,
                    online_type=online_type,
                    driver=region.driver,
                    raw=region.namespace == "raw",
                )
            )
        self._disjoint(taken)
        holes = [span for _, span in taken]
        for number, reserved in enumerate(file.reserved):
            holes.append(self._range(f"reserved[{number}]", reserved))
        iomem: list[tuple[int, int, str, bool]] = []
        for number, reserved in enumerate(file.reserved):
            if reserved.name is not None:
                iomem.append((*self._range(f"reserved[{number}]", reserved), reserved.name, True))
        for number, entry in enumerate(file.iomem):
            iomem.append((*self._range(f"iomem[{number}]", entry), entry.name, entry.busy))
        pmem = [(setup.range.start, setup.range.end, "Persistent Memory (legacy)", False) for setup in kinds["pmem"]]
        platform = (["hmem_platform.0"] if kinds["hmem"] else []) + (["e820_pmem"] if kinds["pmem"] else [])
        hotplug = file.memory_hotplug
        return Setup(
            block_size=block_size,
            nodes=nodes,
            distances=self._distances(known),
            performance=self._performance(known),
            soft_reserved=tuple(kinds["hmem"]),
            cxl=self._cxl(known, taken),
            cxl_regions=tuple(kinds["cxl"]),
            pmem=tuple(kinds["pmem"]),
            iomem=tuple(iomem + pmem),
            reserved=tuple(holes),
            unmovable=tuple(entry.block for entry in file.unmovable),
            platform_devices=tuple(platform),
            default_online_type=ONLINE_TYPES[hotplug.online_type],
            parameters=Parameters(
                hotplug.memmap_on_memory,
                hotplug.online_policy,
                hotplug.auto_movable_ratio,
                hotplug.auto_movable_numa_aware,
            ),
            modules=tuple(self._modules()),
            latency={"online_block": file.latency.online_block, "offline_block": file.latency.offline_block},
            config=self._config(),
        )

    def _cxl(self, known: set[int], taken: list[tuple[str, Range]]) -> CxlSetup | None:
        section = self._description.cxl
        if section is None:
            return None
        for number, region in enumerate(self._description.dax_region):
            if region.kind == "cxl":
                allowed = "not allowed beside [cxl]: make a region of its devices"
                raise self._fail(f"dax_region[{number}].kind", region.kind, allowed)
        windows: list[CxlWindow] = []
        named = [*taken]
        for number, window in enumerate(section.windows):
            key = f"cxl.windows[{number}]"
            span = self._range(key, window)
            named.append((key, span))
            for what, value in (("start", span.start), ("size", span.length)):
                if value % CXL_ALIGN:
                    raise self._fail(f"{key}.{what}", getattr(window, what), "expected a multiple of 256M")
            if window.node not in known:
                raise self._fail(f"{key}.node", window.node, f"expected one of the nodes {sorted(known)}")
            if window.granularity not in GRANULARITIES:
                allowed = f"expected one of {', '.join(map(str, GRANULARITIES))}"
                raise self._fail(f"{key}.granularity", window.granularity, allowed)
            if len(window.bridges) not in WAYS or not set(window.bridges) <= set(section.bridges):
                allowed = f"expected {', '.join(map(str, WAYS))} of cxl.bridges"
                raise self._fail(f"{key}.bridges", list(window.bridges), allowed)
            windows.append(
                CxlWindow(range=span, targets=window.bridges, granularity=window.granularity, node=window.node)
            )
        self._disjoint(named)
        devices = tuple(
            self._cxl_device(f"cxl.devices[{number}]", device) for number, device in enumerate(section.devices)
        )
        if len({device.path[-1] for device in devices}) < len(devices):
            raise self._fail("cxl.devices", [device.path[-1] for device in devices], "expected each device once")
        if len(section.registers) not in {0, len(section.bridges)}:
            raise self._fail("cxl.registers", list(section.registers), "expected an address for each of cxl.bridges")
        by_address = {device.path[-1]: device for device in devices}
        orders = {}
        for key in ("memdevs", "probe_order"):
            order = getattr(section, key) or tuple(by_address)
            if sorted(order) != sorted(by_address):
                allowed = f"expected each of {', '.join(sorted(by_address))} once"
                raise self._fail(f"cxl.{key}", list(order), allowed)
            orders[key] = order
        return CxlSetup(
            windows=tuple(windows),
            bridges=section.bridges,
            registers=tuple(self._size("cxl.registers", address) for address in section.registers),
            devices=tuple(by_address[address] for address in orders["probe_order"]),
            memdevs=orders["memdevs"],
        )

    def _cxl_device(self, key: str, device: CxlDeviceSection) -> CxlDeviceSetup:
        assert self._description.cxl is not None
        bridges = self._description.cxl.bridges
        if device.bridge not in bridges:
            raise self._fail(f"{key}.bridge", device.bridge, f"expected one of {list(bridges)}")
        if len(device.path) % 2 or not device.path or not all(_PCI_ADDRESS.fullmatch(name) for name in device.path):
            allowed = 'expected PCI addresses ("0000:0c:00.0"): a root port, two for each switch, the device'
            raise self._fail(f"{key}.path", list(device.path), allowed)
        if len(device.ports) != len(device.path) // 2:
            allowed = f"expected {len(device.path) // 2} port numbers: of the root port and of each downstream port"
            raise self._fail(f"{key}.ports", list(device.ports), allowed)
        sizes = {what: self._size(f"{key}.{what}", getattr(device, what)) for what in ("ram", "pmem", "lsa")}
        for what in ("ram", "pmem"):
            if sizes[what] % CXL_ALIGN:
                raise self._fail(f"{key}.{what}", getattr(device, what), "expected a multiple of 256M")
        return CxlDeviceSetup(bridge=device.bridge, path=device.path, ports=device.ports, serial=device.serial, **sizes)

    def _nodes(self) -> tuple[NodeSetup, ...]:
        file = self._description
        nodes: list[NodeSetup] = []
        memory: list[tuple[str, Range]] = []
        cpus: dict[int, str] = {}
        for number, node in enumerate(file.node):
            key = f"node[{number}]"
            if not 0 <= node.id < MAX_NODES or any(other.nid == node.id for other in nodes):
                raise self._fail(f"{key}.id", node.id, f"expected 0 to {MAX_NODES - 1}, each once")
            spans = [
                (f"{key}.memory[{position}]", self._range(f"{key}.memory[{position}]", span))
                for position, span in enumerate(node.memory)
            ]
            for name, span in spans:
                if span.start % PAGE_SIZE or span.length % PAGE_SIZE:
                    where = f"{span.start:#x}-{span.end:#x}"
                    raise self._fail(name, where, f"expected start and size to be multiples of {PAGE_SIZE}")
            memory += spans
            own = self._cpus(f"{key}.cpus", node.cpus)
            for cpu in own:
                if cpu in cpus:
                    raise self._fail(f"{key}.cpus", node.cpus, f"CPU {cpu} is in {cpus[cpu]} already")
                cpus[cpu] = f"{key}.cpus"
            total = file.mem_total_kB.get(str(node.id))
            managed = {str(zone): part for zone, part in total.items()} if isinstance(total, dict) else total
            nodes.append(NodeSetup(nid=node.id, cpus=own, ranges=tuple(span for _, span in spans), managed_kb=managed))
        self._disjoint(memory)
        for nid in file.mem_total_kB:
            if nid not in {str(node.nid) for node in nodes}:
                raise self._fail("mem_total_kB", nid, f"expected one of the nodes {[node.nid for node in nodes]}")
        if not cpus:
            raise self._fail("node", [node.nid for node in nodes], "expected at least one node with cpus")
        return tuple(sorted(nodes, key=lambda node: node.nid))

    def _distances(self, known: set[int]) -> tuple[tuple[int, ...], ...] | None:
        distances = self._description.distances
        size = max(known) + 1
        if distances is not None and (len(distances) != size or any(len(row) != size for row in distances)):
            rows = [list(row) for row in distances]
            raise self._fail("distances", rows, f"expected {size} rows of {size} numbers, node by node")
        for one, row in enumerate(distances or ()):
            for other, value in enumerate(row):
                if (value == LOCAL_DISTANCE) is not (one == other):
                    allowed = f"expected {LOCAL_DISTANCE} from a node to itself and more to any other"
                    raise self._fail(f"distances[{one}][{other}]", value, allowed)
        return distances

    def _performance(self, known: set[int]) -> Mapping[int, AccessCoordinate]:
        performance: dict[int, AccessCoordinate] = {}
        for number, entry in enumerate(self._description.hmat):
            if entry.node not in known:
                raise self._fail(f"hmat[{number}].node", entry.node, f"expected one of the nodes {sorted(known)}")
            values = AccessCoordinate(
                entry.read_latency, entry.write_latency, entry.read_bandwidth, entry.write_bandwidth
            )
            if min(values) <= 0:
                raise self._fail(f"hmat[{number}]", tuple(values), "expected numbers above 0")
            performance[entry.node] = values
        return performance

    def _config(self) -> Config:
        section = self._description.kernel
        for number, name in enumerate(section.out_of_tree_modules):
            if name not in MODULE_KINDS:
                allowed = f"expected one of {', '.join(sorted(MODULE_KINDS))}"
                raise self._fail(f"kernel.out_of_tree_modules[{number}]", name, allowed)
        return Config(**msgspec.structs.asdict(section))

    def _modules(self) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
        for number, line in enumerate(self._description.modules):
            name, *words = line.split() or [""]
            kind = MODULE_KINDS.get(name.replace("-", "_"))
            if kind is None:
                raise self._fail(f"modules[{number}]", line, f"expected one of {', '.join(sorted(MODULE_KINDS))}")
            if kind.wants_memory_hotplug and not self._description.kernel.memory_hotplug:
                raise self._fail(f"modules[{number}]", line, "needs kernel.MEMORY_HOTPLUG = true")
            if name.replace("-", "_") in CXL_MODULES and self._description.cxl is None:
                raise self._fail(f"modules[{number}]", line, "needs CXL hardware: a table [cxl]")
            parameters = []
            for word in words:
                key, equals, value = word.partition("=")
                if not equals or key not in kind.parameters:
                    known = ", ".join(sorted(kind.parameters)) or "none"
                    raise self._fail(f"modules[{number}]", line, f"parameters of {name} are name=value, of: {known}")
                try:
                    kind.check_value(key, value)
                except KernelError as error:
                    raise self._fail(f"modules[{number}]", line, f"{key}: {error.why}") from None
                parameters.append((key, value))
            yield name, tuple(parameters)


_PACKAGE = Path(__file__).parent.parent
_FOLDERS = (_PACKAGE / "machine" / "machines", _PACKAGE / "replay" / "machines")
"""The second holds the recorded guest and its variants: the replayer boots them, and `--machine` takes their names."""


@cache
def _builtin_files() -> dict[str, Path]:
    return {entry.stem: entry for folder in _FOLDERS for entry in folder.glob("*.toml")}


def builtin() -> dict[str, str]:
    """The built-in machines: name -> one line about it."""
    return {
        name: str(_tables(entry.read_text(), name).get("title", "")) for name, entry in sorted(_builtin_files().items())
    }


def load(name_or_path: str, directory: str = "") -> MachineDescription:
    """A built-in machine by name, or the machine that a file describes.

    A relative path begins at `directory`, or at the working directory if that is empty.

    Raises `MachineError` for an error in the file, and for a file that cannot be read.
    """
    files = _builtin_files()
    if name_or_path in files:
        text = files[name_or_path].read_text()
        return _parse(name_or_path, text, f"machine {name_or_path}")
    path, file = Path(name_or_path), Path(directory, name_or_path)
    if "/" not in name_or_path and not name_or_path.endswith(".toml") and not file.exists():
        known = ", ".join(name for name in sorted(files) if not name.startswith("oracle-"))
        raise MachineError(f"unknown machine {name_or_path!r} (choose from {known}, oracle-..., or name a TOML file)")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise MachineError(f"{path}: not TOML: not UTF-8 text") from None
    except OSError as error:
        raise MachineError(f"{path}: {error.strerror}") from None
    return _parse(path.stem, text, str(path))


def _tables(text: str, source: str) -> dict[str, Any]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MachineError(f"{source}: not TOML: {error}") from None
    base_name = tables.pop("extends", None)
    if base_name is None:
        return tables
    base = _builtin_files().get(base_name) if isinstance(base_name, str) else None
    if base is None:
        raise MachineError(f"{source}: extends = {base_name!r}: expected the name of a built-in machine")
    merged = _tables(base.read_text(), base_name)
    for key, value in tables.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


@lru_cache(maxsize=16)
def _parse(name: str, text: str, source: str) -> MachineDescription:
    """The description in a text.

    A test suite loads the same few texts again and again. Only built-in machines are extended, and
    they do not change while a program runs.
    """
    try:
        return _checked(name, text, source)
    except RecursionError:
        raise MachineError(f"{source}: the TOML is nested too deeply") from None


def _checked(name: str, text: str, source: str) -> MachineDescription:
    tables = _tables(text, source)
    if not tables:
        raise MachineError(f"{source}: the file is empty; expected at least block_size and [[node]]")
    try:
        description = msgspec.convert(tables, _File)
    except msgspec.ValidationError as error:
        raise MachineError(f"{source}: {explain(error, tables, _File)}") from None
    return MachineDescription(name, description, source, text)
