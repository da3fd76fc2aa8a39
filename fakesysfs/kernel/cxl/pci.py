"""The driver cxl_pci, and the PCI devices on the way to a memory device: drivers/cxl/pci.c.

Differs knowingly: a PCI device shows nothing but its driver and its uevents, and only those devices exist that lead to
a CXL memory device. cxl_pci probes asynchronously in Linux, so that the numbers of memory devices are a matter of
chance; here the machine file says them.
"""

from __future__ import annotations

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.cxl.core.memdev import CxlMemdev, FirmwareUpload, MemdevHardware
from fakesysfs.kernel.cxl.core.port import CxlBus
from fakesysfs.kernel.cxl.setup import DECODERS, CxlDeviceSetup, CxlSetup, HdmRegisters
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.range import Range

PCI_CLASS_MEMORY_CXL = 0x050210
HDM_OFFSET, HDM_SIZE = 0x1128, 0x10 + 0x20 * DECODERS
"""Where the registers of decoders are among a host bridge's component registers (recorded)."""


class PciDevice(Device):
    """A PCI device: `ids` are vendor, device, subsystem vendor and subsystem, `pci_class` has 24 bits."""

    def __init__(self, bus: Bus, name: str, parent: Device, ids: tuple[int, int, int, int], pci_class: int) -> None:
        super().__init__(bus.kernel, name, bus, parent)
        self.ids = ids
        self.pci_class = pci_class
        self.numa_node = -1
        self.hardware: MemdevHardware | None = None
        """Of a CXL memory device."""

    @property
    def modalias(self) -> str:
        """The numbers that drivers match."""
        vendor, device, subvendor, subdevice = self.ids
        text = f"{self.pci_class:06x}"
        return f"pci:v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}bc{text[:2]}sc{text[2:4]}i{text[4:]}"

    def uevent_environment(self, *, modalias: bool = True) -> tuple[str, ...]:
        """DRIVER comes first, then the numbers (pci_uevent)."""
        vendor, device, subvendor, subdevice = self.ids
        lines = [f"DRIVER={self.driver.name}"] if self.driver else []
        lines += [
            f"PCI_CLASS={self.pci_class:X}", f"PCI_ID={vendor:04X}:{device:04X}",
            f"PCI_SUBSYS_ID={subvendor:04X}:{subdevice:04X}", f"PCI_SLOT_NAME={self.name}",
        ]  # fmt: skip
        return (*lines, *([f"MODALIAS={self.modalias}"] if modalias else ()))


class PciHostBridge(Device):
    """The device pci0000:0c, at the top of a PCI hierarchy."""

    def __init__(self, core: Core, number: int) -> None:
        super().__init__(core, f"pci0000:{number:02x}", None, under="/devices")


_ROOT_PORT = (0x8086, 0x7075, 0x8086, 0x7075), 0x060400
_UPSTREAM = (0x19E5, 0xA128, 0x0000, 0x0000), 0x060400
_DOWNSTREAM = (0x19E5, 0xA129, 0x0000, 0x0000), 0x060400
_MEMORY = (0x8086, 0x0D93, 0x1AF4, 0x1100), PCI_CLASS_MEMORY_CXL


class PciTopology:
    """The PCI devices that lead to CXL memory, and the registers of switches."""

    def __init__(self, bus: Bus, setup: CxlSetup) -> None:
        self._bus = bus
        self._setup = setup
        self.host_bridges: dict[str, PciHostBridge] = {}
        self.memory: list[PciDevice] = []
        """In the order of probing."""
        self._registers: dict[str, list[HdmRegisters]] = {}

    async def boot(self) -> None:
        """Register all devices."""
        core = self._bus.kernel
        for number in self._setup.bridges:
            bridge = PciHostBridge(core, number)
            bridge.serial = core.new_serial()
            core.register(bridge)
            self.host_bridges[bridge.name] = bridge
        for setup in self._setup.devices:
            above: Device = self.host_bridges[f"pci0000:{setup.bridge:02x}"]
            for step, name in enumerate(setup.path):
                found = above.children.get(name)
                if found is None:
                    found = PciDevice(self._bus, name, above, *_kind(step, len(setup.path)))
                    await self._bus.add(found)
                above = found
            assert isinstance(above, PciDevice)
            above.hardware = MemdevHardware(setup, self._setup.memdevs.index(setup.path[-1]))
            self.memory.append(above)

    def bridge_path(self, number: int) -> str:
        """The path of a host bridge."""
        return f"/sys/devices/pci0000:{number:02x}"

    def path(self, setup: CxlDeviceSetup, step: int) -> str:
        """The path of one of the devices on the way to a memory device."""
        return "/".join([self.bridge_path(setup.bridge), *setup.path[: step + 1]])

    def registers(self, path: str) -> list[HdmRegisters]:
        """The registers of a host bridge's or a switch's decoders."""
        return self._registers.setdefault(path, [HdmRegisters() for _ in range(DECODERS)])

    def register_span(self, number: int) -> Range | None:
        """Where the registers of a host bridge's decoders are, if the machine says it."""
        if not self._setup.registers or self.bridge_registers(number) is None:
            return None
        start = self._setup.registers[self._setup.bridges.index(number)] + HDM_OFFSET
        return Range(start, start + HDM_SIZE - 1)

    def bridge_registers(self, number: int) -> list[HdmRegisters] | None:
        """Those of a host bridge, None with a single root port: then all addresses go there (pass-through)."""
        return self.registers(self.bridge_path(number)) if self._setup.has_decoders(number) else None


def _kind(step: int, length: int) -> tuple[tuple[int, int, int, int], int]:
    if step == length - 1:
        return _MEMORY
    if step == 0:
        return _ROOT_PORT
    return _UPSTREAM if step % 2 else _DOWNSTREAM


class CxlPci(Driver):
    """The driver cxl_pci: makes memN."""

    name = "cxl_pci"
    probe_async = True

    def __init__(self, bus: Bus, module: str, cxl_bus: CxlBus) -> None:
        super().__init__(bus, module)
        self._cxl_bus = cxl_bus

    def matches(self, device: Device) -> bool:
        """By class."""
        return isinstance(device, PciDevice) and device.pci_class == PCI_CLASS_MEMORY_CXL

    async def probe(self, device: Device) -> None:
        """Make a memory device and what uploads its firmware (cxl_pci_probe)."""
        assert isinstance(device, PciDevice)
        assert device.hardware is not None
        bus = self._cxl_bus
        memdev = CxlMemdev(bus, device.hardware, device)
        device.release_actions.append(lambda: self._unregister(memdev))
        await bus.add(memdev)
        firmware = memdev.firmware = FirmwareUpload(memdev)
        firmware.serial = self.kernel.new_serial()
        self.kernel.register(firmware)
        self.kernel.changed("cxl_firmware", memdev)
        firmware.uevent("add")

    async def _unregister(self, memdev: CxlMemdev) -> None:
        firmware = memdev.firmware
        if firmware is not None:
            memdev.firmware = None
            firmware.uevent("remove")
            self.kernel.unregister(firmware)
            firmware.serial = 0
            self.kernel.changed("cxl_firmware", memdev)
        await self._cxl_bus.remove(memdev)
        self._cxl_bus.memdevs.release(memdev.id)
