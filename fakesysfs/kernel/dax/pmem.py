"""Persistent memory as a static dax region (drivers/nvdimm/{e820,region_devs,pmem,pfn_devs}.c, drivers/dax/pmem.c).

nd_e820 offers each "Persistent Memory (legacy)" range of the firmware as a region of the nd bus with one namespace.
What a namespace is for stands in its first bytes: *raw* memory is nd_pmem's (a block device); *devdax* makes a device
that dax_pmem takes, which makes a static dax region of it, with one dax device. `create_pmem_devdax` does what
`ndctl create-namespace -f -e namespaceX.0 -m devdax -M mem` does (recording 7.2/09-pmem-static-region, i=4).

Differs knowingly: of the nd bus there is only what leads to a dax region. There are no seeds (btt, pfn, the next dax),
no control device, no block device and no labels, so ndctl does not work here.
"""

from __future__ import annotations

import errno
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fakesysfs.kernel.dax.bus import COMPAT_ALIGN, PAGE_SIZE, DaxRegion
from fakesysfs.kernel.dax.hmem import offer_region
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.memory_hotplug import Range
from fakesysfs.kernel.platform import PlatformDriver
from fakesysfs.kernel.printk import WARNING
from fakesysfs.ops.errors import KernelError

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import DaxSetup, Kernel
    from fakesysfs.kernel.module import Module
    from fakesysfs.kernel.resource import Resource

INFO_BLOCK_RESERVE = 8192
"""Bytes at the start of a namespace that describe it (SZ_8K, nd_pfn_init)."""

ND_DEVICE_TYPES = {"nd_bus": 0, "nd_pmem": 2, "nd_namespace_io": 4, "nd_dax": 7}
"""Type of a device of the nd bus, as in its modalias (include/uapi/linux/ndctl.h)."""


@dataclass(slots=True)
class PmemMedia:
    """What is on a range of persistent memory, whoever has it: `align` is None while the namespace is raw."""

    setup: DaxSetup
    align: int | None = None

    @property
    def data(self) -> Range:
        """The range behind the info block, as the alignment cuts it (nd_pfn_init with PFN_MODE_RAM)."""
        whole, align = self.setup.range, max(self.align or PAGE_SIZE, COMPAT_ALIGN)
        start = -(-(whole.start + INFO_BLOCK_RESERVE) // align) * align
        return Range(start, (whole.end + 1) // (self.align or PAGE_SIZE) * (self.align or PAGE_SIZE) - 1)

    @property
    def uuid(self) -> str:
        """The namespace's: the same at each start."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"pmem {self.setup.range.start:#x}"))


class NdDevice(Device):
    """A device of the nd bus. `media` is None for the bus's own device; `number` the region's."""

    def __init__(
        self, name: str, devtype: str, bus: Bus, parent: Device, media: PmemMedia | None = None, number: int = 0
    ) -> None:
        super().__init__(bus.kernel, name, bus, parent)
        self.devtype = devtype
        self.media = media
        self.number = number
        self.numa_node = None if media is None else bus.kernel.nodes.nearest_online(media.setup.target_node)

    @property
    def modalias(self) -> str:
        """What drivers and modules are matched by."""
        return f"nd:t{ND_DEVICE_TYPES[self.devtype]}"

    def environment(self) -> list[str]:
        """DEVTYPE; the bus's own device has no type."""
        return [] if self.devtype == "nd_bus" else [f"DEVTYPE={self.devtype}"]

    @property
    def span(self) -> Range:
        """The memory that the device stands for."""
        assert self.media is not None
        return self.media.data if self.devtype == "nd_dax" else self.media.setup.range

    @property
    def namespace(self) -> NdDevice:
        """The namespace of a region, or beside a device of it."""
        region = self if self.devtype == "nd_pmem" else self.parent
        assert region is not None
        found = region.children[f"namespace{self.number}.0"]
        assert isinstance(found, NdDevice)
        return found


class NdDriver(Driver):
    """A driver on the nd bus: matches by type."""

    devtype = ""

    def __init__(self, kernel: Kernel, module: str) -> None:
        super().__init__(kernel, kernel.buses["nd"], module)

    def matches(self, device: Device) -> bool:
        """By type (nvdimm_bus_match)."""
        return isinstance(device, NdDevice) and device.devtype == self.devtype


class NdBus(NdDriver):
    """The driver nd_bus of module libnvdimm: a device ndbusX is worth having one."""

    name = "nd_bus"
    devtype = "nd_bus"

    async def probe(self, device: Device) -> None:
        """Nothing to do for a bus without commands."""


class NdRegion(NdDriver):
    """The driver nd_region of module libnvdimm: a region has namespaces."""

    name = "nd_region"
    devtype = "nd_pmem"

    async def probe(self, device: Device) -> None:
        """Make the namespace (nd_region_probe)."""
        assert isinstance(device, NdDevice)
        bus = self.bus
        namespace = NdDevice(f"namespace{device.number}.0", "nd_namespace_io", bus, device, device.media, device.number)
        device.release_actions.append(lambda: remove_children(device))
        await bus.add(namespace)


async def remove_children(device: Device) -> None:
    """Take away the devices that a driver made below its own, the last first (child_unregister)."""
    for child in reversed(list(device.children.values())):
        if child.bus is not None:
            await child.bus.remove(child)


class E820Pmem(PlatformDriver):
    """The driver e820_pmem of module nd_e820: firmware's legacy ranges as regions."""

    name = "e820_pmem"

    def __init__(self, kernel: Kernel, module: str) -> None:
        super().__init__(kernel, kernel.platform_bus, module)

    async def probe(self, device: Device) -> None:
        """Make ndbus0 and a region of each range (e820_pmem_probe)."""
        kernel, bus = self.kernel, self.kernel.buses["nd"]
        taken: list[int] = []

        async def take_back() -> None:
            await remove_children(device)
            for number in taken:
                kernel.memregions.release(number)

        device.release_actions.append(take_back)
        ndbus = NdDevice("ndbus0", "nd_bus", bus, device)
        ndbus.release_actions.append(lambda: remove_children(ndbus))
        await bus.add(ndbus)
        for media in kernel.pmem:
            taken.append(kernel.memregions.take())
            await bus.add(NdDevice(f"region{taken[-1]}", "nd_pmem", bus, ndbus, media, taken[-1]))


class NdPmem(NdDriver):
    """The driver nd_pmem: has raw namespaces, and finds out what the others are."""

    name = "nd_pmem"
    devtype = "nd_namespace_io"

    async def probe(self, device: Device) -> None:
        """Take a raw namespace; of a devdax one make its device (nd_pmem_probe, nd_dax_probe).

        Raises KernelError: ENXIO where another driver is meant, EBUSY where another resource is in the range.
        """
        assert isinstance(device, NdDevice)
        assert device.media is not None
        kernel, span = self.kernel, device.span
        if device.media.align is not None:
            if f"dax{device.number}.0" in self.bus.devices:
                raise KernelError(errno.ENXIO, f"{device.name} is claimed", "nvdimm_namespace_common_probe")
            await self.bus.add(_nd_dax(device))
            raise KernelError(errno.ENXIO, f"{device.name} is in mode devdax", "nd_pmem_probe")
        kernel.printk(WARNING, f"nd_pmem {device.name}: unable to guarantee persistence of writes")
        resource = kernel.iomem.request_region(span.start, span.end, device.name)
        if resource is None:
            raise KernelError(errno.EBUSY, "another resource is in the range", "pmem_attach_disk")
        _release_with(device, resource)


def _nd_dax(namespace: NdDevice) -> NdDevice:
    """The device that claims a devdax namespace (nd_dax_alloc)."""
    assert namespace.parent is not None
    assert namespace.bus is not None
    name = f"dax{namespace.number}.0"
    return NdDevice(name, "nd_dax", namespace.bus, namespace.parent, namespace.media, namespace.number)


def _release_with(device: Device, resource: Resource) -> None:
    """Give a resource back when the device's driver goes (devm_request_mem_region)."""

    async def release() -> None:
        device.kernel.iomem.release(resource)

    device.release_actions.append(release)


class DaxPmem(NdDriver):
    """The driver dax_pmem: a devdax namespace is a static dax region."""

    name = "dax_pmem"
    devtype = "nd_dax"

    async def probe(self, device: Device) -> None:
        """Reserve the info block, make the region and its device (dax_pmem_probe). Raises KernelError EBUSY."""
        assert isinstance(device, NdDevice)
        assert device.media is not None
        kernel, whole, data = self.kernel, device.media.setup.range, device.span
        resource = kernel.iomem.request_region(whole.start, data.start - 1, device.namespace.name)
        if resource is None:
            kernel.printk(WARNING, f"dax_pmem {device.name}: could not reserve metadata")
            raise KernelError(errno.EBUSY, "another resource is in the range", "__dax_pmem_probe")
        _release_with(device, resource)
        setup = device.media.setup
        region = DaxRegion(
            device, device.number, data, setup.target_node, device.media.align or PAGE_SIZE, static=True, kmem=False
        )
        await offer_region(region, data.length, setup, memmap_on_memory=False)


def libnvdimm_drivers(module: Module) -> list[Driver]:
    """The nd bus comes with module libnvdimm, and with it the drivers of its inner devices (libnvdimm_init)."""
    kernel = module.kernel
    kernel.add_bus("nd")
    return [NdBus(kernel, module.name), NdRegion(kernel, module.name)]


async def libnvdimm_exit(module: Module) -> None:
    """The bus goes with the module; nothing can be on it any more, because the modules that need it are gone."""
    kernel = module.kernel
    for driver in reversed(list(module.drivers)):
        await driver.bus.unregister_driver(driver)
    module.drivers.clear()
    kernel.remove_bus("nd")


async def create_pmem_devdax(kernel: Kernel, name: str, align: int) -> None:
    """Put a namespace into mode devdax, its data aligned to `align` bytes.

    Raises KernelError: ENXIO if there is no such namespace (nd_e820 is not loaded, or nothing is there), EINVAL for a
    bad alignment, EBUSY if it is devdax already.
    """
    where = "create_pmem_devdax"
    bus = kernel.buses.get("nd")
    namespace = None if bus is None else bus.devices.get(name)
    if bus is None or not isinstance(namespace, NdDevice) or namespace.devtype != "nd_namespace_io":
        raise KernelError(errno.ENXIO, f"there is no namespace {name!r}", where)
    media = namespace.media
    assert media is not None
    if align not in {PAGE_SIZE, 2 << 20, 1 << 30}:
        raise KernelError(errno.EINVAL, f"{align} is none of 4096, 2097152 and 1073741824", where)
    if media.align is not None:
        raise KernelError(errno.EBUSY, f"{name} is in mode devdax already", where)
    if PmemMedia(media.setup, align).data.length <= 0:
        raise KernelError(errno.EINVAL, f"{name} is too small for an alignment of {align}", where)
    nd_pmem = bus.drivers.get("nd_pmem")
    if nd_pmem is not None:
        # The tool disables the namespace, enables it once more to write to it, and disables it again.
        await bus.detach(namespace)
        await bus.attach(nd_pmem, namespace)
        await bus.detach(namespace)
    media.align = align
    await bus.add(_nd_dax(namespace))
