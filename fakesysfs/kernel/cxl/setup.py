"""The CXL hardware of a machine, in the kernel's terms: what ACPI's tables and PCI configuration space say."""

from __future__ import annotations

from dataclasses import dataclass, field

from fakesysfs.kernel.range import Range

DECODERS = 4
"""How many HDM decoders each port and each memory device has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CxlWindow:
    """A CXL fixed memory window (CFMWS). `targets` are the numbers of its bridges, in the order of interleaving."""

    range: Range
    targets: tuple[int, ...]
    granularity: int = 256
    node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CxlDeviceSetup:
    """A memory device and the ports on the way to it.

    `path` has PCI addresses: a root port, for each switch its upstream and downstream port, the device. `ports` has
    the port numbers of the root port and of the downstream ports. Sizes are in bytes.
    """

    bridge: int
    path: tuple[str, ...]
    ports: tuple[int, ...]
    ram: int
    pmem: int = 0
    lsa: int = 0
    serial: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CxlSetup:
    """Windows, host bridges by their number (_UID, which is the number of their PCI bus, too), devices.

    Bridges are in the order of ACPI's name space. Devices are in the order in which their endpoints are made. `memdevs`
    has the PCI addresses of mem0, mem1, ...
    """

    windows: tuple[CxlWindow, ...]
    bridges: tuple[int, ...]
    registers: tuple[int, ...]
    """The addresses of the bridges' component registers, or empty where /proc/iomem shows none."""
    devices: tuple[CxlDeviceSetup, ...]
    memdevs: tuple[str, ...]
    decoding: frozenset[int] = frozenset()
    """Bridges with one root port that have decoders all the same."""

    def has_decoders(self, bridge: int) -> bool:
        """Whether a bridge has registers for decoders. Without them all of its addresses go to its only root port."""
        return bridge in self.decoding or self.root_ports(bridge) > 1

    def root_ports(self, bridge: int) -> int:
        """How many root ports of a bridge lead to a device."""
        return len({device.path[0] for device in self.devices if device.bridge == bridge})


@dataclass(slots=True, eq=False)
class HdmRegisters:
    """What the registers of one HDM decoder keep when no driver is bound: committed last by a region."""

    ways: int = 1
    granularity: int = 256
    targets: list[int] = field(default_factory=lambda: [0])
