"""The CXL bus, ports and their decoders: drivers/cxl/core/port.c.

A port decodes addresses: the root (ACPI's windows), a host bridge, a switch, a memory device (an endpoint). Its
decoders map a range of addresses to downstream ports.

The kernel changes all of this with cxl_rwsem.region held. Nothing here sleeps while the kernel holds it, so no other
operation can look in between.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.cxl.setup import CxlWindow, HdmRegisters
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.kstrtox import word_of
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.resource import Resource
from fakesysfs.ops.errors import KernelError

(
    CXL_DEVICE_DECODER, CXL_DEVICE_NVDIMM_BRIDGE, CXL_DEVICE_NVDIMM, CXL_DEVICE_PORT, CXL_DEVICE_ROOT,
    CXL_DEVICE_MEMORY_EXPANDER, CXL_DEVICE_REGION, CXL_DEVICE_PMEM_REGION, CXL_DEVICE_DAX_REGION,
) = range(9)  # fmt: skip
"""Types in a modalias: what drivers match."""

PAGE_SIZE = 4096
NR_TARGETS = 8
"""How many targets a switch decoder can have."""


class CxlBus(Bus):
    """The CXL bus, with the numbers of its ports and memory devices."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, "cxl")
        self.ports = Ida()
        self.memdevs = Ida()
        self.debugfs: dict[str, Any] = {}
        """The directories in cxl/ of debugfs, by name (core/debugfs.py)."""

    async def flush_store(self, buffer: bytes) -> None:
        """A write of 1 to flush: waits until all work in the background is done. Raises KernelError EINVAL."""
        if word_of(buffer) != "1":
            raise KernelError(errno.EINVAL, "write 1", "flush_store")
        await self.kernel.flush_scheduled()


class CxlBusDevice(Device):
    """A device on the CXL bus. `devtype` is the DEVTYPE of its uevents, `type_number` what drivers match."""

    devtype = ""
    type_number = CXL_DEVICE_DECODER

    def __init__(self, bus: Bus, name: str, parent: Device) -> None:
        super().__init__(bus.kernel, name, bus, parent)
        self.numa_node = -1

    def environment(self) -> list[str]:
        """DEVTYPE."""
        return [f"DEVTYPE={self.devtype}"]

    @property
    def modalias(self) -> str | None:
        """Drivers match the type."""
        return f"cxl:t{self.type_number}"


class CxlDriver(Driver):
    """A driver of one type of devices."""

    type_number = CXL_DEVICE_DECODER

    def matches(self, device: Device) -> bool:
        """By type (cxl_bus_match)."""
        return isinstance(device, CxlBusDevice) and device.type_number == self.type_number


# Decoders ---------------------------------------------------------------------------------------------------------


class CxlDecoder(CxlBusDevice):
    """struct cxl_decoder: one range of addresses and how it is interleaved."""

    def __init__(self, port: CxlPort, number: int) -> None:
        assert port.bus is not None
        super().__init__(port.bus, f"decoder{port.id}.{number}", port)
        self.port = port
        self.id = number
        self.hpa_range = Range(0, -1)
        self.interleave_ways = 1
        self.interleave_granularity = PAGE_SIZE
        self.region: CxlBusDevice | None = None
        self.enabled = False
        """CXL_DECODER_F_ENABLE: committed."""


class CxlSwitchDecoder(CxlDecoder):
    """A decoder of a host bridge or a switch. Without `registers` all addresses go to the only port below."""

    devtype = "cxl_decoder_switch"

    def __init__(self, port: CxlPort, number: int, registers: HdmRegisters | None) -> None:
        super().__init__(port, number)
        self.registers = registers
        self.nr_targets = 1 if registers is None else NR_TARGETS
        if registers is not None:
            self.interleave_ways = registers.ways
            self.interleave_granularity = registers.granularity
        self.target_map = [0] * NR_TARGETS
        """What the registers say of the targets, as far as its ways go."""
        if registers is not None:
            self.target_map[: registers.ways] = registers.targets[: registers.ways]
        self.targets: list[int | None] = [None] * NR_TARGETS
        """The numbers of downstream ports, by position. Those of earlier regions stay behind its ways."""

    def set_target(self, position: int, port_id: int) -> None:
        """Have a downstream port at a position."""
        self.targets[position] = self.target_map[position] = port_id

    def note_dport(self, port_id: int) -> None:
        """A downstream port came: it takes its first position in the registers (update_decoder_targets)."""
        for position in range(self.interleave_ways):
            if self.target_map[position] == port_id:
                self.targets[position] = port_id
                return

    @property
    def target_list(self) -> str:
        """The targets as text, up to the first that is not there (emit_target_list)."""
        shown = itertools.takewhile(lambda target: target is not None, self.targets[: self.interleave_ways])
        return ",".join(map(str, shown))


class CxlRootDecoder(CxlDecoder):
    """A window: a range of addresses that firmware routes to one host bridge, or interleaves between several."""

    devtype = "cxl_decoder_root"

    def __init__(self, port: CxlPort, number: int, window: CxlWindow, resource: Resource, region_id: int) -> None:
        super().__init__(port, number)
        self.window = window
        self.resource = resource
        self.hpa_range = window.range
        self.interleave_ways = len(window.targets)
        self.interleave_granularity = window.granularity
        self.region_id = region_id
        """The number of the next region, taken already."""


# Ports ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class CxlDport:
    """struct cxl_dport: a downstream port. `path` is that of its device, below /sys."""

    port_id: int
    path: str
    serial: int
    index: int = 0


@dataclass(slots=True, eq=False)
class CxlEp:
    """struct cxl_ep: how a port reaches a memory device: the downstream port, the next port, None for the last."""

    dport: CxlDport
    next: CxlPort | None = None


@dataclass(slots=True, eq=False)
class CxlRegionRef:
    """struct cxl_region_ref: a region's use of a port."""

    decoder: CxlDecoder
    endpoints: dict[CxlDecoder, CxlEp] = field(default_factory=dict)
    nr_eps: int = 0
    nr_targets: int = 1
    nr_targets_set: int = 0


class CxlPort(CxlBusDevice):
    """struct cxl_port: `uport` is the path of the device that it belongs to, `parent_dport` the port above it."""

    devtype = "cxl_port"
    type_number = CXL_DEVICE_PORT

    def __init__(
        self,
        bus: CxlBus,
        prefix: str,
        parent: Device,
        uport: str,
        parent_dport: CxlDport | None,
        registers: list[HdmRegisters] | None,
    ) -> None:
        self.id = bus.ports.take()
        super().__init__(bus, f"{prefix}{self.id}", parent)
        self.uport = uport
        self.parent_dport = parent_dport
        self.registers = registers
        self.register_span: Range | None = None
        """Where the registers of a host bridge's decoders are."""
        self.dports: dict[str, CxlDport] = {}
        """By the path of the device."""
        self.endpoints: dict[CxlBusDevice, CxlEp] = {}
        self.regions: dict[CxlBusDevice, CxlRegionRef] = {}
        self.decoders: list[CxlDecoder] = []
        self.commit_end = -1
        """The number of the highest committed decoder."""
        self.hdm_end = -1
        """The number of the highest decoder with device memory, of an endpoint."""
        self.memdev: CxlBusDevice | None = None
        """The memory device of an endpoint."""
        self.dead = False
        """It is being unregistered."""

    @property
    def is_root(self) -> bool:
        """Is it the root, which ACPI describes?"""
        return self.type_number == CXL_DEVICE_ROOT

    @property
    def above(self) -> CxlPort:
        """The port above."""
        assert isinstance(self.parent, CxlPort)
        return self.parent

    @property
    def decoders_committed(self) -> int:
        """cxl_num_decoders_committed."""
        return self.commit_end + 1

    def dport_links(self) -> dict[str, CxlDport]:
        """The links dportN."""
        return {f"dport{dport.port_id}": dport for dport in self.dports.values()}

    def up_to_root(self) -> Iterator[CxlPort]:
        """This port and those above it, without the root."""
        port = self
        while not port.is_root:
            yield port
            port = port.above


class CxlRootPort(CxlPort):
    """The root, root0."""

    type_number = CXL_DEVICE_ROOT
