"""The device that hands a region of mode ram to the dax bus: drivers/cxl/core/region_dax.c."""

from __future__ import annotations

from fakesysfs.kernel.cxl.core.port import CXL_DEVICE_DAX_REGION, CxlBusDevice
from fakesysfs.kernel.cxl.core.region import CxlRegion
from fakesysfs.kernel.setup import DaxSetup


class CxlDaxRegion(CxlBusDevice):
    """The device dax_regionN."""

    devtype = "cxl_dax_region"
    type_number = CXL_DEVICE_DAX_REGION

    def __init__(self, region: CxlRegion) -> None:
        assert region.bus is not None
        super().__init__(region.bus, f"dax_region{region.id}", region)
        self.number = region.id
        self.dax_setup = region.dax_setup or DaxSetup(
            range=region.hpa_range, target_node=region.root_decoder.window.node
        )


async def devm_cxl_add_dax_region(region: CxlRegion) -> None:
    """Register it. It goes when the region loses its driver."""
    bus = region.bus
    assert bus is not None
    device = CxlDaxRegion(region)
    region.release_actions.append(lambda: bus.remove(device))
    await bus.add(device)
