"""The directories of memory devices and regions in debugfs: drivers/cxl/mem.c, drivers/cxl/core/region.c.

Poison can be injected and cleared, which nothing here notices.
"""

from __future__ import annotations

import errno

from fakesysfs.kernel.cxl.core.memdev import CxlMemdev
from fakesysfs.kernel.cxl.core.port import CxlBus, CxlBusDevice
from fakesysfs.kernel.cxl.core.region import CxlRegion
from fakesysfs.kernel.kstrtox import kstrtoull
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
        self._directories = device.bus.debugfs

    def add(self) -> None:
        """Make it. It goes with the driver of its device."""
        self.serial = self.kernel.new_serial()
        self.kernel.register(self)
        self._directories[self.name] = self
        self.kernel.changed("cxl_debugfs", self, self.name)

        async def remove() -> None:
            del self._directories[self.name]
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

    def poison_store(self, buffer: bytes) -> None:
        """A write to inject_poison or clear_poison: an address of the device, or an offset in the region.

        Raises KernelError: EINVAL unless it is the first byte of a cache line of the device or region, EBUSY while the
        device erases itself.
        """
        address = kstrtoull(buffer, 0, "simple_attr_write")
        device = self.device
        size = 0
        if isinstance(device, CxlMemdev):
            size = sum(partition.size for partition in device.partitions)
        elif isinstance(device, CxlRegion):
            size = device.size
        if address % CACHE_LINE or address >= size:
            why = f"{address:#x} is not the start of a cache line below {size:#x}"
            raise KernelError(errno.EINVAL, why, "cxl_validate_poison_dpa")
        if isinstance(device, CxlMemdev):
            device.refuse_while_sanitizing()
