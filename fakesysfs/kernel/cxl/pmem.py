"""The drivers of module cxl_pmem: drivers/cxl/pmem.c.

Differs knowingly: of the nd bus below the bridge only ndbusN and nmemN exist. A region of mode pmem gets its
device pmem_regionN, but no region of the nd bus and no namespace.
"""

from __future__ import annotations

from fakesysfs.kernel.cxl.core.memdev import CxlMemdev
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


class Nvdimm(NdDevice):
    """The device nmemN below ndbusN: the nd bus's view of pmemN (drivers/nvdimm/dimm_devs.c)."""

    def __init__(self, number: int, bus: NvdimmBus, parent: Device, pmem: CxlNvdimm, memdev: CxlMemdev) -> None:
        super().__init__(f"nmem{number}", "nvdimm", bus, parent, number=number)
        self.major = NMEM_MAJOR
        self.pmem = pmem
        self.memdev = memdev

    def environment(self) -> list[str]:
        """The numbers and the name of the character device, and DEVTYPE."""
        return [f"MAJOR={self.major}", f"MINOR={self.number}", f"DEVNAME={self.name}", *super().environment()]

    @property
    def available_slots(self) -> int:
        """How many labels fit: the area has two index blocks, and one label stays free (nd_label_nfree)."""
        labels = self.memdev.setup.lsa // LABEL_SIZE
        index = -(-(INDEX_SIZE + -(-labels // 8)) // INDEX_ALIGN) * INDEX_ALIGN
        return max(labels - 2 * index // LABEL_SIZE - 1, 0)


LABEL_SIZE, INDEX_SIZE, INDEX_ALIGN = 256, 72, 256
"""Bytes of a label and of an index block without its bitmap (drivers/nvdimm/label.h)."""
NMEM_MAJOR = 242
"""The kernel hands it out, as those of other character devices."""


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

    def __init__(self, bus: Bus, module: str, nd_bus: NvdimmBus) -> None:
        super().__init__(bus, module)
        self._nd_bus = nd_bus

    async def probe(self, device: Device) -> None:
        """Take a device's persistent memory. It cannot count dirty shutdowns (cxl_nvdimm_arm_dirty_shutdown)."""
        assert isinstance(device, CxlNvdimm)
        self.kernel.printk(WARNING, f"cxl_nvdimm {device.name}: GPF: could not set dirty shutdown state")
        bus = self._nd_bus
        ndbus = next((other for other in bus.devices.values() if isinstance(other.parent, CxlNvdimmBridge)), None)
        memdev = device.parent
        if ndbus is not None and isinstance(memdev, CxlMemdev):
            number = next(number for number in range(len(bus.devices) + 1) if f"nmem{number}" not in bus.devices)
            nvdimm = Nvdimm(number, bus, ndbus, device, memdev)
            device.release_actions.append(lambda: bus.remove(nvdimm))
            await bus.add(nvdimm)


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
