"""/sys/bus/dax, dax devices, regions, mappings.

Drivers and the devices above them (drivers/dax/bus.c, drivers/base/bus.c). KERNEL.md 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fakesysfs.kernel.dax import bus as dax_bus
from fakesysfs.kernel.dax.bus import DaxDriver, DaxMapping, DaxRegion, DevDax
from fakesysfs.kernel.dax.kmem import DaxKmemData, Kmem
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.platform import CxlDevice, PlatformDevice
from fakesysfs.kernfs.declare import Attribute, DirectoryKind, Entry, Group, Kobject, Link, Links, Subdirectories
from fakesysfs.sysfs.common import POWER, bus_entries, subsystem, uevent

_WRITABLE_IF_DYNAMIC = 0o644


def device_path(device: Device) -> str:
    """The absolute path of a device's directory."""
    return f"/sys{device.devpath}"


def _driver_link(device: Device) -> str | None:
    return None if device.driver_link is None else f"/sys{device.driver_link.devpath}"


DRIVER_LINK = Link(name="driver", target=_driver_link, doc="The driver that the device is bound to.")


def _children(device: Device) -> dict[str, Device]:
    return device.children


def _device_uevent() -> Attribute:
    return uevent(
        lambda device: device.devpath, lambda device: device.bus.name, lambda device: device.uevent_environment()
    )


# The dax device ---------------------------------------------------------------------------------------------------


def _narrow(device: DevDax) -> int:
    return 0o444 if device.region.static else _WRITABLE_IF_DYNAMIC


def _owner(name: str) -> Callable[[DevDax], DaxKmemData | None]:
    """The attribute exists while kmem is bound; each binding's is another one, so open files of the last stay dead."""

    def owner(device: DevDax) -> DaxKmemData | None:
        data = device.driver_data
        exists = isinstance(data, DaxKmemData) and data.attribute_exists and device.kernel.profile.attribute == name
        return data if exists else None

    return owner


def _kmem(device: DevDax) -> Kmem:
    driver = device.region.bus.drivers["kmem"]
    assert isinstance(driver, Kmem)
    return driver


def _whole_device(name: str, doc: str) -> Attribute:
    return Attribute(
        name=name,
        mode=0o644,
        show=lambda device: f"{_kmem(device).hotplug_show(device)}\n",
        store=lambda device, buffer: _kmem(device).hotplug_store(device, buffer),
        owner=_owner(name),
        doc=doc,
    )


DEV_DAX = DirectoryKind(
    "dax device",
    device_path,
    (
        _whole_device(
            "hotplug",
            "State of all memory of a device bound to kmem (the posted series): unplugged, offline, online, "
            "online_movable. "
            "Written: unplug, online, online_movable; EBUSY from one online type to another: unplug first.",
        ),
        _whole_device(
            "state",
            "State of all memory of a device bound to kmem (the merged form): unplugged, offline, online, "
            "online_kernel, "
            "online_movable. Written: all but offline; EBUSY unless it is unplugged.",
        ),
        Attribute(
            name="size",
            mode=0o644,
            narrow=_narrow,
            show=lambda device: f"{device.size}\n",
            store=dax_bus.size_store,
            doc="Bytes; writable in a dynamic region while no driver is bound.",
        ),
        Attribute(
            name="align",
            mode=0o644,
            narrow=_narrow,
            show=lambda device: f"{device.align}\n",
            store=dax_bus.align_store,
            doc="Alignment of the device's ranges in bytes: 4096, 2097152 or 1073741824.",
        ),
        Attribute(
            name="mapping",
            mode=0o200,
            store=dax_bus.mapping_store,
            visible=lambda device: not device.region.static,
            doc='A range "start-end" (hexadecimal) to add to the device.',
        ),
        Attribute(
            name="memmap_on_memory",
            mode=0o644,
            show=lambda device: f"{int(device.memmap_on_memory)}\n",
            store=dax_bus.memmap_on_memory_store,
            doc="Whether kmem keeps the memory map of the device's blocks in the blocks.",
        ),
        Attribute(
            name="target_node",
            mode=0o444,
            show=lambda device: f"{device.target_node}\n",
            doc="Node that the memory is on.",
        ),
        Attribute(
            name="numa_node",
            mode=0o444,
            show=lambda device: f"{device.numa_node}\n",
            doc="The node of the device that offers the region: the nearest one online when that was made.",
        ),
        Attribute(
            name="modalias", mode=0o444, show=lambda device: f"{device.modalias}\n", doc="What modules are matched by."
        ),
        Attribute(
            name="dev",
            mode=0o444,
            show=lambda device: f"{device.kernel.config.dax_major}:{device.minor}\n",
            doc="Major and minor number of the character device.",
        ),
        Attribute(
            name="resource",
            mode=0o400,
            show=lambda device: f"{device.resource:#x}\n",
            doc="Start of the first range, bytes.",
        ),
        _device_uevent(),
        subsystem("dax"),
        DRIVER_LINK,
        POWER,
        Subdirectories(of=_children, doc="mappingN: the ranges of the device, in the order of allocation."),
    ),
)

DAX_MAPPING = DirectoryKind(
    "dax mapping",
    device_path,
    (
        Attribute(
            name="start", mode=0o400, show=lambda mapping: f"{mapping.range.start:#x}\n", doc="First byte of the range."
        ),
        Attribute(
            name="end", mode=0o400, show=lambda mapping: f"{mapping.range.end:#x}\n", doc="Last byte of the range."
        ),
        Attribute(
            name="page_offset",
            mode=0o400,
            show=lambda mapping: f"{_page_offset(mapping):#x}\n",
            doc="Pages of the device before this range.",
        ),
        uevent(lambda mapping: mapping.devpath, None),
        POWER,
    ),
)


def _page_offset(mapping: DaxMapping) -> int:
    return mapping.pgoff


# The region -------------------------------------------------------------------------------------------------------


def _region(device: Any) -> DaxRegion:
    region = device.driver_data
    assert isinstance(region, DaxRegion)
    return region


def _region_now(device: Any) -> DaxRegion | None:
    """The group comes and goes with the region; that of the next binding is another one."""
    region = device.driver_data
    return region if isinstance(region, DaxRegion) else None


def _is_dynamic(device: Any) -> bool:
    return not _region(device).static


def _name_or_nothing(device: DevDax | None) -> str:
    return "\n" if device is None else f"{device.name}\n"


DAX_REGION = Group(
    name="dax_region",
    owner=_region_now,
    doc="The region that dax devices are made of.",
    entries=(
        Attribute(
            name="id",
            mode=0o444,
            show=lambda device: f"{_region(device).id}\n",
            doc="Number of the region: the X of daxX.Y.",
        ),
        Attribute(name="size", mode=0o444, show=lambda device: f"{_region(device).range.length}\n", doc="Bytes."),
        Attribute(
            name="align",
            mode=0o400,
            show=lambda device: f"{_region(device).align}\n",
            doc="Default alignment in bytes.",
        ),
        Attribute(
            name="available_size",
            mode=0o444,
            show=lambda device: f"{_region(device).available_size}\n",
            visible=_is_dynamic,
            doc="Bytes that no device holds.",
        ),
        Attribute(
            name="seed",
            mode=0o444,
            show=lambda device: _name_or_nothing(_region(device).seed),
            visible=_is_dynamic,
            doc="The first device that was never bound.",
        ),
        Attribute(
            name="create",
            mode=0o644,
            show=lambda device: _name_or_nothing(_region(device).youngest),
            store=lambda device, buffer: dax_bus.create_store(_region(device), buffer),
            visible=_is_dynamic,
            doc="1 makes an empty device; reads as the youngest one's name.",
        ),
        Attribute(
            name="delete",
            mode=0o200,
            store=lambda device, buffer: dax_bus.delete_store(_region(device), buffer),
            visible=_is_dynamic,
            doc="Name of an empty, unbound device to delete; never daxX.0.",
        ),
    ),
)


# Devices above and drivers ----------------------------------------------------------------------------------------


def _override_store(device: PlatformDevice, buffer: bytes) -> None:
    text = buffer.partition(b"\0")[0].partition(b"\n")[0].decode("utf-8", "backslashreplace")
    device.driver_override = text or None


PLATFORM_DEVICE = DirectoryKind(
    "platform device",
    device_path,
    (
        Attribute(
            name="driver_override",
            mode=0o644,
            show=lambda device: f"{device.driver_override or '(null)'}\n",
            store=_override_store,
            doc="The only driver that may take the device.",
        ),
        Attribute(
            name="modalias", mode=0o444, show=lambda device: f"{device.modalias}\n", doc="What modules are matched by."
        ),
        Attribute(
            name="numa_node",
            mode=0o444,
            show=lambda device: f"{device.numa_node}\n",
            visible=lambda device: device.numa_node is not None,
            doc="Nearest node that was online at creation.",
        ),
        _device_uevent(),
        subsystem("platform"),
        DRIVER_LINK,
        POWER,
        DAX_REGION,
        Subdirectories(of=_children, doc="Devices below."),
    ),
)

CXL_DEVICE = DirectoryKind(
    "cxl device",
    device_path,
    (
        Attribute(
            name="devtype",
            mode=0o444,
            show=lambda device: f"{device.devtype}\n",
            doc="Type of the device on the CXL bus.",
        ),
        Attribute(
            name="modalias",
            mode=0o444,
            show=lambda device: f"{device.modalias}\n",
            visible=lambda device: device.modalias is not None,
            doc="What modules are matched by.",
        ),
        _device_uevent(),
        subsystem("cxl"),
        DRIVER_LINK,
        POWER,
        DAX_REGION,
        Subdirectories(of=_children, doc="Devices below."),
    ),
)


def _is_dax_driver(driver: Driver) -> bool:
    return isinstance(driver, DaxDriver)


DRIVER = DirectoryKind(
    "driver",
    lambda driver: f"/sys{driver.devpath}",
    (
        Attribute(
            name="bind",
            mode=0o200,
            store=lambda driver, buffer: driver.bus.bind_store(driver, buffer),
            doc="Name of a device to bind.",
        ),
        Attribute(
            name="unbind",
            mode=0o200,
            store=lambda driver, buffer: driver.bus.unbind_store(driver, buffer),
            doc="Name of a device to unbind.",
        ),
        Attribute(
            name="new_id",
            mode=0o200,
            store=lambda driver, buffer: driver.new_id_store(buffer),
            visible=_is_dax_driver,
            doc="Name daxX.Y of a device that the driver takes from now on.",
        ),
        Attribute(
            name="remove_id",
            mode=0o200,
            store=lambda driver, buffer: driver.remove_id_store(buffer),
            visible=_is_dax_driver,
            doc="Name daxX.Y that the driver no longer takes.",
        ),
        uevent(lambda driver: driver.devpath, "drivers", write_only=True),
        Link(name="module", target=lambda driver: f"/sys/module/{driver.module}", doc="The driver's module."),
        Links(
            of=lambda driver: {device.name: (device, device_path(device)) for device in driver.devices},
            doc="Bound devices.",
        ),
    ),
)


def _bus_devices(bus: Bus) -> dict[str, tuple[Kobject, str]]:
    return {name: (device, device_path(device)) for name, device in bus.devices.items() if _is_listed(device)}


def _is_listed(device: Device) -> bool:
    """The CXL hierarchy's ports and decoders have no attributes here, so tools for them are not shown any."""
    return not isinstance(device, CxlDevice) or device.devtype in {"cxl_dax_region", "cxl_region"}


BUS = DirectoryKind(
    "bus",
    lambda bus: f"/sys/bus/{bus.name}",
    bus_entries(
        "",
        Links(of=_bus_devices, doc="Links to all devices on the bus."),
        Subdirectories(of=lambda bus: bus.drivers, doc="The drivers of the bus."),
    ),
)


def _char_devices(kernel: Any) -> dict[str, tuple[Kobject, str]]:
    return {
        f"{kernel.config.dax_major}:{device.minor}": (device, device_path(device))
        for device in kernel.dax_bus.devices.values()
    }


CHAR_ENTRIES: tuple[Entry, ...] = (Links(of=_char_devices, doc="Links to the devices by major and minor number."),)
