"""What many directories share: `power/`, `uevent`, `subsystem` (drivers/base/core.c, power/sysfs.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from fakesysfs.kernel.device import Bus, Device, synthetic_uevent
from fakesysfs.kernel.kstrtox import sysfs_match_string, word_of
from fakesysfs.kernfs.declare import Attribute, Entry, Group, Indexed, Link, Links
from fakesysfs.ops.errors import KernelError


def on(text: str) -> Callable[[Any], str]:
    """A `show` that always gives the same line."""
    return lambda _kobj: f"{text}\n"


def has_pm(kobj: Any) -> bool:
    """CONFIG_PM."""
    return bool(kobj.kernel.config.pm)


def _autosuspend_delay(_kobj: Any) -> str:
    raise KernelError(errno.EIO, "the device does not use autosuspend", "autosuspend_delay_ms_show")


def _only(*words: str) -> Callable[[Any, bytes], None]:
    """A `store` that takes some words and changes nothing (runtime PM is disabled for these devices)."""

    def store(_kobj: Any, buffer: bytes) -> None:
        sysfs_match_string(dict.fromkeys(words, True), buffer, "control_store")

    return store


def _refuse_autosuspend(_kobj: Any, _buffer: bytes) -> None:
    raise KernelError(errno.EIO, "the device does not use autosuspend", "autosuspend_delay_ms_store")


POWER = Group(
    name="power",
    visible=has_pm,
    doc="Power management of the device; runtime PM is disabled for all modelled devices.",
    entries=(
        Attribute(name="async", mode=0o644, show=on("disabled"), store=_only("enabled", "disabled")),
        Attribute(name="autosuspend_delay_ms", mode=0o644, show=_autosuspend_delay, store=_refuse_autosuspend),
        Attribute(name="control", mode=0o644, show=on("auto"), store=_only("auto", "on")),
        Attribute(name="runtime_active_kids", mode=0o444, show=on("0")),
        Attribute(name="runtime_active_time", mode=0o444, show=on("0")),
        Attribute(name="runtime_enabled", mode=0o444, show=on("disabled")),
        Attribute(name="runtime_status", mode=0o444, show=on("unsupported")),
        Attribute(name="runtime_suspended_time", mode=0o444, show=on("0")),
        Attribute(name="runtime_usage", mode=0o444, show=on("0")),
    ),
)


def uevent(
    devpath: Callable[[Any], str],
    subsystem: str | Callable[[Any], str] | None,
    environment: Callable[[Any], tuple[str, ...]] = lambda _kobj: (),
    *,
    write_only: bool = False,
) -> Attribute:
    """The attribute `uevent`: reads as the device's KEY=value lines, a write sends a synthetic event.

    `subsystem` is None for a device on no bus; `write_only` is what is no device: a driver, a bus, a module.
    """

    def show(kobj: Any) -> str:
        return "".join(f"{line}\n" for line in environment(kobj))

    def store(kobj: Any, buffer: bytes) -> None:
        path = devpath(kobj)
        bus = subsystem(kobj) if callable(subsystem) else subsystem
        driver = kobj.driver if isinstance(kobj, Device) else None
        # dev_driver_string: the driver, else the bus, else nothing
        label = f"{driver.name if driver else bus or ''} {path.rsplit('/', 1)[1]}" if not write_only else None
        synthetic_uevent(kobj.kernel, buffer, path, bus, label, lambda: environment(kobj))

    return Attribute(
        name="uevent",
        mode=0o200 if write_only else 0o644,
        show=None if write_only else show,
        store=store,
        doc="Environment of the device's uevents; a write of an action (add, change, ...) sends one.",
    )


def subsystem(bus: str) -> Link:
    """The link `subsystem` to a bus."""
    return Link(name="subsystem", target=lambda _kobj: f"/sys/bus/{bus}", doc="The bus that the device is on.")


def _is_on_bus(devices: Entry, kobj: Any, name: str) -> bool:
    """Is there a device of this name in the family of links?"""
    if isinstance(devices, Links):
        return name in devices.of(kobj)
    assert isinstance(devices, Indexed)
    number = name.removeprefix(devices.prefix)
    return name == f"{devices.prefix}{number}" and number == f"{_decimal(number)}" and devices.has(kobj, int(number))


def _decimal(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def bus_entries(name: str, devices: Entry, drivers: Entry | None = None) -> tuple[Entry, ...]:
    """The entries of /sys/bus/NAME. Buses without drivers (memory, node) have the same attributes.

    `name` is "" where the directory stands for a `Bus`, which has its own.
    """
    real = drivers is not None

    def autoprobe_show(kobj: Any) -> str:
        return f"{int(kobj.autoprobe if isinstance(kobj, Bus) else name not in kobj.autoprobe_off)}\n"

    def autoprobe_store(kobj: Any, buffer: bytes) -> None:
        if isinstance(kobj, Bus):
            kobj.drivers_autoprobe_store(buffer)
        elif buffer.startswith(b"0"):
            kobj.autoprobe_off.add(name)
        else:
            kobj.autoprobe_off.discard(name)

    def no_drivers_probe(kobj: Any, buffer: bytes) -> None:
        """No driver is there to take the device, which is no error (drivers_probe_store)."""
        if not _is_on_bus(devices, kobj, word_of(buffer)):
            raise KernelError(errno.ENODEV, f"no device {word_of(buffer)!r}", "drivers_probe_store")

    return (
        Group(name="devices", entries=(devices,), doc="Links to all devices on the bus."),
        Group(name="drivers", entries=(drivers,) if drivers else (), doc="The drivers of the bus."),
        Attribute(
            name="drivers_autoprobe",
            mode=0o644,
            show=autoprobe_show,
            store=autoprobe_store,
            doc="Whether new devices and drivers are matched by themselves: 1 or 0.",
        ),
        Attribute(
            name="drivers_probe",
            mode=0o200,
            store=(lambda bus, buffer: bus.drivers_probe_store(buffer)) if real else no_drivers_probe,
            doc="A device's name: let a driver that matches take it.",
        ),
        uevent(lambda kobj: f"/bus/{name or kobj.name}", "bus", write_only=True),
    )
