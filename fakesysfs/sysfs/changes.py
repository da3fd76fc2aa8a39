"""Which names a change in the kernel touches.

The kernel reports which object came or went. This module knows the directories that show it, so
that a cache of names can drop exactly those names. It computes the inode numbers of the directories
at once, because the object may be gone later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fakesysfs.kernel.cxl.acpi import AcpiCxlDevice
from fakesysfs.kernel.cxl.core.memdev import CxlMemdev
from fakesysfs.kernel.cxl.core.port import CxlPort
from fakesysfs.kernel.cxl.core.region import WAYS
from fakesysfs.kernel.dax.bus import DevDax
from fakesysfs.kernel.device import Device, Driver
from fakesysfs.kernel.kernel import kernel_of
from fakesysfs.kernfs.declare import Kobject
from fakesysfs.kernfs.tree import NameChange, Tree
from fakesysfs.sysfs import debugfs

_WITH_DRIVER: Mapping[type, tuple[str, ...]] = {
    AcpiCxlDevice: ("waiting_for_supplier",),
    CxlMemdev: ("trigger_poison_list",),
    CxlPort: ("CDAT",),
}
"""Names that come and go with the binding of a device."""

Where = Callable[[str], Kobject]


class Changes:
    """Turns the kernel's changes into `NameChange`s of one tree.

    `static` gives a static directory by its path.
    """

    def __init__(self, tree: Tree, static: Where) -> None:
        self._tree = tree
        self._static = static
        self._touched: dict[str, Callable[[Any, Any, Any], Iterator[NameChange]]] = {
            "memory_block": self._memory_block,
            "node": self._node,
            "node_access": self._node_access,
            "tier": self._tier,
            "device": self._device,
            "mapping": self._mapping,
            "driver": self._driver,
            "driver_link": self._driver_link,
            "module": self._module,
            "region": self._region,
            "bus": self._bus,
            "debugfs": self._debugfs,
            "hotplug": self._hotplug,
            "region_targets": self._region_targets,
            "cxl_dport": self._cxl_dport,
            "cxl_firmware": self._cxl_firmware,
            "cxl_wakeup": self._cxl_wakeup,
            "cxl_debugfs": self._cxl_debugfs,
        }

    def of(self, what: str, kobj: Any, first: Any, last: Any) -> Iterator[NameChange]:
        """The names that a change touches."""
        return self._touched[what](kobj, first, last)

    def _at(self, path: str) -> int:
        return self._tree.ino_of(self._static(path))

    def _group(self, kobject: Kobject, name: str) -> int:
        return self._tree.lookup(self._tree.ino_of(kobject), name.encode())

    def _name(self, parent: int, name: str, *, directories: bool = False) -> NameChange:
        return NameChange(parent, os.fsencode(name), directories=directories)

    def _memory_block(self, group: Any, first: int, last: int) -> Iterator[NameChange]:
        yield NameChange(self._at("/sys/devices/system/memory"), None, b"memory", first, last, directories=True)
        yield NameChange(self._group(self._static("/sys/bus/memory"), "devices"), None, b"memory", first, last)
        yield NameChange(self._at("/control/blocks"), None, b"memory", first, last, directories=True)
        for nid in group.nids:
            device = group.blocks.nodes[nid].device
            if device is not None:
                yield NameChange(self._tree.ino_of(device), None, b"memory", first, last)

    def _node(self, node: Any, _first: Any, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._at("/sys/devices/system/node"), node.name, directories=True)
        yield self._name(self._group(self._static("/sys/bus/node"), "devices"), node.name)

    def _node_access(self, node: Any, initiators: list[int], _last: Any) -> Iterator[NameChange]:
        """The node got access0 and access1, and its initiators got them and a link to the node."""
        initiating = [device for nid in initiators if (device := node.nodes[nid].device) not in {None, node}]
        for name in ("access0", "access1"):
            yield self._name(self._tree.ino_of(node), name, directories=True)
            for device in initiating:
                yield self._name(self._tree.ino_of(device), name, directories=True)
                yield self._name(self._tree.lookup(self._group(device, name), b"targets"), node.name)

    def _tier(self, tier: Any, _first: Any, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._at("/sys/devices/virtual/memory_tiering"), tier.name, directories=True)
        yield self._name(self._group(self._static("/sys/bus/memory_tiering"), "devices"), tier.name)

    def _device(self, device: Device, _first: Any, _last: Any) -> Iterator[NameChange]:
        parent = self._tree.ino_of(device.parent) if device.parent is not None else self._at(f"/sys{device.under}")
        yield self._name(parent, device.name, directories=True)
        if device.bus is not None:
            yield self._name(self._group(device.bus, "devices"), device.name)
        if isinstance(device, CxlMemdev):
            yield self._name(self._at("/sys/dev/char"), f"{device.major}:{device.id}")
            yield self._name(self._at("/dev/cxl"), device.name)
        if isinstance(device, DevDax):
            yield self._name(self._at("/sys/dev/char"), f"{device.kernel.config.dax_major}:{device.minor}")
            yield self._name(self._at("/dev"), device.name)

    def _mapping(self, mapping: Device, _first: Any, _last: Any) -> Iterator[NameChange]:
        if mapping.parent is not None and mapping.parent.alive:
            yield self._name(self._tree.ino_of(mapping.parent), mapping.name, directories=True)

    def _driver(self, driver: Driver, _first: Any, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._group(driver.bus, "drivers"), driver.name, directories=True)
        module = kernel_of(driver).modules.loaded.get(driver.module)
        if module is not None:
            # The group `drivers` comes with the first driver and goes with the last.
            yield self._name(self._tree.ino_of(module), "drivers", directories=True)

    def _driver_link(self, device: Device, driver: Driver, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._tree.ino_of(device), "driver")
        yield self._name(self._tree.ino_of(driver), device.name)
        for name in _WITH_DRIVER.get(type(device), ()):
            yield self._name(self._tree.ino_of(device), name)

    def _module(self, module: Any, _first: Any, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._at("/sys/module"), module.name, directories=True)
        modules = kernel_of(module).modules
        for name in modules.kinds[module.name].needs:
            yield self._name(self._group(modules.loaded[name], "holders"), module.name)

    def _debugfs(self, directory: Kobject | None, name: str, _last: Any) -> Iterator[NameChange]:
        """A directory came or went below `directory`, or below debugfs itself (None)."""
        parent = self._at(debugfs.PATH) if directory is None else self._tree.ino_of(directory)
        yield self._name(parent, name, directories=True)

    def _bus(self, bus: Any, _first: Any, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._at("/sys/bus"), bus.name, directories=True)

    def _region(self, device: Device, _first: Any, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._tree.ino_of(device), "dax_region", directories=True)

    def _hotplug(self, device: Device, _first: Any, _last: Any) -> Iterator[NameChange]:
        name = device.kernel.profile.attribute
        if name is not None:
            yield self._name(self._tree.ino_of(device), name)

    def _region_targets(self, region: Device, _first: Any, _last: Any) -> Iterator[NameChange]:
        for pos in range(max(WAYS)):
            yield self._name(self._tree.ino_of(region), f"target{pos}")

    def _cxl_dport(self, port: Device, name: str, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._tree.ino_of(port), name)

    def _cxl_firmware(self, memdev: Device, _first: Any, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._tree.ino_of(memdev), "firmware", directories=True)
        yield self._name(self._at("/sys/class/firmware"), memdev.name)

    def _cxl_wakeup(self, device: Device, name: str, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._at("/sys/class/wakeup"), name)
        for entry in ("wakeup", "waiting_for_supplier"):
            yield self._name(self._tree.ino_of(device), entry, directories=True)

    def _cxl_debugfs(self, _directory: Kobject, name: str, _last: Any) -> Iterator[NameChange]:
        yield self._name(self._at(f"{debugfs.PATH}/cxl"), name, directories=True)
