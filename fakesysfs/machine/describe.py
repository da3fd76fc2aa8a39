"""The form of a machine file, and all checks of it.

msgspec checks types and unknown keys. `MachineDescription` checks the rest: ranges that overlap,
nodes that do not exist. Every error names the file, the key, the value and the allowed values.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.cxl.setup import CxlSetup
from fakesysfs.kernel.cxl_test import CXL_TEST
from fakesysfs.kernel.memory_block import ONLINE_TYPES
from fakesysfs.kernel.memory_hotplug import Parameters
from fakesysfs.kernel.memory_tiers import AccessCoordinate
from fakesysfs.kernel.modules import CXL_AT_BOOT, CXL_MODULES, MODULE_KINDS
from fakesysfs.kernel.node import LOCAL_DISTANCE
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import CxlRegionSetup, DaxSetup, NodeSetup, Setup
from fakesysfs.machine.cxl import CxlSection, check_regions, cxl_regions, cxl_setup, hardware_for
from fakesysfs.machine.explain import explain
from fakesysfs.machine.values import (
    PAGE_SIZE,
    Checks,
    DaxDriverName,
    MachineError,
    Natural,
    OnlineType,
    Table,
)
from fakesysfs.ops.errors import KernelError

MAX_NODES = 1024
MIN_BLOCK = 128 << 20

KernelZone = Literal["DMA", "DMA32", "Normal"]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Span(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A piece of physical memory.

    `start` and `size` are written as "128M", "0x180000000" or a number of bytes.
    """

    start: str | int
    size: str | int


class Reserved(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A piece of a node's memory that is not RAM, and its name in /proc/iomem, if it has one."""

    start: str | int
    size: str | int
    name: str | None = None


class Iomem(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Another entry of /proc/iomem. An entry that is not `busy` can have other entries inside it."""

    start: str | int
    size: str | int
    name: str
    busy: bool = True


class NodeSection(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A possible node.

    `cpus` is written as "0-1,4". A node without `memory` comes online when memory is added to it.
    """

    id: int
    cpus: str = ""
    memory: tuple[Span, ...] = ()


class Hmat(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Performance of a node's memory: latencies in ns, bandwidths in MB/s."""

    node: int
    read_latency: int
    write_latency: int
    read_bandwidth: int
    write_bandwidth: int


class DaxRegionSection(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Memory for dax devices.

    A region of kind cxl stands for CXL hardware with a region that firmware made: a window of this
    range, a host bridge, a memory device and the region. `[cxl]` says such things one by one. On a
    machine with `cxl_test` it is a region of that module.

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
    driver: DaxDriverName | None = None
    namespace: Literal["devdax", "raw"] | None = None
    soft_reserved: tuple[Span, ...] | None = None


class Unmovable(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A block of boot memory that cannot be offlined, and the reason."""

    block: Natural
    why: str


class MemoryHotplugSection(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The policy of memory hotplug: auto_online_blocks and the parameters of memory_hotplug."""

    online_type: OnlineType = "online"
    memmap_on_memory: bool = False
    online_policy: Literal["contig-zones", "auto-movable"] = "contig-zones"
    auto_movable_ratio: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)] = 301
    auto_movable_numa_aware: bool = True


class KernelSection(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
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


class Latency(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Seconds that a block takes to go online or offline, after the start of the machine."""

    online_block: Seconds = 0.0
    offline_block: Seconds = 0.0


class _File(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The top level.

    The start loads `modules` in this order. For dax regions of kind cxl it loads cxl_acpi and cxl_pci
    first, unless `modules` has them.

    With `cxl_test` the machine has this module of the kernel's own tests, and the regions of kind cxl
    are the module's, under its names. If `modules` has cxl_test, too, they come and go with it.
    """

    title: str = ""
    block_size: str | int
    node: tuple[NodeSection, ...]
    distances: tuple[tuple[Annotated[int, msgspec.Meta(ge=10, le=255)], ...], ...] | None = None
    hmat: tuple[Hmat, ...] = ()
    dax_region: tuple[DaxRegionSection, ...] = ()
    cxl: CxlSection | None = None
    cxl_test: bool = False
    reserved: tuple[Reserved, ...] = ()
    iomem: tuple[Iomem, ...] = ()
    unmovable: tuple[Unmovable, ...] = ()
    mem_total_kB: dict[str, Natural | dict[KernelZone, Natural]] = {}  # noqa: N815, RUF012  the unit of /proc/meminfo; msgspec copies it
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
        self._check = Checks(source)
        self._description = description
        self._setup = self._build()

    def setup(self) -> Setup:
        """The machine in the kernel's terms: all that a kernel boots with."""
        return self._setup

    def _cpus(self, key: str, text: str) -> tuple[int, ...]:
        cpus: set[int] = set()
        for part in filter(None, text.split(",")):
            match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part.strip())
            if match is None or int(match[2] or match[1]) < int(match[1]):
                raise self._check.fail(key, text, 'expected CPU numbers like "0-1,4"')
            cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
        return tuple(sorted(cpus))

    def _build(self) -> Setup:
        file = self._description
        block_size = self._check.size("block_size", file.block_size)
        if block_size < MIN_BLOCK or block_size & (block_size - 1):
            raise self._check.fail("block_size", file.block_size, "expected a power of two, at least 128M")
        nodes = self._nodes()
        known = {node.nid for node in nodes}
        if not any(node.ranges for node in nodes):
            raise self._check.fail("node", [node.nid for node in nodes], "expected at least one node with memory")
        kinds: dict[str, list[DaxSetup]] = {"hmem": [], "cxl": [], "pmem": []}
        taken: list[tuple[str, Range]] = []
        for number, region in enumerate(file.dax_region):
            key = f"dax_region[{number}]"
            span = self._check.range(key, region)
            taken += self._taken(key, region, span)
            if region.target_node not in known:
                allowed = f"expected one of the nodes {sorted(known)}"
                raise self._check.fail(f"{key}.target_node", region.target_node, allowed)
            dax = self._check.dax_setup(key, region, span, region.target_node, raw=region.namespace == "raw")
            if region.kind == "pmem" and dax.device_size is not None:
                allowed = 'not allowed with kind = "pmem": such a region is one device'
                raise self._check.fail(f"{key}.device_size", region.device_size, allowed)
            if region.kind != "pmem" and region.namespace is not None:
                raise self._check.fail(f"{key}.namespace", region.namespace, 'expected only with kind = "pmem"')
            kinds[region.kind].append(dax)
        self._check.disjoint(taken)
        holes = [span for _, span in taken]
        for number, reserved in enumerate(file.reserved):
            holes.append(self._check.range(f"reserved[{number}]", reserved))
        iomem: list[tuple[int, int, str, bool]] = []
        for number, reserved in enumerate(file.reserved):
            if reserved.name is not None:
                iomem.append((*self._check.range(f"reserved[{number}]", reserved), reserved.name, True))
        for number, entry in enumerate(file.iomem):
            iomem.append((*self._check.range(f"iomem[{number}]", entry), entry.name, entry.busy))
        pmem = [(setup.range.start, setup.range.end, "Persistent Memory (legacy)", False) for setup in kinds["pmem"]]
        platform = (["hmem_platform.0"] if kinds["hmem"] else []) + (["e820_pmem"] if kinds["pmem"] else [])
        hotplug = file.memory_hotplug
        has_cxl_test = self._has_cxl_test()
        cxl, regions = (None, ()) if has_cxl_test else self._cxl(known, taken, kinds["cxl"])
        setup = Setup(
            block_size=block_size,
            nodes=nodes,
            distances=self._distances(known),
            performance=self._performance(known),
            soft_reserved=tuple(kinds["hmem"]),
            cxl=cxl,
            cxl_regions=regions,
            cxl_test=tuple(kinds["cxl"]) if has_cxl_test else None,
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
            modules=(*self._modules_for(cxl), *self._modules(has_cxl=cxl is not None)),
            latency={"online_block": file.latency.online_block, "offline_block": file.latency.offline_block},
            config=self._config(),
        )
        if file.cxl is not None and regions:
            check_regions(self._check, setup)
        return setup

    def _taken(self, key: str, region: DaxRegionSection, span: Range) -> Iterator[tuple[str, Range]]:
        """What a dax region takes out of RAM, each with its key."""
        if region.soft_reserved is None:
            yield key, span
        elif region.kind == "cxl":
            pieces = [f"{piece.start}+{piece.size}" for piece in region.soft_reserved]
            raise self._check.fail(f"{key}.soft_reserved", pieces, 'not allowed with kind = "cxl": none of it is RAM')
        for position, piece in enumerate(region.soft_reserved or ()):
            name = f"{key}.soft_reserved[{position}]"
            yield name, self._check.range(name, piece)

    def _has_cxl_test(self) -> bool:
        file = self._description
        named = file.cxl_test or any(_module_name(line) == CXL_TEST for line in file.modules)
        if named and file.cxl is not None:
            key, value = ("cxl_test", True) if file.cxl_test else ("modules", list(file.modules))
            raise self._check.fail(key, value, "cxl_test is not allowed beside [cxl]: its regions are of kind cxl")
        return named

    def _cxl(
        self, known: set[int], taken: list[tuple[str, Range]], of_kind_cxl: list[DaxSetup]
    ) -> tuple[CxlSetup | None, tuple[CxlRegionSetup, ...]]:
        """The CXL hardware and the regions that firmware made of it."""
        file = self._description
        if file.cxl is None:
            return hardware_for(self._check, of_kind_cxl) if of_kind_cxl else (None, ())
        for number, region in enumerate(file.dax_region):
            if region.kind == "cxl":
                allowed = "not allowed beside [cxl]: use cxl.regions; dax_region = [] drops what the file extends"
                raise self._check.fail(f"dax_region[{number}].kind", region.kind, allowed)
        memory = [
            (key, self._check.range(key, span))
            for number, node in enumerate(file.node)
            for key, span in ((f"node[{number}].memory[{position}]", span) for position, span in enumerate(node.memory))
        ]
        hardware = cxl_setup(self._check, file.cxl, known, taken, memory)
        return cxl_regions(self._check, file.cxl, hardware)

    def _nodes(self) -> tuple[NodeSetup, ...]:
        file = self._description
        nodes: list[NodeSetup] = []
        memory: list[tuple[str, Range]] = []
        cpus: dict[int, str] = {}
        for number, node in enumerate(file.node):
            key = f"node[{number}]"
            if not 0 <= node.id < MAX_NODES or any(other.nid == node.id for other in nodes):
                raise self._check.fail(f"{key}.id", node.id, f"expected 0 to {MAX_NODES - 1}, each once")
            spans = [
                (f"{key}.memory[{position}]", self._check.range(f"{key}.memory[{position}]", span))
                for position, span in enumerate(node.memory)
            ]
            for name, span in spans:
                if span.start % PAGE_SIZE or span.length % PAGE_SIZE:
                    where = f"{span.start:#x}-{span.end:#x}"
                    raise self._check.fail(name, where, f"expected start and size to be multiples of {PAGE_SIZE}")
            memory += spans
            own = self._cpus(f"{key}.cpus", node.cpus)
            for cpu in own:
                if cpu in cpus:
                    raise self._check.fail(f"{key}.cpus", node.cpus, f"CPU {cpu} is in {cpus[cpu]} already")
                cpus[cpu] = f"{key}.cpus"
            total = file.mem_total_kB.get(str(node.id))
            managed = {str(zone): part for zone, part in total.items()} if isinstance(total, dict) else total
            nodes.append(NodeSetup(nid=node.id, cpus=own, ranges=tuple(span for _, span in spans), managed_kb=managed))
        self._check.disjoint(memory)
        for nid in file.mem_total_kB:
            if nid not in {str(node.nid) for node in nodes}:
                raise self._check.fail("mem_total_kB", nid, f"expected one of the nodes {[node.nid for node in nodes]}")
        if not cpus:
            raise self._check.fail("node", [node.nid for node in nodes], "expected at least one node with cpus")
        return tuple(sorted(nodes, key=lambda node: node.nid))

    def _distances(self, known: set[int]) -> tuple[tuple[int, ...], ...] | None:
        distances = self._description.distances
        size = max(known) + 1
        if distances is not None and (len(distances) != size or any(len(row) != size for row in distances)):
            rows = [list(row) for row in distances]
            raise self._check.fail("distances", rows, f"expected {size} rows of {size} numbers, node by node")
        for one, row in enumerate(distances or ()):
            for other, value in enumerate(row):
                if (value == LOCAL_DISTANCE) is not (one == other):
                    allowed = f"expected {LOCAL_DISTANCE} from a node to itself and more to any other"
                    raise self._check.fail(f"distances[{one}][{other}]", value, allowed)
        return distances

    def _performance(self, known: set[int]) -> Mapping[int, AccessCoordinate]:
        performance: dict[int, AccessCoordinate] = {}
        for number, entry in enumerate(self._description.hmat):
            if entry.node not in known:
                raise self._check.fail(f"hmat[{number}].node", entry.node, f"expected one of the nodes {sorted(known)}")
            values = AccessCoordinate(
                entry.read_latency, entry.write_latency, entry.read_bandwidth, entry.write_bandwidth
            )
            if min(values) <= 0:
                raise self._check.fail(f"hmat[{number}]", tuple(values), "expected numbers above 0")
            performance[entry.node] = values
        return performance

    def _config(self) -> Config:
        section = self._description.kernel
        for number, name in enumerate(section.out_of_tree_modules):
            if name not in MODULE_KINDS:
                allowed = f"expected one of {', '.join(sorted(MODULE_KINDS))}"
                raise self._check.fail(f"kernel.out_of_tree_modules[{number}]", name, allowed)
        return Config(**msgspec.structs.asdict(section))

    def _modules_for(self, cxl: CxlSetup | None) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
        """The modules for hardware that the file has by dax regions of kind cxl."""
        if cxl is not None and self._description.cxl is None:
            named = {_module_name(line) for line in self._description.modules}
            yield from ((name, ()) for name in CXL_AT_BOOT if name not in named)

    def _modules(self, *, has_cxl: bool) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
        for number, line in enumerate(self._description.modules):
            name, *words = line.split() or [""]
            kind = MODULE_KINDS.get(_module_name(line))
            if kind is None:
                raise self._check.fail(f"modules[{number}]", line, f"expected one of {', '.join(sorted(MODULE_KINDS))}")
            if kind.wants_memory_hotplug and not self._description.kernel.memory_hotplug:
                raise self._check.fail(f"modules[{number}]", line, "needs kernel.MEMORY_HOTPLUG = true")
            if _module_name(line) in CXL_MODULES and not has_cxl:
                allowed = "needs CXL hardware: a table [cxl], or a dax_region of kind cxl without cxl_test"
                raise self._check.fail(f"modules[{number}]", line, allowed)
            parameters = []
            for word in words:
                key, equals, value = word.partition("=")
                if not equals or key not in kind.parameters:
                    known = ", ".join(sorted(kind.parameters)) or "none"
                    raise self._check.fail(
                        f"modules[{number}]", line, f"parameters of {name} are name=value, of: {known}"
                    )
                try:
                    kind.check_value(key, value)
                except KernelError as error:
                    raise self._check.fail(f"modules[{number}]", line, f"{key}: {error.why}") from None
                parameters.append((key, value))
            yield name, tuple(parameters)


def _module_name(line: str) -> str:
    """The module that a line of `modules` names."""
    return line.replace("-", "_").partition(" ")[0]


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
