"""/sys as a whole: the static directories, and the kind of each kernel object's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fakesysfs.kernel.cpu import Cpu
from fakesysfs.kernel.cxl.core.port import CxlBus
from fakesysfs.kernel.cxl.pmem import Nvdimm
from fakesysfs.kernel.dax.bus import DaxBus, DaxMapping, DaxRegion, DevDax
from fakesysfs.kernel.dax.kmem import DaxKmemData
from fakesysfs.kernel.dax.pmem import NdDevice, NvdimmBus
from fakesysfs.kernel.device import Bus, Driver
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import BlockGroup
from fakesysfs.kernel.memory_tiers import MemoryTier
from fakesysfs.kernel.module import BuiltInModule, Module
from fakesysfs.kernel.node import NodeDevice
from fakesysfs.kernel.notifier_error_inject import NotifierErrInject, NotifierErrInjectAction, NotifierErrInjectDir
from fakesysfs.kernel.platform import CxlDevice, PlatformDevice
from fakesysfs.kernfs.declare import DirectoryKind, Kobject, Links, Subdirectories
from fakesysfs.kernfs.static import StaticTables
from fakesysfs.sysfs import cxl, dax, debugfs, memory, module, nd, node
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
    Nvdimm: nd.NVDIMM,
    Bus: dax.BUS,
    CxlBus: cxl.CXL_BUS,
    DaxBus: dax.BUS,
    NvdimmBus: dax.BUS,
    Module: module.MODULE,
    BuiltInModule: module.BUILT_IN_MODULE,
    **cxl.KINDS,
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


def declare(tables: StaticTables[Kernel], *, memory_hotplug: bool, numa_migration: bool, has_cxl: bool) -> None:
    """Declare the directories of /sys that stand for no object, as the kernel is configured."""
    declare = tables.declare
    for name, entries in (
        *((("memory", memory.MEMORY_BUS_ENTRIES),) if memory_hotplug else ()),
        ("node", node.NODE_BUS_ENTRIES),
        ("memory_tiering", node.TIERING_BUS_ENTRIES),
        ("cpu", node.CPU_BUS_ENTRIES),
    ):
        declare(f"/sys/bus/{name}", entries)
    declare("/sys/bus", (Subdirectories(of=lambda kernel: kernel.buses),))
    if has_cxl:
        declare("/sys/class/firmware", cxl.FIRMWARE_CLASS)
        declare("/sys/class/wakeup", (Links(of=cxl.wakeup_links, doc="What counts wake-ups."),))
    declare("/sys/class")
    declare("/sys/dev/block")
    cxl_characters = Links(of=cxl.char_links, doc="Links to the CXL memory devices by major and minor number.")
    declare("/sys/dev/char", (dax.CHAR_DEVICES, *((cxl_characters,) if has_cxl else ())))
    declare("/sys/dev")
    declare(
        "/sys/devices/platform",
        (uevent(lambda _kernel: "/devices/platform", None), power("platform"), Subdirectories(of=_platform_roots)),
    )
    declare("/sys/devices/system/cpu", node.CPU_ENTRIES)
    if memory_hotplug:
        declare("/sys/devices/system/memory", memory.MEMORY_ENTRIES)
    declare("/sys/devices/system/node", node.NODE_ENTRIES)
    declare("/sys/devices/system")
    declare("/sys/devices/virtual/memory_tiering", node.TIERING_ENTRIES)
    declare("/sys/devices/virtual")
    declare("/sys/devices", (Subdirectories(of=cxl.hierarchies),))
    if numa_migration:
        declare("/sys/kernel/mm/numa", node.NUMA_ENTRIES)
    declare("/sys/kernel/mm")
    if has_cxl:
        declare(f"{debugfs.PATH}/cxl/mbox", cxl.MBOX_ENTRIES, file_size=0)
        declare(f"{debugfs.PATH}/cxl", cxl.DEBUGFS_ENTRIES, file_size=0)
    declare(debugfs.PATH, debugfs.ENTRIES, mode=0o700, file_size=0)
    declare("/sys/kernel")
    if memory_hotplug:
        declare("/sys/module/memory_hotplug", module.MEMORY_HOTPLUG_ENTRIES)
    declare("/sys/module", (Subdirectories(of=module.modules_shown),))
    declare("/sys")
