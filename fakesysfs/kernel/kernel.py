"""The composition root: makes the parts of a kernel and gives each the parts that it uses.

Booting is the run-time path. It makes the boot memory of the firmware's map, registers platform
devices, and loads modules by the same code as a later `modprobe`. Uevents and messages start when
`booted` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from fakesysfs.kernel import e820
from fakesysfs.kernel.core import FIRST_SERIAL, Core
from fakesysfs.kernel.cpu import Cpu
from fakesysfs.kernel.cxl.acpi import CxlHardware
from fakesysfs.kernel.cxl.core.port import CxlBus
from fakesysfs.kernel.cxl.mem import CxlMemDriver
from fakesysfs.kernel.cxl.pci import CxlPci
from fakesysfs.kernel.cxl.pmem import CxlNvdimmBridgeDriver, CxlNvdimmDriver, CxlPmemRegionDriver
from fakesysfs.kernel.cxl.port import CxlPortDriver
from fakesysfs.kernel.cxl.region import CxlRegionDriver
from fakesysfs.kernel.cxl_test import CxlTest
from fakesysfs.kernel.dax.bus import DaxBus, DaxDriver, DevDax
from fakesysfs.kernel.dax.cxl import CxlDaxRegionDriver
from fakesysfs.kernel.dax.device import DeviceDax, FsdevDax, page_map_node
from fakesysfs.kernel.dax.hmem import Hmem, HmemPlatform
from fakesysfs.kernel.dax.kmem import Kmem, check_kmem_protected
from fakesysfs.kernel.dax.pmem import (
    DaxPmem,
    E820Pmem,
    Libnvdimm,
    NdPmem,
    PmemMedia,
    create_pmem_devdax,
)
from fakesysfs.kernel.device import Bus, Driver
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.memory_block import MemoryBlocks
from fakesysfs.kernel.memory_failure import MemoryFailure
from fakesysfs.kernel.memory_hotplug import MemoryHotplug
from fakesysfs.kernel.memory_tiers import MemoryTiers
from fakesysfs.kernel.module import Module, ModuleCode, Modules
from fakesysfs.kernel.modules import MODULE_KINDS
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.notifier_error_inject import NotifierErrInjectDir, NotifierErrorInject
from fakesysfs.kernel.platform import PlatformDevice
from fakesysfs.kernel.profile import Profile
from fakesysfs.kernel.resource import IomemResource
from fakesysfs.kernel.setup import Setup

HMEM_WORKQUEUE = "dax_hmem_wq"
"""The workqueue that dax_hmem has while it is loaded (drivers/dax/hmem/hmem.c)."""


class Kernel(Core):
    """One running kernel. `clock` returns the seconds since boot."""

    def __init__(
        self, setup: Setup, profile: Profile, clock: Callable[[], float] = lambda: 0.0, serial: int = FIRST_SERIAL
    ) -> None:
        super().__init__(profile, setup.config, clock, serial)
        self.setup = setup
        self.iomem = IomemResource()
        self.nodes = Nodes(self, {node.nid: node.cpus for node in setup.nodes}, setup.distances)
        self.memory_blocks = MemoryBlocks(self, setup.block_size, self.nodes, self._check_kmem_protected)
        self.tiers = MemoryTiers(self, self.nodes, setup.performance)
        self.memory_hotplug = MemoryHotplug(
            self,
            self.nodes,
            self.memory_blocks,
            self.tiers,
            self.iomem,
            setup.default_online_type,
            replace(setup.parameters),
        )
        self.allocate_for_probe = self.memory_hotplug.kernel_pages.probe
        self.platform_bus = Bus(self, "platform")
        self.cxl_bus = CxlBus(self)
        self.dax_bus = DaxBus(self, self.memory_hotplug)
        self.buses: dict[str, Bus] = {bus.name: bus for bus in (self.platform_bus, self.cxl_bus, self.dax_bus)}
        self.pci_bus: Bus | None = None
        self.autoprobe_off: set[str] = set()
        """Buses without drivers (memory, node) with drivers_autoprobe 0, which has no effect."""
        self.dax_minors = self.dax_bus.minors
        self.memregions = Ida()
        """Numbers of all memory regions: hmem.N, and the regionN of CXL and nd.

        lib/memregion.c.
        """
        self.pmem = [PmemMedia(memory, None if memory.raw else memory.align) for memory in setup.pmem]
        self.cpus: dict[int, Cpu] = {}
        for node in setup.nodes:
            for number in node.cpus:
                cpu = self.cpus[number] = Cpu(self.new_serial(), number, node.nid, self, self.nodes)
                self.register(cpu)
        self._boot_ram = e820.boot_ram(setup)
        self.memory_failure = MemoryFailure(
            self,
            self.nodes,
            self.memory_blocks,
            self._boot_ram,
            lambda pfn: page_map_node(self.dax_bus, pfn),
        )
        self._error_inject = NotifierErrorInject(self, self.memory_hotplug)
        self._cxl_test: CxlTest | None = None
        if setup.cxl_test is not None:
            self._cxl_test = CxlTest(setup, self.platform_bus, self.cxl_bus, self.memregions, self.nodes)
        self.cxl: CxlHardware | None = None
        if setup.cxl is not None:
            pci = self.pci_bus = self.buses["pci"] = Bus(self, "pci")
            self.cxl = CxlHardware(
                self, setup.cxl, setup.cxl_regions, self.platform_bus, pci, self.cxl_bus, self.iomem, self.memregions
            )
        self.modules = Modules(self, MODULE_KINDS, self._module_code())

    def _module_code(self) -> Mapping[str, ModuleCode]:
        iomem, nodes, dax, platform, cxl = self.iomem, self.nodes, self.dax_bus, self.platform_bus, self.cxl_bus
        block_size, inject = self.setup.block_size, self._error_inject
        pages = self.memory_hotplug.kernel_pages
        nvdimm = Libnvdimm(self, self.buses, nodes)

        def dax_hmem(module: Module) -> list[Driver]:
            pages.alloc_workqueue(HMEM_WORKQUEUE)
            return [
                HmemPlatform(platform, module.name, self.setup.soft_reserved, self.memregions, nodes),
                Hmem(platform, module.name, dax, lambda: module.is_set("region_idle")),
            ]

        async def dax_hmem_exit(_module: Module) -> None:
            pages.destroy_workqueue(HMEM_WORKQUEUE)

        return {
            "device_dax": ModuleCode(lambda module: [DeviceDax(dax, module.name, iomem, nodes, pages)]),
            "fsdev_dax": ModuleCode(lambda module: [FsdevDax(dax, module.name, iomem, nodes, pages)]),
            "kmem": ModuleCode(lambda module: [Kmem(dax, module.name, nodes, self.tiers, iomem, block_size)]),
            "dax_hmem": ModuleCode(dax_hmem, exit=dax_hmem_exit),
            "dax_cxl": ModuleCode(lambda module: [CxlDaxRegionDriver(cxl, module.name, dax)]),
            "libnvdimm": ModuleCode(nvdimm.drivers, exit=nvdimm.exit),
            "nd_btt": ModuleCode(),
            "nd_e820": ModuleCode(
                lambda module: [E820Pmem(platform, module.name, nvdimm.bus, self.pmem, self.memregions)]
            ),
            "nd_pmem": ModuleCode(lambda module: [NdPmem(nvdimm.bus, module.name, iomem, dax.minors)]),
            "dax_pmem": ModuleCode(lambda module: [DaxPmem(nvdimm.bus, module.name, dax, iomem)]),
            **self._cxl_module_code(nvdimm),
            "notifier_error_inject": ModuleCode(init=inject.init, exit=inject.exit),
            "memory_notifier_error_inject": ModuleCode(init=inject.memory_init, exit=inject.memory_exit),
        }

    def _cxl_module_code(self, nvdimm: Libnvdimm) -> Mapping[str, ModuleCode]:
        hardware, pci, cxl, test = self.cxl, self.pci_bus, self.cxl_bus, self._cxl_test
        if test is not None:
            return {"cxl_test": ModuleCode(init=test.module_init, exit=test.module_exit)}
        if hardware is None or pci is None:
            return {}
        return {
            "cxl_acpi": ModuleCode(lambda module: [hardware.acpi_driver(module)]),
            "cxl_mem": ModuleCode(lambda module: [CxlMemDriver(cxl, module.name, hardware.topology, self.iomem)]),
            "cxl_pci": ModuleCode(lambda module: [CxlPci(pci, module.name, cxl)]),
            "cxl_pmem": ModuleCode(
                lambda module: [
                    CxlNvdimmBridgeDriver(cxl, module.name, nvdimm.bus),
                    CxlNvdimmDriver(cxl, module.name, nvdimm.bus),
                    CxlPmemRegionDriver(cxl, module.name, self.iomem),
                ]
            ),
        }

    # Boot and end ---------------------------------------------------------------------------------

    async def boot(self) -> None:
        """Bring the machine up. This takes no time: the latency starts afterwards."""
        ram, blocks = self._boot_ram, self.memory_blocks
        e820.boot_memory(self.setup, ram, self, self.iomem, self.nodes, blocks, self.tiers, self.memory_hotplug)
        for name in self.setup.platform_devices:
            await self.platform_bus.add(PlatformDevice(self.platform_bus, name, name.removesuffix(".0")))
        if self._cxl_test is not None:
            await self._cxl_test.boot()
        if self.cxl is not None:
            await self.modules.add_built_in("cxl_port", CxlPortDriver(self.cxl_bus, "cxl_port", self.cxl.regions))
            await self.modules.add_built_in("cxl_core", CxlRegionDriver(self.cxl_bus, "cxl_core"))
            await self.cxl.boot()
        self.booted = True
        for name, parameters in self.setup.modules:
            await self.modules.load(name, dict(parameters))
            await self._bind_first_devices()
        self.preempt.latency.update(self.setup.latency)

    async def _bind_first_devices(self) -> None:
        """Bind the regions' first devices, by new_id, to the drivers that the machine names."""
        for device in list(self.dax_bus.devices.values()):
            assert isinstance(device, DevDax)
            driver = self.dax_bus.drivers.get(device.region.driver_at_start or "")
            if device.id or device.driver is driver or not isinstance(driver, DaxDriver):
                continue
            if isinstance(device.driver, Kmem):
                continue
            await self.dax_bus.detach(device)
            await driver.new_id_store(device.name.encode())

    def shut_down(self) -> None:
        """End this kernel: all operations that wait in it continue."""
        self.gone = True
        self.preempt.latency.clear()
        self.unpin()
        self.printk.arrived.wake_all()
        self.uevents.arrived.wake_all()

    # What the machine's user and its files ask for ------------------------------------------------

    @property
    def kernel(self) -> Kernel:
        """The kernel itself, for directories that belong to no smaller object."""
        return self

    @property
    def notifier_err_inject_dir(self) -> NotifierErrInjectDir | None:
        """The directory of the error injectors, None unless notifier_error_inject is loaded."""
        return self._error_inject.directory

    async def modprobe(self, name: str, parameters: Mapping[str, str | None] | None = None) -> None:
        """Load a module (`Modules.load`)."""
        await self.modules.load(name, parameters)

    async def rmmod(self, name: str) -> None:
        """Unload a module (`Modules.unload`)."""
        await self.modules.unload(name)

    async def create_pmem_devdax(self, namespace: str = "namespace0.0", align: int = 4096) -> None:
        """Put a namespace of persistent memory into mode devdax (`dax.pmem.create_pmem_devdax`)."""
        await create_pmem_devdax(self.buses.get("nd"), namespace, align)

    def pin(self, nid: int) -> int | None:
        """Pin a page of a node (`MemoryHotplug.pin`)."""
        return self.memory_hotplug.pin(nid)

    def unpin(self, index: int | None = None) -> None:
        """Release pins (`MemoryHotplug.unpin`)."""
        self.memory_hotplug.unpin(index)

    def kernel_allocations(self, nid: int) -> int | None:
        """Allocate kernel memory on a node (`MemoryHotplug.kernel_allocations`)."""
        return self.memory_hotplug.kernel_allocations(nid)

    def _check_kmem_protected(self, index: int, where: str) -> None:
        check_kmem_protected(self.dax_bus, index, self.setup.block_size, where)


class HasKernel(Protocol):
    """An object of a kernel."""

    @property
    def kernel(self) -> Core:
        """The services of its kernel."""
        ...


def kernel_of(kobj: HasKernel) -> Kernel:
    """The whole kernel of an object, for the file systems that show it.

    The model itself does not use this: each of its parts gets the parts that it uses.
    """
    kernel = kobj.kernel
    assert isinstance(kernel, Kernel)
    return kernel
