"""Devices in ACPI's name space, as far as others link to them: drivers/acpi/device_sysfs.c.

Differs knowingly: only the devices of CXL exist there, with their names.
"""

from __future__ import annotations

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.device import Device

ROOT = "LNXSYSTM:00"


class AcpiDevice(Device):
    """A device in ACPI's name space. `hid` is its hardware's name, `uid` tells apart those of one name."""

    def __init__(
        self, core: Core, name: str, parent: Device | None, uid: str | None = None, physical: str = ""
    ) -> None:
        super().__init__(core, name, None, parent, "" if parent else "/devices")
        self.hid = name.partition(":")[0]
        self.uid = uid
        self.physical = physical
        """The path of the device that the kernel has for it, below /sys, or empty."""


def add_acpi_devices(core: Core, devices: list[tuple[str, str | None, str]]) -> AcpiDevice:
    """Make the name space with some devices (name, uid, physical node), and return its root."""
    root = _added(core, AcpiDevice(core, ROOT, None))
    bus = _added(core, AcpiDevice(core, "LNXSYBUS:00", root))
    for name, uid, physical in devices:
        _added(core, AcpiDevice(core, name, bus, uid, physical))
    return root


def _added(core: Core, device: AcpiDevice) -> AcpiDevice:
    device.serial = core.new_serial()
    core.register(device)
    if device.parent is not None:
        device.parent.children[device.name] = device
    return device
