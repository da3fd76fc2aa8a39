"""/sys as a whole: the static directories, and the kind of each kernel object's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fakesysfs.kernel.cpu import Cpu
from fakesysfs.kernel.dax.bus import DaxBus, DaxMapping, DaxRegion, DevDax
from fakesysfs.kernel.dax.kmem import DaxKmemData
from fakesysfs.kernel.dax.pmem import NdDevice, NvdimmBus
from fakesysfs.kernel.device import Bus, Driver
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import BlockGroup
from fakesysfs.kernel.memory_tiers import MemoryTier
from fakesysfs.kernel.module import Module
from fakesysfs.kernel.node import NodeDevice
from fakesysfs.kernel.notifier_error_inject import NotifierErrInject, NotifierErrInjectAction, NotifierErrInjectDir
from fakesysfs.kernel.platform import CxlDevice, PlatformDevice
from fakesysfs.kernfs.declare import DirectoryKind, Kobject, Subdirectories
from fakesysfs.kernfs.static import StaticDirectories
from fakesysfs.sysfs import dax, debugfs, memory, module, nd, node
from fakesysfs.sysfs.common import power, uevent

KINDS: Mapping[type, DirectoryKind[Any]] = {
    BlockGroup: memory.MEMORY_BLOCK,
    NodeDevice: node.NODE_KIND,
    MemoryTier: node.MEMORY_TIER,
    Cpu: node.CPU_KIND,
    DevDax: dax.DEV_DAX,
    DaxKmemData: dax.DEV_DAX,
    DaxMapping: dax.DAX_MAPPING,
    PlatformDevice: dax.PLATFORM_DEVICE,
    CxlDevice: dax.CXL_DEVICE,
    NdDevice: nd.ND_DEVICE,
    Bus: dax.BUS,
    DaxBus: dax.BUS,
    NvdimmBus: dax.BUS,
    Module: module.MODULE,
    NotifierErrInjectDir: debugfs.NOTIFIER_ERROR_INJECT,
    NotifierErrInject: debugfs.NOTIFIER_ERR_INJECT,
    NotifierErrInjectAction: debugfs.NOTIFIER_ERR_INJECT_ACTION,
}
"""Kinds of directories by the type of the object. Drivers have many types: see `kind_of`."""


def kind_of(kobject: Any) -> DirectoryKind[Any]:
    """The kind of a kernel object's directory."""
    if isinstance(kobject, Driver):
        return dax.DRIVER
    if isinstance(kobject, DaxRegion):
        return kind_of(kobject.device)
    return KINDS[type(kobject)]


def _platform_roots(kernel: Kernel) -> dict[str, Kobject]:
    return {name: device for name, device in kernel.platform_bus.devices.items() if device.parent is None}


def make(static: StaticDirectories[Kernel], kernel: Kernel) -> None:
    """Make the directories of /sys that stand for no object."""
    make_ = static.make
    hotplug = kernel.config.memory_hotplug
    for name, entries in (
        *((("memory", memory.MEMORY_BUS_ENTRIES),) if hotplug else ()),
        ("node", node.NODE_BUS_ENTRIES),
        ("memory_tiering", node.TIERING_BUS_ENTRIES),
        ("cpu", node.CPU_BUS_ENTRIES),
    ):
        make_(f"/sys/bus/{name}", entries)
    make_("/sys/bus", (Subdirectories(of=lambda _kernel: kernel.buses),))
    make_("/sys/class")
    make_("/sys/dev/block")
    make_("/sys/dev/char", dax.CHAR_ENTRIES)
    make_("/sys/dev")
    make_(
        "/sys/devices/platform",
        (uevent(lambda _kernel: "/devices/platform", None), power("platform"), Subdirectories(of=_platform_roots)),
    )
    make_("/sys/devices/system/cpu", node.CPU_ENTRIES)
    if hotplug:
        make_("/sys/devices/system/memory", memory.MEMORY_ENTRIES)
    make_("/sys/devices/system/node", node.NODE_ENTRIES)
    make_("/sys/devices/system")
    make_("/sys/devices/virtual/memory_tiering", node.TIERING_ENTRIES)
    make_("/sys/devices/virtual")
    make_("/sys/devices")
    if kernel.config.numa_migration:
        make_("/sys/kernel/mm/numa", node.NUMA_ENTRIES)
    make_("/sys/kernel/mm")
    make_(debugfs.PATH, debugfs.ENTRIES, mode=0o700, file_size=0)
    make_("/sys/kernel")
    if hotplug:
        make_("/sys/module/memory_hotplug", module.MEMORY_HOTPLUG_ENTRIES)
    make_("/sys/module", (Subdirectories(of=lambda _kernel: kernel.modules.loaded),))
    make_("/sys")
