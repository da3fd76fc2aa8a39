"""Devices, buses and drivers (drivers/base/core.c, bus.c, dd.c): their events, links and errors.

A probe or remove may sleep (kmem's does). So binding and unbinding are operations.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.kstrtox import word_of
from fakesysfs.kernel.printk import ERR, WARNING
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Mutex

if TYPE_CHECKING:
    from fakesysfs.ops.sched import Operation

QUIET_PROBE_ERRORS = frozenset({errno.ENODEV, errno.ENXIO})
"""The kernel logs nothing about a probe that fails with one of these (call_driver_probe)."""

_UUID = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ALNUM = rb"[0-9A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\xff]+"
"""The kernel's isalnum counts the letters of Latin-1 (lib/ctype.c)."""
_PAIR = re.compile(_ALNUM + b"=" + _ALNUM)

UEVENT_ACTIONS = ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")


class Device:
    """One device, below the device `parent`, or below the directory `under` (a path below /sys)."""

    index = 0
    glue = ""
    """`/CLASS`: the directory of the device's class below its parent's (get_device_parent)."""

    def __init__(self, core: Core, name: str, bus: Bus | None, parent: Device | None = None, under: str = "") -> None:
        self.kernel = core
        self.name = name
        self.bus = bus
        self.parent = parent
        self.under = under
        self.devpath: str = f"{parent.devpath if parent else under}{self.glue}/{name}"
        """The path below /sys (kobject_get_path). A device has it from the start: a bus may have hundreds of links."""
        self.serial = 0
        self.driver: Driver | None = None
        """Set from the start of a probe to the end of the removal."""
        self.driver_link: Driver | None = None
        """The target of the link `driver`: set before the probe, cleared before the removal."""
        self.driver_data: Any = None
        self.numa_node: int | None = None
        """The device's node (dev_to_node). Registration copies the parent's if it is None."""
        self.children: dict[str, Device] = {}
        self.lock = Mutex(name, core.lock_observers)
        """The device lock. Binding and unbinding hold it."""
        self.release_actions: list[Callable[[], Operation[None]]] = []
        """The driver's managed resources: run after its removal, last first (devres)."""

    @property
    def modalias(self) -> str | None:
        """MODALIAS, None on a bus without one."""
        return None

    def environment(self) -> list[str]:
        """The device's own KEY=value lines, before DRIVER and MODALIAS (dev_uevent)."""
        return []

    def uevent_environment(self, *, modalias: bool = True) -> tuple[str, ...]:
        """The lines of an event, or of reading `uevent`."""
        lines = self.environment()
        if self.driver is not None:
            lines.append(f"DRIVER={self.driver.name}")
        if modalias and self.modalias is not None:
            lines.append(f"MODALIAS={self.modalias}")
        return tuple(lines)

    def uevent(self, action: str, *extra: str, modalias: bool = True) -> None:
        """Send a uevent of this device."""
        if self.kernel.booted and self.bus is not None:
            environment = (*extra, *self.uevent_environment(modalias=modalias))
            self.kernel.uevents.send(action, self.devpath, self.bus.name, environment)

    @property
    def alive(self) -> bool:
        """Is the device registered?"""
        return self.serial != 0


class Driver:
    """One driver of a bus. A subclass implements `matches`, `probe` and `remove`."""

    index = 0
    name = ""
    suppress_bind_attrs = False
    """The driver's directory has neither bind nor unbind."""
    probe_async = False
    """Its devices are probed in the background (PROBE_PREFER_ASYNCHRONOUS)."""

    def __init__(self, bus: Bus, module: str) -> None:
        self.kernel = bus.kernel
        self.bus = bus
        self.module = module
        self.serial = 0
        self.devices: list[Device] = []
        """The devices with links to and from the driver, in the order of binding."""

    def matches(self, device: Device) -> bool:
        """Does the bus match this driver with the device?"""
        raise NotImplementedError

    async def probe(self, device: Device) -> None:
        """Take the device. Raises KernelError if it cannot."""
        raise NotImplementedError

    async def remove(self, device: Device) -> None:
        """Release the device. This cannot fail."""

    @property
    def devpath(self) -> str:
        """The path of the driver's directory below /sys."""
        return f"/bus/{self.bus.name}/drivers/{self.name}"


class Bus:
    """One bus: its devices in the order of creation, its drivers in the order of registration."""

    index = 0

    def __init__(self, core: Core, name: str) -> None:
        self.kernel = core
        self.name = name
        self.serial = core.new_serial()
        self.devices: dict[str, Device] = {}
        self.drivers: dict[str, Driver] = {}
        self.autoprobe = True
        core.register(self)

    def find_device(self, buffer: bytes) -> Device | None:
        """The device of the name that a user wrote (bus_find_device_by_name)."""
        return self.devices.get(word_of(buffer))

    # Devices ------------------------------------------------------------------------------------------------------

    async def add(self, device: Device) -> None:
        """Register a device and let the matching drivers probe it (device_add)."""
        device.serial = self.kernel.new_serial()
        self.kernel.register(device)
        self.devices[device.name] = device
        if device.parent is not None:
            device.parent.children[device.name] = device
            if device.numa_node is None:
                device.numa_node = device.parent.numa_node
        self.kernel.changed("device", device)
        device.uevent("add")
        if self.autoprobe:
            await self.device_attach(device)

    async def device_attach(self, device: Device) -> None:
        """Let the drivers that match take a device (__device_attach)."""
        for driver in list(self.drivers.values()):
            if device.driver is None and driver.matches(device):
                if driver.probe_async:
                    self.kernel.schedule(self._attach_quietly(driver, device))
                else:
                    await self._attach_quietly(driver, device)

    async def remove(self, device: Device) -> None:
        """Unbind and unregister a device and the devices that are still below it (device_del)."""
        await self.detach(device)
        for child in reversed(list(device.children.values())):
            if child.bus is not None:
                await child.bus.remove(child)
        self.devices.pop(device.name, None)
        if device.parent is not None:
            device.parent.children.pop(device.name, None)
        self.kernel.changed("device", device)
        device.uevent("remove")
        self.kernel.unregister(device)
        device.serial = 0

    # Drivers ------------------------------------------------------------------------------------------------------

    async def register_driver(self, driver: Driver) -> None:
        """Register a driver: it probes the matching devices, then its uevent is sent.

        bus_add_driver.
        """
        driver.serial = self.kernel.new_serial()
        self.kernel.register(driver)
        self.drivers[driver.name] = driver
        self.kernel.changed("driver", driver)
        if self.autoprobe and driver.probe_async:
            self.kernel.schedule(self.driver_attach(driver))
        elif self.autoprobe:
            await self.driver_attach(driver)
        if self.kernel.booted:
            self.kernel.uevents.send("add", driver.devpath, "drivers")

    async def unregister_driver(self, driver: Driver) -> None:
        """Unbind the driver's devices, the last one first, and unregister it.

        bus_remove_driver.
        """
        for device in reversed(list(driver.devices)):
            await self.detach(device)
        del self.drivers[driver.name]
        self.kernel.changed("driver", driver)
        self.kernel.unregister(driver)
        self.kernel.uevents.send("remove", driver.devpath, "drivers")

    async def driver_attach(self, driver: Driver) -> None:
        """Let a driver probe each matching device without a driver, in the order of creation.

        Waits while a device is being bound or unbound. A failed probe is only logged.
        """
        for device in list(self.devices.values()):
            if driver.matches(device):
                async with device.lock:
                    if device.driver is None and device.alive:
                        await self._probe_quietly(driver, device)

    async def _attach_quietly(self, driver: Driver, device: Device) -> None:
        try:
            await self.attach(driver, device)
        except KernelError as error:
            self.kernel.note_ignored(error)

    async def _probe_quietly(self, driver: Driver, device: Device) -> None:
        try:
            await self._really_probe(driver, device)
        except KernelError as error:
            self.kernel.note_ignored(error)

    async def attach(self, driver: Driver, device: Device) -> None:
        """Probe one device (really_probe).

        Raises KernelError: ENODEV if the device was removed, EBUSY if it has a driver, or the
        error of the probe.
        """
        async with device.lock:
            if not device.alive:
                raise KernelError(errno.ENODEV, f"{device.name} was removed", "device_driver_attach")
            if device.driver is not None:
                raise KernelError(
                    errno.EBUSY, f"{device.name} is bound to {device.driver.name}", "device_driver_attach"
                )
            await self._really_probe(driver, device)

    async def _really_probe(self, driver: Driver, device: Device) -> None:
        device.driver = device.driver_link = driver
        driver.devices.append(device)
        self.kernel.changed("driver_link", device, driver)
        self.kernel.allocate_for_probe(device.numa_node)
        try:
            await driver.probe(device)
        except KernelError as error:
            if error.errno not in QUIET_PROBE_ERRORS:
                self.kernel.printk(
                    ERR,
                    f"{driver.name} {device.name}: probe with driver {driver.name} failed with error {-error.errno}",
                )
            self._driver_sysfs_remove(device, driver)
            await self._unbind_cleanup(device)
            raise
        device.uevent("bind")

    def _driver_sysfs_remove(self, device: Device, driver: Driver) -> None:
        device.driver_link = None
        driver.devices.remove(device)
        self.kernel.changed("driver_link", device, driver)

    @staticmethod
    async def _unbind_cleanup(device: Device) -> None:
        """Release the managed resources; then the device has no driver (device_unbind_cleanup)."""
        for action in reversed(device.release_actions):
            await action()
        device.release_actions.clear()
        device.driver = None

    async def detach(self, device: Device) -> None:
        """Unbind the device if it has a driver (device_release_driver)."""
        async with device.lock:
            if device.driver is not None:
                await self._release_driver(device, device.driver)

    async def _release_driver(self, device: Device, driver: Driver) -> None:
        self._driver_sysfs_remove(device, driver)
        await driver.remove(device)
        await self._unbind_cleanup(device)
        device.uevent("unbind", modalias=False)

    # Attributes ---------------------------------------------------------------------------------------------------

    async def bind_store(self, driver: Driver, buffer: bytes) -> None:
        """A write to drivers/X/bind (bind_store).

        Raises KernelError: ENODEV for an unknown device or one that does not match, EBUSY if it is
        bound, or the error of the probe.
        """
        device = self.find_device(buffer)
        if device is None or not driver.matches(device):
            raise KernelError(errno.ENODEV, f"{driver.name} matches no device {word_of(buffer)!r}", "bind_store")
        await self.attach(driver, device)
        await self.kernel.run_scheduled()

    async def unbind_store(self, driver: Driver, buffer: bytes) -> None:
        """A write to drivers/X/unbind (unbind_store).

        Raises KernelError ENODEV unless the device is bound to this driver.
        """
        device = self.find_device(buffer)
        if device is None or device.driver is not driver:
            raise KernelError(errno.ENODEV, f"{word_of(buffer)!r} is not bound to {driver.name}", "unbind_store")
        await self.detach(device)
        await self.kernel.run_scheduled()

    async def drivers_probe_store(self, buffer: bytes) -> None:
        """A write to drivers_probe (drivers_probe_store).

        Raises KernelError ENODEV for an unknown device. A failed probe is a success here.
        """
        device = self.find_device(buffer)
        if device is None:
            raise KernelError(errno.ENODEV, f"no device {word_of(buffer)!r}", "drivers_probe_store")
        await self.device_attach(device)
        await self.kernel.run_scheduled()

    def drivers_autoprobe_store(self, buffer: bytes) -> None:
        """A write to drivers_autoprobe: a first byte '0' clears, anything else sets.

        drivers_autoprobe_store.
        """
        self.autoprobe = not buffer.startswith(b"0")


def _action_arguments(text: bytes) -> list[str] | None:
    """The SYNTH_ lines for "UUID[ KEY=VALUE..]", None for any other text (kobject_action_args)."""
    uuid, *pairs = text.split(b" ")
    if not _UUID.fullmatch(uuid) or not all(_PAIR.fullmatch(pair) for pair in pairs):
        return None
    return [f"SYNTH_UUID={uuid.decode()}", *(f"SYNTH_ARG_{pair.decode('ascii', 'backslashreplace')}" for pair in pairs)]


def synthetic_uevent(
    core: Core,
    buffer: bytes,
    devpath: str,
    subsystem: str | None,
    label: str | None,
    environment: Callable[[], tuple[str, ...]],
) -> None:
    """A write to an `uevent` attribute: "ACTION[ UUID[ KEY=VALUE..]]" (kobject_synth_uevent).

    The last byte may be one newline or NUL. Unlike in other attributes a NUL ends nothing: it is a
    byte that no action, key or value has.

    `subsystem` is None for a device without a bus; such a device sends no event
    (dev_uevent_filter). `label` names a device in messages ("memory memory50"). It is None for
    other objects, because only devices log a second line (uevent_store in core.c; bus.c and
    params.c do not). Raises KernelError EINVAL, with one or two lines in the log, for any other
    text.
    """
    text = buffer[:-1] if buffer.endswith((b"\n", b"\0")) else buffer
    word, space, arguments = text.partition(b" ")
    action = word.decode("ascii", "backslashreplace")
    problem = None
    extra: list[str] | None = ["SYNTH_UUID=0"]
    if action not in UEVENT_ACTIONS:
        problem = "unknown uevent action string"
    elif space:
        extra = _action_arguments(arguments)
        problem = "incorrect uevent action arguments" if extra is None else None
    if problem is not None:
        core.printk(WARNING, f"synth uevent: {devpath}: {problem}")
        if label is not None:
            core.printk(ERR, f"{label}: uevent: failed to send synthetic uevent: -22")
        written = text.decode("utf-8", "backslashreplace")
        raise KernelError(errno.EINVAL, f"{written!r}: {problem}", "kobject_synth_uevent")
    if subsystem is not None and extra is not None:
        # No unbind event has a MODALIAS (zap_modalias_env).
        lines = (line for line in environment() if action != "unbind" or not line.startswith("MODALIAS="))
        core.uevents.send(action, devpath, subsystem, (*extra, *lines))
