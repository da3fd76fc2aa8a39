"""What many directories share: `power/`, `uevent`, `subsystem`, the tables of buses.

drivers/base/core.c, drivers/base/bus.c, drivers/base/power/sysfs.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar, cast

from fakesysfs.kernel.device import Bus, Device, synthetic_uevent
from fakesysfs.kernel.kernel import HasKernel, Kernel
from fakesysfs.kernel.kstrtox import sysfs_match_string, word_of
from fakesysfs.kernel.pm import DevPmInfo
from fakesysfs.kernfs.declare import RO, RW, WO, Attribute, Entry, Group, Indexed, Kobject, Link, Links, Store
from fakesysfs.ops.errors import KernelError

K = TypeVar("K", bound=HasKernel)


def always_0(_kobj: object) -> int:
    """The `show` of an attribute that reads as 0 whatever happens."""
    return 0


# power/ -----------------------------------------------------------------------------------------------------------


def _has_pm(kobj: HasKernel) -> bool:
    return kobj.kernel.config.pm


def _autosuspend_delay_show(_kobj: object) -> str:
    raise KernelError(errno.EIO, "the device does not use autosuspend", "autosuspend_delay_ms_show")


def _autosuspend_delay_store(_kobj: object, _buffer: bytes) -> None:
    raise KernelError(errno.EIO, "the device does not use autosuspend", "autosuspend_delay_ms_store")


def _device_of(kobj: HasKernel) -> tuple[int, int]:
    """The serial and index of an object; zeros for the kernel, which a static directory stands for."""
    if isinstance(kobj, Kernel):
        return 0, 0
    device = cast("Kobject", kobj)
    return device.serial, device.index


_CONTROL = {"auto": True, "on": False}
_ASYNC = {"enabled": True, "disabled": False}


def power(place: str = "", *, runtime: bool = True) -> Group[HasKernel]:
    """The directory `power/` of a device.

    `place` tells apart the devices of one object. Without `runtime` the device has no callbacks
    (pm_runtime_no_callbacks), so the files of runtime PM are absent.
    """

    def info(kobj: HasKernel) -> DevPmInfo:
        return kobj.kernel.power.of(*_device_of(kobj), place)

    def control_store(kobj: HasKernel, buffer: bytes) -> None:
        runtime_auto = sysfs_match_string(_CONTROL, buffer, "control_store")
        kobj.kernel.power.change(*_device_of(kobj), place).runtime_auto = runtime_auto

    def async_store(kobj: HasKernel, buffer: bytes) -> None:
        async_suspend = sysfs_match_string(_ASYNC, buffer, "async_store")
        kobj.kernel.power.change(*_device_of(kobj), place).async_suspend = async_suspend

    def control_show(kobj: HasKernel) -> str:
        return "auto" if info(kobj).runtime_auto else "on"

    def runtime_enabled_show(kobj: HasKernel) -> str:
        return "disabled" if info(kobj).runtime_auto else "disabled & forbidden"

    def runtime_usage_show(kobj: HasKernel) -> int:
        return info(kobj).usage_count

    def async_show(kobj: HasKernel) -> str:
        return "enabled" if info(kobj).async_suspend else "disabled"

    files: list[Entry[HasKernel]] = [RW("async", async_show, async_store)]
    if runtime:
        files += [
            RW("autosuspend_delay_ms", _autosuspend_delay_show, _autosuspend_delay_store),
            RW("control", control_show, control_store),
            RO("runtime_active_kids", always_0),
            RO("runtime_active_time", always_0),
            RO("runtime_enabled", runtime_enabled_show),
            RO("runtime_status", lambda _: "unsupported"),
            RO("runtime_suspended_time", always_0),
            RO("runtime_usage", runtime_usage_show),
        ]
    return Group(
        name="power",
        visible=_has_pm,
        doc="Power management of the device; runtime PM is disabled for all modelled devices.",
        entries=tuple(files),
    )


POWER: Group[HasKernel] = power()


# uevent, subsystem ------------------------------------------------------------------------------------------------


def uevent(
    devpath: Callable[[K], str],
    subsystem: str | Callable[[K], str | None] | None,
    environment: Callable[[K], tuple[str, ...]] = lambda _kobj: (),
    *,
    write_only: bool = False,
) -> Attribute[K]:
    """The attribute `uevent`: a read gives the KEY=value lines, a write sends a synthetic event.

    `subsystem` is None for a device on no bus. `write_only` is for objects that are not devices: a
    driver, a bus, a module.
    """

    def store(kobj: K, buffer: bytes) -> None:
        path = devpath(kobj)
        bus = subsystem(kobj) if callable(subsystem) else subsystem
        driver = kobj.driver if isinstance(kobj, Device) else None
        # dev_driver_string: the driver, else the bus, else nothing
        label = f"{driver.name if driver else bus or ''} {path.rsplit('/', 1)[1]}" if not write_only else None
        synthetic_uevent(kobj.kernel, buffer, path, bus, label, lambda: environment(kobj))

    doc = "Environment of the device's uevents; a write of an action (add, change, ...) sends one."
    return WO("uevent", store, doc) if write_only else RW("uevent", environment, store, doc)


def subsystem(bus: str) -> Link[object]:
    """The link `subsystem` to a bus."""
    return Link(name="subsystem", target=lambda _: f"/sys/bus/{bus}", doc="The bus that the device is on.")


# Buses ------------------------------------------------------------------------------------------------------------


def bus_entries(
    devices: Entry[K],
    drivers: tuple[Entry[K], ...],
    autoprobe_show: Callable[[K], bool],
    autoprobe_store: Store[K],
    probe_store: Store[K],
    devpath: Callable[[K], str],
) -> tuple[Entry[K], ...]:
    """The entries of /sys/bus/NAME (drivers/base/bus.c, bus_register)."""
    return (
        Group(name="devices", entries=(devices,), doc="Links to all devices on the bus."),
        Group(name="drivers", entries=drivers, doc="The drivers of the bus."),
        RW(
            "drivers_autoprobe",
            autoprobe_show,
            autoprobe_store,
            "Whether new devices and drivers are matched by themselves: 1 or 0.",
        ),
        WO("drivers_probe", probe_store, "A device's name: let a driver that matches take it."),
        uevent(devpath, "bus", write_only=True),
    )


def bus_devices(is_listed: Callable[[Device], bool] = lambda _device: True) -> Links[Bus]:
    """The links to the devices on a bus, but for those that it does not show."""

    def path_of(bus: Bus, device: Device) -> str | None:
        is_there = bus.devices.get(device.name) is device and is_listed(device)
        return f"/sys{device.devpath}" if is_there else None

    return Links(
        of=lambda bus: {
            name: (device, f"/sys{device.devpath}") for name, device in bus.devices.items() if is_listed(device)
        },
        link=path_of,
        doc="Links to all devices on the bus.",
    )


def driverless_bus_entries(name: str, devices: Links[Kernel] | Indexed[Kernel]) -> tuple[Entry[Kernel], ...]:
    """The entries of a bus without drivers (memory, node): the same attributes, without effect."""

    def autoprobe_store(kernel: Kernel, buffer: bytes) -> None:
        if buffer.startswith(b"0"):
            kernel.autoprobe_off.add(name)
        else:
            kernel.autoprobe_off.discard(name)

    def probe_store(kernel: Kernel, buffer: bytes) -> None:
        """No driver takes the device; that is not an error (drivers_probe_store)."""
        if not _is_on_bus(devices, kernel, word_of(buffer)):
            raise KernelError(errno.ENODEV, f"no device {word_of(buffer)!r}", "drivers_probe_store")

    return bus_entries(
        devices,
        (),
        lambda kernel: name not in kernel.autoprobe_off,
        autoprobe_store,
        probe_store,
        lambda _kernel: f"/bus/{name}",
    )


def _is_on_bus(devices: Links[Kernel] | Indexed[Kernel], kernel: Kernel, name: str) -> bool:
    """Whether the family of links has a device of this name."""
    if isinstance(devices, Links):
        return name in devices.of(kernel)
    digits = name.removeprefix(devices.prefix)
    if not digits.isascii() or not digits.isdigit() or name != f"{devices.prefix}{int(digits)}":
        return False
    return devices.has(kernel, int(digits))
