"""The kernel as a whole: one machine's memory, buses and modules under one profile.

Booting is the run-time path: boot memory is put in place as the firmware's table says, platform devices are
registered, and modules are loaded through the same code as any later `modprobe`. From `booted` on uevents and
messages are sent.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fakesysfs.kernel.cpu import Cpu
from fakesysfs.kernel.cxl_test import CXL_TEST, cxl_test_exit, cxl_test_init, is_from_firmware, register_cxl
from fakesysfs.kernel.dax.bus import DaxDriver, DevDax
from fakesysfs.kernel.dax.device import DeviceDax, FsdevDax
from fakesysfs.kernel.dax.hmem import PMD_SIZE, CxlDaxRegion, Hmem, HmemPlatform
from fakesysfs.kernel.dax.kmem import TAINT_WARN, Kmem
from fakesysfs.kernel.dax.pmem import (
    DaxPmem,
    E820Pmem,
    NdPmem,
    PmemMedia,
    create_pmem_devdax,
    libnvdimm_drivers,
    libnvdimm_exit,
)
from fakesysfs.kernel.device import Bus, Driver
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.memory_block import BlockGroup, BlockStatus, MemoryBlocks, State
from fakesysfs.kernel.memory_hotplug import MemoryHotplug, Parameters, Range
from fakesysfs.kernel.memory_tiers import AccessCoordinate, MemoryTiers
from fakesysfs.kernel.module import Module, ModuleKind, Modules
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.notifier_error_inject import (
    NotifierErrInjectDir,
    err_inject_exit,
    err_inject_init,
    memory_err_inject_exit,
    memory_err_inject_init,
)
from fakesysfs.kernel.platform import PlatformDevice
from fakesysfs.kernel.printk import WARNING, Printk
from fakesysfs.kernel.profile import Mmop, Profile
from fakesysfs.kernel.resource import IomemResource
from fakesysfs.kernel.uevent import Uevents
from fakesysfs.kernel.zones import (
    DMA,
    DMA32,
    DMA32_END_PFN,
    DMA_END_PFN,
    NORMAL,
    PAGE_SHIFT,
    NodeZones,
    zone_name_at_boot,
)
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Mutex, Preemption, Signals, Wait, ask

FIRST_SERIAL = 2
"""1 is the root directory's."""
LAST_SERIAL = (1 << 20) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Kernel configuration and boot options, as far as they show."""

    pm: bool = True
    memory_hotplug: bool = True
    memory_hotremove: bool = True
    memory_failure: bool = True
    crash_hotplug: bool = True
    numa_migration: bool = True
    dev_dax_kmem_protected: bool = False
    movable_node: bool = False
    kernel_allocations_on_hotplugged_nodes: bool = True
    dax_major: int = 254
    nr_cpus: int = 8192
    max_numnodes: int = 1024
    cmdline: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSetup:
    """One possible node: its CPUs, the RAM that the firmware gives it, what the page allocator got of it (kB).

    `managed_kb` is the node's total, or its parts by zone; None is all there is.
    """

    nid: int
    cpus: tuple[int, ...] = ()
    ranges: tuple[Range, ...] = ()
    managed_kb: int | Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaxSetup:
    """Memory that becomes a dax region.

    `device_size` is the first device's (None: all), `online_type` the region driver's policy, `driver` the one that the
    first device is bound to at start whatever would match. `raw` is persistent memory that is a block device until
    somebody changes it.
    """

    range: Range
    target_node: int
    align: int = PMD_SIZE
    device_size: int | None = None
    online_type: Mmop | None = None
    driver: str | None = None
    raw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a kernel boots with: the machine in the kernel's words."""

    block_size: int
    nodes: tuple[NodeSetup, ...]
    distances: tuple[tuple[int, ...], ...] | None = None
    performance: Mapping[int, AccessCoordinate] = field(default_factory=dict)
    soft_reserved: tuple[DaxSetup, ...] = ()
    cxl_regions: tuple[DaxSetup, ...] = ()
    pmem: tuple[DaxSetup, ...] = ()
    iomem: tuple[tuple[int, int, str, bool], ...] = ()
    """Other entries of /proc/iomem: start, end, name, busy."""
    reserved: tuple[Range, ...] = ()
    """Parts of the nodes' ranges that are not RAM, what dax regions are made of among them."""
    unmovable: tuple[int, ...] = ()
    """Blocks of boot memory with pages that cannot be moved."""
    platform_devices: tuple[str, ...] = ()
    default_online_type: Mmop = Mmop.ONLINE
    parameters: Parameters = field(default_factory=Parameters)
    modules: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    latency: Mapping[str, float] = field(default_factory=dict)
    config: Config = field(default_factory=Config)


class Kernel:
    """One running kernel."""

    def __init__(
        self, setup: Setup, profile: Profile, clock: Callable[[], float] = lambda: 0.0, serial: int = FIRST_SERIAL
    ) -> None:
        self.setup = setup
        self.profile = profile
        self.config = setup.config
        self.booted = False
        self.gone = False
        """Another kernel took this one's place."""
        self.tainted = 0
        self._warned: set[str] = set()
        self.objects: dict[int, Any] = {}
        self.generation = 0
        """Counts what came and went: objects, and entries of their directories."""
        self._serial = serial
        self._observers: list[Callable[[str, Any, int, int], None]] = []
        self.printk = Printk(clock)
        self.uevents = Uevents()
        self.preempt = Preemption()
        self.ignored: deque[KernelError] = deque(maxlen=256)
        """The last refusals that the kernel swallowed, for who wants to know why a success was none."""
        self.device_hotplug_lock = Mutex("device_hotplug_lock")
        self.iomem = IomemResource()
        self.nodes = Nodes(self, {node.nid: node.cpus for node in setup.nodes}, setup.distances)
        self.memory_blocks = MemoryBlocks(self, setup.block_size)
        parameters = setup.parameters
        self.memory_hotplug = MemoryHotplug(
            self,
            setup.default_online_type,
            Parameters(
                parameters.memmap_on_memory,
                parameters.online_policy,
                parameters.auto_movable_ratio,
                parameters.auto_movable_numa_aware,
            ),
        )
        self.tiers = MemoryTiers(self, setup.performance)
        self.buses: dict[str, Bus] = {}
        for name in ("platform", "cxl", "dax"):
            bus = self.buses[name] = Bus(self, name, self.new_serial())
            self.register(bus)
        self.autoprobe_off: set[str] = set()
        """Buses without drivers (memory, node) whose drivers_autoprobe was cleared, which changes nothing."""
        self.dax_minors = Ida()
        self.memregions = Ida()
        """Numbers of the memory regions of all kinds: hmem.N, CXL's and nd's regionN (lib/memregion.c)."""
        self.pmem = [PmemMedia(memory, None if memory.raw else memory.align) for memory in setup.pmem]
        self.cpus: dict[int, Cpu] = {}
        for node in setup.nodes:
            for number in node.cpus:
                cpu = self.cpus[number] = Cpu(self.new_serial(), number, node.nid, self)
                self.register(cpu)
        self.notifier_err_inject_dir: NotifierErrInjectDir | None = None
        """While the module notifier_error_inject is loaded."""
        self.modules = Modules(self, MODULE_KINDS)

    # Identity and observers -----------------------------------------------------------------------------------------

    def new_serial(self) -> int:
        """A serial that no living object has."""
        while True:
            self._serial += 1
            if self._serial > LAST_SERIAL:
                self._serial = FIRST_SERIAL
            if self._serial not in self.objects:
                return self._serial

    @property
    def last_serial(self) -> int:
        """The serial given last; the next kernel behind the same tree goes on from it."""
        return self._serial

    def shut_down(self) -> None:
        """Nobody sees this kernel any more: let everybody go who waits in it."""
        self.gone = True
        self.preempt.latency.clear()
        self.unpin()
        self.printk.arrived.wake_all()
        self.uevents.arrived.wake_all()

    def register(self, kobject: Any) -> None:
        """An object lives from now on."""
        self.objects[kobject.serial] = kobject
        self.generation += 1

    def unregister(self, kobject: Any) -> None:
        """An object is gone."""
        self.objects.pop(kobject.serial, None)
        self.generation += 1

    def observe(self, observer: Callable[[str, Any, int, int], None]) -> None:
        """Call `observer(what, object, first, last)` at each change of what exists."""
        self._observers.append(observer)

    def changed(self, what: str, kobj: Any, first: Any = 0, last: Any = -1) -> None:
        """Something came or went: `what` names the kind of thing."""
        self.generation += 1
        for observer in self._observers:
            observer(what, kobj, first, last)

    def note_ignored(self, error: KernelError) -> None:
        """An error that the kernel does not pass on."""
        self.ignored.append(error)

    def warn_once(self, text: str, place: str) -> None:
        """Log and taint, but only the first time at this place (WARN_ONCE)."""
        if place not in self._warned:
            self._warned.add(place)
            self.printk(WARNING, text)
            self.printk(WARNING, f"WARNING: {place}")
            self.tainted |= TAINT_WARN

    @property
    def kernel(self) -> Kernel:
        """Itself, for directories that stand for nothing smaller."""
        return self

    def add_bus(self, name: str) -> Bus:
        """Register a bus that comes with a module (bus_register)."""
        bus = self.buses[name] = Bus(self, name, self.new_serial())
        self.register(bus)
        self.changed("bus", bus)
        self.uevents.send("add", f"/bus/{name}", "bus")
        return bus

    def remove_bus(self, name: str) -> None:
        """Unregister a bus (bus_unregister)."""
        bus = self.buses.pop(name)
        self.changed("bus", bus)
        self.uevents.send("remove", f"/bus/{name}", "bus")
        self.unregister(bus)

    @property
    def dax_bus(self) -> Bus:
        """The dax bus."""
        return self.buses["dax"]

    @property
    def platform_bus(self) -> Bus:
        """The platform bus."""
        return self.buses["platform"]

    # Boot -----------------------------------------------------------------------------------------------------------

    async def boot(self) -> None:
        """Bring the machine up. That takes no time: latency counts from then on."""
        self._boot_memory()
        for name in self.setup.platform_devices:
            await self.platform_bus.add(PlatformDevice(self, name, name.removesuffix(".0")))
        if is_from_firmware(self):
            await register_cxl(self)
        self.booted = True
        for name, parameters in self.setup.modules:
            await self.modules.load(name, dict(parameters))
            await self._bind_as_wanted()
        self.preempt.latency.update(self.setup.latency)

    async def _bind_as_wanted(self) -> None:
        """Bind the regions' first devices to the drivers that the machine names for them, as a user would by new_id."""
        for device in list(self.dax_bus.devices.values()):
            assert isinstance(device, DevDax)
            driver = self.dax_bus.drivers.get(device.region.driver_at_start or "")
            if device.id or device.driver is driver or not isinstance(driver, DaxDriver):
                continue
            if isinstance(device.driver, Kmem):
                continue
            await self.dax_bus.detach(device)
            await driver.new_id_store(device.name.encode())

    def _boot_memory(self) -> None:
        setup = self.setup
        ram: list[tuple[int, Range]] = []
        for node in setup.nodes:
            for span in node.ranges:
                ram += [(node.nid, piece) for piece in _without(span, setup.reserved)]
        ram.sort(key=lambda piece: piece[1])
        for start, end, name, busy in setup.iomem:
            self.iomem.request_region(start, end, name, busy=busy)
        for piece in _joined([piece for _, piece in ram]):
            self.iomem.request_region(piece.start, piece.end, "System RAM")
        for piece in _joined([piece for _, piece in ram]):
            start, end = piece.end + 1, _round_up(piece.end + 1, _ram_alignment(piece.end + 1)) - 1
            if start < end:
                self.iomem.request_region_with_split(start, end, "RAM buffer")
        for node in setup.nodes:
            if node.cpus or any(nid == node.nid for nid, _ in ram):
                self.nodes.register(node.nid)
        self.nodes.numa_balancing = int(len(self.nodes.online()) > 1)
        self._boot_zones(ram)
        self._boot_blocks(ram)
        self.nodes.check_highest_zone()
        memmap_pages = self.memory_hotplug.memmap_pages_of_block()
        self.memory_hotplug.nr_memmap_boot_pages = self.memory_blocks.count * memmap_pages
        for node in setup.nodes:
            if node.managed_kb is not None:
                self._set_managed(self.nodes[node.nid].zones, node.managed_kb)
        for nid in self.nodes.with_memory():
            self.nodes[nid].access = self.has_performance(nid)
            self.tiers.set_node_memory_tier(nid)
        self.memory_blocks.unmovable.update(setup.unmovable)

    @staticmethod
    def _set_managed(zones: NodeZones, managed_kb: int | Mapping[str, int]) -> None:
        """Give the zones what the page allocator has: as told by zone, else in proportion to what is present."""
        if not isinstance(managed_kb, int):
            for name, kilobytes in managed_kb.items():
                zones[name].managed_kb = kilobytes
            return
        left_kb, left_pages = managed_kb, zones.present()
        for zone in zones:
            if zone.present:
                zone.managed_kb = left_kb * zone.present // left_pages
                left_kb -= zone.managed_kb
                left_pages -= zone.present

    def _boot_zones(self, ram: Sequence[tuple[int, Range]]) -> None:
        """Zones span their part of the node's range, from its first to its last page, and hold the RAM in it."""
        for nid in self.nodes.possible:
            pieces = [piece for owner, piece in ram if owner == nid]
            if not pieces:
                continue
            start = -(-pieces[0].start >> PAGE_SHIFT)
            end = (pieces[-1].end + 1) >> PAGE_SHIFT
            for name, low, high in (
                (DMA, 0, DMA_END_PFN),
                (DMA32, DMA_END_PFN, DMA32_END_PFN),
                (NORMAL, DMA32_END_PFN, end),
            ):
                zone = self.nodes[nid].zones[name]
                if max(start, low) < min(end, high):
                    zone.grow(max(start, low), min(end, high))
                for piece in pieces:
                    first, last = -(-piece.start >> PAGE_SHIFT), (piece.end + 1) >> PAGE_SHIFT
                    zone.present += max(min(last, high) - max(first, low), 0)
                zone.present_early = zone.present
                zone.managed_kb = zone.present << PAGE_SHIFT >> 10

    def _boot_blocks(self, ram: Sequence[tuple[int, Range]]) -> None:
        size = self.setup.block_size
        layout: dict[int, dict[int, int]] = {}
        zones: dict[int, set[str]] = {}
        bulk: list[tuple[int, int, int]] = []
        for nid, piece in ram:
            first_whole, end_whole = -(-piece.start // size), (piece.end + 1) // size
            uniform = max(first_whole, -(-(DMA32_END_PFN << PAGE_SHIFT) // size))
            edges = set(range(piece.start // size, min(uniform, piece.end // size + 1)))
            if uniform < end_whole:
                bulk.append((uniform, end_whole - 1, nid))
                edges |= set(range(end_whole, piece.end // size + 1))
            else:
                edges |= set(range(piece.start // size, piece.end // size + 1))
            for index in edges:
                start, end = max(piece.start, index * size), min(piece.end, index * size + size - 1)
                layout.setdefault(index, {}).setdefault(nid, 0)
                layout[index][nid] += end - start + 1
                zones.setdefault(index, set()).update(
                    zone_name_at_boot(pfn) for pfn in (start >> PAGE_SHIFT, end >> PAGE_SHIFT)
                )
        for first, last, nid in bulk:
            self._boot_group(first, last, (nid,), size, NORMAL)
        for index in sorted(layout):
            nids = tuple(sorted(layout[index]))
            present = sum(layout[index].values())
            zone = next(iter(zones[index])) if len(zones[index]) == 1 and len(nids) == 1 else None
            self._boot_group(index, index, nids, present, zone)

    def _boot_group(self, first: int, last: int, nids: tuple[int, ...], present: int, zone_name: str | None) -> None:
        blocks = self.memory_blocks
        previous = blocks.runs.run(first - 1) if first else None
        zone = self.nodes[nids[0]].zones[zone_name] if zone_name else None
        holes = present != self.setup.block_size
        if (
            previous is not None
            and not holes
            and zone is not None
            and previous[2].zone is zone
            and not previous[2].group.holes
        ):
            group = previous[2].group
            group.last = last
        else:
            group = BlockGroup(self.new_serial(), first, last, nids, blocks, present // 1024, holes=holes, early=True)
            self.register(group)
        blocks.create(first, last, group, BlockStatus(group, State.ONLINE, zone))

    # Locks and rules that several files share -------------------------------------------------------------------------

    async def lock_device_hotplug_sysfs(self) -> None:
        """Take device_hotplug_lock as attributes of blocks do: try, else sleep 5 ms and restart the system call.

        Nothing of it shows but that a handled signal does not end it and SIGKILL does: KernelError EINTR then.
        """
        while not self.device_hotplug_lock.trylock():
            answer = await ask(Wait("lock_device_hotplug_sysfs", self.device_hotplug_lock.released, Signals.FATAL))
            if answer is Answer.INTERRUPTED:
                raise KernelError(
                    errno.EINTR, "the caller was killed while another one held device_hotplug_lock", "restart_syscall"
                )

    def allocates_on(self, nid: int) -> bool:
        """Would the kernel put slab and page tables on the first kernel-zone block of this node (KERNEL.md 2)?"""
        return self.config.kernel_allocations_on_hotplugged_nodes and not self.nodes[nid].zones.present()

    def has_performance(self, nid: int) -> bool:
        """Does the firmware's HMAT describe this node?"""
        return nid in self.setup.performance

    def check_kmem_protected(self, index: int, where: str) -> None:
        """With DEV_DAX_KMEM_PROTECTED nobody but kmem changes the blocks of its devices (KERNEL.md 8).

        Raises KernelError EBUSY.
        """
        if not self.config.dev_dax_kmem_protected:
            return
        address = index * self.memory_blocks.block_size
        for device in self.dax_bus.devices.values():
            if isinstance(device, DevDax) and isinstance(device.driver, Kmem):
                data = device.driver_data
                if data is not None and any(span.start <= address <= span.end for _, span in data.usable()):
                    raise KernelError(
                        errno.EBUSY, f"memory{index} belongs to {device.name} (DEV_DAX_KMEM_PROTECTED)", where, index
                    )

    # What happens to memory from outside --------------------------------------------------------------------------

    async def modprobe(self, name: str, parameters: Mapping[str, str | None] | None = None) -> None:
        """Load a module (`Modules.load`)."""
        await self.modules.load(name, parameters)

    async def rmmod(self, name: str) -> None:
        """Unload a module (`Modules.unload`)."""
        await self.modules.unload(name)

    async def create_pmem_devdax(self, namespace: str = "namespace0.0", align: int = 4096) -> None:
        """A tool puts a namespace of persistent memory into mode devdax (`dax.pmem.create_pmem_devdax`)."""
        await create_pmem_devdax(self, namespace, align)

    def pin(self, nid: int) -> int | None:
        """Pin a page in the node's lowest online Movable block; returns its number, None if there is no such block."""
        index = self._lowest(nid, lambda status: status.zone is not None and status.zone.name == "Movable")
        if index is not None:
            self.memory_blocks.pinned.add(index)
        return index

    def unpin(self, index: int | None = None) -> None:
        """Release the pins of one block, or all; who waits for a page to migrate goes on."""
        self.memory_blocks.pinned.difference_update(set(self.memory_blocks.pinned) if index is None else {index})
        self.memory_hotplug.pins_released.wake_all()

    def kernel_allocations(self, nid: int) -> int | None:
        """Kernel allocations land in the node's lowest kernel-zone block, which cannot be offlined from then on."""
        index = self._lowest(nid, lambda status: status.zone is not None and status.zone.name != "Movable")
        if index is not None:
            self.memory_blocks.unmovable.add(index)
        return index

    def kernel_allocations_released(self, nid: int) -> None:
        """Releasing them does not make the block movable again (recorded: slab and page tables stay)."""

    def _lowest(self, nid: int, fits: Callable[[BlockStatus], bool]) -> int | None:
        for first, _, status in self.memory_blocks.runs:
            if status.state is State.ONLINE and nid in status.group.nids and fits(status):
                return first
        return None


def _dax_hmem_drivers(module: Module) -> list[Driver]:
    kernel = module.kernel
    hmem = Hmem(kernel, module.name, region_idle=lambda: module.is_set("region_idle"))
    return [HmemPlatform(kernel, kernel.platform_bus, module.name), hmem]


def _no_drivers(_module: Module) -> list[Driver]:
    return []


MODULE_KINDS: Mapping[str, ModuleKind] = {
    "device_dax": ModuleKind(lambda module: [DeviceDax(module.kernel, module.name)]),
    "fsdev_dax": ModuleKind(lambda module: [FsdevDax(module.kernel, module.name)]),
    "kmem": ModuleKind(lambda module: [Kmem(module.kernel, module.name)], wants_memory_hotplug=True),
    "dax_hmem": ModuleKind(_dax_hmem_drivers, parameters={"region_idle": "N"}),
    "dax_cxl": ModuleKind(lambda module: [CxlDaxRegion(module.kernel, module.kernel.buses["cxl"], module.name)]),
    CXL_TEST: ModuleKind(_no_drivers, init=cxl_test_init, exit=cxl_test_exit, out_of_tree=True),
    "libnvdimm": ModuleKind(libnvdimm_drivers, exit=libnvdimm_exit, core_size=110592),
    "nd_btt": ModuleKind(_no_drivers, needs=("libnvdimm",), core_size=24576),
    "nd_e820": ModuleKind(lambda module: [E820Pmem(module.kernel, module.name)], needs=("libnvdimm",)),
    "nd_pmem": ModuleKind(
        lambda module: [NdPmem(module.kernel, module.name)], needs=("libnvdimm", "nd_btt"), core_size=20480
    ),
    "dax_pmem": ModuleKind(lambda module: [DaxPmem(module.kernel, module.name)], needs=("libnvdimm",)),
    "notifier_error_inject": ModuleKind(_no_drivers, init=err_inject_init, exit=err_inject_exit, out_of_tree=True),
    "memory_notifier_error_inject": ModuleKind(
        _no_drivers,
        needs=("notifier_error_inject",),
        parameters={"priority": "0"},
        hidden_integers=frozenset({"priority"}),
        wants_memory_hotplug=True,
        init=memory_err_inject_init,
        exit=memory_err_inject_exit,
        out_of_tree=True,
    ),
}


def _without(span: Range, holes: Sequence[Range]) -> list[Range]:
    pieces = [span]
    for hole in holes:
        left: list[Range] = []
        for piece in pieces:
            if hole.end < piece.start or hole.start > piece.end:
                left.append(piece)
                continue
            left += [
                part for part in (Range(piece.start, hole.start - 1), Range(hole.end + 1, piece.end)) if part.length > 0
            ]
        pieces = left
    return pieces


def _joined(pieces: Sequence[Range]) -> list[Range]:
    joined: list[Range] = []
    for piece in sorted(pieces):
        if joined and joined[-1].end + 1 == piece.start:
            joined[-1] = Range(joined[-1].start, piece.end)
        else:
            joined.append(piece)
    return joined


def _ram_alignment(position: int) -> int:
    """arch/x86/kernel/e820.c, ram_alignment: 64 KiB in the first MiB, 1 MiB up to 16 MiB, then 64 MiB."""
    megabyte = position >> 20
    if not megabyte:
        return 64 << 10
    return 1 << 20 if megabyte < 16 else 64 << 20  # noqa: PLR2004


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
