"""Persistent memory as a static dax region.

drivers/nvdimm/{e820,region_devs,pmem,pfn_devs}.c, drivers/dax/pmem.c.

nd_e820 makes a region of the nd bus, with one namespace, for each "Persistent Memory (legacy)"
range of the firmware. The first bytes of a namespace say its mode. nd_pmem binds to a *raw*
namespace (a block device). For a *devdax* namespace it makes a device; dax_pmem binds to that
device and makes a static dax region with one dax device. `create_pmem_devdax` does the same as
`ndctl create-namespace -f -e namespaceX.0 -m devdax -M mem` (recording 7.2/09-pmem-static-region,
i=4).

Differs knowingly: of the nd bus only the devices above a dax region exist. There are no seeds (btt,
pfn, the next dax), no control device, no block device and no labels. So ndctl does not work here.
"""

from __future__ import annotations

import errno
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.dax.bus import ALIGNMENTS, COMPAT_ALIGN, PAGE_SIZE, DaxBus, DaxRegion
from fakesysfs.kernel.dax.hmem import offer_region
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.module import Module
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.platform import PlatformDriver
from fakesysfs.kernel.printk import WARNING
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.resource import IomemResource, Resource
from fakesysfs.kernel.setup import DaxSetup
from fakesysfs.ops.errors import KernelError

INFO_BLOCK_RESERVE = 8192
"""Bytes of the info block at the start of a namespace (SZ_8K, nd_pfn_init)."""

ND_DEVICE_TYPES = {"nd_bus": 0, "nvdimm": 1, "nd_pmem": 2, "nd_namespace_io": 4, "nd_dax": 7}
"""Numbers of the device types in a modalias (include/uapi/linux/ndctl.h)."""


@dataclass(slots=True)
class PmemMedia:
    """The content of a range of persistent memory. `align` is None while the namespace is raw."""

    setup: DaxSetup
    align: int | None = None

    @property
    def data(self) -> Range:
        """The aligned range behind the info block (nd_pfn_init with PFN_MODE_RAM)."""
        whole, align = self.setup.range, max(self.align or PAGE_SIZE, COMPAT_ALIGN)
        start = -(-(whole.start + INFO_BLOCK_RESERVE) // align) * align
        return Range(start, (whole.end + 1) // (self.align or PAGE_SIZE) * (self.align or PAGE_SIZE) - 1)

    @property
    def uuid(self) -> str:
        """The uuid of the namespace, the same at each start."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"pmem {self.setup.range.start:#x}"))


class NvdimmBus(Bus):
    """The nd bus, with the nodes that its devices are near."""

    def __init__(self, core: Core, nodes: Nodes) -> None:
        super().__init__(core, "nd")
        self.nodes = nodes


class NdDevice(Device):
    """A device of the nd bus.

    `media` is None for the device of the bus itself; `number` is the region's.
    """

    def __init__(
        self, name: str, devtype: str, bus: NvdimmBus, parent: Device, media: PmemMedia | None = None, number: int = 0
    ) -> None:
        super().__init__(bus.kernel, name, bus, parent)
        self.nd_bus = bus
        self.devtype = devtype
        self.media = media
        self.number = number
        self.numa_node = None if media is None else bus.nodes.nearest_online(media.setup.target_node)

    @property
    def modalias(self) -> str:
        """Drivers and modules match the type."""
        return f"nd:t{ND_DEVICE_TYPES[self.devtype]}"

    def environment(self) -> list[str]:
        """DEVTYPE. The device of the bus itself has none."""
        return [] if self.devtype == "nd_bus" else [f"DEVTYPE={self.devtype}"]

    @property
    def span(self) -> Range:
        """The memory of the device."""
        assert self.media is not None
        return self.media.data if self.devtype == "nd_dax" else self.media.setup.range

    @property
    def namespace(self) -> NdDevice:
        """The namespace of the device's region."""
        region = self if self.devtype == "nd_pmem" else self.parent
        assert region is not None
        found = region.children[f"namespace{self.number}.0"]
        assert isinstance(found, NdDevice)
        return found


class NdDriver(Driver):
    """A driver on the nd bus. It matches by type."""

    devtype = ""

    def matches(self, device: Device) -> bool:
        """By type (nvdimm_bus_match)."""
        return isinstance(device, NdDevice) and device.devtype == self.devtype


class NdBusDriver(NdDriver):
    """The driver nd_bus of module libnvdimm, for the devices ndbusX."""

    name = "nd_bus"
    devtype = "nd_bus"
    suppress_bind_attrs = True

    async def probe(self, device: Device) -> None:
        """Do nothing: the bus has no commands."""


class NvdimmDriver(NdDriver):
    """The driver nvdimm of module libnvdimm, for DIMMs. The firmware's legacy ranges have none."""

    name = "nvdimm"
    devtype = "nvdimm"

    async def probe(self, device: Device) -> None:
        """Take a DIMM; its labels are not read here (nvdimm_probe)."""


class NdRegionDriver(NdDriver):
    """The driver nd_region of module libnvdimm. It makes the namespaces of a region."""

    name = "nd_region"
    devtype = "nd_pmem"

    async def probe(self, device: Device) -> None:
        """Make the namespace (nd_region_probe)."""
        assert isinstance(device, NdDevice)
        bus = device.nd_bus
        namespace = NdDevice(f"namespace{device.number}.0", "nd_namespace_io", bus, device, device.media, device.number)
        device.release_actions.append(lambda: remove_children(device))
        await bus.add(namespace)


async def remove_children(device: Device) -> None:
    """Remove the devices below a device, the last one first (child_unregister)."""
    for child in reversed(list(device.children.values())):
        if child.bus is not None:
            await child.bus.remove(child)


class E820Pmem(PlatformDriver):
    """The driver e820_pmem of module nd_e820. It makes regions of the firmware's legacy ranges."""

    name = "e820_pmem"

    def __init__(self, bus: Bus, module: str, nd_bus: NvdimmBus, media: Sequence[PmemMedia], memregions: Ida) -> None:
        super().__init__(bus, module)
        self._nd_bus = nd_bus
        self._media = media
        self._memregions = memregions

    async def probe(self, device: Device) -> None:
        """Make ndbus0 and a region for each range (e820_pmem_probe)."""
        bus, memregions = self._nd_bus, self._memregions
        taken: list[int] = []

        async def remove() -> None:
            await remove_children(device)
            for number in taken:
                memregions.release(number)

        device.release_actions.append(remove)
        ndbus = NdDevice("ndbus0", "nd_bus", bus, device)
        ndbus.release_actions.append(lambda: remove_children(ndbus))
        await bus.add(ndbus)
        for media in self._media:
            taken.append(memregions.take())
            await bus.add(NdDevice(f"region{taken[-1]}", "nd_pmem", bus, ndbus, media, taken[-1]))


class NdPmem(NdDriver):
    """The driver nd_pmem. It binds to raw namespaces, and makes the devices of the others."""

    name = "nd_pmem"
    devtype = "nd_namespace_io"

    def __init__(self, bus: Bus, module: str, iomem: IomemResource, dax_minors: Ida) -> None:
        super().__init__(bus, module)
        self._iomem = iomem
        self._dax_minors = dax_minors

    async def probe(self, device: Device) -> None:
        """Bind to a raw namespace, or make the device of a devdax one.

        nd_pmem_probe, nd_dax_probe. The block device of a raw namespace has a dax device behind it,
        which takes a minor number as those of the dax bus do (alloc_dax).

        Raises KernelError: ENXIO for a devdax namespace, EBUSY if another resource is in the range.
        """
        assert isinstance(device, NdDevice)
        assert device.media is not None
        span = device.span
        if device.media.align is not None:
            if f"dax{device.number}.0" in self.bus.devices:
                raise KernelError(errno.ENXIO, f"{device.name} is claimed", "nvdimm_namespace_common_probe")
            await self.bus.add(_nd_dax(device))
            raise KernelError(errno.ENXIO, f"{device.name} is in mode devdax", "nd_pmem_probe")
        self.kernel.printk(WARNING, f"nd_pmem {device.name}: unable to guarantee persistence of writes")
        resource = self._iomem.request_region(span.start, span.end, device.name)
        if resource is None:
            raise KernelError(errno.EBUSY, "the range overlaps another resource", "pmem_attach_disk")
        _release_with(device, self._iomem, resource)
        minor = self._dax_minors.take()

        async def kill_dax() -> None:
            self._dax_minors.release(minor)

        device.release_actions.append(kill_dax)


def _nd_dax(namespace: NdDevice) -> NdDevice:
    """The device that claims a devdax namespace (nd_dax_alloc)."""
    assert namespace.parent is not None
    name = f"dax{namespace.number}.0"
    return NdDevice(name, "nd_dax", namespace.nd_bus, namespace.parent, namespace.media, namespace.number)


def _release_with(device: Device, iomem: IomemResource, resource: Resource) -> None:
    """Release a resource when the device is unbound (devm_request_mem_region)."""

    async def release() -> None:
        iomem.release(resource)

    device.release_actions.append(release)


class DaxPmem(NdDriver):
    """The driver dax_pmem. It makes a static dax region of a devdax namespace."""

    name = "dax_pmem"
    devtype = "nd_dax"

    def __init__(self, bus: Bus, module: str, dax_bus: DaxBus, iomem: IomemResource) -> None:
        super().__init__(bus, module)
        self._dax_bus = dax_bus
        self._iomem = iomem

    async def probe(self, device: Device) -> None:
        """Reserve the info block, and make the region and its device (dax_pmem_probe).

        Raises KernelError EBUSY.
        """
        assert isinstance(device, NdDevice)
        assert device.media is not None
        whole, data = device.media.setup.range, device.span
        resource = self._iomem.request_region(whole.start, data.start - 1, device.namespace.name)
        if resource is None:
            self.kernel.printk(WARNING, f"dax_pmem {device.name}: could not reserve metadata")
            raise KernelError(errno.EBUSY, "the range overlaps another resource", "__dax_pmem_probe")
        _release_with(device, self._iomem, resource)
        setup = device.media.setup
        region = DaxRegion(
            self._dax_bus,
            device,
            device.number,
            data,
            setup.target_node,
            device.media.align or PAGE_SIZE,
            static=True,
            kmem=False,
        )
        await offer_region(region, data.length, setup, memmap_on_memory=False)


class Libnvdimm:
    """The module libnvdimm. The nd bus comes and goes with it."""

    def __init__(self, core: Core, buses: dict[str, Bus], nodes: Nodes) -> None:
        self._core = core
        self._buses = buses
        self._nodes = nodes

    @property
    def bus(self) -> NvdimmBus:
        """The nd bus, while the module is loaded."""
        bus = self._buses["nd"]
        assert isinstance(bus, NvdimmBus)
        return bus

    def drivers(self, module: Module) -> list[Driver]:
        """Register the bus (libnvdimm_init); returns the drivers of its inner devices."""
        bus = self._buses["nd"] = NvdimmBus(self._core, self._nodes)
        self._core.changed("bus", bus)
        self._core.uevents.send("add", f"/bus/{bus.name}", "bus")
        return [NdBusDriver(bus, module.name), NvdimmDriver(bus, module.name), NdRegionDriver(bus, module.name)]

    async def exit(self, module: Module) -> None:
        """Unregister the drivers and the bus (libnvdimm_exit).

        The bus is empty, because the modules that need it are gone.
        """
        for driver in reversed(list(module.drivers)):
            await driver.bus.unregister_driver(driver)
        module.drivers.clear()
        bus = self._buses.pop("nd")
        self._core.changed("bus", bus)
        self._core.uevents.send("remove", f"/bus/{bus.name}", "bus")
        self._core.unregister(bus)


async def create_pmem_devdax(bus: Bus | None, name: str, align: int) -> None:
    """Put a namespace of the nd bus into mode devdax, its data aligned to `align` bytes.

    Raises KernelError: ENXIO for an unknown namespace (perhaps nd_e820 is not loaded), EINVAL for a
    bad alignment, EBUSY if the namespace is already in mode devdax.
    """
    where = "create_pmem_devdax"
    namespace = None if bus is None else bus.devices.get(name)
    if bus is None or not isinstance(namespace, NdDevice) or namespace.devtype != "nd_namespace_io":
        raise KernelError(errno.ENXIO, f"unknown namespace {name!r}", where)
    media = namespace.media
    assert media is not None
    if align not in ALIGNMENTS:
        raise KernelError(errno.EINVAL, f"{align} is not one of {', '.join(map(str, ALIGNMENTS))}", where)
    if media.align is not None:
        raise KernelError(errno.EBUSY, f"{name} is already in mode devdax", where)
    if PmemMedia(media.setup, align).data.length <= 0:
        raise KernelError(errno.EINVAL, f"{name} is too small for an alignment of {align}", where)
    nd_pmem = bus.drivers.get("nd_pmem")
    if nd_pmem is not None:
        # The tool disables the namespace, enables it to write to it, and disables it again.
        await bus.detach(namespace)
        await bus.attach(nd_pmem, namespace)
        await bus.detach(namespace)
    media.align = align
    await bus.add(_nd_dax(namespace))
