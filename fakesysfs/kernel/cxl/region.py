"""The driver cxl_region, the last part of drivers/cxl/core/region.c."""

from __future__ import annotations

import errno

from fakesysfs.kernel.cxl.core.debugfs import CxlDebugfsDir
from fakesysfs.kernel.cxl.core.port import CXL_DEVICE_REGION, CxlDriver
from fakesysfs.kernel.cxl.core.region import CxlConfig, CxlRegion
from fakesysfs.kernel.cxl.core.region_dax import devm_cxl_add_dax_region
from fakesysfs.kernel.cxl.pmem import CxlPmemRegion
from fakesysfs.kernel.device import Device
from fakesysfs.kernel.resource import Resource
from fakesysfs.ops.errors import KernelError


class CxlRegionDriver(CxlDriver):
    """The driver cxl_region."""

    name = "cxl_region"
    type_number = CXL_DEVICE_REGION

    async def probe(self, device: Device) -> None:
        """Offer a committed region to the dax bus, or to the nd bus (cxl_region_probe).

        Memory that an earlier dax device of the region left online is in use already, and offered no more. Raises
        KernelError ENXIO before the commit.
        """
        assert isinstance(device, CxlRegion)
        bus = self.bus
        if device.state != CxlConfig.COMMIT:
            raise KernelError(errno.ENXIO, f"{device.name} is not committed", "cxl_region_can_probe")
        CxlDebugfsDir(device).add()
        if device.mode == "pmem":
            region = CxlPmemRegion(bus, f"pmem_region{device.id}", device)
            device.release_actions.append(lambda: bus.remove(region))
            await bus.add(region)
        elif device.resource is None or not _has_system_ram(device.resource):
            await devm_cxl_add_dax_region(device)


def _has_system_ram(resource: Resource) -> bool:
    return any(child.name.startswith("System RAM") or _has_system_ram(child) for child in resource.children)
