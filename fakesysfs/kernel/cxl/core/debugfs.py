"""The directories of memory devices and regions in debugfs: drivers/cxl/mem.c, drivers/cxl/core/region.c.

Poison can be injected and cleared, which nothing here notices.
"""

from __future__ import annotations

import errno

from fakesysfs.kernel.cxl.core.hdm import CxlEndpointDecoder
from fakesysfs.kernel.cxl.core.memdev import CxlMemdev
from fakesysfs.kernel.cxl.core.port import CxlBus, CxlBusDevice
from fakesysfs.kernel.cxl.core.region import CxlRegion
from fakesysfs.kernel.kstrtox import kstrtoull
from fakesysfs.kernel.printk import ERR, WARNING
from fakesysfs.ops.errors import KernelError

CACHE_LINE = 64
"""Poison has a whole cache line."""


class CxlDebugfsDir:
    """A directory cxl/NAME in debugfs. It exists while its device is bound."""

    def __init__(self, device: CxlBusDevice) -> None:
        self.kernel = device.kernel
        self.device = device
        self.name = device.name
        self.serial = 0
        self.index = 0
        assert isinstance(device.bus, CxlBus)
        self._bus = device.bus

    def add(self) -> None:
        """Make it. It goes with the driver of its device."""
        self.serial = self.kernel.new_serial()
        self.kernel.register(self)
        self._bus.debugfs[self.name] = self
        self.kernel.changed("cxl_debugfs", self, self.name)

        async def remove() -> None:
            del self._bus.debugfs[self.name]
            self.kernel.changed("cxl_debugfs", self, self.name)
            self.kernel.unregister(self)
            self.serial = 0

        self.device.release_actions.append(remove)

    @property
    def dpamem(self) -> list[str]:
        """The partitions of a memory device and what decoders use of them (cxl_dpa_debug)."""
        memdev = self.device
        if not isinstance(memdev, CxlMemdev):
            return []
        lines: list[str] = []
        for partition in memdev.partitions:
            lines.append(f"{partition.start:08x}-{partition.start + partition.size - 1:08x} : {partition.mode}")
            lines += [
                f"  {piece.start:08x}-{piece.end - 1:08x} : {piece.decoder.name}" for piece in partition.allocations
            ]
        return lines

    def poison_store(self, buffer: bytes, action: str) -> None:
        """A write to inject_poison or clear_poison (`action`): an address of the device, or an offset in the region.

        Raises KernelError: EINVAL unless it is the first byte of a cache line of the device or region, EBUSY while the
        device erases itself.
        """
        address = kstrtoull(buffer, 0, "simple_attr_write")
        device = self.device
        if isinstance(device, CxlRegion):
            memdev, address = self._dpa_of(device, address)
        else:
            assert isinstance(device, CxlMemdev)
            memdev = device
        size = sum(partition.size for partition in memdev.partitions)
        if address % CACHE_LINE or address >= size:
            why = f"{address:#x} is not the start of a cache line below {size:#x}"
            raise KernelError(errno.EINVAL, why, "cxl_validate_poison_dpa")
        memdev.refuse_while_sanitizing()
        region = _region_at(memdev, address)
        if region is not None and self.kernel.first_time(f"cxl_{action}_poison_locked"):
            assert memdev.parent is not None
            text = f"cxl_pci {memdev.parent.name}: poison {action} dpa:{address:#x} region: {region.name}"
            self.kernel.printk(WARNING, text)

    def _dpa_of(self, region: CxlRegion, offset: int) -> tuple[CxlMemdev, int]:
        """The memory device behind a byte of a region, and its address there. Raises KernelError EINVAL."""
        if offset >= region.size:
            text = f"Offset {offset:#x} exceeds region size 0x{region.size:016x}"
            self.kernel.printk(ERR, f"cxl_region {region.name}: {text}")
            raise KernelError(errno.EINVAL, text, "validate_region_offset")
        chunk, rest = divmod(offset, region.interleave_granularity)
        row, position = divmod(chunk, region.interleave_ways)
        target = region.targets[position]
        assert target is not None
        assert target.dpa is not None
        return target.memdev, target.dpa.start + row * region.interleave_granularity + rest


def _region_at(memdev: CxlMemdev, address: int) -> CxlBusDevice | None:
    """The region that an address of a memory device belongs to (cxl_dpa_to_region)."""
    endpoint = memdev.endpoint
    if endpoint is None or not endpoint.decoders_committed:
        return None
    for decoder in endpoint.decoders:
        dpa = decoder.dpa if isinstance(decoder, CxlEndpointDecoder) else None
        if dpa is not None and dpa.start <= address < dpa.end:
            return decoder.region
    return None
