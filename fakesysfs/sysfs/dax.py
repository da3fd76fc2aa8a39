"""/sys/bus/dax: dax devices, regions, mappings; and the drivers and the devices above them.

drivers/dax/bus.c, drivers/base/bus.c. KERNEL.md 4.
"""

from __future__ import annotations

from collections.abc import Callable

from fakesysfs.kernel.dax import bus as dax_bus
from fakesysfs.kernel.dax.bus import DaxDriver, DaxMapping, DaxRegion, DevDax
from fakesysfs.kernel.dax.kmem import DaxKmemData, Kmem
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.platform import CxlDevice, PlatformDevice
from fakesysfs.kernfs.declare import RO, RW, WO, DirectoryKind, Group, Kobject, Link, Links, Subdirectories
from fakesysfs.sysfs.common import POWER, bus_devices, bus_entries, subsystem, uevent


def device_path(device: Device) -> str:
    """The absolute path of a device's directory."""
    return f"/sys{device.devpath}"


def _driver_link(device: Device) -> str | None:
    return None if device.driver_link is None else f"/sys{device.driver_link.devpath}"


DRIVER_LINK: Link[Device] = Link(name="driver", target=_driver_link, doc="The driver that the device is bound to.")


def _children(device: Device) -> dict[str, Device]:
    return device.children


def _devpath(device: Device) -> str:
    return device.devpath


_DEVICE_UEVENT = uevent(
    _devpath,
    lambda device: device.bus.name if device.bus else None,
    lambda device: device.uevent_environment(),
)


# The dax device ---------------------------------------------------------------------------------------------------


def _writable_if_dynamic(device: DevDax) -> int:
    return 0o444 if device.region.static else 0o644


def _kmem_data(name: str) -> Callable[[DevDax], DaxKmemData | None]:
    """The owner of the whole-device attribute, which a kernel calls `name`.

    The attribute exists while kmem is bound. Each binding has another attribute, so a file that was
    opened during an earlier binding stays dead.
    """

    def owner(device: DevDax) -> DaxKmemData | None:
        data = device.driver_data
        exists = isinstance(data, DaxKmemData) and data.attribute_exists and device.kernel.profile.attribute == name
        return data if exists else None

    return owner


def _kmem(device: DevDax) -> Kmem:
    driver = device.region.bus.drivers["kmem"]
    assert isinstance(driver, Kmem)
    return driver


DEV_DAX = DirectoryKind[DevDax](
    "dax device",
    device_path,
    (
        RW(
            "hotplug",
            lambda device: _kmem(device).hotplug_show(device),
            lambda device, buffer: _kmem(device).hotplug_store(device, buffer),
            "State of all memory of a device bound to kmem (the posted series): unplugged, offline, online, "
            "online_movable. "
            "Written: unplug, online, online_movable; EBUSY from one online type to another: unplug first.",
            owner=_kmem_data("hotplug"),
        ),
        RW(
            "state",
            lambda device: _kmem(device).hotplug_show(device),
            lambda device, buffer: _kmem(device).hotplug_store(device, buffer),
            "State of all memory of a device bound to kmem (the merged form): unplugged, offline, online, "
            "online_kernel, "
            "online_movable. Written: all but offline; EBUSY unless it is unplugged.",
            owner=_kmem_data("state"),
        ),
        RW(
            "size",
            lambda device: device.size,
            dax_bus.size_store,
            "Bytes; writable in a dynamic region while no driver is bound.",
            narrow=_writable_if_dynamic,
        ),
        RW(
            "align",
            lambda device: device.align,
            dax_bus.align_store,
            "Alignment of the device's ranges in bytes: 4096, 2097152 or 1073741824.",
            narrow=_writable_if_dynamic,
        ),
        WO(
            "mapping",
            dax_bus.mapping_store,
            'A range "start-end" (hexadecimal) to add to the device.',
            visible=lambda device: not device.region.static,
        ),
        RW(
            "memmap_on_memory",
            lambda device: device.memmap_on_memory,
            dax_bus.memmap_on_memory_store,
            "Whether kmem keeps the memory map of the device's blocks in the blocks.",
        ),
        RO("target_node", lambda device: device.target_node, "Node that the memory is on."),
        RO(
            "numa_node",
            lambda device: f"{device.numa_node}",
            "The node of the device that offers the region: the nearest one online when that was made.",
        ),
        RO("modalias", lambda device: device.modalias, "What modules are matched by."),
        RO(
            "dev",
            lambda device: f"{device.kernel.config.dax_major}:{device.minor}",
            "Major and minor number of the character device.",
        ),
        RO("resource", lambda device: f"{device.resource:#x}", "Start of the first range, bytes.", mode=0o400),
        _DEVICE_UEVENT,
        subsystem("dax"),
        DRIVER_LINK,
        POWER,
        Subdirectories(of=_children, doc="mappingN: the ranges of the device, in the order of allocation."),
    ),
)

DAX_MAPPING = DirectoryKind[DaxMapping](
    "dax mapping",
    device_path,
    (
        RO("start", lambda mapping: f"{mapping.range.start:#x}", "First byte of the range.", mode=0o400),
        RO("end", lambda mapping: f"{mapping.range.end:#x}", "Last byte of the range.", mode=0o400),
        RO("page_offset", lambda mapping: f"{mapping.pgoff:#x}", "Pages of the device before this range.", mode=0o400),
        uevent(lambda mapping: mapping.devpath, None),
        POWER,
    ),
)


# The region -------------------------------------------------------------------------------------------------------


def _region(device: Device) -> DaxRegion:
    region = device.driver_data
    assert isinstance(region, DaxRegion)
    return region


def _region_now(device: Device) -> DaxRegion | None:
    """The owner of the group, which lives as long as the region: each binding has another one."""
    region = device.driver_data
    return region if isinstance(region, DaxRegion) else None


def _is_dynamic(device: Device) -> bool:
    return not _region(device).static


def _name_or_nothing(device: DevDax | None) -> str:
    return "" if device is None else device.name


DAX_REGION: Group[Device] = Group(
    name="dax_region",
    owner=_region_now,
    doc="The region that dax devices are made of.",
    entries=(
        RO("id", lambda device: _region(device).id, "Number of the region: the X of daxX.Y."),
        RO("size", lambda device: _region(device).range.length, "Bytes."),
        RO("align", lambda device: _region(device).align, "Default alignment in bytes.", mode=0o400),
        RO(
            "available_size",
            lambda device: _region(device).available_size,
            "Bytes that no device holds.",
            visible=_is_dynamic,
        ),
        RO(
            "seed",
            lambda device: _name_or_nothing(_region(device).seed),
            "The first device that was never bound.",
            visible=_is_dynamic,
        ),
        RW(
            "create",
            lambda device: _name_or_nothing(_region(device).youngest),
            lambda device, buffer: dax_bus.create_store(_region(device), buffer),
            "1 makes an empty device; reads as the youngest one's name.",
            visible=_is_dynamic,
        ),
        WO(
            "delete",
            lambda device, buffer: dax_bus.delete_store(_region(device), buffer),
            "Name of an empty, unbound device to delete; never daxX.0.",
            visible=_is_dynamic,
        ),
    ),
)


# Devices above and drivers ----------------------------------------------------------------------------------------


def _driver_override_show(device: PlatformDevice) -> str:
    return device.driver_override or "(null)"


PLATFORM_DEVICE = DirectoryKind[PlatformDevice](
    "platform device",
    device_path,
    (
        RW(
            "driver_override",
            _driver_override_show,
            lambda device, buffer: device.driver_override_store(buffer),
            "The only driver that may take the device.",
        ),
        RO("modalias", lambda device: device.modalias, "What modules are matched by."),
        RO(
            "numa_node",
            lambda device: f"{device.numa_node}",
            "Nearest node that was online at creation.",
            visible=lambda device: device.numa_node is not None,
        ),
        _DEVICE_UEVENT,
        subsystem("platform"),
        DRIVER_LINK,
        POWER,
        DAX_REGION,
        Subdirectories(of=_children, doc="Devices below."),
    ),
)

CXL_DEVICE = DirectoryKind[CxlDevice](
    "cxl device",
    device_path,
    (
        RO("devtype", lambda device: device.devtype, "Type of the device on the CXL bus."),
        RO(
            "modalias",
            lambda device: device.modalias or "",
            "What modules are matched by.",
            visible=lambda device: device.modalias is not None,
        ),
        _DEVICE_UEVENT,
        subsystem("cxl"),
        DRIVER_LINK,
        POWER,
        DAX_REGION,
        Subdirectories(of=_children, doc="Devices below."),
    ),
)


def _can_bind(driver: Driver) -> bool:
    return not driver.suppress_bind_attrs


def _is_dax_driver(driver: Driver) -> bool:
    return isinstance(driver, DaxDriver)


def _dax_driver(driver: Driver) -> DaxDriver:
    assert isinstance(driver, DaxDriver)
    return driver


DRIVER = DirectoryKind[Driver](
    "driver",
    lambda driver: f"/sys{driver.devpath}",
    (
        WO(
            "bind",
            lambda driver, buffer: driver.bus.bind_store(driver, buffer),
            "Name of a device to bind.",
            visible=_can_bind,
        ),
        WO(
            "unbind",
            lambda driver, buffer: driver.bus.unbind_store(driver, buffer),
            "Name of a device to unbind.",
            visible=_can_bind,
        ),
        WO(
            "new_id",
            lambda driver, buffer: _dax_driver(driver).new_id_store(buffer),
            "Name daxX.Y of a device that the driver takes from now on.",
            visible=_is_dax_driver,
        ),
        WO(
            "remove_id",
            lambda driver, buffer: _dax_driver(driver).remove_id_store(buffer),
            "Name daxX.Y that the driver no longer takes.",
            visible=_is_dax_driver,
        ),
        uevent(lambda driver: driver.devpath, "drivers", write_only=True),
        Link(name="module", target=lambda driver: f"/sys/module/{driver.module}", doc="The driver's module."),
        Links(
            of=lambda driver: {device.name: (device, device_path(device)) for device in driver.devices},
            doc="Bound devices.",
        ),
    ),
)


BUS = DirectoryKind[Bus](
    "bus",
    lambda bus: f"/sys/bus/{bus.name}",
    bus_entries(
        bus_devices(),
        (Subdirectories(of=lambda bus: bus.drivers, doc="The drivers of the bus."),),
        lambda bus: bus.autoprobe,
        lambda bus, buffer: bus.drivers_autoprobe_store(buffer),
        lambda bus, buffer: bus.drivers_probe_store(buffer),
        lambda bus: f"/bus/{bus.name}",
    ),
)


def _char_devices(kernel: Kernel) -> dict[str, tuple[Kobject, str]]:
    return {
        f"{kernel.config.dax_major}:{device.minor}": (device, device_path(device))
        for device in kernel.dax_bus.devices.values()
        if isinstance(device, DevDax)
    }


CHAR_DEVICES: Links[Kernel] = Links(of=_char_devices, doc="Links to the dax devices by major and minor number.")
