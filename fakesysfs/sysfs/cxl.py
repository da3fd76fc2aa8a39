"""/sys/bus/cxl: ports, decoders, memory devices, regions; and the PCI devices above the memory devices.

drivers/cxl/core/{port,region,memdev,region_dax}.c. Recorded: sessions of the folder 7.3-cxl.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fakesysfs.kernel.acpi import AcpiDevice
from fakesysfs.kernel.cxl.acpi import ACPI0017, AcpiCxlDevice, WakeupSource
from fakesysfs.kernel.cxl.core.debugfs import CxlDebugfsDir
from fakesysfs.kernel.cxl.core.hdm import CxlEndpointDecoder
from fakesysfs.kernel.cxl.core.memdev import CxlMemdev, FirmwareUpload
from fakesysfs.kernel.cxl.core.port import (
    CxlBus,
    CxlBusDevice,
    CxlDecoder,
    CxlPort,
    CxlRootDecoder,
    CxlRootPort,
    CxlSwitchDecoder,
)
from fakesysfs.kernel.cxl.core.region import WAYS, CxlConfig, CxlRegion
from fakesysfs.kernel.cxl.core.region_dax import CxlDaxRegion
from fakesysfs.kernel.cxl.pci import PciDevice, PciHostBridge
from fakesysfs.kernel.cxl.pmem import CxlNvdimm, CxlNvdimmBridge, CxlPmemRegion
from fakesysfs.kernel.device import Device
from fakesysfs.kernel.kernel import Kernel, kernel_of
from fakesysfs.kernel.kstrtox import kstrtobool
from fakesysfs.kernel.platform import CxlDevice
from fakesysfs.kernfs.declare import (
    RO,
    RW,
    WO,
    Attribute,
    DirectoryKind,
    Entry,
    Group,
    Kobject,
    Link,
    Links,
    Subdirectories,
)
from fakesysfs.ops.errors import KernelError
from fakesysfs.sysfs.common import POWER, bus_devices, bus_entries, subsystem, uevent
from fakesysfs.sysfs.dax import DAX_REGION, DRIVER_LINK, device_path
from fakesysfs.sysfs.debugfs import PATH as DEBUGFS


def _children(device: Device) -> Mapping[str, Device]:
    return device.children


_UEVENT: Attribute[Device] = uevent(lambda device: device.devpath, "cxl", lambda device: device.uevent_environment())
_CHILDREN: Subdirectories[Device] = Subdirectories(of=_children, doc="Devices below.")

_DEVICE: tuple[Entry[CxlBusDevice], ...] = (_UEVENT, subsystem("cxl"), DRIVER_LINK, _CHILDREN)
"""What all devices on the bus have."""

_BASE: tuple[Entry[CxlBusDevice], ...] = (
    RO("devtype", lambda device: device.devtype, "Type of the device on the CXL bus."),
    RO("modalias", lambda device: f"{device.modalias}", "What drivers are matched by."),
    *_DEVICE,
)
"""What all have but memory devices."""


# The bus ----------------------------------------------------------------------------------------------------------


def _is_listed(device: Device) -> bool:
    """Whether the bus shows a device: not the ports and decoders of cxl_test, which have no attributes here."""
    return not isinstance(device, CxlDevice) or device.devtype in {"cxl_dax_region", "cxl_region"}


CXL_BUS = DirectoryKind[CxlBus](
    "CXL bus",
    lambda bus: f"/sys/bus/{bus.name}",
    (
        *bus_entries(
            bus_devices(_is_listed),
            (Subdirectories(of=lambda bus: bus.drivers, doc="The drivers of the bus."),),
            lambda bus: bus.autoprobe,
            lambda bus, buffer: bus.drivers_autoprobe_store(buffer),
            lambda bus, buffer: bus.drivers_probe_store(buffer),
            lambda bus: f"/bus/{bus.name}",
        ),
        WO(
            "flush",
            lambda bus, buffer: bus.flush_store(buffer),
            "1 waits until the work in the background is done.",
            visible=lambda bus: kernel_of(bus).cxl is not None,
        ),
    ),
)


# Ports ------------------------------------------------------------------------------------------------------------


def _dport_links(port: CxlPort) -> dict[str, tuple[Kobject, str]]:
    return {name: (dport, dport.path) for name, dport in port.dport_links().items()}


_PORT: tuple[Entry[CxlPort], ...] = (
    *_BASE,
    RO("decoders_committed", lambda port: port.decoders_committed, "How many decoders are committed."),
    Link(name="uport", target=lambda port: port.uport, doc="The device that the port belongs to."),
    Link(
        name="parent_dport",
        target=lambda port: None if port.parent_dport is None else port.parent_dport.path,
        doc="The downstream port above.",
    ),
    Links(of=_dport_links, doc="dportN: the downstream ports."),
)


_LATENCY, _BANDWIDTH = 10000, 1000
"""Units of the table: picoseconds, MB/s."""
_DSLBIS = ((1, _LATENCY, 15), (2, _LATENCY, 25), (4, _BANDWIDTH, 16), (5, _BANDWIDTH, 16))
"""Of all memory: (kind, unit, value) of read and write latency, read and write bandwidth, as QEMU's devices say."""


_SSLBIS = ((0, _LATENCY, 15), (3, 1024, 16))
"""Of each way through a switch: latency and bandwidth."""
_UPSTREAM = 0x100
"""The number of a switch's upstream port in the table."""


def cdat(port: CxlPort) -> bytes:
    """The table of coherent device attributes: the partitions of a memory device and their speed, or a switch's."""
    memdev = port.memdev
    entries = b"" if isinstance(memdev, CxlMemdev) else _ways_through(port)
    for handle, partition in enumerate(memdev.partitions if isinstance(memdev, CxlMemdev) else ()):
        is_pmem = partition.mode == "pmem"
        entries += struct.pack("<BxHBBxxQQ", 0, 24, handle, 4 * is_pmem, partition.start, partition.size)
        for kind, unit, value in _DSLBIS:
            entries += struct.pack("<BxHBBBxQHHHxx", 1, 24, handle, 0, kind, unit, value, 0, 0)
        entries += struct.pack("<BxHBBxxQQ", 4, 24, handle, 2 if is_pmem else 1, 0, partition.size)
    header = struct.pack("<IBB6xI", 16 + len(entries), 2, 0, 0)
    checksum = -sum(header + entries) & 0xFF
    return header[:5] + bytes([checksum]) + header[6:] + entries


def _ways_through(port: CxlPort) -> bytes:
    """The entries of a switch: it has all of its downstream ports, whether a memory device below is bound or not."""
    hardware = kernel_of(port).cxl
    assert hardware is not None
    uport = port.uport.rpartition("/")[2]
    devices = [device for device in hardware.setup.devices if uport in device.path]
    numbers = sorted({device.ports[(device.path.index(uport) + 1) // 2] for device in devices})
    entries = b""
    for kind, unit, value in _SSLBIS:
        entries += struct.pack("<BxHBxxxQ", 5, 16 + 8 * len(numbers), kind, unit)
        entries += b"".join(struct.pack("<HHHxx", _UPSTREAM, number, value) for number in numbers)
    return entries


_CDAT: Attribute[CxlPort] = RO(
    "CDAT",
    cdat,
    "The device's performance table, binary.",
    mode=0o400,
    size=0,
    visible=lambda port: port.driver is not None and not port.is_root and not port.above.is_root,
)

CXL_PORT = DirectoryKind[CxlPort]("cxl port", device_path, (*_PORT, _CDAT))

# Decoders ---------------------------------------------------------------------------------------------------------


def _size(decoder: CxlDecoder) -> str:
    return f"{decoder.hpa_range.length:#x}"


_DECODER: tuple[Entry[CxlDecoder], ...] = (
    *_BASE,
    RO("start", lambda decoder: f"{decoder.hpa_range.start:#x}", "First address.", mode=0o400),
    RO("size", _size, "Bytes of addresses."),
    RO("interleave_ways", lambda decoder: decoder.interleave_ways, "Between how many targets it interleaves."),
    RO("interleave_granularity", lambda decoder: decoder.interleave_granularity, "Bytes in a row for one target."),
    RO("locked", lambda _decoder: 0, "1: it cannot be changed until the next reset."),
)

_ASSIGNED: tuple[Entry[CxlDecoder], ...] = (
    RO("region", lambda decoder: decoder.region.name if decoder.region else "", "The region that uses it."),
    RO("target_type", lambda _decoder: "expander", "expander or accelerator."),
)


def _create(mode: str) -> Attribute[CxlRootDecoder]:
    async def store(decoder: CxlRootDecoder, buffer: bytes) -> None:
        hardware = kernel_of(decoder).cxl
        assert hardware is not None
        await hardware.regions.create_region_store(decoder, mode, buffer)

    return RW(
        f"create_{mode}_region",
        lambda decoder: f"region{decoder.region_id}",
        store,
        f"The name of the next region; writing it makes a region of mode {mode}.",
    )


async def _delete_region_store(decoder: CxlRootDecoder, buffer: bytes) -> None:
    hardware = kernel_of(decoder).cxl
    assert hardware is not None
    await hardware.regions.delete_region_store(decoder, buffer)


def _capability(what: str) -> Attribute[CxlRootDecoder]:
    return RO(f"cap_{what}", lambda _decoder: 1, f"1: the window is for {_CAPABILITIES[what]}.")


_CAPABILITIES = {
    "ram": "volatile memory", "pmem": "persistent memory", "type2": "accelerators", "type3": "memory expanders",
}  # fmt: skip

CXL_ROOT_DECODER = DirectoryKind[CxlRootDecoder](
    "cxl root decoder",
    device_path,
    (
        *_DECODER,
        *map(_capability, ("ram", "pmem", "type2", "type3")),
        RO("qos_class", lambda _decoder: 0, "The window's class of service."),
        RO(
            "target_list",
            lambda decoder: ",".join(map(str, decoder.window.targets)),
            "The host bridges, in the order of interleaving.",
        ),
        _create("ram"),
        _create("pmem"),
        WO("delete_region", _delete_region_store, "The name of a region to remove, whatever its state."),
    ),
)

CXL_SWITCH_DECODER = DirectoryKind[CxlSwitchDecoder](
    "cxl switch decoder",
    device_path,
    (
        *_DECODER,
        *_ASSIGNED,
        RO("target_list", lambda decoder: decoder.target_list, "The downstream ports, in the order of interleaving."),
    ),
)

CXL_ENDPOINT_DECODER = DirectoryKind[CxlEndpointDecoder](
    "cxl endpoint decoder",
    device_path,
    (
        *_DECODER,
        *_ASSIGNED,
        RW(
            "mode",
            lambda decoder: decoder.mode,
            lambda decoder, buffer: decoder.mode_store(buffer),
            "Which partition of the device it uses: none, ram or pmem.",
        ),
        RW(
            "dpa_size",
            lambda decoder: f"0x{decoder.dpa_size:016x}",
            lambda decoder, buffer: decoder.dpa_size_store(buffer),
            "Bytes of device memory, in steps of 256 MiB.",
        ),
        RO("dpa_resource", lambda decoder: f"{decoder.dpa_resource:#x}", "First byte of device memory."),
    ),
)


# Regions ----------------------------------------------------------------------------------------------------------


def _target(pos: int) -> Attribute[CxlRegion]:
    return RW(
        f"target{pos}",
        lambda region: region.target_show(pos),
        lambda region, buffer: region.target_store(pos, buffer),
        "The endpoint decoder at this position; an empty line detaches it.",
        visible=lambda region: pos < region.interleave_ways,
    )


def _uuid_store(region: CxlRegion, buffer: bytes) -> None:
    region.uuid_store(buffer)


def _resource(region: CxlRegion) -> str:
    return f"{region.resource.start if region.resource else (1 << 64) - 1:#x}"


def _uuid_show(region: CxlRegion) -> str:
    if region.mode != "pmem":
        return ""
    return f"{region.uuid}" if region.uuid else "00000000-0000-0000-0000-000000000000"


CXL_REGION = DirectoryKind[CxlRegion](
    "cxl region",
    device_path,
    (
        *_BASE,
        RW(
            "interleave_ways",
            lambda region: region.interleave_ways,
            lambda region, buffer: region.interleave_ways_store(buffer),
            "How many targets it has: 1, 2, 4, 8, 16, 3, 6 or 12.",
        ),
        RW(
            "interleave_granularity",
            lambda region: region.interleave_granularity,
            lambda region, buffer: region.interleave_granularity_store(buffer),
            "Bytes in a row for one target: 256 to 16384.",
        ),
        RW(
            "size",
            lambda region: f"{region.size:#x}",
            lambda region, buffer: region.size_store(buffer),
            "Bytes; a write takes addresses of the window, 0 gives them back.",
        ),
        RO("resource", _resource, "First address, all ones without a size."),
        RW(
            "uuid",
            _uuid_show,
            _uuid_store,
            "Name of a region of mode pmem.",
            narrow=lambda region: 0o644 if region.mode == "pmem" else 0o444,
        ),
        RO("mode", lambda region: region.mode, "ram or pmem."),
        RO("locked", lambda _region: 0, "1: its decoders cannot be changed."),
        RW(
            "commit",
            lambda region: region.state >= CxlConfig.COMMIT,
            lambda region, buffer: region.commit_store(buffer),
            "1 programs all decoders, 0 releases the driver and resets them.",
        ),
        *map(_target, range(max(WAYS))),
        Group(name="access0", entries=(), doc="Performance for the nearest initiator: not known here."),
        Group(name="access1", entries=(), doc="Performance for the nearest CPU: not known here."),
    ),
)

CXL_DAX_REGION = DirectoryKind[CxlDaxRegion]("cxl dax region", device_path, (*_BASE, DAX_REGION))
CXL_PLAIN_DEVICE = DirectoryKind[CxlBusDevice]("cxl device without attributes of its own", device_path, _BASE)


# Memory devices ---------------------------------------------------------------------------------------------------


def _partition(mode: str) -> Group[CxlMemdev]:
    return Group(
        name=mode,
        entries=(RO("size", lambda memdev: f"{getattr(memdev.setup, mode):#x}", "Bytes."),),
        doc=f"The partition {mode}.",
    )


def _firmware(memdev: CxlMemdev) -> dict[str, Kobject]:
    return {} if memdev.firmware is None else {memdev.name: memdev.firmware}


CXL_MEMDEV = DirectoryKind[CxlMemdev](
    "cxl memory device",
    device_path,
    (
        *_DEVICE,
        RO("dev", lambda memdev: f"{memdev.major}:{memdev.id}", "Major and minor number of /dev/cxl/memN."),
        RO("firmware_version", lambda _memdev: "BWFW VERSION 00", "Version of the firmware."),
        RO("label_storage_size", lambda memdev: memdev.setup.lsa, "Bytes for labels."),
        RO("numa_node", lambda memdev: f"{memdev.numa_node}", "The node of the PCI device."),
        RO("payload_max", lambda _memdev: 2048, "Bytes of the mailbox."),
        RO("serial", lambda memdev: f"{memdev.setup.serial:#x}", "Serial number."),
        WO(
            "trigger_poison_list",
            lambda memdev, buffer: memdev.trigger_poison_list_store(buffer),
            "1 asks the device for poisoned addresses: it has none.",
            visible=lambda memdev: memdev.driver is not None,
        ),
        _partition("ram"),
        _partition("pmem"),
        Group(
            name="security",
            entries=(
                RO("state", lambda memdev: memdev.security_state, "disabled, or sanitize while it erases itself."),
                WO(
                    "sanitize",
                    lambda memdev, buffer: memdev.security_sanitize_store(buffer),
                    "1 erases the memory; EBUSY while a decoder is committed or cxl_mem is not bound.",
                ),
            ),
            doc="Protection and erasing of the memory.",
        ),
        Group(
            name="firmware",
            entries=(Subdirectories(of=_firmware, doc="The device that takes new firmware."),),
            visible=lambda memdev: memdev.firmware is not None,
            doc="Update of the firmware.",
        ),
    ),
)


def _no_store(_device: object, _buffer: bytes) -> None:
    """A write that has no effect: no firmware can be uploaded here."""


FIRMWARE_UPLOAD = DirectoryKind[FirmwareUpload](
    "firmware upload",
    device_path,
    (
        RW("loading", lambda _: 0, _no_store, "1 begins, 0 ends an upload; here without effect."),
        RO("status", lambda _: "idle", "idle, or what the upload does."),
        RO("remaining_size", lambda _: 0, "Bytes to go."),
        RO("error", lambda _: b"", "What went wrong."),
        Attribute(name="data", mode=0o644, show=lambda _: b"", store=_no_store, size=0, doc="The firmware."),
        WO("cancel", _no_store, "1 ends an upload."),
        Link(name="device", target=lambda upload: device_path(upload.parent) if upload.parent else None),
        Link(name="subsystem", target=lambda _: "/sys/class/firmware", doc="The class of the device."),
        uevent(lambda upload: upload.devpath, "firmware", lambda upload: tuple(upload.environment())),
        POWER,
    ),
)


# Above ------------------------------------------------------------------------------------------------------------


def _wakeup(device: AcpiCxlDevice) -> dict[str, Kobject]:
    return {} if device.wakeup is None else {device.wakeup.name: device.wakeup}


ACPI_CXL_DEVICE = DirectoryKind[AcpiCxlDevice](
    "ACPI CXL device",
    device_path,
    (
        RW(
            "driver_override",
            lambda device: device.driver_override or "(null)",
            lambda device, buffer: device.driver_override_store(buffer),
            "The only driver that may take the device.",
        ),
        RO("modalias", lambda device: device.modalias, "What modules are matched by."),
        RO(
            "waiting_for_supplier",
            lambda _device: 0,
            "Whether the device waits for another one; gone once it was bound.",
            visible=lambda device: not device.was_bound,
        ),
        Link(
            name="firmware_node",
            target=lambda _device: "/sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0017:00",
            doc="The device in ACPI's name space.",
        ),
        Group(
            name="wakeup",
            entries=(Subdirectories(of=_wakeup, doc="What counts the wake-ups."),),
            visible=lambda device: device.wakeup is not None,
            doc="Wake-ups by the device.",
        ),
        uevent(lambda device: device.devpath, "platform", lambda device: device.uevent_environment()),
        subsystem("platform"),
        DRIVER_LINK,
        POWER,
        _CHILDREN,
    ),
)


def _counter(name: str) -> Attribute[WakeupSource]:
    return RO(name, lambda _: 0, "A statistic of wake-ups; always 0.")


WAKEUP_SOURCE = DirectoryKind[WakeupSource](
    "wakeup source",
    device_path,
    (
        *map(
            _counter,
            (
                "active_count", "active_time_ms", "event_count", "expire_count", "last_change_ms", "max_time_ms",
                "prevent_suspend_time_ms", "relax_count", "total_time_ms", "wakeup_count",
            ),
        ),
        RO("name", lambda source: source.parent.name if source.parent else "", "The device that wakes."),
        Link(name="device", target=lambda source: device_path(source.parent) if source.parent else None),
        Link(name="subsystem", target=lambda _: "/sys/class/wakeup", doc="The class of the device."),
        uevent(lambda source: source.devpath, "wakeup"),
    ),
)  # fmt: skip

PCI_HOST_BRIDGE = DirectoryKind[PciHostBridge](
    "PCI host bridge",
    device_path,
    (
        Link(
            name="firmware_node",
            target=lambda bridge: f"/sys/devices/LNXSYSTM:00/LNXSYBUS:00/{_acpi_name(bridge)}",
            doc="The device in ACPI's name space.",
        ),
        uevent(lambda bridge: bridge.devpath, None),
        POWER,
        _CHILDREN,
    ),
)

PCI_DEVICE = DirectoryKind[PciDevice](
    "PCI device",
    device_path,
    (
        RO("modalias", lambda device: device.modalias, "What modules are matched by."),
        RO("class", lambda device: f"0x{device.pci_class:06x}", "Class of the device."),
        RO("vendor", lambda device: f"0x{device.ids[0]:04x}", "Number of the vendor."),
        RO("device", lambda device: f"0x{device.ids[1]:04x}", "Number of the device."),
        RO("numa_node", lambda device: f"{device.numa_node}", "The node of the device."),
        uevent(lambda device: device.devpath, "pci", lambda device: device.uevent_environment()),
        subsystem("pci"),
        DRIVER_LINK,
        POWER,
        _CHILDREN,
    ),
)


def _acpi_name(bridge: PciHostBridge) -> str:
    """The name of a host bridge in ACPI's name space: numbered in the order of the machine file."""
    hardware = kernel_of(bridge).cxl
    assert hardware is not None
    return f"ACPI0016:{list(hardware.topology.host_bridges).index(bridge.name):02x}"


ACPI_DEVICE = DirectoryKind[AcpiDevice](
    "ACPI device",
    device_path,
    (
        RO("hid", lambda device: device.hid, "The name of the hardware."),
        RO(
            "uid",
            lambda device: f"{device.uid}",
            "What tells apart devices of one name.",
            visible=lambda device: device.uid is not None,
        ),
        Link(
            name="physical_node",
            target=lambda device: f"/sys{device.physical}" if device.physical else None,
            doc="The device that the kernel has for it.",
        ),
        uevent(lambda device: device.devpath, None),
        POWER,
        _CHILDREN,
    ),
)


def hierarchies(kernel: Kernel) -> dict[str, Kobject]:
    """The PCI hierarchies that lead to CXL memory, and ACPI's name space."""
    if kernel.cxl is None:
        return {}
    acpi = kernel.cxl.acpi_root
    return {**kernel.cxl.topology.host_bridges, **({} if acpi is None else {acpi.name: acpi})}


def memdevs(kernel: Kernel) -> dict[str, CxlMemdev]:
    """The memory devices, by name."""
    return {name: device for name, device in kernel.cxl_bus.devices.items() if isinstance(device, CxlMemdev)}


def char_links(kernel: Kernel) -> dict[str, tuple[Kobject, str]]:
    """The links in /sys/dev/char."""
    return {f"{memdev.major}:{memdev.id}": (memdev, device_path(memdev)) for memdev in memdevs(kernel).values()}


def firmware_links(kernel: Kernel) -> dict[str, tuple[Kobject, str]]:
    """The links in /sys/class/firmware."""
    return {
        name: (memdev.firmware, device_path(memdev.firmware))
        for name, memdev in memdevs(kernel).items()
        if memdev.firmware is not None
    }


def wakeup_links(kernel: Kernel) -> dict[str, tuple[Kobject, str]]:
    """The links in /sys/class/wakeup."""
    device = kernel.platform_bus.devices.get(ACPI0017)
    wakeup = device.wakeup if isinstance(device, AcpiCxlDevice) else None
    return {} if wakeup is None else {wakeup.name: (wakeup, device_path(wakeup))}


FIRMWARE_CLASS: tuple[Entry[Kernel], ...] = (
    Links(of=firmware_links, doc="What takes new firmware."),
    RW("timeout", lambda _: 60, _no_store, "Seconds until a request for firmware is given up; here without effect."),
)


# debugfs ----------------------------------------------------------------------------------------------------------


def _raw_allow_all_store(kernel: Kernel, buffer: bytes) -> None:
    """debugfs_write_file_bool takes other words, too, and leaves the setting as it is."""
    assert kernel.cxl is not None
    with suppress(KernelError):
        kernel.cxl.raw_allow_all = kstrtobool(buffer, "kstrtobool_from_user")


def _raw_allow_all_show(kernel: Kernel) -> str:
    return "Y" if kernel.cxl is not None and kernel.cxl.raw_allow_all else "N"


MBOX_ENTRIES: tuple[Entry[Kernel], ...] = (
    RW("raw_allow_all", _raw_allow_all_show, _raw_allow_all_store, "Y allows all raw commands.", mode=0o600),
)

DEBUGFS_ENTRIES: tuple[Entry[Kernel], ...] = (
    Subdirectories(of=lambda kernel: kernel.cxl_bus.debugfs, doc="The bound memory devices and regions."),
)


def _poison(action: str, doc: str) -> Attribute[CxlDebugfsDir]:
    return WO(f"{action}_poison", lambda directory, buffer: directory.poison_store(buffer, action), doc)


CXL_DEBUGFS = DirectoryKind[CxlDebugfsDir](
    "cxl directory in debugfs",
    lambda directory: f"{DEBUGFS}/cxl/{directory.name}",
    (
        _poison("inject", "An address: poisons it, without effect here."),
        _poison("clear", "An address: clears its poison."),
        RO(
            "dpamem",
            lambda directory: directory.dpamem,
            "The partitions of the memory device, and what decoders use of them.",
            visible=lambda directory: isinstance(directory.device, CxlMemdev),
        ),
    ),
    file_size=0,
)


KINDS: Mapping[type, DirectoryKind[Any]] = {
    CxlPort: CXL_PORT,
    CxlRootPort: CXL_PORT,
    CxlRootDecoder: CXL_ROOT_DECODER,
    CxlSwitchDecoder: CXL_SWITCH_DECODER,
    CxlEndpointDecoder: CXL_ENDPOINT_DECODER,
    CxlRegion: CXL_REGION,
    CxlDaxRegion: CXL_DAX_REGION,
    CxlPmemRegion: CXL_PLAIN_DEVICE,
    CxlNvdimm: CXL_PLAIN_DEVICE,
    CxlNvdimmBridge: CXL_PLAIN_DEVICE,
    CxlMemdev: CXL_MEMDEV,
    CxlDebugfsDir: CXL_DEBUGFS,
    FirmwareUpload: FIRMWARE_UPLOAD,
    AcpiCxlDevice: ACPI_CXL_DEVICE,
    WakeupSource: WAKEUP_SOURCE,
    PciHostBridge: PCI_HOST_BRIDGE,
    PciDevice: PCI_DEVICE,
    AcpiDevice: ACPI_DEVICE,
}
