"""Platform devices that firmware tables make (drivers/base/platform.c) and the CXL bus's few that lead to a dax region.

Differs knowingly: of the CXL hierarchy only the devices on the path to the region exist, without attributes of their
own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fakesysfs.kernel.device import Device, Driver

if TYPE_CHECKING:
    from fakesysfs.kernel.device import Bus
    from fakesysfs.kernel.kernel import DaxSetup, Kernel

PLATFORM = "/devices/platform"


class PlatformDevice(Device):
    """A platform device. `numa_node` is None where it shows none; `dax_setup` is the memory for a dax region."""

    def __init__(
        self, kernel: Kernel, name: str, kind: str, parent: Device | None = None, *, target_node: int | None = None
    ) -> None:
        super().__init__(kernel, name, kernel.platform_bus, parent, "" if parent else PLATFORM)
        self.kind = kind
        self.dax_setup: DaxSetup | None = None
        self.numa_node = None if target_node is None else kernel.nodes.nearest_online(target_node)
        self.driver_override: str | None = None

    @property
    def modalias(self) -> str:
        """The name that drivers match."""
        return f"platform:{self.kind}"


class PlatformDriver(Driver):
    """A driver on the platform bus: takes the devices of its name."""

    def matches(self, device: Device) -> bool:
        """By `driver_override` where that is set, else by name (platform_match)."""
        if not isinstance(device, PlatformDevice):
            return False
        return (device.driver_override or device.kind) == self.name


class CxlDevice(Device):
    """A device on the CXL bus: `devtype` as in its uevent, `number` the region's."""

    def __init__(self, kernel: Kernel, name: str, devtype: str, bus: Bus, parent: Device, *, number: int = 0) -> None:
        super().__init__(kernel, name, bus, parent)
        self.devtype = devtype
        self.number = number
        self.dax_setup: DaxSetup | None = None

    def environment(self) -> list[str]:
        """DEVTYPE."""
        return [f"DEVTYPE={self.devtype}"]

    @property
    def modalias(self) -> str | None:
        """dax regions are matched by type 7 (CXL_DEVICE_DAX_REGION)."""
        return "cxl:t7" if self.devtype == "cxl_dax_region" else None
