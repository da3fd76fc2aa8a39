"""The module cxl_test of the kernel's own tests: CXL regions on a machine without CXL hardware.

cxl_test (tools/testing/cxl/test/cxl.c) registers a platform device cxl_acpi.0 with regions below it;
unloading it removes them. Only a machine that names cxl_test has the module. Its regions come and go
with the module if the machine loads it at boot. Otherwise they exist before any module, as if
cxl_test had been loaded earlier, and loading it adds nothing.

Differs knowingly: the regions of cxl_test are those of the machine, without its mocked memory
devices. The modules cxl_mock and cxl_mock_mem, which it needs, do not exist.
"""

from __future__ import annotations

from fakesysfs.kernel.device import Bus
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.module import Module
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.platform import CxlDevice, PlatformDevice
from fakesysfs.kernel.setup import Setup

CXL_ACPI = "cxl_acpi.0"
CXL_TEST = "cxl_test"


class CxlTest:
    """The regions of cxl_test and the devices above them."""

    def __init__(self, setup: Setup, platform_bus: Bus, cxl_bus: Bus, memregions: Ida, nodes: Nodes) -> None:
        self._setups = setup.cxl_test or ()
        self._stay = all(name != CXL_TEST for name, _ in setup.modules)
        self._platform_bus = platform_bus
        self._cxl_bus = cxl_bus
        self._memregions = memregions
        self._nodes = nodes

    async def boot(self) -> None:
        """Register the regions if they stay whatever is loaded."""
        if self._stay:
            await self._register()

    async def module_init(self, _module: Module) -> None:
        """The init function of cxl_test."""
        if not self._stay:
            await self._register()

    async def module_exit(self, _module: Module) -> None:
        """The exit function of cxl_test: removes its regions and their devices."""
        acpi = self._platform_bus.devices.get(CXL_ACPI)
        if acpi is None or self._stay:
            return
        regions = [device for device in self._cxl_bus.devices.values() if isinstance(device, CxlDevice)]
        await self._platform_bus.remove(acpi)
        for device in regions:
            if device.dax_setup is not None:
                self._memregions.release(device.number)

    async def _register(self) -> None:
        if not self._setups:
            return
        cxl = self._cxl_bus
        acpi = PlatformDevice(self._platform_bus, CXL_ACPI, "ACPI0017")
        await self._platform_bus.add(acpi)
        root = CxlDevice(cxl, "root0", "cxl_port", acpi)
        await cxl.add(root)
        for setup in self._setups:
            number = self._memregions.take()
            decoder = CxlDevice(cxl, f"decoder{3 + number}.0", "cxl_decoder_root", root)
            await cxl.add(decoder)
            region = CxlDevice(cxl, f"region{number}", "cxl_region", decoder)
            await cxl.add(region)
            numa_node = self._nodes.nearest_online(setup.target_node)
            dax_region = CxlDevice(
                cxl, f"dax_region{number}", "cxl_dax_region", region, number=number, numa_node=numa_node
            )
            dax_region.dax_setup = setup
            await cxl.add(dax_region)
