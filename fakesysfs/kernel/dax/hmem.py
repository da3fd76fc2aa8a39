"""dax_hmem: soft-reserved memory as dax regions.

drivers/dax/hmem/hmem.c.

hmem_platform makes a platform device hmem.N for each range that firmware reserved for special use.
The driver hmem makes a dynamic region and its first device on each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fakesysfs.kernel.dax.bus import DaxBus, DaxRegion, create_dev_dax, unregister_dev_dax
from fakesysfs.kernel.device import Bus, Device
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.platform import PlatformDevice, PlatformDriver
from fakesysfs.kernel.setup import DaxSetup


async def offer_region(region: DaxRegion, size: int, setup: DaxSetup, *, memmap_on_memory: bool) -> None:
    """Register a region and its first device, of `size` bytes.

    Unbinding the region's device removes both.
    """
    device = region.device
    region.driver_at_start = setup.driver
    core = device.kernel
    region.serial = core.new_serial()
    core.register(region)
    device.driver_data = region
    core.changed("region", device)

    async def remove() -> None:
        for dev_dax in reversed(region.devices()):
            await unregister_dev_dax(dev_dax)
        device.driver_data = None
        core.unregister(region)
        region.serial = 0
        core.changed("region", device)

    device.release_actions.append(remove)
    # During the probe the region's device counts as bound, so the attributes of the region work.
    await create_dev_dax(region, size, memmap_on_memory=memmap_on_memory, online_type=setup.online_type)


class HmemPlatform(PlatformDriver):
    """The driver hmem_platform: one platform device for each soft-reserved range."""

    name = "hmem_platform"

    def __init__(self, bus: Bus, module: str, reserved: Sequence[DaxSetup], memregions: Ida, nodes: Nodes) -> None:
        super().__init__(bus, module)
        self._reserved = reserved
        self._memregions = memregions
        self._nodes = nodes

    async def probe(self, device: Device) -> None:
        """Make hmem.0, hmem.1, ..., numbered together with the other memory regions.

        hmem_register_device.
        """
        bus, memregions = self.bus, self._memregions
        made: list[tuple[int, PlatformDevice]] = []

        async def remove() -> None:
            for number, hmem in reversed(made):
                await bus.remove(hmem)
                memregions.release(number)

        device.release_actions.append(remove)
        for reserved in self._reserved:
            number = memregions.take()
            numa_node = self._nodes.nearest_online(reserved.target_node)
            hmem = PlatformDevice(bus, f"hmem.{number}", "hmem", device, numa_node=numa_node)
            hmem.dax_setup = reserved
            made.append((number, hmem))
            await bus.add(hmem)


class Hmem(PlatformDriver):
    """The driver hmem.

    `region_idle` returns the module's parameter, which may change at any time.
    """

    name = "hmem"

    def __init__(self, bus: Bus, module: str, dax_bus: DaxBus, region_idle: Callable[[], bool]) -> None:
        super().__init__(bus, module)
        self._dax_bus = dax_bus
        self._region_idle = region_idle

    async def probe(self, device: Device) -> None:
        """Make the region (dax_hmem_probe).

        With region_idle its device is empty and not meant for kmem.
        """
        assert isinstance(device, PlatformDevice)
        reserved = device.dax_setup
        assert reserved is not None
        number = int(device.name.partition(".")[2])
        idle = self._region_idle()
        region = DaxRegion(
            self._dax_bus,
            device,
            number,
            reserved.range,
            reserved.target_node,
            reserved.align,
            static=False,
            kmem=not idle,
        )
        size = 0 if idle else reserved.device_size or reserved.range.length
        await offer_region(region, size, reserved, memmap_on_memory=False)
