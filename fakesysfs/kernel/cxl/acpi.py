"""The driver cxl_acpi: windows, host bridges, the root of the ports: drivers/cxl/acpi.c."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fakesysfs.kernel.acpi import AcpiDevice, add_acpi_devices
from fakesysfs.kernel.core import Core
from fakesysfs.kernel.cxl.core.port import CxlBus, CxlPort, CxlRootDecoder, CxlRootPort
from fakesysfs.kernel.cxl.core.region import CxlRegion, CxlRegions
from fakesysfs.kernel.cxl.pci import PciTopology
from fakesysfs.kernel.cxl.pmem import CxlNvdimmBridge
from fakesysfs.kernel.cxl.port import register_dport, unregister_port
from fakesysfs.kernel.cxl.setup import CxlSetup
from fakesysfs.kernel.device import Bus, Device
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.module import Module
from fakesysfs.kernel.platform import PlatformDevice, PlatformDriver
from fakesysfs.kernel.printk import INFO
from fakesysfs.kernel.resource import IomemResource
from fakesysfs.kernel.setup import CxlRegionSetup

ACPI0017 = "ACPI0017:00"


class AcpiCxlDevice(PlatformDevice):
    """The platform device of ACPI's CXL root."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus, ACPI0017, "ACPI0017")
        self.was_bound = False
        """waiting_for_supplier goes with the first binding."""
        self.wakeup: WakeupSource | None = None

    @property
    def modalias(self) -> str:
        """ACPI's name of the device."""
        return "acpi:ACPI0017:"


class WakeupSource(Device):
    """The device wakeupN below the directory `wakeup` of a device that can wake the machine."""

    glue = "/wakeup"

    def __init__(self, device: Device, number: int) -> None:
        super().__init__(device.kernel, f"wakeup{number}", None, device)

    def uevent(self, action: str, *extra: str, modalias: bool = True) -> None:
        """Send a uevent of the class wakeup."""
        del modalias
        if self.kernel.booted:
            self.kernel.uevents.send(action, self.devpath, "wakeup", extra)


WAKEUP_NUMBER = 11
"""Wakeup sources of other devices come before it. The number says nothing."""


class CxlAcpi(PlatformDriver):
    """The driver cxl_acpi."""

    name = "cxl_acpi"

    def __init__(
        self,
        bus: Bus,
        module: str,
        cxl_bus: CxlBus,
        setup: CxlSetup,
        topology: PciTopology,
        regions: CxlRegions,
        iomem: IomemResource,
        memregions: Ida,
    ) -> None:
        super().__init__(bus, module)
        self._cxl_bus = cxl_bus
        self._setup = setup
        self._topology = topology
        self._regions = regions
        self._iomem = iomem
        self._memregions = memregions

    def matches(self, device: Device) -> bool:
        """By ACPI's name, unless driver_override names another driver."""
        return isinstance(device, AcpiCxlDevice) and device.driver_override in {None, self.name}

    async def probe(self, device: Device) -> None:
        """Make the root, a decoder for each window, and a port for each host bridge (cxl_acpi_probe)."""
        assert isinstance(device, AcpiCxlDevice)
        bus, setup = self._cxl_bus, self._setup
        self._add_wakeup(device)
        root = CxlRootPort(bus, "root", device, f"/sys{device.devpath}", None, None)
        device.release_actions.append(lambda: self._remove_wakeup(device))
        device.release_actions.append(lambda: unregister_port(root))
        # By the time the root goes, the memory devices have noticed that their endpoints went (recorded).
        device.release_actions.append(self.kernel.flush_scheduled)
        await bus.add(root)
        for number in setup.bridges:
            register_dport(root, self._topology.bridge_path(number), number)
        for number, window in enumerate(setup.windows):
            resource = self._iomem.insert(window.range.start, window.range.end, f"CXL Window {number}")
            decoder = CxlRootDecoder(root, number, window, resource, self._memregions.take())
            root.decoders.append(decoder)
            device.release_actions.append(partial(self._remove_window, decoder))
            await bus.add(decoder)
        for number in setup.bridges:
            dport = root.dports[self._topology.bridge_path(number)]
            self.kernel.printk(INFO, f" pci0000:{number:02x}: host supports CXL")
            port = CxlPort(bus, "port", root, dport.path, dport, self._topology.bridge_registers(number))
            port.register_span = self._topology.register_span(number)
            device.release_actions.append(partial(unregister_port, port))
            await bus.add(port)
        bridge = CxlNvdimmBridge(bus, "nvdimm-bridge0", root)
        device.release_actions.append(lambda: bus.remove(bridge))
        await bus.add(bridge)
        device.was_bound = True
        self.kernel.schedule(self._rescan())

    def _add_wakeup(self, device: AcpiCxlDevice) -> None:
        wakeup = device.wakeup = WakeupSource(device, WAKEUP_NUMBER)
        wakeup.serial = self.kernel.new_serial()
        self.kernel.register(wakeup)
        self.kernel.changed("cxl_wakeup", device, wakeup.name)
        wakeup.uevent("add")

    async def _remove_wakeup(self, device: AcpiCxlDevice) -> None:
        wakeup = device.wakeup
        assert wakeup is not None
        device.wakeup = None
        wakeup.uevent("remove")
        self.kernel.unregister(wakeup)
        wakeup.serial = 0
        self.kernel.changed("cxl_wakeup", device, wakeup.name)

    async def _remove_window(self, decoder: CxlRootDecoder) -> None:
        regions = [child for child in decoder.children.values() if isinstance(child, CxlRegion)]
        for region in sorted(regions, key=lambda region: region.id):  # kill_regions
            await self._regions.unregister_region(region)
        await self._cxl_bus.remove(decoder)
        self._memregions.release(decoder.region_id)
        self._iomem.remove(decoder.resource)

    async def _rescan(self) -> None:
        """Let drivers take the memory devices that are there already (cxl_bus_rescan)."""
        bus = self._cxl_bus
        for device in list(bus.devices.values()):
            if device.driver is None and device.alive:
                await bus.device_attach(device)


class CxlHardware:
    """The CXL hardware of a machine: its devices are there before any driver."""

    def __init__(
        self,
        core: Core,
        setup: CxlSetup,
        made_by_firmware: Sequence[CxlRegionSetup],
        platform_bus: Bus,
        pci_bus: Bus,
        cxl_bus: CxlBus,
        iomem: IomemResource,
        memregions: Ida,
    ) -> None:
        self._core = core
        self.setup = setup
        self.topology = PciTopology(pci_bus, setup)
        self.regions = CxlRegions(cxl_bus, iomem, memregions, made_by_firmware)
        self.acpi_root: AcpiDevice | None = None
        self.raw_allow_all = False
        """The setting mbox/raw_allow_all in debugfs."""
        self._platform_bus = platform_bus
        self._cxl_bus = cxl_bus
        self._iomem = iomem
        self._memregions = memregions

    async def boot(self) -> None:
        """Register the devices of ACPI and PCI."""
        await self.topology.boot()
        await self._platform_bus.add(AcpiCxlDevice(self._platform_bus))
        bridges = [
            (f"ACPI0016:{position:02x}", f"{number}", f"/devices/pci0000:{number:02x}")
            for position, number in enumerate(self.setup.bridges)
        ]
        self.acpi_root = add_acpi_devices(self._core, [*bridges, (ACPI0017, None, f"/devices/platform/{ACPI0017}")])

    def acpi_driver(self, module: Module) -> CxlAcpi:
        """The driver cxl_acpi."""
        return CxlAcpi(
            self._platform_bus,
            module.name,
            self._cxl_bus,
            self.setup,
            self.topology,
            self.regions,
            self._iomem,
            self._memregions,
        )
