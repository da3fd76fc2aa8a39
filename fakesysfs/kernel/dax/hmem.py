"""dax_hmem and dax_cxl: soft-reserved memory and CXL regions as dax regions (drivers/dax/hmem/hmem.c, cxl.c).

hmem_platform makes a platform device hmem.N for each range that firmware reserved for special use; the driver hmem
makes a dynamic region and its first device of each. dax_cxl does the same for the dax_region of a CXL region.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fakesysfs.kernel.dax.bus import DaxRegion, create_dev_dax, unregister_dev_dax
from fakesysfs.kernel.device import Device, Driver
from fakesysfs.kernel.platform import CxlDevice, PlatformDevice, PlatformDriver

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import DaxSetup, Kernel

PMD_SIZE = 2 << 20


async def offer_region(region: DaxRegion, size: int, setup: DaxSetup, *, memmap_on_memory: bool) -> None:
    """Make a region and its first device, of `size` bytes; both go with the driver of the device that offers it."""
    device = region.device
    region.driver_at_start = setup.driver
    kernel = device.kernel
    region.serial = kernel.new_serial()
    kernel.register(region)
    device.driver_data = region
    kernel.changed("region", device)

    async def take_back() -> None:
        for dev_dax in reversed(region.devices()):
            await unregister_dev_dax(dev_dax)
        device.driver_data = None
        kernel.unregister(region)
        region.serial = 0
        kernel.changed("region", device)

    device.release_actions.append(take_back)
    # A probing driver's device counts as bound: the region's attributes work already.
    await create_dev_dax(region, size, memmap_on_memory=memmap_on_memory, online_type=setup.online_type)


class HmemPlatform(PlatformDriver):
    """The driver hmem_platform: one platform device per soft-reserved range."""

    name = "hmem_platform"

    async def probe(self, device: Device) -> None:
        """Make hmem.0, hmem.1, ..., numbered as memory regions of all kinds are (hmem_register_device)."""
        kernel = self.kernel
        made: list[tuple[int, PlatformDevice]] = []

        async def take_back() -> None:
            for number, hmem in reversed(made):
                await kernel.platform_bus.remove(hmem)
                kernel.memregions.release(number)

        device.release_actions.append(take_back)
        for reserved in kernel.setup.soft_reserved:
            number = kernel.memregions.take()
            hmem = PlatformDevice(kernel, f"hmem.{number}", "hmem", device, target_node=reserved.target_node)
            hmem.dax_setup = reserved
            made.append((number, hmem))
            await kernel.platform_bus.add(hmem)


class Hmem(PlatformDriver):
    """The driver hmem."""

    name = "hmem"

    def __init__(self, kernel: Kernel, module: str, *, region_idle: Callable[[], bool]) -> None:
        super().__init__(kernel, kernel.platform_bus, module)
        self.region_idle = region_idle
        """The module's parameter, which may change at any time."""

    async def probe(self, device: Device) -> None:
        """Make the region; with region_idle its device is empty and not meant for kmem (dax_hmem_probe)."""
        assert isinstance(device, PlatformDevice)
        reserved = device.dax_setup
        assert reserved is not None
        number = int(device.name.partition(".")[2])
        region_idle = self.region_idle()
        region = DaxRegion(
            device, number, reserved.range, reserved.target_node, reserved.align, static=False, kmem=not region_idle
        )
        size = 0 if region_idle else reserved.device_size or reserved.range.length
        await offer_region(region, size, reserved, memmap_on_memory=False)


class CxlDaxRegion(Driver):
    """The driver cxl_dax_region of module dax_cxl."""

    name = "cxl_dax_region"

    def matches(self, device: Device) -> bool:
        """By type."""
        return isinstance(device, CxlDevice) and device.devtype == self.name

    async def probe(self, device: Device) -> None:
        """Make the region (cxl_dax_region_probe)."""
        assert isinstance(device, CxlDevice)
        setup = device.dax_setup
        assert setup is not None
        region = DaxRegion(device, device.number, setup.range, setup.target_node, setup.align, static=False, kmem=True)
        await offer_region(region, setup.device_size or setup.range.length, setup, memmap_on_memory=True)
