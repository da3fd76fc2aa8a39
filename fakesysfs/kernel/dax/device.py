"""device_dax and fsdev_dax: dax devices as character devices (drivers/dax/device.c).

Differs knowingly: a program cannot open the character device. Binding only reserves the ranges.
"""

from __future__ import annotations

import errno

from fakesysfs.kernel.dax.bus import DaxBus, DaxDriver, DevDax
from fakesysfs.kernel.kernel_pages import VMEMMAP_BYTES_PER_PAGE, KernelPages
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.printk import WARNING
from fakesysfs.kernel.resource import IomemResource, Resource
from fakesysfs.kernel.zones import PAGE_SHIFT
from fakesysfs.ops.errors import KernelError

VMEMMAP_START = 0xFFD4000000000000
"""Where memory maps are, with five levels of page tables and without KASLR (pgtable_64_types.h)."""


class DeviceDax(DaxDriver):
    """The driver device_dax."""

    name = "device_dax"
    failed_probe_leaves_page_map = True
    """It stores the page map in the device before it reserves the ranges."""
    has_compound_pages = True
    """Its memory map has compound pages of the device's alignment (vmemmap_shift)."""

    def __init__(self, bus: DaxBus, module: str, iomem: IomemResource, nodes: Nodes, kernel_pages: KernelPages) -> None:
        super().__init__(bus, module)
        self._iomem = iomem
        self._nodes = nodes
        self._kernel_pages = kernel_pages

    async def probe_dax(self, dev_dax: DevDax) -> None:
        """Reserve every range (dev_dax_probe).

        Raises KernelError: EINVAL if a failed probe left its page map, EBUSY if a range is taken.
        """
        printk = self.kernel.printk
        if not dev_dax.region.static:
            if dev_dax.pgmap:
                printk(WARNING, f"{self.name} {dev_dax.name}: dynamic-dax with pre-populated page map")
                raise KernelError(errno.EINVAL, "an earlier failed probe left its page map", "dev_dax_probe")
            dev_dax.pgmap = self.failed_probe_leaves_page_map
        held: list[Resource] = []

        async def release() -> None:
            self._kernel_pages.free_memory_map(dev_dax.serial)
            for resource in held:
                self._iomem.release(resource)

        dev_dax.release_actions.append(release)
        for number, mapping in enumerate(dev_dax.mappings):
            span = mapping.range
            resource = self._iomem.request_region(span.start, span.end, dev_dax.name)
            if resource is None:
                what = f"mapping{number}: {span.start:#x}-{span.end:#x}"
                printk(WARNING, f"{self.name} {dev_dax.name}: {what} could not reserve range")
                raise KernelError(errno.EBUSY, "the range overlaps another resource", "dev_dax_probe")
            held.append(resource)
        if not dev_dax.region.static:
            dev_dax.pgmap = True
            self._map(dev_dax)

    def _map(self, dev_dax: DevDax) -> None:
        """Put the pages of the ranges into ZONE_DEVICE of the device's node (memremap_pages).

        Those of a static region are not: its page map also covers what lies before the data.
        """
        zones = self._nodes[_page_map_nid(dev_dax)].zones
        self._kernel_pages.take_memory_map(dev_dax.serial, dev_dax.numa_node)
        for mapping in dev_dax.mappings:
            zones.device.grow(mapping.range.start >> PAGE_SHIFT, (mapping.range.end + 1) >> PAGE_SHIFT)
        if self.has_compound_pages and dev_dax.align > 1 << PAGE_SHIFT and not zones.early_kernel_pages():
            self._verify_memory_map(dev_dax)

    def _verify_memory_map(self, dev_dax: DevDax) -> None:
        """Log that a memory map is not on the device's node (vmemmap_verify).

        It knows the nodes of boot memory only. A map of compound pages is verified, because it is made page by page.
        """
        if self.kernel.first_time("vmemmap_verify"):
            start = VMEMMAP_START + (dev_dax.mappings[0].range.start >> PAGE_SHIFT) * VMEMMAP_BYTES_PER_PAGE
            span = f"{start:x}-{start + (1 << PAGE_SHIFT) - 1:x}"
            self.kernel.printk(WARNING, f"[{span}] potential offnode page_structs")

    async def remove(self, device: object) -> None:
        """Remove the page map."""
        assert isinstance(device, DevDax)
        device.pgmap = False


def _page_map_nid(dev_dax: DevDax) -> int:
    """The node of a device's page map (memremap_pages).

    Of a device without a node (-1) it is the node of the processor that binds it; here the first one does.
    """
    return max(dev_dax.numa_node or 0, 0)


def page_map_node(bus: DaxBus, pfn: int) -> int | None:
    """The node of a page frame in the page map of a device that is bound to device_dax, else None."""
    address = pfn << PAGE_SHIFT
    for device in bus.devices.values():
        if not isinstance(device, DevDax) or not isinstance(device.driver, DeviceDax):
            continue
        if any(mapping.range.start <= address <= mapping.range.end for mapping in device.mappings):
            return _page_map_nid(device)
    return None


class FsdevDax(DeviceDax):
    """The driver fsdev_dax. It takes only devices whose names were written to new_id."""

    name = "fsdev_dax"
    failed_probe_leaves_page_map = False
    has_compound_pages = False

    def matches_kind(self, dev_dax: DevDax) -> bool:
        """It matches no kind."""
        del dev_dax
        return False
