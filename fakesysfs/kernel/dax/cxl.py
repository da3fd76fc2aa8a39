"""dax_cxl: CXL regions as dax regions.

drivers/dax/cxl.c.

The driver takes the device dax_regionN of a CXL region and makes a dynamic region and its first device of it.
"""

from __future__ import annotations

from fakesysfs.kernel.cxl.core.region_dax import CxlDaxRegion
from fakesysfs.kernel.dax.bus import DaxBus, DaxRegion
from fakesysfs.kernel.dax.hmem import offer_region
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.platform import CxlDevice


class CxlDaxRegionDriver(Driver):
    """The driver cxl_dax_region of module dax_cxl."""

    name = "cxl_dax_region"
    suppress_bind_attrs = True
    probe_async = True

    def __init__(self, bus: Bus, module: str, dax_bus: DaxBus) -> None:
        super().__init__(bus, module)
        self._dax_bus = dax_bus

    def matches(self, device: Device) -> bool:
        """By type."""
        return isinstance(device, CxlDaxRegion) or (isinstance(device, CxlDevice) and device.devtype == self.name)

    async def probe(self, device: Device) -> None:
        """Make the region (cxl_dax_region_probe)."""
        assert isinstance(device, CxlDevice | CxlDaxRegion)
        setup = device.dax_setup
        assert setup is not None
        region = DaxRegion(
            self._dax_bus,
            device,
            device.number,
            setup.range,
            setup.target_node,
            setup.align,
            static=False,
            kmem=True,
        )
        await offer_region(region, setup.device_size or setup.range.length, setup, memmap_on_memory=True)
