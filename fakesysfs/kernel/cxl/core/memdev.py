"""Memory devices, memN: drivers/cxl/core/memdev.c.

What a program asks through /dev/cxl/memN (health, alerts, firmware, labels) does not exist here.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from fakesysfs.kernel.cxl.core.port import CXL_DEVICE_MEMORY_EXPANDER, CxlBus, CxlBusDevice, CxlPort
from fakesysfs.kernel.cxl.setup import DECODERS, CxlDeviceSetup, HdmRegisters
from fakesysfs.kernel.device import Device
from fakesysfs.kernel.kstrtox import kstrtobool
from fakesysfs.kernel.printk import ERR
from fakesysfs.ops.errors import KernelError

SANITIZE_SECONDS = 12.0
"""The kernel asks a device after one second and after eleven more whether it is done (recorded: it was, then)."""


@dataclass(slots=True, eq=False)
class DpaAllocation:
    """A piece of a partition that a decoder uses, or gives up to reach the next partition."""

    start: int
    size: int
    decoder: CxlBusDevice

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(slots=True, eq=False)
class Partition:
    """A part of a device's memory: `ram` or `pmem`."""

    mode: str
    start: int
    size: int
    allocations: list[DpaAllocation] = field(default_factory=list)

    @property
    def free_from(self) -> int:
        """The first byte behind the last allocation."""
        return self.allocations[-1].end if self.allocations else self.start


class MemdevHardware:
    """What of a memory device outlives its driver: the registers of its decoders."""

    def __init__(self, setup: CxlDeviceSetup, number: int) -> None:
        self.setup = setup
        self.number = number
        """The number that its driver gives it when it probes all devices at once."""
        self.registers = [HdmRegisters() for _ in range(DECODERS)]


class FirmwareUpload(Device):
    """The device of a firmware upload, below memN/firmware (drivers/base/firmware_loader/sysfs_upload.c)."""

    glue = "/firmware"

    def __init__(self, memdev: CxlMemdev) -> None:
        super().__init__(memdev.kernel, memdev.name, None, memdev)

    def environment(self) -> list[str]:
        """The variables of a request for firmware."""
        return [f"FIRMWARE={self.name}", "TIMEOUT=60", "ASYNC=0"]

    def uevent(self, action: str, *extra: str, modalias: bool = True) -> None:
        """Send a uevent of the class firmware."""
        del modalias
        if self.kernel.booted:
            self.kernel.uevents.send(action, self.devpath, "firmware", (*extra, *self.environment()))


class CxlMemdev(CxlBusDevice):
    """struct cxl_memdev."""

    devtype = "cxl_memdev"
    type_number = CXL_DEVICE_MEMORY_EXPANDER

    def __init__(self, bus: CxlBus, hardware: MemdevHardware, parent: Device) -> None:
        self.id = bus.memdevs.take_number(hardware.number)
        super().__init__(bus, f"mem{self.id}", parent)
        self.hardware = hardware
        self.setup = hardware.setup
        self.major = bus.kernel.config.cxl_major
        setup = hardware.setup
        self.partitions = [Partition("ram", 0, setup.ram)] if setup.ram else []
        if setup.pmem:
            self.partitions.append(Partition("pmem", setup.ram, setup.pmem))
        self.endpoint: CxlPort | None = None
        self.ports: list[CxlPort] = []
        """The ports above it, from the host bridge down."""
        self.firmware: FirmwareUpload | None = None
        self._sanitized_at = -1.0
        """Seconds since boot."""

    def environment(self) -> list[str]:
        """The numbers and the name of the character device, and DEVTYPE."""
        numbers = [f"MAJOR={self.major}", f"MINOR={self.id}", f"DEVNAME=cxl/{self.name}"]
        return [*numbers, *super().environment()]

    def partition(self, mode: str) -> Partition | None:
        """The partition of a mode."""
        return next((partition for partition in self.partitions if partition.mode == mode), None)

    def trigger_poison_list_store(self, buffer: bytes) -> None:
        """A write to trigger_poison_list. Raises KernelError: EINVAL unless true, EBUSY while it erases itself."""
        if not kstrtobool(buffer, "trigger_poison_list_store"):
            raise KernelError(errno.EINVAL, "write 1", "trigger_poison_list_store")
        self.refuse_while_sanitizing()

    # Sanitizing ---------------------------------------------------------------------------------------------------

    @property
    def sanitizes(self) -> bool:
        """Does the device erase itself just now?"""
        return self.kernel.printk.clock() < self._sanitized_at

    @property
    def security_state(self) -> str:
        """What security/state shows. No passphrase can be set here."""
        return "sanitize" if self.sanitizes else "disabled"

    def refuse_while_sanitizing(self) -> None:
        """Its mailbox takes no commands meanwhile (__cxl_pci_mbox_send_cmd). Raises KernelError EBUSY."""
        if self.sanitizes:
            raise KernelError(errno.EBUSY, f"{self.name} erases itself: wait", "__cxl_pci_mbox_send_cmd")

    def security_sanitize_store(self, buffer: bytes) -> None:
        """A write to security/sanitize: the device erases its memory, which takes some seconds.

        Raises KernelError: EINVAL unless true; EBUSY while it does so already, while a decoder is committed, and
        without the driver cxl_mem.
        """
        if not kstrtobool(buffer, "security_sanitize_store"):
            raise KernelError(errno.EINVAL, "write 1", "security_sanitize_store")
        if self.driver is None or self.endpoint is None or self.endpoint.decoders_committed:
            raise KernelError(errno.EBUSY, f"{self.name} is not bound, or has committed decoders", "cxl_mem_sanitize")
        if self.sanitizes:
            assert self.parent is not None
            text = f"cxl_pci {self.parent.name}: Failed to get security state : {-errno.EBUSY}"
            self.kernel.printk(ERR, text)
        self.refuse_while_sanitizing()
        self._sanitized_at = self.kernel.printk.clock() + SANITIZE_SECONDS
