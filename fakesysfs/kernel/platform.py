"""Platform devices, and the CXL devices that the module cxl_test makes above a dax region.

drivers/base/platform.c.

Differs knowingly: of the CXL hierarchy of cxl_test only the devices on the path to a region exist.
They have no attributes of their own.
"""

from __future__ import annotations

import errno

from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.kstrtox import c_string
from fakesysfs.kernel.setup import DaxSetup
from fakesysfs.ops.errors import KernelError

PAGE_SIZE = 4096
PLATFORM = "/devices/platform"


class PlatformDevice(Device):
    """A platform device.

    `numa_node` None shows no node; `dax_setup` is the memory for a dax region.
    """

    def __init__(
        self, bus: Bus, name: str, kind: str, parent: Device | None = None, *, numa_node: int | None = None
    ) -> None:
        super().__init__(bus.kernel, name, bus, parent, "" if parent else PLATFORM)
        self.kind = kind
        self.dax_setup: DaxSetup | None = None
        self.numa_node = numa_node
        self.driver_override: str | None = None

    @property
    def modalias(self) -> str:
        """The name that drivers match."""
        return f"platform:{self.kind}"

    def driver_override_store(self, buffer: bytes) -> None:
        """A write to driver_override: a name up to the first newline; an empty one clears it.

        Raises KernelError EINVAL for 4,095 bytes or more: with its newline the name would not fit
        the page that a read gives (drivers/base/dd.c, __device_set_driver_override).
        """
        if len(buffer) >= PAGE_SIZE - 1:
            raise KernelError(
                errno.EINVAL,
                f"{len(buffer)} bytes are too long; write at most {PAGE_SIZE - 2}",
                "__device_set_driver_override",
            )
        name = c_string(buffer).partition(b"\n")[0].decode("utf-8", "backslashreplace")
        self.driver_override = name or None


class PlatformDriver(Driver):
    """A driver on the platform bus. It takes the devices of its name."""

    def matches(self, device: Device) -> bool:
        """By `driver_override` if it is set, otherwise by name (platform_match)."""
        if not isinstance(device, PlatformDevice):
            return False
        return (device.driver_override or device.kind) == self.name


class CxlDevice(Device):
    """A device on the CXL bus that cxl_test makes.

    `devtype` is the DEVTYPE of its uevents, `number` the number of its region.
    """

    def __init__(
        self, bus: Bus, name: str, devtype: str, parent: Device, *, number: int = 0, numa_node: int | None = None
    ) -> None:
        super().__init__(bus.kernel, name, bus, parent)
        self.devtype = devtype
        self.number = number
        self.numa_node = numa_node
        self.dax_setup: DaxSetup | None = None

    def environment(self) -> list[str]:
        """DEVTYPE."""
        return [f"DEVTYPE={self.devtype}"]

    @property
    def modalias(self) -> str | None:
        """Drivers match dax regions by type 7 (CXL_DEVICE_DAX_REGION)."""
        return "cxl:t7" if self.devtype == "cxl_dax_region" else None
