"""The drivers of module cxl_pmem: drivers/cxl/pmem.c.

Differs knowingly: of the nd bus below the bridge only ndbusN exists. A region of mode pmem gets its
device pmem_regionN, but no namespace.
"""

from __future__ import annotations

from fakesysfs.kernel.cxl.core.port import (
    CXL_DEVICE_NVDIMM,
    CXL_DEVICE_NVDIMM_BRIDGE,
    CXL_DEVICE_PMEM_REGION,
    CxlBusDevice,
    CxlDriver,
)
from fakesysfs.kernel.cxl.core.region import CxlRegion
from fakesysfs.kernel.dax.pmem import NdDevice, NvdimmBus
from fakesysfs.kernel.device import Bus, Device
from fakesysfs.kernel.printk import WARNING
from fakesysfs.kernel.resource import IomemResource


class CxlNvdimmBridge(CxlBusDevice):
    """The device nvdimm-bridge0."""

    devtype = "cxl_nvdimm_bridge"
    type_number = CXL_DEVICE_NVDIMM_BRIDGE


class CxlNvdimm(CxlBusDevice):
    """The device pmemN: the persistent memory of memN."""

    devtype = "cxl_nvdimm"
    type_number = CXL_DEVICE_NVDIMM


class CxlPmemRegion(CxlBusDevice):
    """The device pmem_regionN below a bound region of mode pmem."""

    devtype = "cxl_pmem_region"
    type_number = CXL_DEVICE_PMEM_REGION


class _CxlPmemDriver(CxlDriver):
    suppress_bind_attrs = True

    async def probe(self, device: Device) -> None:
        """Take the device."""


class CxlNvdimmBridgeDriver(_CxlPmemDriver):
    """The driver cxl_nvdimm_bridge: registers the bridge with the nd bus."""

    name = "cxl_nvdimm_bridge"
    type_number = CXL_DEVICE_NVDIMM_BRIDGE

    def __init__(self, bus: Bus, module: str, nd_bus: NvdimmBus) -> None:
        super().__init__(bus, module)
        self._nd_bus = nd_bus

    async def probe(self, device: Device) -> None:
        """Make ndbusN (cxl_nvdimm_bridge_probe)."""
        bus = self._nd_bus
        number = next(number for number in range(len(bus.devices) + 1) if f"ndbus{number}" not in bus.devices)
        ndbus = NdDevice(f"ndbus{number}", "nd_bus", bus, device)
        device.release_actions.append(lambda: bus.remove(ndbus))
        await bus.add(ndbus)


class CxlNvdimmDriver(_CxlPmemDriver):
    """The driver cxl_nvdimm."""

    name = "cxl_nvdimm"
    type_number = CXL_DEVICE_NVDIMM

    async def probe(self, device: Device) -> None:
        """Take a device's persistent memory. It cannot count dirty shutdowns (cxl_nvdimm_arm_dirty_shutdown)."""
        self.kernel.printk(WARNING, f"cxl_nvdimm {device.name}: GPF: could not set dirty shutdown state")


class CxlPmemRegionDriver(_CxlPmemDriver):
    """The driver cxl_pmem_region."""

    name = "cxl_pmem_region"
    type_number = CXL_DEVICE_PMEM_REGION

    def __init__(self, bus: Bus, module: str, iomem: IomemResource) -> None:
        super().__init__(bus, module)
        self._iomem = iomem

    async def probe(self, device: Device) -> None:
        """Note the region's addresses as persistent memory (cxl_pmem_region_probe)."""
        region = device.parent
        assert isinstance(region, CxlRegion)
        span = region.hpa_range
        resource = self._iomem.insert(span.start, span.end, "Persistent Memory")

        async def remove() -> None:
            self._iomem.remove(resource)

        device.release_actions.append(remove)
