"""The nd bus's devices on the way to a static dax region (drivers/nvdimm/{region,namespace,pfn,dax}_devs.c).

Recorded: snapshot 7.2/06-pmem-devdax. What a namespace is for cannot be changed here: that is an operation of the
kernel model (`dax.pmem.create_pmem_devdax`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from fakesysfs.kernel.dax.pmem import NdDevice, PmemMedia
from fakesysfs.kernfs.declare import Attribute, DirectoryKind, Subdirectories
from fakesysfs.ops.errors import KernelError
from fakesysfs.sysfs.common import POWER, subsystem, uevent
from fakesysfs.sysfs.dax import DAX_REGION, DRIVER_LINK, device_path

_REGION, _NAMESPACE, _DAX, _BUS = "nd_pmem", "nd_namespace_io", "nd_dax", "nd_bus"
_ALL = (_REGION, _NAMESPACE, _DAX)


def _media(device: NdDevice) -> PmemMedia:
    assert device.media is not None
    return device.media


def _refuse(device: NdDevice, _buffer: bytes) -> None:
    raise KernelError(errno.EBUSY, f"{device.name} is in use", "nd_pfn_store")


def _of(name: str, mode: int, show: Callable[[NdDevice], str], devtypes: tuple[str, ...], doc: str) -> Attribute:
    """An attribute of some of the types; what could be written is in use as long as the device exists."""
    return Attribute(
        name=name,
        mode=mode,
        show=lambda device: f"{show(device)}\n",
        store=_refuse if mode & 0o200 else None,
        visible=lambda device: device.devtype in devtypes,
        doc=doc,
    )


def _align(device: NdDevice) -> str:
    return f"{_media(device).align}" if device.devtype == _DAX else f"{16 << 20:#x}"


def _target_node(device: NdDevice) -> str:
    return f"{_media(device).setup.target_node}"


def _mode(device: NdDevice) -> str:
    if device.devtype == _DAX:
        return "ram"
    return "raw" if _media(device).align is None else "dax"


def _holder(device: NdDevice) -> str:
    assert device.parent is not None
    return next((child.name for child in device.parent.children.values() if getattr(child, "devtype", "") == _DAX), "")


ND_DEVICE = DirectoryKind(
    "nd device",
    device_path,
    (
        _of("devtype", 0o444, lambda device: device.devtype, _ALL, "Type of the device on the nd bus."),
        _of("modalias", 0o444, lambda device: device.modalias, _ALL, "What modules are matched by."),
        _of("align", 0o644, _align, (_REGION, _DAX), "Alignment in bytes; hexadecimal of a region."),
        _of("size", 0o444, lambda device: f"{device.span.length}", _ALL, "Bytes."),
        _of("resource", 0o400, lambda device: f"{device.span.start:#x}", _ALL, "First byte."),
        _of("numa_node", 0o444, lambda device: f"{device.numa_node}", _ALL, "Nearest online node."),
        _of("target_node", 0o444, _target_node, _ALL, "Node that the memory is on."),
        _of("nstype", 0o444, lambda _device: "4", (_REGION, _NAMESPACE), "Type of the namespaces (nd_namespace_io)."),
        _of("mappings", 0o444, lambda _device: "0", (_REGION,), "DIMMs of the region: none are known."),
        _of("holder", 0o444, _holder, (_NAMESPACE,), "The device that has claimed the namespace."),
        Attribute(
            name="mode",
            mode=0o444,
            narrow=lambda device: 0o644 if device.devtype == _DAX else 0o444,
            show=lambda device: f"{_mode(device)}\n",
            store=_refuse,
            visible=lambda device: device.devtype in {_NAMESPACE, _DAX},
            doc="Of a namespace: raw or dax; of its dax device: ram (the memory map is not kept on the namespace).",
        ),
        _of("namespace", 0o644, lambda device: device.namespace.name, (_DAX,), "The namespace that it has claimed."),
        _of("supported_alignments", 0o444, lambda _device: "4096 2097152 1073741824 ", (_DAX,), "Values for `align`."),
        _of("uuid", 0o644, lambda device: _media(device).uuid, (_DAX,), "Name of what is on the namespace."),
        _of("provider", 0o444, lambda _device: "e820", (_BUS,), "Who offers the bus."),
        _of("commands", 0o444, lambda _device: "", (_BUS,), "Commands of the bus: none."),
        _of("wait_probe", 0o444, lambda _device: "1", (_BUS,), "Reads when all devices were probed."),
        uevent(lambda device: device.devpath, "nd", lambda device: device.uevent_environment()),
        subsystem("nd"),
        DRIVER_LINK,
        POWER,
        DAX_REGION,
        Subdirectories(of=lambda device: device.children, doc="Devices below."),
    ),
)
