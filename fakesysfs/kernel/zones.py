"""Zones by their spans (include/linux/mmzone.h, mm/memory_hotplug.c).

The zone of a block depends on the *spans* of the node's zones, not on their pages. A span is one
interval from the first page of a zone to the last, with the holes in between. It shrinks only at
its edges.

Units: page frame numbers of 4 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PAGE_SHIFT = 12
DMA_END_PFN = 0x1000
"""End of ZONE_DMA: 16 MiB (MAX_DMA_PFN)."""
DMA32_END_PFN = 0x100000
"""End of ZONE_DMA32: 4 GiB (MAX_DMA32_PFN)."""

DMA, DMA32, NORMAL, MOVABLE, DEVICE = "DMA", "DMA32", "Normal", "Movable", "Device"
KERNEL_ZONES = (DMA, DMA32, NORMAL)


@dataclass(slots=True, eq=False)
class Zone:
    """One zone of one node.

    The span is `start` to `end` (exclusive); both are 0 for an empty zone.
    """

    nid: int
    name: str
    start: int = 0
    end: int = 0
    present: int = 0
    """Pages online in the zone. A zone with pages is populated."""
    present_early: int = 0
    """Pages of boot memory among them."""
    managed_kb: int = 0
    """Memory of the page allocator in kB: the zone's part of MemTotal."""

    def intersects(self, start: int, end: int) -> bool:
        """Does the span meet start..end, exclusive (zone_intersects)?"""
        return self.start < self.end and start < self.end and end > self.start

    def grow(self, start: int, end: int) -> None:
        """Extend the span over start..end (resize_zone_range)."""
        if self.start == self.end:
            self.start, self.end = start, end
        else:
            self.start, self.end = min(self.start, start), max(self.end, end)


class NodeZones:
    """The four zones of one node that hold memory of the page allocator, and ZONE_DEVICE."""

    __slots__ = ("_all", "_zones", "device", "nid")

    def __init__(self, nid: int) -> None:
        self.nid = nid
        self._zones = {name: Zone(nid, name) for name in (*KERNEL_ZONES, MOVABLE)}
        self._all = tuple(self._zones.values())
        self.device = Zone(nid, DEVICE)
        """ZONE_DEVICE. Its span grows with each page map, and never shrinks (remove_pfn_range_from_zone)."""

    def __getitem__(self, name: str) -> Zone:
        return self._zones[name]

    def __iter__(self) -> Iterator[Zone]:
        return iter(self._zones.values())

    @property
    def movable(self) -> Zone:
        """ZONE_MOVABLE."""
        return self._zones[MOVABLE]

    def present(self) -> int:
        """Pages online on the node."""
        present = 0
        for zone in self._all:
            present += zone.present
        return present

    def managed_kb(self) -> int:
        """MemTotal of the node, in kB."""
        return sum(zone.managed_kb for zone in self._zones.values())

    def present_normal(self) -> int:
        """Pages online in kernel zones."""
        return sum(self._zones[name].present for name in KERNEL_ZONES)

    def early_kernel_pages(self) -> int:
        """Pages of boot memory online in kernel zones."""
        return sum(self._zones[name].present_early for name in KERNEL_ZONES)

    def default_kernel_zone(self, start: int, end: int) -> Zone:
        """The first of DMA and DMA32 whose span meets the range, otherwise Normal.

        default_kernel_zone_for_pfn.
        """
        for name in (DMA, DMA32):
            if self._zones[name].intersects(start, end):
                return self._zones[name]
        return self._zones[NORMAL]

    def default_zone(self, start: int, end: int, *, movable_node: bool) -> Zone:
        """The zone for `online` under the policy contig-zones (default_zone_for_pfn).

        The zone that alone spans the range; otherwise the kernel zone, or Movable with the boot
        option `movable_node`.
        """
        kernel = self.default_kernel_zone(start, end)
        in_kernel, in_movable = kernel.intersects(start, end), self.movable.intersects(start, end)
        if in_kernel != in_movable:
            return kernel if in_kernel else self.movable
        return self.movable if movable_node else kernel

    def edges(self, start: int, end: int) -> list[int]:
        """The pages strictly inside start..end where a span begins or ends."""
        return sorted({edge for zone in self._zones.values() for edge in (zone.start, zone.end) if start < edge < end})


def zone_name_at_boot(pfn: int) -> str:
    """The zone of a page of boot memory, by its address (x86-64)."""
    if pfn < DMA_END_PFN:
        return DMA
    return DMA32 if pfn < DMA32_END_PFN else NORMAL
